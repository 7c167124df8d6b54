"""Files as an attacker would send them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any


class Hostile:
    """Pickles into a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def torch_archive(path: Path, program: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """What `torch.save` writes, with another program in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ckpt/data.pkl", program)
        archive.writestr("ckpt/byteorder", b"little")
        for key, content in (storages or {}).items():
            archive.writestr(f"ckpt/data/{key}", content)
    return path
