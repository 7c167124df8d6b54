"""One contract, held by the local folder and by two S3 servers over TCP."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from shared.base.errors import InvalidInputError, NotFoundError, UnavailableError
from shared.storage.base import ObjectStore
from shared.storage.local import LocalStore
from shared.storage.s3 import PART_BYTES, S3Store
from tests.support.s3_servers import S3Server, free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def prefix() -> str:
    return f"jobs/{uuid4().hex}/"


def test_bytes_come_back_and_are_replaced(store: ObjectStore, prefix: str) -> None:
    key = f"{prefix}step-1/manifest.json"
    assert store.size(key) is None
    store.put_bytes(key, b"first, the longer one")
    store.put_bytes(key, b"second")
    assert store.get_bytes(key) == b"second"
    assert store.size(key) == 6


def test_empty_object_is_an_object(store: ObjectStore, prefix: str) -> None:
    store.put_bytes(f"{prefix}empty", b"")
    assert store.size(f"{prefix}empty") == 0
    assert store.get_bytes(f"{prefix}empty") == b""


@pytest.mark.parametrize("num_bytes", [0, 1, 1_000_003, 2 * PART_BYTES + 12_345])
def test_file_of_any_size_comes_back(
    store: ObjectStore, prefix: str, tmp_path: Path, num_bytes: int
) -> None:
    content = (bytes(range(251)) * (num_bytes // 251 + 1))[:num_bytes]
    path = tmp_path / "file"
    path.write_bytes(content)
    store.put_file(f"{prefix}file", path)
    assert store.size(f"{prefix}file") == num_bytes
    digest = hashlib.sha256()
    with store.stream(f"{prefix}file") as chunks:
        for chunk in chunks:
            assert 0 < len(chunk) <= 1 << 20
            digest.update(chunk)
    assert digest.digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize("offset", [0, 1, 999_999, 1_000_000])
def test_stream_starts_at_the_offset(store: ObjectStore, prefix: str, offset: int) -> None:
    content = b"0123456789" * 100_000
    store.put_bytes(f"{prefix}ranged", content)
    with store.stream(f"{prefix}ranged", offset=offset) as chunks:
        assert b"".join(chunks) == content[offset:]


def test_stream_may_be_left_early(store: ObjectStore, prefix: str) -> None:
    store.put_bytes(f"{prefix}big", b"x" * 5_000_000)
    for _ in range(20):  # more often than the client's pool has connections
        with store.stream(f"{prefix}big") as chunks:
            assert next(chunks)[:1] == b"x"


def test_missing_object_says_so(store: ObjectStore, prefix: str) -> None:
    key = f"{prefix}missing"
    with pytest.raises(NotFoundError, match=key):
        store.get_bytes(key)
    with pytest.raises(NotFoundError, match=key), store.stream(key):
        pass
    assert store.size(key) is None


def test_missing_source_file_is_no_store_trouble(
    store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file(f"{prefix}file", tmp_path / "none")


def test_keys_are_listed_in_order_and_by_prefix(store: ObjectStore, prefix: str) -> None:
    names = ["a.json", "a/1", "a/10", "a/2", "ab", "b/c/d"]
    for name in reversed(names):
        store.put_bytes(prefix + name, b"x")
    assert list(store.list_keys(prefix)) == [prefix + name for name in names]
    assert list(store.list_keys(f"{prefix}a/1")) == [f"{prefix}a/1", f"{prefix}a/10"]
    assert list(store.list_keys(f"{prefix}a/")) == [prefix + name for name in names[1:4]]
    assert list(store.list_keys(f"{prefix}nothing/")) == []


def test_more_keys_than_one_page(store: ObjectStore, prefix: str) -> None:
    keys = [f"{prefix}{number:04d}" for number in range(1_005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put_bytes(key, b"x"), keys))
    assert list(store.list_keys(prefix)) == keys
    store.delete(keys)
    assert list(store.list_keys(prefix)) == []


def test_deleting_leaves_the_others(store: ObjectStore, prefix: str) -> None:
    store.put_bytes(f"{prefix}step-1/a", b"1")
    store.put_bytes(f"{prefix}step-2/a", b"2")
    store.delete([f"{prefix}step-1/a", f"{prefix}step-1/never-there"])
    assert store.size(f"{prefix}step-1/a") is None
    assert store.get_bytes(f"{prefix}step-2/a") == b"2"
    store.delete([])


def test_healthy_store_passes_its_check(store: ObjectStore) -> None:
    store.check()


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a//b", "a/../../b", "..", "a/./b", "a/", "\0"])
def test_unusable_key_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidInputError, match="not a usable object key"):
        store.put_bytes(key, b"x")
    with pytest.raises(InvalidInputError, match="not a usable object key"):
        store.get_bytes(key)


def test_conditional_write_happens_once(conditional_store: ObjectStore, prefix: str) -> None:
    key = f"{prefix}once"
    assert conditional_store.put_bytes_if_absent(key, b"first") is True
    assert conditional_store.put_bytes_if_absent(key, b"second") is False
    assert conditional_store.get_bytes(key) == b"first"
    conditional_store.delete([key])
    assert conditional_store.put_bytes_if_absent(key, b"third") is True


def test_of_racing_conditional_writers_one_wins(
    conditional_store: ObjectStore, prefix: str
) -> None:
    for race in range(5):
        key = f"{prefix}race-{race}"
        with ThreadPoolExecutor(8) as pool:
            won = list(
                pool.map(
                    lambda writer, key=key: conditional_store.put_bytes_if_absent(
                        key, b"%d" % writer
                    ),
                    range(8),
                )
            )
        assert sorted(won) == [False] * 7 + [True]
        assert conditional_store.get_bytes(key) == b"%d" % won.index(True)


def test_rclone_ignores_the_condition(rclone: S3Server, prefix: str) -> None:
    """Known, and the reason why nothing relies on conditional writes alone."""
    store = rclone.store()
    assert store.put_bytes_if_absent(f"{prefix}once", b"first") is True
    assert store.put_bytes_if_absent(f"{prefix}once", b"second") is True
    assert store.get_bytes(f"{prefix}once") == b"second"


def test_wrong_secret_is_named_as_such(rclone: S3Server, prefix: str) -> None:
    store = rclone.store(secret_key="not the secret at all")
    attempts = (
        store.check,
        lambda: store.put_bytes(f"{prefix}x", b"x"),
        lambda: store.put_bytes_if_absent(f"{prefix}x", b"x"),
        lambda: store.get_bytes(f"{prefix}x"),
        lambda: store.size(f"{prefix}x"),
        lambda: list(store.list_keys(prefix)),
        lambda: store.delete([f"{prefix}x"]),
    )
    for attempt in attempts:
        with pytest.raises(UnavailableError, match="refuses these credentials") as caught:
            attempt()
        assert caught.value.hint == "Check RYANGPT_S3_ACCESS_KEY and RYANGPT_S3_SECRET_KEY."
    assert rclone.store().size(f"{prefix}x") is None


def test_missing_bucket_is_named_as_such(moto: S3Server) -> None:
    store = moto.store(bucket="nobody-made-this")
    with pytest.raises(UnavailableError, match="no bucket 'nobody-made-this'"):
        store.check()
    with pytest.raises(UnavailableError, match="no bucket 'nobody-made-this'"):
        store.put_bytes("key", b"x")


def test_server_that_is_not_there_is_unavailable() -> None:
    store = S3Store(
        endpoint=f"127.0.0.1:{free_port()}", bucket="none", access_key="key", secret_key="secret"
    )
    with pytest.raises(UnavailableError, match="does not answer"):
        store.check()
    with pytest.raises(UnavailableError, match="does not answer"):
        store.put_bytes_if_absent("key", b"x")


def test_missing_local_folder_is_unavailable(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    (tmp_path / "objects").rmdir()
    with pytest.raises(UnavailableError, match="is missing or cannot be written"):
        store.check()


def test_a_listing_says_when_objects_were_stored(store: ObjectStore, prefix: str) -> None:
    began = datetime.now(UTC)
    for name in ("b", "a/x"):
        store.put_bytes(f"{prefix}{name}", b"content")
    found = list(store.list_objects(prefix))
    assert [item.key for item in found] == [f"{prefix}a/x", f"{prefix}b"]
    slack = timedelta(seconds=2)  # servers round to seconds
    assert all(began - slack <= item.modified_at <= datetime.now(UTC) + slack for item in found)
    store.remove_unfinished(older_than=began - timedelta(hours=1))
    assert [item.key for item in store.list_objects(prefix)] == [item.key for item in found]
