"""Encoding a lot of text fast: tiktoken where it is proved to give the tokenizer's ids.

The one place that decides. `shared.text.tokenizer` is the truth; tiktoken merges bytes by rank
of the result, Hugging Face by rank of the pair, and the two are the same process when

1. no two merges have the same result, and ids rise in the order of merges, and
2. every learned token, taken as text, is merged back into itself.

For suppose tokens x and y stand side by side and x + y is a token z, but (x, y) is no merge: then
merging z alone would pass through [x, y] as well (no merge has crossed the borders of z) and would
stop there, against 2. So both see the same candidates, and by 1 in the same order.
"""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import tiktoken
import tokenizers

from shared.contracts.names import SPECIAL_TOKENS
from shared.text.token_set import TOKEN_TYPE
from shared.text.tokenizer import Tokenizer

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""What the pre-tokenizer `ByteLevel` splits by, with possessive quantifiers: no backtracking."""
NEUTRAL_OPTIONS = {
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "ignore_merges": False,
}
"""Options of a BPE model that must be off."""


class BulkEncoder:
    """Encodes texts to uint16 ids; safe to share between threads, which then run in parallel."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._fast = fast_encoding(tokenizer)

    @property
    def is_fast(self) -> bool:
        """Whether tiktoken does the work."""
        return self._fast is not None

    def encode(self, text: str) -> npt.NDArray[np.uint16]:
        """Return the ids of `text`, equal to `Tokenizer.encode`; shape (n,)."""
        if self._fast is not None:
            try:
                # No special token is registered, so none can come out.
                return self._fast.encode_to_numpy(text, disallowed_special=()).astype(TOKEN_TYPE)
            except ValueError:
                # Its regex engine gives up on a run of about a million spaces.
                pass
        return np.array(self.tokenizer.encode(text), dtype=TOKEN_TYPE)


def fast_encoding(tokenizer: Tokenizer) -> tiktoken.Encoding | None:
    """Return tiktoken's encoder of the same ids, or None where equality is not certain."""
    if not _merges_by_rank_alone(tokenizer):
        return None
    ranks = {content: index for index, content in enumerate(tokenizer.token_contents) if content}
    return tiktoken.Encoding(
        tokenizer.sha256, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )


def _merges_by_rank_alone(tokenizer: Tokenizer) -> bool:
    """Whether the two conditions at the top hold."""
    document = json.loads(tokenizer.json_text)
    model = document["model"]
    if len(document["added_tokens"]) != len(SPECIAL_TOKENS):
        return False
    if any((model.get(option) or off) != off for option, off in NEUTRAL_OPTIONS.items()):
        return False
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    results = [model["vocab"][left + right] for left, right in pairs]
    if any(later <= earlier for earlier, later in pairwise(results)):
        return False
    backend = tokenizers.Tokenizer.from_str(tokenizer.json_text)
    spelling = {index: token for token, index in model["vocab"].items()}
    return all(
        [token.id for token in backend.model.tokenize(spelling[index])] == [index]
        for index in results
    )
