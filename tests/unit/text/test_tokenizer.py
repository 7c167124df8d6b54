"""The tokenizer at run time: bytes kept, special tokens only where code puts them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tokenizers

from shared.base.errors import InvalidInputError, NotFoundError
from shared.contracts.names import SPECIAL_TOKENS
from shared.text.tokenizer import Tokenizer
from shared.text.tokenizer_files import write_tokenizer_files
from tests.support.tokenizers import SENTENCES, small_tokenizer, tokenizer_document, tokenizer_of


def test_ids_follow_the_merges() -> None:
    tokenizer = tokenizer_of([("a", "b"), ("ab", "c")])
    assert tokenizer.vocab_size == 261
    a, c = tokenizer.encode("a")[0], tokenizer.encode("c")[0]
    assert tokenizer.encode("abcabca") == [260, 260, a]
    assert tokenizer.encode("ab ca") == [259, tokenizer.encode(" ")[0], c, a]
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_special_tokens_in_text_are_text(special: str) -> None:
    tokenizer = small_tokenizer()
    text = f"{special}Hello {special}{special} world{special}\n"
    ids = tokenizer.encode(text)
    assert {0, 1, 2}.isdisjoint(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, special]) == [ids, tokenizer.encode(special)]


def test_special_ids() -> None:
    tokenizer = small_tokenizer()
    assert (tokenizer.end_id, tokenizer.user_id, tokenizer.assistant_id) == (0, 1, 2)


def test_special_tokens_have_no_text_and_no_bytes() -> None:
    tokenizer = tokenizer_of([("a", "b")])
    assert tokenizer.decode([0, 259, 1, 2]) == "ab"
    assert tokenizer.token_bytes() == [0, 0, 0] + [1] * 256 + [2]
    assert tokenizer.token_contents[259] == b"ab"


def test_decoding_keeps_every_byte() -> None:
    tokenizer = tokenizer_of([])
    ids = tokenizer.encode("é")
    assert len(ids) == 2
    assert tokenizer.decode_bytes(ids[:1]) == b"\xc3"
    assert tokenizer.decode(ids[:1]) == "�"
    assert tokenizer.decode(ids) == "é"
    every_byte = tokenizer.decode_bytes(range(3, 259))
    assert sorted(every_byte) == list(range(256))


def test_decoding_agrees_with_hugging_face_on_broken_utf8() -> None:
    tokenizer = small_tokenizer()
    backend = tokenizers.Tokenizer.from_str(tokenizer.json_text)
    ids = [id for sentence in SENTENCES for id in tokenizer.encode(sentence)]
    for start in range(len(ids)):
        piece = ids[start : start + 7 : 2]
        assert tokenizer.decode(piece) == backend.decode(piece, skip_special_tokens=True)


def test_an_unknown_id_is_an_error_and_not_silence() -> None:
    with pytest.raises(IndexError):
        small_tokenizer().decode([300])


def test_half_a_surrogate_pair_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidInputError, match="surrogate pair at character 2"):
        small_tokenizer().encode("ab\ud800c")


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    write_tokenizer_files(tmp_path, tokenizer)
    content = (tmp_path / "tokenizer.json").read_bytes()
    loaded = Tokenizer.load(tmp_path)
    assert loaded.sha256 == tokenizer.sha256 == hashlib.sha256(content).hexdigest()
    assert loaded.encode("sea shells") == tokenizer.encode("sea shells")


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"holds no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(InvalidInputError, match=r"not a tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        Tokenizer.load(tmp_path)


def test_special_tokens_elsewhere_are_refused() -> None:
    document = tokenizer_document([])
    vocabulary = document["model"]["vocab"]
    vocabulary["<|user|>"], vocabulary["!"] = vocabulary["!"], vocabulary["<|user|>"]
    with pytest.raises(InvalidInputError, match=r"<\|user\|> at id 3, not at 1"):
        Tokenizer.from_json(json.dumps(document))


def test_a_tokenizer_that_loses_bytes_is_refused() -> None:
    whitespace = {**tokenizer_document([]), "pre_tokenizer": {"type": "Whitespace"}}
    with pytest.raises(InvalidInputError, match="would lose bytes"):
        Tokenizer.from_json(json.dumps(whitespace))
    lower_case = {**tokenizer_document([]), "normalizer": {"type": "Lowercase"}}
    with pytest.raises(InvalidInputError, match="would lose bytes"):
        Tokenizer.from_json(json.dumps(lower_case))


def test_truncation_in_the_file_cuts_nothing() -> None:
    truncation = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    document = {**tokenizer_document([]), "truncation": truncation}
    assert len(Tokenizer.from_json(json.dumps(document)).encode("abcdef")) == 6
