"""Byte-pair encoding as its definition says, slow and readable: the oracle of the parity tests.

Learning: Sennrich et al. 2016, algorithm 1, on bytes. Pre-tokenization: GPT-2's encoder.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import regex

from shared.contracts.names import SPECIAL_TOKENS
from shared.text.tokenizer import BYTE_OF_CHARACTER

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}

Pair = tuple[str, str]


def words_of(text: str) -> list[list[str]]:
    """The pieces that merges never cross, each as one character a byte."""
    pieces = regex.findall(GPT2_PATTERN, text)
    return [[CHARACTER_OF_BYTE[byte] for byte in piece.encode()] for piece in pieces]


def merge(word: Sequence[str], pair: Pair) -> list[str]:
    """The word with every occurrence of the pair, from the left, made one symbol."""
    merged: list[str] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append("".join(pair))
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


def encode(json_text: str, text: str) -> list[int]:
    """The ids of `text` under a `tokenizer.json`: always merge the earliest-learned pair."""
    model = json.loads(json_text)["model"]
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    ids: list[int] = []
    for word in words_of(text):
        while known := [pair for pair in pairwise(word) if pair in ranks]:
            word = merge(word, min(known, key=ranks.__getitem__))
        ids += [model["vocab"][symbol] for symbol in word]
    return ids


def learn(texts: Iterable[str], max_merges: int, min_frequency: int) -> list[Pair]:
    """The merges of `texts`: always the commonest pair, of equals the one with the lowest ids."""
    alphabet = [*SPECIAL_TOKENS, *sorted(BYTE_OF_CHARACTER)]
    ids = {symbol: index for index, symbol in enumerate(alphabet)}
    words = [word for text in texts for word in words_of(text)]
    merges: list[Pair] = []
    while len(merges) < max_merges:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        if counts[best] < min_frequency:
            break
        merges.append(best)
        ids.setdefault("".join(best), len(ids))
        words = [merge(word, best) for word in words]
    return merges
