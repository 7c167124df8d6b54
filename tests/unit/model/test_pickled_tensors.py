"""Checkpoints from strangers: tensors come out, and nothing in the file ever runs."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.base.errors import InvalidInputError
from shared.model.pickled_tensors import TensorRef, read_pickled_tensors
from shared.model.torch_file import TorchFile
from tests.support.hostile import Hostile, torch_archive


def test_what_torch_saves_comes_out_equal(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    model = collections.OrderedDict(
        whole=base,
        view=base[1:3, ::2],
        turned=base.T,
        half=torch.full((3,), 1.5, dtype=torch.float16),
        wide=torch.tensor([2.0**-130], dtype=torch.bfloat16),
        learned=torch.nn.Parameter(torch.ones(2, 2)),
        scalar=torch.tensor(7.25),
        empty=torch.empty(0, 5),
    )
    saved = {"model": model, "iteration": 9, "lr": 0.5, "betas": (0.9, 0.95), "groups": [[1], None]}
    torch.save(saved, tmp_path / "a.pt")
    archive = TorchFile(tmp_path / "a.pt", "a.pt")
    rest = {name: value for name, value in archive.content.items() if name != "model"}
    assert rest == {name: value for name, value in saved.items() if name != "model"}
    tensors = archive.tensors(archive.content["model"])
    assert list(tensors) == list(model)
    for name, tensor in model.items():
        assert tensors[name].dtype is torch.float32
        assert torch.equal(tensors[name], tensor.detach().to(torch.float32)), name


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {canary}",)),
        (eval, ("open('{canary}', 'w')",)),
        (exec, ("open('{canary}', 'w')",)),
        (open, ("{canary}", "w")),
        (os.mkdir, ("{canary}",)),
        (getattr, (collections, "namedtuple")),
    ],
)
def test_a_call_is_refused_and_never_made(
    tmp_path: Path, protocol: int, function: Any, arguments: tuple[Any, ...]
) -> None:
    canary = tmp_path / "canary"
    filled = [part.format(canary=canary) if isinstance(part, str) else part for part in arguments]
    if function is getattr:
        filled = ["text", "upper"]
    program = pickle.dumps({"model_state_dict": Hostile(function, *filled)}, protocol)
    path = torch_archive(tmp_path / "ckpt_final.pt", program)
    with pytest.raises(InvalidInputError) as caught:
        TorchFile(path, "ckpt_final.pt")
    assert caught.value.message.startswith("ckpt_final.pt: The file asks for '")
    assert caught.value.message.endswith("which no checkpoint of this kind needs: it was not run.")
    assert not canary.exists()


def test_the_canary_would_die_if_the_file_were_unpickled(tmp_path: Path) -> None:
    """The attack of the test above is a real one."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Hostile(os.system, f"touch {canary}")))  # noqa: S301
    assert canary.exists()


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


STORAGE = (
    b"(X\x07\x00\x00\x00storage" + name("torch", "FloatStorage") + b"X\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x08tQ"
)
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def tensor(offset: bytes, size: bytes, stride: bytes) -> bytes:
    return REBUILD + b"(" + STORAGE + offset + size + stride + b"\x89)tR."


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (name("torch", "load") + b".", "asks for 'torch.load'"),
        (name("torch.storage", "_load_from_bytes") + b".", "'torch.storage._load_from_bytes'"),
        (name("builtins", "getattr") + b".", "asks for 'builtins.getattr'"),
        (name("collections", "OrderedDict") + b"(K\x01tR.", "a call of collections.OrderedDict"),
        (name("torch", "FloatStorage") + b")R.", "asks for a call of torch.FloatStorage"),
        (name("torch", "FloatStorage") + b")\x81.", "asks for the instruction NEWOBJ"),
        (b"(i__main__\nX\n.", "asks for the instruction INST"),
        (b"(o.", "asks for the instruction OBJ"),
        (b"\x82\x01.", "asks for the instruction EXT1"),
        (b"Pid\n.", "asks for the instruction PERSID"),
        (b"}K\x01b.", "one value|is damaged|no end|^$"),
        (tensor(b"K\x00", b"K\x03K\x03\x86", b"K\x03K\x01\x86"), "reaches beyond its storage"),
        (tensor(b"K\x07", b"K\x02\x85", b"K\x01\x85"), "reaches beyond its storage"),
        (tensor(b"K\x00", b"J\x00\x00\x00\x7f\x85", b"K\x00\x85"), "reaches beyond its storage"),
        (tensor(b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85"), "is damaged"),
        (b"", "is damaged|no end"),
        (b"}", "is damaged: pickle exhausted"),
        (b"t.", "is damaged"),
        (b"R.", "is damaged"),
        (b"K\x01K\x02.", "is damaged"),
        (b"h\x07.", "is damaged"),
        (b"K\x01K\x02a.", "is damaged"),
        (b"\xff", "is damaged"),
        (b"}" + b")" + b"\x85" * 100_000 + b"K\x01s.", "is damaged"),
    ],
)
def test_every_other_wish_is_refused(program: bytes, reason: str) -> None:
    if reason.endswith("|^$"):
        assert read_pickled_tensors(program) == {}
        return
    with pytest.raises(InvalidInputError, match=reason):
        read_pickled_tensors(program)


def test_a_tensor_at_the_edge_of_its_storage_is_allowed() -> None:
    found = read_pickled_tensors(tensor(b"K\x06", b"K\x02\x85", b"K\x01\x85"))
    assert isinstance(found, TensorRef)
    assert (found.offset, found.size, found.stride) == (6, (2,), (1,))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Hostile(os.system, "true"), 2), "is not an archive of torch.save"),
        (b"PK\x03\x04 half", "is not an archive of torch.save"),
        (b"", "is not an archive of torch.save"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InvalidInputError, match=reason):
        TorchFile(tmp_path / "a.pt", "a.pt")


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1000)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match=r"^a\.pt is not an archive of torch\.save, or a"):
        TorchFile(tmp_path / "a.pt", "a.pt")


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (struct.pack("<7f", *range(7)), "a.pt has 28 bytes at 'w' for 32"),
        (struct.pack("<9f", *range(9)), "a.pt has a part 'data/0' of 36 bytes"),
    ],
)
def test_a_storage_of_another_length_is_refused(
    tmp_path: Path, storage: bytes, reason: str
) -> None:
    program = tensor(b"K\x00", b"K\x08\x85", b"K\x01\x85")
    path = torch_archive(tmp_path / "a.pt", program, {"0": storage})
    archive = TorchFile(path, "a.pt")
    with pytest.raises(InvalidInputError, match=reason):
        archive.tensors({"w": archive.content})
