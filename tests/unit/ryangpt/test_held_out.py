"""Which questions count as held out, and what counts as repetition."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest

from ryangpt import Client
from ryangpt.held_out import ask_all, held_out_questions, repeats_itself
from shared.contracts.split_rule import digest_of, is_held_out, share_of

JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def dialogue(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"What is {number}?"},
                         {"role": "assistant", "content": f"A number, {number}."}]}  # fmt: skip


def dataset_client(rows: list[dict[str, Any]]) -> Client:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = {"path": "part-00000.jsonl", "bytes": len(content), "role": "data",
            "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip
    meta = {"type": "dataset", "format": "dialogues", "documents": len(rows), "text_bytes": 1,
            "duplicates_dropped": 0, "source": "s"}  # fmt: skip
    at = "2026-01-01T00:00:00Z"
    manifest = {"id": "ds_1", "job_id": JOB, "token": 1, "created_at": at, "files": [file],
                "meta": meta}  # fmt: skip
    view = {"id": "ds_1", "type": "dataset", "name": "n", "job_id": JOB, "bytes": len(content),
            "created_at": at, "manifest": manifest}  # fmt: skip

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/datasets/ds_1":
            return httpx.Response(200, json=view)
        assert request.url.path == "/v1/artifacts/ds_1/files/part-00000.jsonl"
        return httpx.Response(200, content=content)

    return Client("http://test", transport=httpx.MockTransport(answer))


def test_the_rule_is_fixed_for_ever() -> None:
    """Whoever changes it moves held-out rows into training: then old figures mean nothing."""
    assert digest_of({"text": "abc"}).hex() == "cf4ab791c62b8d2b2109c90275287816"
    assert digest_of(dialogue(1)).hex() == digest_of(json.loads(json.dumps(dialogue(1)))).hex()
    assert share_of(bytes([128]) + bytes(15)) == 0.5
    assert not is_held_out(bytes([128]) + bytes(15), 0.5)
    assert is_held_out(bytes([127]) + bytes(15), 0.5)


def test_questions_come_from_the_held_out_rows_in_the_order_of_their_hashes() -> None:
    """Number 31 is held out, but a training dialogue asks about it too."""
    more: list[Any] = [
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Odd."},
    ]
    asked_again = {"messages": [*dialogue(31)["messages"], *more]}
    assert share_of(digest_of(dialogue(31))) < 0.1 < share_of(digest_of(asked_again))
    rows = [dialogue(number) for number in range(100)]
    client = dataset_client([*rows, asked_again])
    found = held_out_questions(client, "ds_1", validation_fraction=0.1, count=5)
    assert found == [f"What is {number}?" for number in (35, 91, 78, 4, 62)]


def test_answers_are_counted_by_how_they_end() -> None:
    answers = {"a": ("Fine.", "stop"), "b": ("x y z w " * 3, "length")}

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.read())
        text, reason = answers[body["messages"][0]["content"]]
        assert body["temperature"] == 0
        choice = {"message": {"content": text}, "finish_reason": reason}
        return httpx.Response(200, json={"choices": [choice]})

    client = Client("http://test", transport=httpx.MockTransport(answer))
    told: list[tuple[str, str]] = []
    result = ask_all(client, "m", ["a", "b"], on_answer=lambda q, a: told.append((q, a)))
    assert (result.count, result.stopped, result.repetitive) == (2, 1, 1)
    assert told == list(result.exchanges)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), ("a b c", False), ("a b c d " * 3, True), ("a b c d " * 2, False),
     ("no no no no no no", True), ("no no no no no", False)],
)  # fmt: skip
def test_repetition(text: str, expected: bool) -> None:
    assert repeats_itself(text) is expected
