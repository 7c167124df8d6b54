"""Other programs' byte-level BPE vocabularies as tokenizers of this platform.

Here the three special tokens have the ids 0, 1 and 2, so a foreign vocabulary's rows change places:
`Converted.rows` says which old id each new one was. Knows no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base.errors import InvalidInputError
from shared.contracts.names import END_TOKEN, SPECIAL_TOKENS
from shared.text.tokenizer import BYTE_OF_CHARACTER, NUM_BYTES, PRE_TOKENIZER, Tokenizer

MAX_ENTRIES = 65_536
MAX_FILE_BYTES = 64 << 20
DECODER_FLAGS = ("add_prefix_space", "trim_offsets", "use_regex")
CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A tokenizer of this platform made of a foreign one."""

    tokenizer: Tokenizer
    rows: tuple[int | None, ...]
    """By new id the old one; None for a special token that the other vocabulary does not have."""
    left_out: tuple[str, ...] = ()
    """The other vocabulary's own special tokens, which have no place here."""

    @property
    def moves_rows(self) -> bool:
        """Whether any id is another than before."""
        return self.rows != tuple(range(len(self.rows)))


def read_reference_vocabulary(vocab: Path, merges: Path) -> Converted:
    """Convert the reference's `vocab.json` (id -> hex bytes) and `merges.txt` (`hex hex` a line).

    Raises InvalidInputError, saying what is wrong, for files that are not these.
    """
    contents = _hex_vocabulary(vocab)
    pairs = _hex_merges(merges, set(contents.values()))
    specials = {content: index for index, content in contents.items()}
    places = [specials.get(token.encode()) for token in SPECIAL_TOKENS]
    special_contents = {token.encode() for token in SPECIAL_TOKENS}
    ordinary = {
        index: content for index, content in contents.items() if content not in special_contents
    }
    return _convert(ordinary, pairs, places)


def read_tokenizer_json(path: Path, *, end_id: int | None) -> Converted:
    """Convert a Hugging Face `tokenizer.json`; one that this platform made stays as it is.

    `end_id` is the model's end-of-text id, for a vocabulary without `<|endoftext|>`. Raises
    InvalidInputError for a tokenizer that is not byte-level BPE with GPT-2's pattern.
    """
    text = _read_text(path)
    document = _json_object(text, path.name)
    model, added = document.get("model"), document.get("added_tokens") or []
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise InvalidInputError(f"{path.name} is not a byte-level BPE.")
    vocabulary = _token_ids(model.get("vocab"), path.name)
    specials = _token_ids({token.get("content"): token.get("id") for token in added}, path.name)
    if [specials.get(token, vocabulary.get(token)) for token in SPECIAL_TOKENS] == [0, 1, 2]:
        tokenizer = Tokenizer.from_json(text)
        return Converted(tokenizer=tokenizer, rows=tuple(range(tokenizer.vocab_size)))
    _check_pattern(document, path.name)
    every = {**vocabulary, **specials}
    places = [every.get(token) for token in SPECIAL_TOKENS]
    if places[0] is None and end_id in specials.values():
        places[0] = end_id
    ordinary = {
        index: _bytes_of(token, path.name)
        for token, index in vocabulary.items()
        if token not in specials and token not in SPECIAL_TOKENS
    }
    kept = {index for index in places if index is not None}
    left_out = tuple(token for token, index in specials.items() if index not in kept)
    pairs = [_merge(merge, path.name) for merge in model["merges"]]
    return _convert(ordinary, pairs, places, left_out)


def _convert(
    ordinary: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    places: Sequence[int | None],
    left_out: tuple[str, ...] = (),
) -> Converted:
    """Give the specials the first ids and every other content the next, in the old order.

    Of two entries with the same bytes the later one counts: it is the one that encoders find.
    """
    if places[0] is None:
        raise InvalidInputError(
            f"The vocabulary has no {END_TOKEN}.", hint="It is not this model's tokenizer."
        )
    newest = {content: index for index, content in sorted(ordinary.items())}
    missing = NUM_BYTES - sum(bytes([byte]) in newest for byte in range(NUM_BYTES))
    if missing:
        raise InvalidInputError(f"The vocabulary lacks {missing} of the 256 bytes.")
    old_ids = sorted(newest.values())
    entries = [*SPECIAL_TOKENS, *(_spelled(ordinary[index]) for index in old_ids)]
    if len(entries) > MAX_ENTRIES:
        raise InvalidInputError(f"The vocabulary has {len(entries)} entries, above {MAX_ENTRIES}.")
    document = _document(entries, [(_spelled(left), _spelled(right)) for left, right in merges])
    return Converted(
        tokenizer=Tokenizer.from_json(json.dumps(document, ensure_ascii=False)),
        rows=(*places, *old_ids),
        left_out=left_out,
    )


def _document(entries: Sequence[str], merges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": token, **flags, "special": True}
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "pre_tokenizer": {**PRE_TOKENIZER, "trim_offsets": True},
        "decoder": {"type": "ByteLevel"} | dict.fromkeys(DECODER_FLAGS, True),
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(entries)},
            "merges": [list(pair) for pair in merges],
        },
    }


def _hex_vocabulary(path: Path) -> dict[int, bytes]:
    document = _json_object(_read_text(path), path.name)
    try:
        contents = {int(index): bytes.fromhex(text) for index, text in document.items()}
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{path.name} does not map ids to hexadecimal bytes: {error}.",
            hint='It begins like {"0": "00", "1": "01", ...}.',
        ) from error
    if sorted(contents) != list(range(len(contents))):
        raise InvalidInputError(f"The ids in {path.name} are not 0, 1, 2, ... without gaps.")
    return contents


def _hex_merges(path: Path, known: set[bytes]) -> list[tuple[bytes, bytes]]:
    pairs = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            left, right = (bytes.fromhex(part) for part in line.split())
        except ValueError as error:
            raise InvalidInputError(
                f"{path.name}, line {number} is not two hexadecimal texts.",
                hint="A line looks like: 20 74",
            ) from error
        if not {left, right, left + right} <= known:
            raise InvalidInputError(
                f"{path.name}, line {number} merges what the vocabulary does not have.",
                hint="The two files belong to different tokenizers.",
            )
        pairs.append((left, right))
    return pairs


def _check_pattern(document: Mapping[str, Any], name: str) -> None:
    pre_tokenizer = document.get("pre_tokenizer") or {}
    if {**pre_tokenizer, **PRE_TOKENIZER} != pre_tokenizer or document.get("normalizer"):
        raise InvalidInputError(
            f"{name} cuts text by another pattern than GPT-2's.",
            hint="Only byte-level BPE with GPT-2's pattern can be kept exactly.",
        )


def _token_ids(value: Any, name: str) -> dict[str, int]:
    if not isinstance(value, dict) or not all(
        isinstance(token, str) and isinstance(index, int) for token, index in value.items()
    ):
        raise InvalidInputError(f"{name} has no table of tokens and ids.")
    return value


def _merge(merge: Any, name: str) -> tuple[bytes, bytes]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2:
        raise InvalidInputError(f"{name} has a merge that is not a pair.")
    return _bytes_of(parts[0], name), _bytes_of(parts[1], name)


def _bytes_of(token: str, name: str) -> bytes:
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError as error:
        raise InvalidInputError(f"{name} is not byte-level: {token[:30]!r} is no token.") from error


def _spelled(content: bytes) -> str:
    return "".join(CHARACTER_OF_BYTE[byte] for byte in content)


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InvalidInputError(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB.")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path.name} is not UTF-8.") from error


def _json_object(text: str, name: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidInputError(f"{name} is not a JSON object.")
    return document
