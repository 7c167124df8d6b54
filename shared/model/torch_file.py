"""The archives that `torch.save` writes, read without unpickling: plain values and tensors."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.base.errors import InvalidInputError
from shared.model.pickled_tensors import TensorRef, read_pickled_tensors

MAX_PROGRAM_BYTES = 64 << 20
PROGRAM = "data.pkl"


class TorchFile:
    """One archive. `content` is its value, tensors as references; `tensor` reads one of them."""

    def __init__(self, path: Path, name: str) -> None:
        """Read the description. Raises InvalidInputError for what is not such an archive, and for
        one that asks for more than tensors."""
        self._path = path
        self._name = name
        try:
            with zipfile.ZipFile(path) as archive:
                self._prefix = self._find_prefix(archive)
                program = self._read(archive, PROGRAM, MAX_PROGRAM_BYTES)
                self._check_byte_order(archive)
        except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, OSError) as error:
            raise self._fail(
                f"is not an archive of torch.save, or a damaged one: {error}",
                "Send it again. Files from before torch 1.6 must be saved anew.",
            ) from error
        try:
            self.content: Any = read_pickled_tensors(program)
        except InvalidInputError as error:
            raise InvalidInputError(f"{name}: {error.message}", hint=error.hint) from error

    def tensors(self, references: Mapping[str, Any]) -> dict[str, Tensor]:
        """Read these tensors as float32. Raises InvalidInputError for what is none, and for a
        storage that is not as long as it says."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                return {key: self._tensor(archive, key, ref) for key, ref in references.items()}
        except (zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
            raise self._fail(f"is damaged: {error}", "Send it again.") from error

    def _tensor(self, archive: zipfile.ZipFile, key: str, ref: Any) -> Tensor:
        if not isinstance(ref, TensorRef):
            raise self._fail(f"holds no tensor at {key!r}", "It is no model's weights.")
        dtype: torch.dtype = getattr(torch, ref.storage.dtype)
        num_bytes = ref.storage.numel * dtype.itemsize
        data = self._read(archive, f"data/{ref.storage.key}", num_bytes)
        if len(data) != num_bytes:
            raise self._fail(f"has {len(data)} bytes at {key!r} for {num_bytes}", "Send it again.")
        if not num_bytes:
            return torch.empty(ref.size)
        flat = torch.frombuffer(bytearray(data), dtype=dtype)
        return flat.as_strided(ref.size, ref.stride, ref.offset).to(torch.float32).contiguous()

    def _find_prefix(self, archive: zipfile.ZipFile) -> str:
        found = [name for name in archive.namelist() if name.rpartition("/")[2] == PROGRAM]
        if len(found) != 1:
            raise self._fail(
                f"holds {len(found)} files {PROGRAM}, not one",
                "It was not written by torch.save.",
            )
        return found[0].removesuffix(PROGRAM)

    def _read(self, archive: zipfile.ZipFile, member: str, limit: int) -> bytes:
        """Read a member of at most `limit` bytes, however many it unpacks to."""
        try:
            info = archive.getinfo(self._prefix + member)
        except KeyError as error:
            raise self._fail(f"lacks its part {member[:50]!r}", "Send it again.") from error
        if info.file_size > limit:
            raise self._fail(f"has a part {member[:50]!r} of {info.file_size} bytes", "")
        with archive.open(info) as file:
            return file.read(limit)

    def _check_byte_order(self, archive: zipfile.ZipFile) -> None:
        if f"{self._prefix}byteorder" not in archive.namelist():
            return
        if self._read(archive, "byteorder", 16) != b"little":
            raise self._fail("was written on a big-endian machine", "Save it on another one.")

    def _fail(self, what: str, hint: str) -> InvalidInputError:
        return InvalidInputError(f"{self._name} {what}.", hint=hint or None)
