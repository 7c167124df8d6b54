"""Which code this is: the package's version, and the commit where it runs from a clone."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "ryan-gpt"
_CLONE = Path(__file__).parents[2]


def package_version() -> str:
    """Version of the installed package."""
    return metadata.version(DISTRIBUTION)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Such as `0.1.0+3f2c1ab90d4e`; without a clone around, the version alone."""
    commit = find_commit(_CLONE)
    return f"{package_version()}+{commit[:12]}" if commit else package_version()


def find_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, read from git's files; None when it is no clone."""
    git = folder / ".git"
    head = _read(git / "HEAD")
    if not head.startswith("ref: "):
        return head or None
    reference = head.removeprefix("ref: ")
    packed = (line.split(" ", 1) for line in _read(git / "packed-refs").splitlines())
    found = _read(git / reference) or next(
        (commit for commit, *name in packed if name == [reference]), ""
    )
    return found or None


def _read(path: Path) -> str:
    return path.read_text("utf-8").strip() if path.is_file() else ""
