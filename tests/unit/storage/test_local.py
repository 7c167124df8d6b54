"""What only the local folder can get wrong."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from shared.base.errors import InvalidInputError, NotFoundError, UnavailableError
from shared.base.settings import Settings
from shared.contracts.names import FailureCode
from shared.storage.factory import open_store
from shared.storage.local import LocalStore
from shared.storage.s3 import S3Store


def test_key_through_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    (tmp_path / "objects" / "out").symlink_to(tmp_path)
    with pytest.raises(InvalidInputError, match="leads out of the store"):
        store.put_bytes("out/secret", b"x")


def test_unfinished_files_are_no_objects(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    store.put_bytes("a/b", b"x")
    unfinished = f".b.{'0' * 32}.tmp"
    (tmp_path / "objects" / "a" / unfinished).write_bytes(b"half")
    assert list(store.list_keys("")) == ["a/b"]
    with pytest.raises(InvalidInputError):
        store.get_bytes(f"a/{unfinished}")


def test_folder_is_not_an_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    store.put_bytes("a/b", b"x")
    assert store.size("a") is None
    with pytest.raises(NotFoundError):
        store.get_bytes("a")
    with pytest.raises(NotFoundError):
        store.get_bytes("a/b/c")


def test_deleting_removes_empty_folders_up_to_the_root(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    store.put_bytes("jobs/1/t1/step-1/model", b"x")
    store.put_bytes("jobs/1/t1/step-2/model", b"x")
    store.delete(["jobs/1/t1/step-1/model"])
    assert [path.name for path in (tmp_path / "objects/jobs/1/t1").iterdir()] == ["step-2"]
    store.delete(["jobs/1/t1/step-2/model"])
    assert list((tmp_path / "objects").iterdir()) == []


def test_writers_and_a_pruning_deleter_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    done = threading.Event()

    def delete_all_the_time() -> None:
        while not done.is_set():
            store.delete(["a/b/c/other"])
            store.put_bytes("a/b/c/other", b"y")

    deleter = threading.Thread(target=delete_all_the_time)
    deleter.start()
    try:
        for number in range(100):
            store.put_bytes("a/b/c/mine", b"%d" % number)
            assert store.get_bytes("a/b/c/mine") == b"%d" % number
            store.delete(["a/b/c/mine"])
    finally:
        done.set()
        deleter.join()


def test_full_disk_is_named_as_such_and_leaves_the_old_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "objects")
    store.put_bytes("key", b"old")

    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UnavailableError, match="No space left") as caught:
        store.put_bytes("key", b"new")
    assert caught.value.code == FailureCode.STORAGE_FULL
    monkeypatch.undo()
    assert store.get_bytes("key") == b"old"
    assert [path.name for path in (tmp_path / "objects").iterdir()] == ["key"]


def test_settings_choose_the_store(tmp_path: Path) -> None:
    local = open_store(Settings(data_dir=tmp_path))
    assert isinstance(local, LocalStore)
    assert local.root == (tmp_path / "objects").resolve()
    remote = open_store(
        Settings(object_store="s3", s3_access_key="key", s3_secret_key="a-secret", s3_bucket="b")
    )
    assert isinstance(remote, S3Store)
    assert remote.bucket == "b"
