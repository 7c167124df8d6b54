"""When a sequence ends, and with which text."""

from __future__ import annotations

from services.inference.sequence import Delta, FinishReason, Sequence
from tests.unit.inference.builders import make_sequence


def feed(sequence: Sequence, text: bytes) -> list[Delta]:
    return [sequence.accept(token) for token in text]


def test_it_ends_with_length_at_max_tokens() -> None:
    deltas = feed(make_sequence(max_tokens=3), b"abc")
    assert [delta.text for delta in deltas] == ["a", "b", "c"]
    assert [delta.finish_reason for delta in deltas] == [None, None, FinishReason.LENGTH]


def test_an_end_token_ends_it_and_has_no_text() -> None:
    sequence = make_sequence(max_tokens=9, end_ids=frozenset({0}))
    deltas = feed(sequence, b"a\0")
    assert deltas[-1] == Delta(tokens=(0,), finish_reason=FinishReason.STOP, stop_reason=0)
    assert sequence.tokens[3:] == [97, 0]


def test_an_end_token_as_the_last_one_allowed_is_a_stop() -> None:
    deltas = feed(make_sequence(max_tokens=2, end_ids=frozenset({0})), b"a\0")
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_a_stop_string_ends_it_without_showing() -> None:
    deltas = feed(make_sequence(max_tokens=9, stop=("bc",)), b"abc")
    assert [delta.text for delta in deltas] == ["a", "", ""]
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_text_held_back_for_a_stop_string_comes_with_the_last_token() -> None:
    deltas = feed(make_sequence(max_tokens=2, stop=("bc",)), b"ab")
    assert [delta.text for delta in deltas] == ["a", "b"]
    assert deltas[-1].finish_reason is FinishReason.LENGTH


def test_half_a_character_at_the_end_token_is_shown_as_a_replacement() -> None:
    deltas = feed(make_sequence(max_tokens=9, end_ids=frozenset({0})), "é".encode()[:1] + b"\0")
    assert [delta.text for delta in deltas] == ["", "\ufffd"]
