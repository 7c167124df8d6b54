"""Text comes out whole: no half characters, no piece of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.detokenizer import Detokenizer

BYTES = tuple(bytes([value]) for value in range(256))
"""A vocabulary in which every byte is a token: the hardest one for borders."""


def run(data: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(BYTES, stop)
    pieces = []
    for token in data:
        pieces.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    pieces.append(detokenizer.flush())
    return pieces, detokenizer.stopped


def test_a_character_of_four_bytes_appears_with_its_last_byte() -> None:
    pieces, _ = run("a🙂b".encode())
    assert pieces == ["a", "", "", "", "🙂", "b", ""]


def test_a_character_that_is_never_completed_becomes_one_replacement_at_the_end() -> None:
    pieces, _ = run("a🙂".encode()[:-1])
    assert pieces == ["a", "", "", "", "\ufffd"]


def test_bytes_that_are_no_utf8_become_replacements_and_the_rest_goes_on() -> None:
    pieces, _ = run(b"a\xffb")
    assert "".join(pieces) == "a\ufffdb"


@given(st.binary(max_size=60))
def test_the_pieces_are_the_text_decoded_at_once(data: bytes) -> None:
    pieces, stopped = run(data)
    assert "".join(pieces) == data.decode("utf-8", errors="replace")
    assert not stopped


def test_a_stop_string_across_tokens_never_shows() -> None:
    pieces, stopped = run(b"one END two", stop=("END",))
    assert "".join(pieces) == "one "
    assert stopped


def test_what_only_began_like_a_stop_string_is_shown_as_soon_as_it_is_certain() -> None:
    pieces, stopped = run(b"aEN!", stop=("END",))
    assert pieces == ["a", "", "", "EN!", ""]
    assert not stopped


def test_what_was_held_back_is_shown_at_the_end() -> None:
    pieces, stopped = run(b"aEN", stop=("END",))
    assert pieces == ["a", "", "", "EN"]
    assert not stopped


def test_a_stop_string_may_hold_characters_of_several_bytes() -> None:
    pieces, stopped = run("één 🙂 klaar".encode(), stop=("🙂",))
    assert "".join(pieces) == "één "
    assert stopped


def test_the_stop_string_that_begins_first_wins() -> None:
    pieces, _ = run(b"xbcd", stop=("cd", "bc"))
    assert "".join(pieces) == "x"


ALPHABET = st.text(alphabet="abé🙂", max_size=25)


@given(ALPHABET, st.lists(st.text(alphabet="abé🙂", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_where_the_first_complete_stop_string_begins(
    text: str, stop: list[str]
) -> None:
    pieces, stopped = run(text.encode(), tuple(stop))
    shown = "".join(pieces)
    assert stopped == any(one in text for one in stop)
    assert text.startswith(shown)
    assert not any(one in shown for one in stop)
    if stopped:
        assert any(text.startswith(one, len(shown)) for one in stop)
    else:
        assert shown == text


@pytest.mark.parametrize("end", [b"", b"\xe2\x82"])
def test_flushing_twice_adds_nothing(end: bytes) -> None:
    detokenizer = Detokenizer(BYTES, ("xyz",))
    for token in b"ax" + end:
        detokenizer.push(token)
    assert detokenizer.flush().startswith("x")
    assert detokenizer.flush() == ""
