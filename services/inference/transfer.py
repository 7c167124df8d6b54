"""Numbers on their way between host and device, without either waiting for the other.

On CUDA a copy is only asynchronous from or to pinned memory; torch keeps such memory until the copy
is done. On the CPU everything is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(
    values: Sequence[int] | Sequence[float], device: torch.device, dtype: torch.dtype = torch.long
) -> Tensor:
    """A tensor of `values` on `device`, in the order of the current stream."""
    on_host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return on_host.to(device, non_blocking=True)


class Arrival:
    """Tensors that are copied to the host while the device goes on computing."""

    def __init__(self, *tensors: Tensor) -> None:
        """Begin to copy; the tensors may be overwritten by what is launched afterwards."""
        is_cuda = any(tensor.is_cuda for tensor in tensors)
        self._copies = [
            torch.empty_like(tensor, device="cpu", pin_memory=is_cuda).copy_(
                tensor, non_blocking=True
            )
            for tensor in tensors
        ]
        self._event = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def wait(self) -> list[Tensor]:
        """The tensors, on the host. Raises RuntimeError when what computes them failed."""
        if self._event is not None:
            self._event.synchronize()
        return self._copies
