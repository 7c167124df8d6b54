"""Which encoder does the bulk, and that the choice never shows in the ids."""

from __future__ import annotations

import pytest
import tiktoken

from services.tokenizer.bulk import GPT2_PATTERN, BulkEncoder
from shared.base.errors import InvalidInputError
from shared.text.tokenizer import Tokenizer
from tests.support.tokenizers import SENTENCES, small_tokenizer, tokenizer_of


def naive_tiktoken(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """What would encode if nothing were checked."""
    ranks = {content: index for index, content in enumerate(tokenizer.token_contents) if content}
    return tiktoken.Encoding(
        "naive", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )


def test_a_learned_tokenizer_is_encoded_fast() -> None:
    encoder = BulkEncoder(small_tokenizer())
    assert encoder.is_fast
    for sentence in SENTENCES:
        ids = encoder.encode(sentence)
        assert ids.dtype == "<u2"
        assert ids.tolist() == small_tokenizer().encode(sentence)
    assert encoder.encode("").tolist() == []


def test_special_tokens_stay_text() -> None:
    text = "<|endoftext|> <|user|><|assistant|>"
    encoder = BulkEncoder(small_tokenizer())
    assert encoder.encode(text).tolist() == small_tokenizer().encode(text)
    assert encoder.encode(text).min() > 2


def test_a_token_that_its_own_merges_do_not_reach() -> None:
    # "ab" is merged before "bc", so no text ever gives "abc"; tiktoken would, by the bytes alone.
    tokenizer = tokenizer_of([("a", "b"), ("b", "c"), ("a", "bc")])
    assert naive_tiktoken(tokenizer).encode_ordinary("abc") != tokenizer.encode("abc")
    encoder = BulkEncoder(tokenizer)
    assert not encoder.is_fast
    assert encoder.encode("abc").tolist() == tokenizer.encode("abc")


def test_two_merges_with_one_result() -> None:
    tokenizer = tokenizer_of([("b", "c"), ("a", "bc"), ("a", "b"), ("ab", "c")])
    assert not BulkEncoder(tokenizer).is_fast


def test_ids_that_do_not_rise_with_the_merges() -> None:
    first = tokenizer_of([("a", "b"), ("b", "c")])
    text = first.json_text
    swapped = text.replace('"ab": 259', '"ab": 260').replace('"bc": 260', '"bc": 259')
    assert swapped != text
    tokenizer = Tokenizer.from_json(swapped)
    assert naive_tiktoken(tokenizer).encode_ordinary("abc") != tokenizer.encode("abc")
    encoder = BulkEncoder(tokenizer)
    assert not encoder.is_fast
    assert encoder.encode("abc").tolist() == tokenizer.encode("abc")


@pytest.mark.parametrize(
    "options", [{"dropout": 0.5}, {"ignore_merges": True}, {"continuing_subword_prefix": "##"}]
)
def test_options_that_change_the_merging(options: dict[str, object]) -> None:
    merges = [] if "continuing_subword_prefix" in options else [("a", "b")]
    assert not BulkEncoder(tokenizer_of(merges, **options)).is_fast


def test_a_text_that_the_fast_encoder_gives_up_on() -> None:
    text = " " * 1_000_000 + "x"
    fast = naive_tiktoken(small_tokenizer())
    with pytest.raises(ValueError, match="Max stack size exceeded"):
        fast.encode_to_numpy(text)
    assert BulkEncoder(small_tokenizer()).encode(text).tolist() == small_tokenizer().encode(text)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="surrogate pair at character 1"):
        BulkEncoder(small_tokenizer()).encode("a\ud800")
