"""Dialogues as tokens: `<|user|>question<|assistant|>answer<|endoftext|>`, and what is learned.

Ids of special tokens are placed here, span by span; contents are encoded as plain text, so that
no message can end a turn or begin another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from shared.base.errors import InvalidInputError
from shared.contracts.names import ASSISTANT_TOKEN, END_TOKEN, USER_TOKEN
from shared.text.tokenizer import Tokenizer

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    f"{{{{- '{USER_TOKEN}' + message['content'] -}}}}"
    "{%- elif message['role'] == 'assistant' -%}"
    f"{{{{- '{ASSISTANT_TOKEN}' + message['content'] + '{END_TOKEN}' -}}}}"
    "{%- else -%}"
    "{{- raise_exception('unknown role: ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    f"{{{{- '{ASSISTANT_TOKEN}' -}}}}"
    "{%- endif -%}"
)
"""The same format for programs that render text first (transformers, vLLM, llama.cpp)."""


class Message(TypedDict):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InvalidInputError, with a pointer to the message, unless turns alternate.

    The first turn is the user's; roles are `user` and `assistant`; no content is empty.
    """
    if not messages:
        raise InvalidInputError("There are no messages.", pointer="/messages")
    for position, message in enumerate(messages):
        pointer = f"/messages/{position}"
        role, expected = message["role"], ("user", "assistant")[position % 2]
        if role not in ("user", "assistant"):
            raise InvalidInputError(
                f"Message {position + 1} has the unknown role {role!r}.",
                hint="Roles are user and assistant.",
                pointer=f"{pointer}/role",
            )
        if role != expected:
            reason = (
                f"Message {position + 1} is a second {role} turn in a row."
                if position
                else "The first message must be the user's."
            )
            raise InvalidInputError(
                reason, hint="Turns alternate and begin with the user.", pointer=f"{pointer}/role"
            )
        if not message["content"].strip():
            raise InvalidInputError(
                f"Message {position + 1} is empty.", pointer=f"{pointer}/content"
            )


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a conversation that the assistant is to continue.

    Raises InvalidInputError unless the turns alternate and the last one is the user's.
    """
    check_messages(messages)
    if messages[-1]["role"] != "user":
        raise InvalidInputError(
            "The last message is the assistant's; there is nothing to answer.",
            pointer=f"/messages/{len(messages) - 1}/role",
        )
    ids, _ = join_turns(tokenizer, messages, _encode_contents(tokenizer, messages))
    return [*ids, tokenizer.assistant_id]


def encode_dialogue(
    tokenizer: Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[int]]:
    """Return the ids of a whole dialogue and their mask.

    The mask is 1 on what the assistant is to learn to say: its contents and the end tokens after
    them. Raises InvalidInputError unless the turns alternate and one is the assistant's.
    """
    check_dialogue(messages)
    return join_turns(tokenizer, messages, _encode_contents(tokenizer, messages))


def check_dialogue(messages: Sequence[Message]) -> None:
    """Raise InvalidInputError unless `messages` alternate and hold an assistant's turn."""
    check_messages(messages)
    if len(messages) < 2:
        raise InvalidInputError(
            "The dialogue has no assistant turn: there is nothing to learn from it.",
            pointer="/messages",
        )


def join_turns(
    tokenizer: Tokenizer, messages: Sequence[Message], contents: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """Return ids and mask of turns whose contents are encoded already, one list a message."""
    ids: list[int] = []
    mask: list[int] = []
    for message, content in zip(messages, contents, strict=True):
        if message["role"] == "user":
            ids += [tokenizer.user_id, *content]
            mask += [0] * (len(content) + 1)
        else:
            ids += [tokenizer.assistant_id, *content, tokenizer.end_id]
            mask += [0] + [1] * (len(content) + 1)
    return ids, mask


def _encode_contents(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[list[int]]:
    return tokenizer.encode_batch([message["content"] for message in messages])
