"""Logprobs in OpenAI's two shapes. Knows no HTTP and no engine.

A token is written as text that no other token shares: a special token as its name, bytes that are
no UTF-8 by themselves as OpenAI writes them, `bytes:\\xe2\\x82`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from services.inference.responses import (
    ChatLogprobs,
    CompletionLogprobs,
    TokenAlternative,
    TokenLogprob,
)
from services.inference.sequence import TokenLogprobs
from shared.contracts.names import SPECIAL_TOKENS


def token_text(contents: Sequence[bytes], token: int) -> str:
    """See the module; `contents` holds the bytes of each id."""
    content = contents[token]
    if not content:
        return SPECIAL_TOKENS[token]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class CompletionLogprobsWriter:
    """Writes one choice's logprobs, all at once or piece by piece."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents = contents
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def write(self, entries: Iterable[tuple[int, TokenLogprobs | None]]) -> CompletionLogprobs:
        """The next tokens with their logprobs; a prompt's first token has none.

        `text_offset` is where a token begins in the text (which a stop string may have cut).
        """
        written = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for token, entry in entries:
            written.tokens.append(token_text(self._contents, token))
            written.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(self._contents[token]))
            written.token_logprobs.append(None if entry is None else entry.logprob)
            written.top_logprobs.append(None if entry is None else self._alternatives(entry))
        return written

    def _alternatives(self, entry: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens; the chosen one comes with them even if it is none of them."""
        every = [*entry.top, (entry.token, entry.logprob)]
        return {token_text(self._contents, token): logprob for token, logprob in every}


def chat_logprobs(contents: Sequence[bytes], entries: Iterable[TokenLogprobs]) -> ChatLogprobs:
    """A chat answer's tokens with their logprobs."""

    def described(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_text(contents, token),
            "logprob": logprob,
            "bytes": list(contents[token]),
        }

    return ChatLogprobs(
        content=[
            TokenLogprob(
                **described(entry.token, entry.logprob),
                top_logprobs=[TokenAlternative(**described(*other)) for other in entry.top],
            )
            for entry in entries
        ],
        refusal=None,
    )
