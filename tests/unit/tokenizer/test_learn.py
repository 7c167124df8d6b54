"""Learning a vocabulary: what it holds, that it is repeatable, and when the text is too small."""

from __future__ import annotations

import pytest

from services.tokenizer.learn import learn_bpe
from shared.base.errors import JobFailedError
from tests.support.tokenizers import SENTENCES, small_tokenizer


def test_specials_then_bytes_then_merges() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.vocab_size == 300
    lengths = tokenizer.token_bytes()
    assert lengths[:3] == [0, 0, 0]
    assert lengths[3:259] == [1] * 256
    assert min(lengths[259:]) == 2


def test_the_commonest_pair_is_merged_first() -> None:
    tokenizer = learn_bpe(iter(["aab aab cd cd cd"]), vocab_size=260, min_frequency=2)
    assert tokenizer.token_contents[259] == b"cd"


def test_the_smallest_vocabulary_is_bytes_alone() -> None:
    tokenizer = learn_bpe(iter(["aa aa aa"]), vocab_size=259, min_frequency=1)
    assert tokenizer.decode_bytes(tokenizer.encode("aa")) == b"aa"
    assert len(tokenizer.encode("aa")) == 2


def test_order_and_repetition_do_not_matter() -> None:
    again = learn_bpe(iter(sorted(SENTENCES * 4)), vocab_size=300, min_frequency=2)
    assert again.json_text == small_tokenizer().json_text


def test_special_tokens_in_the_text_are_learned_as_text() -> None:
    text = "<|endoftext|><|user|>" * 50
    tokenizer = learn_bpe(iter([text]), vocab_size=273, min_frequency=2)
    assert b"endoftext" in tokenizer.token_contents
    assert tokenizer.token_contents.count(b"") == 3
    assert {0, 1, 2}.isdisjoint(tokenizer.encode(text))


def test_a_text_that_is_too_small() -> None:
    with pytest.raises(JobFailedError) as caught:
        learn_bpe(iter(["abc abc"]), vocab_size=300, min_frequency=2)
    assert caught.value.message == (
        "The text is too small for a vocabulary of 300: it gives 261 entries whose parts occur "
        "together at least 2 times."
    )
    assert caught.value.hint == "Set vocab_size to 261 or less, or ingest more text."
    assert caught.value.code == "bad_spec"


def test_what_the_texts_raise_comes_out() -> None:
    def texts() -> object:
        yield "some text"
        raise KeyError("broken row")

    with pytest.raises(KeyError, match="broken row"):
        learn_bpe(texts(), vocab_size=300, min_frequency=2)  # type: ignore[arg-type]
