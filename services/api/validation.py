"""FastAPI's validation errors as JSON pointers and sentences. Knows no HTTP."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shared.contracts.base import FieldError
from shared.contracts.views import ProblemItem

ErrorDetails = Mapping[str, Any]
"""One entry of a pydantic `ValidationError.errors()`, its `loc` starting with body, query ..."""
_QUOTED = re.compile(r"'([^']*)'")


def problem_items(errors: Iterable[ErrorDetails], body: object) -> tuple[ProblemItem, ...]:
    """What is wrong, by pointer in order of appearance.

    A pointer leads into `body` as it was sent: the names of union members that pydantic puts into
    a location are left out. Alternatives that failed at one place become one sentence. Parameters
    outside the body are shown as `/query/limit`, `/header/...` and `/path/...`.
    """
    found: dict[str, list[str]] = {}
    for error, pointer in _relevant([(error, _pointer(error, body)) for error in errors]):
        sentence = _sentence(error, body)
        alternatives = found.setdefault(pointer, [])
        if sentence not in alternatives:
            alternatives.append(sentence)
    return tuple(
        ProblemItem(pointer=pointer, detail=" or: ".join(details))
        for pointer, details in found.items()
    )


def _relevant(
    located: Sequence[tuple[ErrorDetails, str]],
) -> Iterator[tuple[ErrorDetails, str]]:
    """Leave out that a value is of another type than one member of a union, where the member it
    does resemble says more about what is inside it."""
    for error, pointer in located:
        inside = any(other.startswith(f"{pointer}/") for _, other in located)
        if not (inside and error["type"].endswith("_type")):
            yield error, pointer


def _pointer(error: ErrorDetails, body: object) -> str:
    source, *location = error["loc"]
    if source != "body":
        return _join([source, *location])
    kind = error["type"]
    if kind == "json_invalid":
        return ""
    parts = _parts_in_document(location, body, keep_last=kind == "missing")
    context = error.get("ctx", {})
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        parts.append(str(context["discriminator"]).strip("'"))
    if isinstance(cause := context.get("error"), FieldError):
        parts.extend(cause.path)
    return _join(parts)


def _parts_in_document(
    location: Sequence[str | int], document: object, *, keep_last: bool
) -> list[str | int]:
    """The parts of a location that are keys and indexes of the document itself."""
    parts: list[str | int] = []
    for index, part in enumerate(location):
        if _holds(document, part):
            document = document[part]  # type: ignore[index]  # just looked
        elif not (keep_last and index == len(location) - 1):
            continue
        parts.append(part)
    return parts


def _holds(document: object, part: str | int) -> bool:
    if isinstance(document, list):
        return isinstance(part, int) and part < len(document)
    return isinstance(document, Mapping) and part in document


def _join(parts: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901); what UTF-8 cannot say is replaced."""
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)
    return pointer.encode("utf-8", "replace").decode("utf-8")


def _sentence(error: ErrorDetails, body: object) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "this field is required"
        case "extra_forbidden":
            return f"there is no field {str(error['loc'][-1])!r} here"
        case "json_invalid":
            return f"the body is not JSON: {context['error']} at character {error['loc'][-1]}"
        case "union_tag_not_found":
            return "this field is required"
        case "union_tag_invalid":
            return _unknown_tag(context)
        case "model_attributes_type" if not isinstance(body, dict | list):
            return "the body must be a JSON object, sent as Content-Type: application/json"
        case "model_attributes_type":
            return "this must be a JSON object"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message.replace("Input should", "must").replace("String should", "must")


def _unknown_tag(context: Mapping[str, Any]) -> str:
    tag, expected = str(context["tag"]), _QUOTED.findall(str(context["expected_tags"]))
    close = difflib.get_close_matches(tag, expected, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return f"{tag!r} is none of {', '.join(expected)}{suggestion}"
