"""The public names of the standard library: what each is, its parameters, and what it does.

What a name does is the first sentence of its docstring, taken only where it reads as one.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import itertools
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from services.tokenizer.python_library import SourceModule

PUBLIC_NAME_OF = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "posixpath": "os.path",
}
"""Modules that users know by another name."""
SKIPPED_PACKAGES = frozenset(
    {"__phello__", "antigravity", "distutils", "encodings", "ensurepip", "genericpath", "idlelib"}
    | {"lib2to3", "msilib", "ntpath", "nturl2path", "pydoc_data", "this", "turtledemo"}
)
COMPILED_MODULES = (builtins, itertools, math, time)
"""Everyday modules without a source file; these are asked instead of read."""
MIN_SENTENCE_CHARS, MAX_SENTENCE_CHARS = 20, 160

Kind = Literal["module", "class", "function", "method"]

_SENTENCE_END = re.compile(r"(?<=[a-z0-9)'\"])\.(?=\s+[A-Z]|$)")
_CALL_LINE = re.compile(r"^[\w.]+\(.*\)\s*(->.*)?$")
_UNREADABLE = re.compile(r"::|--|__|[\\|{}<>@#*~^=]|\bXXX\b|http|\be\.g|\bi\.e|^\S+\.py\b|^\w+ - ")
_QUOTES = re.compile(r"(?<!\w)[`'\"*]+([\w.()]+)[`'\"*]+(?!\w)")
_ROLE = re.compile(r":[a-z]+:(?=`)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """A public name and what its documentation says."""

    name: str
    """Dotted, such as `os.path.join`."""
    kind: Kind
    summary: str
    """One sentence with a full stop."""
    required: tuple[str, ...] | None = None
    """Parameters that must be given; None where they are unknown or beside the point."""
    optional: tuple[str, ...] = ()
    """Parameters with a default."""


def first_sentence(docstring: str) -> str | None:
    """Return the first sentence of a docstring, or None if it is not one plain sentence.

    Lines of a paragraph are joined, quotes around single names dropped. Refused are sentences
    with code in them and ones too short or too long to be an answer.
    """
    paragraphs = [p for p in re.split(r"\n\s*\n", docstring.strip()) if p.strip()]
    while paragraphs and _CALL_LINE.match(paragraphs[0].split("\n")[0].strip()):
        paragraphs[0] = "\n".join(paragraphs[0].split("\n")[1:]).strip()
        paragraphs = [p for p in paragraphs if p]
    if not paragraphs:
        return None
    text = _QUOTES.sub(r"\1", _ROLE.sub("", " ".join(paragraphs[0].split())))
    end = _SENTENCE_END.search(text)
    sentence = text[: end.start()] if end else text.rstrip(".")
    if not _reads_well(sentence):
        return None
    return sentence[0].upper() + sentence[1:] + "."


def _reads_well(sentence: str) -> bool:
    return (
        MIN_SENTENCE_CHARS <= len(sentence) <= MAX_SENTENCE_CHARS
        and sentence.isascii()
        and sentence[0].isalpha()
        and sentence[-1].isalnum()
        and len(sentence.split()) >= 4
        and sentence.count("(") == sentence.count(")")
        and not _UNREADABLE.search(sentence)
    )


def symbols_of(module: SourceModule, tree: ast.Module) -> Iterator[Symbol]:
    """Yield the documented public names of a module's source."""
    parts = module.name.split(".")
    name = PUBLIC_NAME_OF.get(module.name, module.name)
    if parts[0] in SKIPPED_PACKAGES or any(part.startswith("_") for part in name.split(".")):
        return
    summary = first_sentence(ast.get_docstring(tree) or "")
    if summary and name == module.name:
        yield Symbol(name=name, kind="module", summary=summary)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _function(node, name, "function")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _class(node, name)


def _class(node: ast.ClassDef, module: str) -> Iterator[Symbol]:
    name = f"{module}.{node.name}"
    summary = first_sentence(ast.get_docstring(node) or "")
    if summary:
        yield Symbol(name=name, kind="class", summary=summary)
    for member in node.body:
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _function(member, name, "method")


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str, kind: Kind
) -> Iterator[Symbol]:
    summary = first_sentence(ast.get_docstring(node) or "")
    if node.name.startswith("_") or not summary:
        return
    arguments = node.args
    positional = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]]
    split = len(positional) - len(arguments.defaults)
    required, optional = positional[:split], positional[split:]
    if required and kind == "method" and required[0] in ("self", "cls"):
        required = required[1:]
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        (required if default is None else optional).append(argument.arg)
    variable = arguments.vararg is not None or arguments.kwarg is not None
    yield Symbol(
        name=f"{owner}.{node.name}",
        kind=kind,
        summary=summary,
        required=None if variable else tuple(required),
        optional=tuple(name for name in optional if not name.startswith("_")),
    )


def compiled_symbols() -> Iterator[Symbol]:
    """Yield the documented public names of `COMPILED_MODULES`."""
    for module in COMPILED_MODULES:
        prefix = "" if module is builtins else f"{module.__name__}."
        for name, value in sorted(vars(module).items()):
            summary = first_sentence(inspect.getdoc(value) or "")
            if not name.startswith("_") and callable(value) and summary:
                kind: Kind = "class" if inspect.isclass(value) else "function"
                yield Symbol(name=prefix + name, kind=kind, summary=summary)
