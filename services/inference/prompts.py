"""From what a client sends to the token ids that the model goes on from, or a clear refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.inference.loaded_model import LoadedModel
from services.inference.schemas import ChatMessage, Prompt
from shared.base.errors import InvalidInputError
from shared.text.chat import Message, check_messages, encode_prompt

INSTRUCTION_ROLES = frozenset({"system", "developer"})
BETWEEN_INSTRUCTION_AND_TURN = "\n\n"


def completion_prompts(prompt: Prompt, model: LoadedModel) -> list[list[int]]:
    """Token ids of each prompt; an empty one is the beginning of a document.

    Raises InvalidInputError for a prompt beyond the context or an id outside the vocabulary.
    """
    prompts: list[Any] = [prompt or ""]
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompts = list(prompt)
    if all(isinstance(one, str) for one in prompts):
        for text in prompts:
            _refuse_hopeless(len(text), model, "/prompt")
        encoded = model.tokenizer.encode_batch(prompts)
    else:
        encoded = [_checked(ids, model) for ids in prompts]
    return [ids or [model.tokenizer.end_id] for ids in encoded]


def context_exceeded(model: LoadedModel, num_tokens: str, pointer: str) -> InvalidInputError:
    """The refusal of a prompt that leaves no room; its first sentence is what clients look for."""
    return InvalidInputError(
        f"This model's maximum context length is {model.context_length} tokens. However, your "
        f"prompt has {num_tokens} tokens, which leaves no room for an answer.",
        hint="Shorten the prompt.",
        code="context_length_exceeded",
        pointer=pointer,
    )


def _refuse_hopeless(num_chars: int, model: LoadedModel, pointer: str) -> None:
    """Refuse megabytes of text that can never fit before the work of encoding them."""
    least = -(-num_chars // model.tokenizer.longest_token)
    if least > model.context_length:
        raise context_exceeded(model, f"at least {least}", pointer)


def _checked(ids: list[int], model: LoadedModel) -> list[int]:
    if len(ids) > model.context_length:
        raise context_exceeded(model, str(len(ids)), "/prompt")
    return check_ids(ids, model)


def check_ids(ids: list[int], model: LoadedModel, *, pointer: str = "/prompt") -> list[int]:
    """Return `ids`; raise InvalidInputError at the first one that is not in the vocabulary."""
    vocab_size = model.tokenizer.vocab_size
    for token in ids:
        if not 0 <= token < vocab_size:
            raise InvalidInputError(
                f"Token {token} is not in the vocabulary of {vocab_size} entries.",
                code="invalid_value",
                pointer=pointer,
            )
    return ids


def chat_prompt(messages: Sequence[ChatMessage], model: LoadedModel) -> list[int]:
    """Token ids of a conversation that is to be continued.

    A base model has never seen a turn: it gets the plain texts, line by line, to go on from.
    """
    turns = fold_instructions(messages)
    _refuse_hopeless(sum(len(turn["content"]) for turn in turns), model, "/messages")
    if model.stage == "finetune":
        return encode_prompt(model.tokenizer, turns)
    check_messages(turns)
    return model.tokenizer.encode("\n".join(turn["content"] for turn in turns))


def fold_instructions(messages: Sequence[ChatMessage]) -> list[Message]:
    """Turns without instructions: a system (or developer) text goes before the next user turn's.

    The model has learned no turn but the user's and the assistant's; an empty line stands between
    the two texts. Raises InvalidInputError when no user turn follows an instruction.
    """
    turns: list[Message] = []
    instructions: list[str] = []
    for position, message in enumerate(messages):
        content = str(message.content)
        if message.role in INSTRUCTION_ROLES:
            instructions.append(content)
            continue
        if instructions and message.role != "user":
            raise _unanswerable(message.role, position)
        content = BETWEEN_INSTRUCTION_AND_TURN.join([*filter(str.strip, instructions), content])
        instructions.clear()
        turns.append({"role": message.role, "content": content})  # type: ignore[typeddict-item]
    if instructions:
        raise _unanswerable("nothing", len(messages) - 1)
    return turns


def _unanswerable(follower: str, position: int) -> InvalidInputError:
    return InvalidInputError(
        f"After a system message comes {follower}.",
        code="invalid_value",
        hint="A system message stands before a user's; its text goes before the user's text.",
        pointer=f"/messages/{position}/role",
    )
