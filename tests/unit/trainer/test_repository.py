"""Which files of a public repository are fetched, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.trainer.repository import fetch_repository
from shared.base.download import Downloader, OnBytes
from shared.base.errors import JobFailedError
from shared.base.files import write_bytes
from shared.contracts.checkpoint_specs import ImportSpec

BASE = "https://huggingface.co/owner/name/resolve/main/"


def fetched(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: dict[str, bytes],
    own: tuple[str, ...] = (),
) -> dict[str, bytes]:
    """What comes of a repository that holds `there`; a download is the one thing replaced."""

    def fetch(
        _: Downloader, url: str, target: Path, on_bytes: OnBytes, *, missing_ok: bool = False
    ) -> bool:
        assert missing_ok
        content = there.get(url.removeprefix(BASE))
        if content is None:
            return False
        write_bytes(target, content)
        on_bytes(len(content), len(content))
        return True

    monkeypatch.setattr(Downloader, "fetch", fetch)
    mine = {name: folder / name for name in own}
    for path in mine.values():
        path.write_bytes(b"own")
    report: Callable[[object], None] = [].append
    found = fetch_repository("owner/name/below", mine, folder, report, Downloader())
    return {name: path.read_bytes() for name, path in found.items()}


def test_a_reference_checkpoint_and_the_users_own_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"below/ckpt_final.pt": b"weights", "below/vocab.json": b"theirs", "config.json": b"?"}
    found = fetched(tmp_path, monkeypatch, there, ("vocab.json", "merges.txt"))
    assert found == {"ckpt_final.pt": b"weights", "vocab.json": b"own", "merges.txt": b"own"}


def test_sharded_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}
    there = {
        "below/model.safetensors.index.json": json.dumps(index).encode(),
        "below/m-1.safetensors": b"1",
        "below/m-2.safetensors": b"2",
        "below/config.json": b"{}",
    }
    assert fetched(tmp_path, monkeypatch, there) == {
        "config.json": b"{}",
        "m-1.safetensors": b"1",
        "m-2.safetensors": b"2",
    }


@pytest.mark.parametrize("name", ["../up.safetensors", "/etc/x.safetensors", "a/b.safetensors"])
def test_an_index_names_no_file_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    index = json.dumps({"weight_map": {"a": name}}).encode()
    with pytest.raises(JobFailedError, match="names files outside its folder"):
        fetched(tmp_path, monkeypatch, {"below/model.safetensors.index.json": index})


def test_a_repository_without_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobFailedError, match=r"^owner/name/below holds none of model\.safetensors"):
        fetched(tmp_path, monkeypatch, {"config.json": b"{}"})


@pytest.mark.parametrize(
    "name",
    ["name", "../name", "owner/..", "owner/name/../x", "https://a.test/b", "owner/na me", ""],
)
def test_only_names_of_repositories_are_taken(name: str) -> None:
    with pytest.raises(ValidationError):
        ImportSpec(model="m", repository=name)
