"""Folders travel whole and verified, or not at all."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.base.errors import IntegrityError, InvalidInputError, NotFoundError
from shared.contracts.manifest import FileEntry, Manifest, TokenizerMeta
from shared.contracts.names import FileRole
from shared.storage.folders import describe_folder, fetch_folder, read_manifest, store_folder
from shared.storage.local import LocalStore

PREFIX = "jobs/job_1/t1/tokenizer/"
FILES = {
    "tokenizer.json": b'{"model": {}}',
    "notes/a.txt": b"a note",
    "model.safetensors": b"\0" * 3_000_000,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for name, content in FILES.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return source


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


def manifest_of(files: tuple[FileEntry, ...]) -> Manifest:
    meta = TokenizerMeta(vocab_size=300, tokenizer_sha256="0" * 64, bytes_per_token=3.5)
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return Manifest(id="tok_1", job_id="job_1", token=1, created_at=now, files=files, meta=meta)


@pytest.fixture
def manifest(folder: Path, store: LocalStore) -> Manifest:
    made = manifest_of(describe_folder(folder))
    store_folder(store, PREFIX, folder, made)
    return made


def content_below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_description_names_each_file_once(folder: Path) -> None:
    (folder / "manifest.json").write_text("an old one")
    described = describe_folder(folder)
    assert [(entry.path, entry.bytes, entry.role) for entry in described] == [
        ("model.safetensors", 3_000_000, FileRole.MODEL),
        ("notes/a.txt", 6, FileRole.DATA),
        ("tokenizer.json", 13, FileRole.TOKENIZER),
    ]
    assert described[1].sha256 == hashlib.sha256(b"a note").hexdigest()


def test_symbolic_link_is_refused(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInputError, match="symbolic link"):
        describe_folder(folder)


def test_round_trip(store: LocalStore, manifest: Manifest, tmp_path: Path) -> None:
    fetch_folder(store, PREFIX, manifest, tmp_path / "cache" / "tok_1")
    fetched = content_below(tmp_path / "cache" / "tok_1")
    assert Manifest.model_validate_json(fetched.pop("manifest.json")) == manifest
    assert fetched == FILES
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tok_1"]


def test_only_the_wanted_roles_are_fetched(
    store: LocalStore, manifest: Manifest, tmp_path: Path
) -> None:
    roles = (FileRole.TOKENIZER, FileRole.DATA)
    fetch_folder(store, PREFIX, manifest, tmp_path / "some", roles)
    assert set(content_below(tmp_path / "some")) == {
        "manifest.json",
        "notes/a.txt",
        "tokenizer.json",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILES["model.safetensors"][:-1], "has 2999999 bytes; its manifest says 3000000"),
        (FILES["model.safetensors"] + b"\0", "has more than 3000000 bytes"),
        (b"\1" + FILES["model.safetensors"][1:], "another sha256"),
    ],
    ids=["truncated", "longer", "changed"],
)
def test_damaged_object_is_refused_and_nothing_remains(
    store: LocalStore, manifest: Manifest, tmp_path: Path, content: bytes, message: str
) -> None:
    store.put_bytes(f"{PREFIX}model.safetensors", content)
    with pytest.raises(IntegrityError, match=message):
        fetch_folder(store, PREFIX, manifest, tmp_path / "cache" / "tok_1")
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_object_is_refused_and_nothing_remains(
    store: LocalStore, manifest: Manifest, tmp_path: Path
) -> None:
    store.delete([f"{PREFIX}notes/a.txt"])
    with pytest.raises(IntegrityError, match=r"notes/a\.txt is missing"):
        fetch_folder(store, PREFIX, manifest, tmp_path / "cache" / "tok_1")
    assert list((tmp_path / "cache").iterdir()) == []


def test_folder_that_another_has_fetched_meanwhile_stays(
    store: LocalStore, manifest: Manifest, tmp_path: Path
) -> None:
    target = tmp_path / "cache" / "tok_1"
    target.mkdir(parents=True)
    (target / "theirs").write_bytes(b"x")
    fetch_folder(store, PREFIX, manifest, target)
    assert content_below(tmp_path / "cache") == {"tok_1/theirs": b"x"}


def test_manifest_is_checked_against_its_digest(
    store: LocalStore, folder: Path, manifest: Manifest
) -> None:
    digest = store_folder(store, PREFIX, folder, manifest)
    key = f"{PREFIX}manifest.json"
    assert read_manifest(store, key, sha256=digest) == manifest
    with pytest.raises(IntegrityError, match="another sha256"):
        read_manifest(store, key, sha256="0" * 64)
    store.put_bytes(key, b'{"id": "tok_1"}')
    with pytest.raises(IntegrityError, match="not a valid manifest"):
        read_manifest(store, key)
    with pytest.raises(NotFoundError):
        read_manifest(store, f"{PREFIX}none/manifest.json")


def test_manifest_is_written_after_every_file(folder: Path, tmp_path: Path) -> None:
    """An upload that breaks leaves no manifest, so the artifact does not exist."""
    order: list[str] = []

    class Recording(LocalStore):
        def put_file(self, key: str, path: Path) -> None:
            order.append(key)
            if len(order) == 3:
                raise ConnectionError("the network is gone")
            super().put_file(key, path)

    store = Recording(tmp_path / "objects")
    with pytest.raises(ConnectionError):
        store_folder(store, PREFIX, folder, manifest_of(describe_folder(folder)))
    assert order == [PREFIX + name for name in sorted(FILES)]
    assert store.size(f"{PREFIX}manifest.json") is None
