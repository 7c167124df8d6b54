"""Byte-level BPE beside a slow twin that does what the definition says, and on all of Unicode."""

from __future__ import annotations

import json
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from services.tokenizer.bulk import BulkEncoder
from services.tokenizer.learn import learn_bpe
from tests.support import bpe_twin
from tests.support.tokenizers import SENTENCES, small_tokenizer

PIECES = st.sampled_from(
    [*"ab \n\t'", "the ", " shells", "'ll", "'S", "1999", "  ", "é", "東京", "😀", "<|endoftext|>"]
)
# Python's Unicode tables are older than the libraries': leave out what it does not know.
CHARACTERS = st.characters(exclude_categories=("Cs", "Cn"))
TEXTS = st.one_of(st.text(CHARACTERS, max_size=80), st.lists(PIECES, max_size=30).map("".join))
FEW_LETTERS = st.lists(st.text(alphabet="abc ", max_size=12), min_size=1, max_size=6)

BULK = BulkEncoder(small_tokenizer())


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_all_encoders_agree_and_lose_nothing(text: str) -> None:
    tokenizer = small_tokenizer()
    ids = tokenizer.encode(text)
    assert ids == bpe_twin.encode(tokenizer.json_text, text)
    assert ids == BULK.encode(text).tolist()
    assert tokenizer.decode(ids) == text
    assert {0, 1, 2}.isdisjoint(ids)


@given(FEW_LETTERS, st.text(alphabet="abc ", max_size=40))
@settings(max_examples=300, deadline=None)
def test_few_letters_make_many_overlapping_merges(corpus: list[str], text: str) -> None:
    """The hard case for an encoder that knows ranks of results and not of pairs."""
    merges = bpe_twin.learn(corpus, max_merges=12, min_frequency=1)
    vocab_size = 259 + len({left + right for left, right in merges})
    tokenizer = learn_bpe(iter(corpus), vocab_size=vocab_size, min_frequency=1)
    ids = tokenizer.encode(text)
    assert ids == bpe_twin.encode(tokenizer.json_text, text)
    assert ids == BulkEncoder(tokenizer).encode(text).tolist()
    assert tokenizer.decode(ids) == text


def test_the_merges_learned_are_the_twins() -> None:
    expected = bpe_twin.learn(SENTENCES * 4, max_merges=300 - 259, min_frequency=2)
    merges = json.loads(small_tokenizer().json_text)["model"]["merges"]
    assert [tuple(merge) for merge in merges] == expected


def test_both_libraries_split_at_the_same_characters() -> None:
    """Every character that may be a letter, a number or a space to one and not to the other.

    Left out are the large blocks that are letters for certain (CJK, Hangul), and private use.
    """
    blocks = [
        *(range(0x3400), range(0x4DB0, 0x4E10), range(0x9FF0, 0xAC10), range(0xD790, 0xD800)),
        *(range(0xF900, 0x17010), range(0x187E0, 0x20010), range(0x2A6D0, 0x2A710)),
        *(range(0x2B730, 0x2B830), range(0x2CEA0, 0x2CEC0), range(0x2EBE0, 0x2EE70)),
        *(range(0x2F800, 0x2FA20), range(0x31340, 0x33500), range(0xE0000, 0xE0200)),
        range(0x10FFF0, sys.maxunicode + 1),
    ]
    tokenizer = small_tokenizer()
    for block in blocks:
        texts = [
            "".join(f"a{chr(c)}1{chr(c)} {chr(c)}b" for c in block[n : n + 64])
            for n in range(0, len(block), 64)
        ]
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert BULK.encode(text).tolist() == ids, f"near U+{ord(text[1]):04X}"
