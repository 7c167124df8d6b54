"""Dialogues out of JSONL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.tokenizer.dialogues import cut_dialogue, dialogues
from services.tokenizer.input_file import InputFile
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec
from shared.text.chat import Message

SPEC = IngestSpec(source="dialogues", upload="upl_01J00000000000000000000000")
GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


def read(folder: Path, *lines: Any) -> list[list[Message]]:
    path = folder / "upload"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [row["messages"] for row in dialogues(InputFile(path, "chats.jsonl"), SPEC)]


def turns(*contents: str) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]


def test_only_role_and_content_are_kept(tmp_path: Path) -> None:
    line = {"id": 3, "messages": [{**message, "weight": 1} for message in GOOD["messages"]]}
    assert read(tmp_path, line) == [GOOD["messages"]]


def test_a_last_question_without_an_answer_is_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, {"messages": turns("a", "b", "c")}) == [turns("a", "b")]


def test_a_long_dialogue_is_cut_after_an_answer() -> None:
    dialogue = turns("aaa", "bb", "c", "d", "eeeee", "fffff", "g", "h")
    assert list(cut_dialogue(dialogue, 8)) == [
        turns("aaa", "bb", "c", "d"),
        turns("eeeee", "fffff"),
        turns("g", "h"),
    ]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (turns("a", "b") + turns("c") + turns("d"), "Message 4 is a second user turn in a row."),
        ([{"role": "system", "content": "x"}], "Message 1 has the unknown role 'system'."),
        (turns("a", "b")[1:], "The first message must be the user's."),
        (turns("a"), "The dialogue has no assistant turn: there is nothing to learn from it."),
        ([], "There are no messages."),
        (turns("a", ""), "Message 2 is empty."),
        (None, "There is no list of messages."),
        (["a"], "Message 1 lacks a role or a content that is text."),
        ([{"role": "user"}], "Message 1 lacks a role or a content that is text."),
        ([{"role": "user", "content": 3}], "Message 1 lacks a role or a content that is text."),
        (turns("a\ud800", "b"), "The text holds half of a surrogate pair at character 1."),
    ],
)
def test_malformed_dialogues_name_their_line(tmp_path: Path, messages: Any, reason: str) -> None:
    with pytest.raises(JobFailedError) as caught:
        read(tmp_path, GOOD, GOOD, {"messages": messages})
    assert caught.value.message == f"chats.jsonl, line 3: {reason}"
    assert caught.value.code == "bad_data"
    assert caught.value.hint
