"""The project's own Python files as syntax trees, for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "services", "ryangpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file: where it is, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def num_lines(self) -> int:
        return self.text.count("\n")


@lru_cache(maxsize=1)
def product_sources() -> tuple[Source, ...]:
    """Every non-empty Python file of the product, migrations left out."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return tuple(_parse(path) for path in paths if path.stat().st_size and not _generated(path))


@lru_cache(maxsize=1)
def sources_of_tests() -> tuple[Source, ...]:
    """Every non-empty Python file of the tests."""
    return tuple(
        _parse(path) for path in sorted((ROOT / "tests").rglob("*.py")) if path.stat().st_size
    )


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def calls(source: Source) -> Iterator[tuple[str, int]]:
    """Every call as `dotted.name` and line; `?` stands for what is no plain name."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node.lineno


def dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of attributes."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _parse(path: Path) -> Source:
    text = path.read_text("utf-8")
    return Source(path=str(path.relative_to(ROOT)), text=text, tree=ast.parse(text))


def _generated(path: Path) -> bool:
    return "migrations" in path.parts
