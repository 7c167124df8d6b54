"""Learning a byte-level BPE from texts, with Hugging Face's trainer."""

from __future__ import annotations

from collections.abc import Iterator

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from shared.base.errors import JobFailedError
from shared.contracts.names import SPECIAL_TOKENS, FailureCode
from shared.text.tokenizer import Tokenizer


def learn_bpe(texts: Iterator[str], *, vocab_size: int, min_frequency: int) -> Tokenizer:
    """Return a tokenizer of exactly `vocab_size` entries: 3 specials, 256 bytes, then merges.

    The same texts give the same tokenizer, in whatever order they come. Memory grows with the
    number of different words only. Special tokens inside texts are learned from as text. Raises
    JobFailedError when fewer pairs repeat `min_frequency` times than the vocabulary needs.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=[
            tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS
        ],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    learned = backend.get_vocab_size(with_added_tokens=True)
    if learned < vocab_size:
        raise JobFailedError(
            f"The text is too small for a vocabulary of {vocab_size}: it gives {learned} entries "
            f"whose parts occur together at least {min_frequency} times.",
            code=FailureCode.BAD_SPEC,
            hint=f"Set vocab_size to {learned} or less, or ingest more text.",
        )
    return Tokenizer.from_json(backend.to_str())
