"""Small models and token sets on disk, as the real programs would have left them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from shared.contracts.manifest import (
    INDEX_NAME,
    MODEL_CONFIG_JSON,
    MODEL_WEIGHTS,
    SplitIndex,
    TokensMeta,
)
from shared.contracts.names import SPECIAL_TOKENS
from shared.model.transformer import Transformer
from shared.model.weights import save_weights
from shared.text.token_set import LENGTH_TYPE, MASK_TYPE, TOKEN_TYPE, Split, shard_path
from shared.text.tokenizer import Tokenizer
from shared.text.tokenizer_files import write_tokenizer_files

Document = Sequence[int]
Dialogue = tuple[Sequence[int], Sequence[int]]
"""Ids and their loss mask."""


@lru_cache(maxsize=4)
def small_tokenizer(vocab_size: int = 300) -> Tokenizer:
    """A real byte-level BPE with a few merges, learned from a few words."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = "question answer learning training transformer language dialogue platform python words"
    backend.train_from_iterator([words] * 8, trainer)
    tokenizer = Tokenizer.from_json(backend.to_str())
    assert tokenizer.vocab_size == vocab_size
    return tokenizer


def write_checkpoint(folder: Path, model: Transformer) -> Path:
    """Write what inference and export need of a checkpoint; the vocabulary must be 300."""
    folder.mkdir(parents=True)
    save_weights(model, folder / MODEL_WEIGHTS)
    (folder / MODEL_CONFIG_JSON).write_text(model.config.model_dump_json())
    write_tokenizer_files(folder, small_tokenizer(model.config.vocab_size))
    return folder


def write_documents(
    folder: Path,
    train: Sequence[Document],
    validation: Sequence[Document],
    *,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write a token set of documents, one shard a split; every document must end with id 0."""
    splits = {"train": [(d, None) for d in train], "validation": [(d, None) for d in validation]}
    return _write(folder, "documents", splits, tokenizer or small_tokenizer())


def write_dialogues(
    folder: Path,
    train: Sequence[Dialogue],
    validation: Sequence[Dialogue],
    *,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write a token set of dialogues with their masks, one shard a split."""
    splits = {"train": list(train), "validation": list(validation)}
    return _write(folder, "dialogues", splits, tokenizer or small_tokenizer())


def _write(folder: Path, form: str, splits: dict, tokenizer: Tokenizer) -> Path:  # type: ignore[type-arg]
    folder.mkdir(parents=True)
    token_bytes = np.array(tokenizer.token_bytes())
    indexes = {}
    for split, documents in splits.items():
        indexes[split] = _write_split(folder, split, documents, token_bytes)
    meta = TokensMeta(
        format=form,  # type: ignore[arg-type]
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        **indexes,
    )
    (folder / INDEX_NAME).write_text(meta.model_dump_json())
    write_tokenizer_files(folder, tokenizer)
    return folder


def _write_split(
    folder: Path,
    split: Split,
    documents: Sequence[tuple[Sequence[int], Sequence[int] | None]],
    token_bytes: np.ndarray,  # type: ignore[type-arg]
) -> SplitIndex:
    if not documents:
        return SplitIndex(shards=0, documents=0, tokens=0, text_bytes=0, learned_tokens=0)
    tokens = np.concatenate([np.array(ids, TOKEN_TYPE) for ids, _ in documents])
    tokens.tofile(shard_path(folder, split, 0, ".bin"))
    lengths = np.array([len(ids) for ids, _ in documents], LENGTH_TYPE)
    lengths.tofile(shard_path(folder, split, 0, ".len"))
    learned = len(tokens)
    if documents[0][1] is not None:
        mask = np.concatenate([np.array(mask, MASK_TYPE) for _, mask in documents])
        mask.tofile(shard_path(folder, split, 0, ".mask"))
        learned = int(mask.sum())
    text_bytes = int(token_bytes[tokens % len(token_bytes)].sum())
    return SplitIndex(
        shards=1,
        documents=len(documents),
        tokens=len(tokens),
        text_bytes=text_bytes,
        learned_tokens=learned,
    )
