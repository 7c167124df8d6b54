"""Completions and chat through the API's proxy to the inference service.

Answers keep OpenAI's shape; `chat` and the two streams return plain text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from ryangpt.transport import ApiError, Transport

Message = dict[str, str]
GENERATION_TIMEOUT = httpx.Timeout(30.0, read=300.0)
"""A long answer on a busy CPU takes its time."""


class Generation:
    """The part of the client that generates text.

    Every method takes OpenAI's options by name: temperature, top_p, max_tokens, stop, seed, and
    Ryan-GPT's top_k and min_tokens.
    """

    def __init__(self, http: Transport) -> None:
        self.http = http
        """For routes without a method of their own."""

    def served_models(self) -> list[dict[str, Any]]:
        """The models that the inference service has loaded, in OpenAI's shape."""
        data: list[dict[str, Any]] = self.http.json("GET", "/inference/v1/models")["data"]
        return data

    def complete(self, model: str, prompt: str, **options: Any) -> dict[str, Any]:
        """Complete a prompt; `options` such as temperature, max_tokens, stop, seed.

        Returns the whole answer in OpenAI's shape, text at `["choices"][0]["text"]`.
        """
        body = {"model": model, "prompt": prompt, **options}
        answer: dict[str, Any] = self.http.json(
            "POST", "/inference/v1/completions", json=body, timeout=GENERATION_TIMEOUT
        )
        return answer

    def stream_completion(self, model: str, prompt: str, **options: Any) -> Iterator[str]:
        """Complete a prompt, text as it is generated."""
        body = {"model": model, "prompt": prompt, **options}
        for choice in self._choices("/inference/v1/completions", body):
            yield choice.get("text") or ""

    def chat(self, model: str, messages: str | Sequence[Message], **options: Any) -> str:
        """The assistant's answer to one question or to a whole dialogue."""
        answer = self.chat_completion(model, messages, **options)
        text: str = answer["choices"][0]["message"]["content"]
        return text

    def chat_completion(
        self, model: str, messages: str | Sequence[Message], **options: Any
    ) -> dict[str, Any]:
        """The same as `chat`, returning the whole answer in OpenAI's shape."""
        body = {"model": model, "messages": _as_messages(messages), **options}
        answer: dict[str, Any] = self.http.json(
            "POST", "/inference/v1/chat/completions", json=body, timeout=GENERATION_TIMEOUT
        )
        return answer

    def stream_chat(
        self, model: str, messages: str | Sequence[Message], **options: Any
    ) -> Iterator[str]:
        """The assistant's answer, text as it is generated."""
        body = {"model": model, "messages": _as_messages(messages), **options}
        for choice in self._choices("/inference/v1/chat/completions", body):
            yield choice.get("delta", {}).get("content") or ""

    def _choices(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self.http.events("POST", path, json={**body, "stream": True}) as source:
            for message in source.iter_sse():
                if message.data == "[DONE]":
                    return
                chunk = json.loads(message.data)
                if "error" in chunk:
                    raise ApiError(
                        chunk["error"].get("message", "generation failed"),
                        status_code=502,
                        code=str(chunk["error"].get("code") or "inference_error"),
                    )
                yield from chunk.get("choices", [])


def _as_messages(messages: str | Sequence[Message]) -> list[Message]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return list(messages)
