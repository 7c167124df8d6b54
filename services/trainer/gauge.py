"""What a run costs and what its machine could do: peak FLOP/s, memory, and time by what it went to.

Only tells; nothing that is computed depends on it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

PEAK_BFLOAT16 = {
    "B200": 2.25e15,
    "H200": 989.4e12,
    "H100 PCIe": 756.5e12,
    "H100 NVL": 835.5e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "RTX 3060": 25.5e12,
}
"""FLOP/s of dense bfloat16 products with float32 sums, from NVIDIA's data sheets and architecture
papers, by a part of the device's name; the first match counts."""
PROBE_SIZE, PROBE_RUNS = 768, 5
"""A CPU has no such sheet: its bound is the fastest of some square products."""


def peak_flops(name: str, dtype: torch.dtype) -> float | None:
    """FLOP/s of a GPU by its data sheet; None for one, or a number type, that is not listed."""
    if dtype != torch.bfloat16:
        return None
    return next((peak for part, peak in PEAK_BFLOAT16.items() if part in name), None)


def measured_peak_flops(dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product on this CPU with torch's threads as they are; about 50 ms.

    A bound for what training can reach here, as far as nothing else runs at the moment.
    """
    matrix = torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype)
    seconds = []
    for _ in range(PROBE_RUNS):
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - began)
    return 2 * PROBE_SIZE**3 / min(seconds)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that tensors have taken of the GPU; on a CPU, that the process has held resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a run's numbers are held against."""

    device: torch.device
    flops_per_token: int
    """Of training, forwards and backwards."""
    peak_flops: float | None
    """Of all devices of the run together; None when unknown."""

    @classmethod
    def of(
        cls, device: torch.device, dtype: torch.dtype, *, flops_per_token: int, world_size: int = 1
    ) -> Machine:
        """Look the device up, or measure the CPU."""
        if device.type == "cuda":
            peak = peak_flops(torch.cuda.get_device_name(device), dtype)
        else:
            peak = measured_peak_flops(dtype)
        total = None if peak is None else peak * world_size
        return cls(device=device, flops_per_token=flops_per_token, peak_flops=total)


class Meter:
    """Time since the last point of the curve, by what it went to."""

    def __init__(self, machine: Machine, *, tokens: int, step: int) -> None:
        self._machine = machine
        self._tokens, self._step = tokens, step
        self._since = time.perf_counter()
        self._data_seconds = self._stall_seconds = 0.0

    def take(self, tokens: int, step: int) -> dict[str, float]:
        """The values since the last call, evaluations and checkpoints left out of the speed.

        tokens_per_second, data_wait_seconds (a step), checkpoint_stall_seconds (in all),
        peak_memory_bytes, flops (since step 0) and, where the peak is known, mfu.
        """
        now = time.perf_counter()
        rate = (tokens - self._tokens) / max(now - self._since, 1e-9)
        machine = self._machine
        values = {
            "tokens_per_second": rate,
            "data_wait_seconds": self._data_seconds / max(1, step - self._step),
            "checkpoint_stall_seconds": self._stall_seconds,
            "peak_memory_bytes": float(peak_memory_bytes(machine.device)),
            "flops": float(machine.flops_per_token) * tokens,
        }
        if machine.peak_flops is not None:
            values["mfu"] = rate * machine.flops_per_token / machine.peak_flops
        self._since, self._tokens, self._step = now, tokens, step
        self._data_seconds = self._stall_seconds = 0.0
        return values

    @contextmanager
    def data(self) -> Iterator[None]:
        """Time in which the step waits for its batch."""
        began = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - began

    @contextmanager
    def away(self, *, saving: bool = False) -> Iterator[None]:
        """Time that is not training's: an evaluation, or a checkpoint."""
        left = time.perf_counter()
        yield
        gone = time.perf_counter() - left
        self._since += gone
        if saving:
            self._stall_seconds += gone


class Pace:
    """Says when the next sign of life is due, so that a fast loop does not tell of every turn."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def due(self) -> bool:
        """Whether the last one is so long ago; then this is one."""
        now = time.perf_counter()
        due = now - self._last >= self._seconds
        if due:
            self._last = now
        return due
