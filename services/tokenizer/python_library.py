"""The sources of the standard library that this Python carries, as syntax trees.

Read with `ast`, never imported; always in the same order.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.base.errors import JobFailedError

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModule:
    """One module of the library."""

    name: str
    """Dotted, as it is imported."""
    path: Path
    """Its file."""

    def parse(self) -> ast.Module | None:
        """Return the syntax tree; None for a template or another Python's file."""
        try:
            return ast.parse(self.path.read_bytes())
        except (SyntaxError, ValueError):
            return None


def library_folder() -> Path:
    """Return where the standard library lies."""
    return Path(sysconfig.get_path("stdlib"))


def library_modules(folder: Path) -> list[SourceModule]:
    """Return the modules below `folder`, by name; JobFailedError when there are none."""
    modules = []
    for path in folder.rglob("*.py"):
        relative = path.relative_to(folder)
        if not SKIPPED_FOLDERS.intersection(relative.parts):
            name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            modules.append(SourceModule(name=name, path=path))
    if not modules:
        raise JobFailedError(
            f"{folder} holds no Python sources.",
            hint="Install Python's standard library as source files, or ingest a text of your own.",
        )
    return sorted(modules, key=lambda module: module.name)


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and its functions, indentation removed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                # An escaped half of a surrogate pair is legal in a source, but has no bytes.
                yield text.encode("utf-8", "ignore").decode("utf-8")
