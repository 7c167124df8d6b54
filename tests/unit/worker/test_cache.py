"""The cache downloads once, keeps what is in use, and forgets the longest unused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.jobs.worker.cache import InputCache


class Source:
    """Makes entries of 100 bytes, and counts."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def __call__(self, target: Path) -> None:
        self.fetched.append(target.name)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.mkdir()
        (temporary / "file").write_bytes(bytes(100))
        temporary.rename(target)


@pytest.fixture
def source() -> Source:
    return Source()


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def test_second_use_downloads_nothing(tmp_path: Path, source: Source) -> None:
    cache = InputCache(tmp_path, max_bytes=1000)
    for _ in range(2):
        with cache.hold("a", 100, source) as folder:
            assert folder == tmp_path.resolve() / "a"
            assert (folder / "file").stat().st_size == 100
    assert source.fetched == ["a"]


def test_users_at_the_same_time_download_once(tmp_path: Path, source: Source) -> None:
    caches = [InputCache(tmp_path, max_bytes=1000) for _ in range(8)]  # as of eight processes
    barrier = threading.Barrier(8)

    def use(cache: InputCache) -> bool:
        barrier.wait()
        with cache.hold("a", 100, source) as folder:
            return (folder / "file").exists()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, caches)) == [True] * 8
    assert source.fetched == ["a"]


def test_longest_unused_goes_first(tmp_path: Path, source: Source) -> None:
    cache = InputCache(tmp_path, max_bytes=250)
    for age, name in enumerate(["old", "young"]):
        with cache.hold(name, 100, source) as folder:
            pass
        os.utime(folder, (1000 + age, 1000 + age))
    with cache.hold("old", 100, source):  # now the younger one
        pass
    with cache.hold("new", 100, source):
        pass
    assert entries(tmp_path) == ["new", "old"]
    assert [path.name for path in tmp_path.glob(".*")] == [".locks"]


def test_entry_in_use_stays_even_over_the_bound(
    tmp_path: Path, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    cache, other = (InputCache(tmp_path, max_bytes=150) for _ in range(2))
    with cache.hold("a", 100, source) as first, other.hold("b", 100, source) as second:
        assert (first / "file").exists()
        assert (second / "file").exists()
    assert "over its bound" in caplog.text
    with other.hold("c", 100, source):
        pass
    assert entries(tmp_path) == ["c"]


def test_failed_download_leaves_no_lock_behind(tmp_path: Path, source: Source) -> None:
    cache = InputCache(tmp_path, max_bytes=1000)

    def fail(_target: Path) -> None:
        raise ConnectionError

    fetch: Callable[[Path], None] = fail
    with pytest.raises(ConnectionError), cache.hold("a", 100, fetch):
        pass
    with cache.hold("a", 100, source) as folder:
        assert (folder / "file").exists()


def test_leftovers_of_killed_processes_go_and_downloads_under_way_stay(tmp_path: Path) -> None:
    cache = InputCache(tmp_path, max_bytes=1000)
    hidden = "0" * 32

    def fetch(target: Path) -> None:
        under_way = target.with_name(f".{target.name}.{hidden}.tmp")
        under_way.mkdir()
        (tmp_path / f".dead.{hidden}.tmp").mkdir()
        (tmp_path / f".old.{hidden}.trash").mkdir()
        cache.remove_leftovers()
        assert sorted(path.name for path in tmp_path.glob(f".*{hidden}*")) == [under_way.name]
        under_way.rename(target)

    with cache.hold("a", 0, fetch):
        assert entries(tmp_path) == ["a"]
