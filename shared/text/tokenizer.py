"""The tokenizer at run time: text to ids and back, as `tokenizer.json` says.

Byte-level BPE with GPT-2's pre-tokenization, run by Hugging Face `tokenizers`. Special tokens are
put in by code that knows what it is doing (`shared.text.chat`); in text they are only text.
Knows nothing of models, datasets or how a vocabulary is learned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from shared.base.errors import InvalidInputError, NotFoundError
from shared.contracts.manifest import TOKENIZER_JSON
from shared.contracts.names import SPECIAL_TOKENS

NUM_BYTES = 256
PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
"""GPT-2's pre-tokenization, which llama.cpp knows as `gpt-2`."""


def _byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte inside a token, as published with GPT-2.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, are the
    characters from U+0100 on (`bytes_to_unicode` in GPT-2's encoder.py).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(NUM_BYTES) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(NUM_BYTES + n): byte for n, byte in enumerate(hidden)}


BYTE_OF_CHARACTER = _byte_level_alphabet()


CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


def written_bytes(content: bytes) -> str:
    """How `tokenizer.json` writes the bytes of a token."""
    return "".join([CHARACTER_OF_BYTE[byte] for byte in content])


class Tokenizer:
    """A byte-level BPE whose first three ids are the platform's special tokens.

    Safe to share between threads. `sha256` is the digest of `tokenizer.json`: its identity.
    """

    def __init__(self, json_text: str) -> None:
        """Build from the content of `tokenizer.json`.

        Raises InvalidInputError when it is not a byte-level BPE, or when the special tokens are
        not at ids 0, 1 and 2.
        """
        self._backend = _parse(json_text)
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        self.json_text = json_text
        self.sha256 = hashlib.sha256(json_text.encode()).hexdigest()
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        self.end_id, self.user_id, self.assistant_id = range(len(SPECIAL_TOKENS))
        self._check()

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` from a folder."""
        try:
            return cls((folder / TOKENIZER_JSON).read_bytes().decode("utf-8"))
        except FileNotFoundError as error:
            raise NotFoundError(f"{folder} holds no {TOKENIZER_JSON}.") from error
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{folder / TOKENIZER_JSON} is not UTF-8.") from error

    @classmethod
    def from_json(cls, json_text: str) -> Tokenizer:
        """Build from the content of `tokenizer.json`."""
        return cls(json_text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; never a special one, whatever the text says.

        Raises InvalidInputError when `text` holds half of a surrogate pair, which has no bytes.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, computed on all cores."""
        for text in texts:
            check_encodable(text)
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; special tokens have none.

        Bytes that do not form UTF-8 (an answer cut inside a character) become U+FFFD;
        `decode_bytes` keeps them. Raises IndexError for an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return exactly the bytes that `ids` stand for."""
        contents = self.token_contents
        return b"".join([contents[token] for token in ids])

    @cached_property
    def token_contents(self) -> tuple[bytes, ...]:
        """The bytes of each id; empty for special tokens."""
        contents = [b""] * self.vocab_size
        for token, index in self._backend.get_vocab(with_added_tokens=True).items():
            if index >= len(SPECIAL_TOKENS):
                contents[index] = bytes(BYTE_OF_CHARACTER[character] for character in token)
        return tuple(contents)

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token: no text has fewer tokens than its bytes over this."""
        return max(map(len, self.token_contents))

    def token_bytes(self) -> list[int]:
        """Return how many UTF-8 bytes each id stands for; special tokens count nothing."""
        return [len(content) for content in self.token_contents]

    def _check(self) -> None:
        """Raise InvalidInputError unless ids, special tokens and alphabet are as promised."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        for index, token in enumerate(SPECIAL_TOKENS):
            if self._backend.token_to_id(token) != index:
                raise InvalidInputError(
                    f"This tokenizer has {token} at id {vocabulary.get(token)}, not at {index}.",
                    hint="Use a tokenizer that this platform has made.",
                )
        if sorted(vocabulary.values()) != list(range(self.vocab_size)):
            raise InvalidInputError("The ids of this tokenizer are not 0, 1, 2, ... without gaps.")
        missing = [byte for char, byte in BYTE_OF_CHARACTER.items() if char not in vocabulary]
        if missing or not self._is_byte_level():
            raise InvalidInputError("This tokenizer is not a byte-level one: it would lose bytes.")

    def _is_byte_level(self) -> bool:
        """Whether text reaches the merges unchanged, cut by GPT-2's pattern, byte by byte."""
        document = json.loads(self.json_text)
        pre_tokenizer = document.get("pre_tokenizer") or {}
        if {**pre_tokenizer, **PRE_TOKENIZER} != pre_tokenizer or document.get("normalizer"):
            return False
        tokens = self._backend.get_vocab(with_added_tokens=False)
        return all(set(token) <= BYTE_OF_CHARACTER.keys() for token in tokens)


def check_encodable(text: str) -> None:
    """Raise InvalidInputError when `text` cannot be written as UTF-8, saying where."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"The text holds half of a surrogate pair at character {error.start}.",
            hint="Send well-formed Unicode text.",
        ) from error


def _parse(json_text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:  # the library raises nothing narrower
        raise InvalidInputError(f"This is not a tokenizer.json: {error}.") from error
