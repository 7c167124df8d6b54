"""The commit is read from git's own files, wherever they keep it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shared.base.version import code_version, find_commit, package_version


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    return tmp_path


def test_a_branch_a_packed_branch_and_a_detached_head(clone: Path) -> None:
    commit = git(clone, "rev-parse", "HEAD")
    assert find_commit(clone) == commit
    git(clone, "pack-refs", "--all")
    assert not (clone / ".git" / "refs" / "heads" / "main").exists()
    assert find_commit(clone) == commit
    git(clone, "checkout", "--quiet", "--detach")
    assert find_commit(clone) == commit


def test_without_commits_or_without_a_clone_there_is_none(tmp_path: Path) -> None:
    assert find_commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert find_commit(tmp_path) is None


def test_the_version_of_the_code_begins_with_the_package_s() -> None:
    assert code_version().partition("+")[0] == package_version()
