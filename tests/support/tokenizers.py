"""Tokenizers for tests: one learned from a few sentences, others spelt out merge by merge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from services.tokenizer.learn import learn_bpe
from shared.contracts.names import SPECIAL_TOKENS
from shared.text.tokenizer import BYTE_OF_CHARACTER, PRE_TOKENIZER, Tokenizer

SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "She sells sea shells by the sea shore; the shells she sells are sea shells.",
    "It's what they'll say when we've gone: the year 2024 wasn't like 1999!",
    "def join(self, *parts):\n    return self.separator.join(parts)\n\n\n",
    "Größe, naïveté, 東京, Привет, 😀 and naïve façades\t\tin   columns.",
)


@lru_cache(maxsize=1)
def small_tokenizer() -> Tokenizer:
    """300 entries: 41 merges learned from `SENTENCES`."""
    return learn_bpe(iter(SENTENCES * 4), vocab_size=300, min_frequency=2)


def tokenizer_of(merges: Sequence[tuple[str, str]], **model: object) -> Tokenizer:
    """A tokenizer with exactly these merges, numbered in order of first appearance."""
    return Tokenizer.from_json(json.dumps(tokenizer_document(merges, **model)))


def tokenizer_document(merges: Sequence[tuple[str, str]], **model: object) -> dict[str, object]:
    """The content of `tokenizer.json` for `tokenizer_of`."""
    entries = [*SPECIAL_TOKENS, *sorted(BYTE_OF_CHARACTER)]
    entries += dict.fromkeys(left + right for left, right in merges)
    vocabulary = {token: index for index, token in enumerate(entries)}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, "special": True, **flags}
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": {**PRE_TOKENIZER, "trim_offsets": True},
        "post_processor": None,
        "decoder": {**PRE_TOKENIZER, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(merge) for merge in merges],
            **model,
        },
    }
