"""Peaks by device, FLOPs by hand, and time kept apart by what it went to."""

from __future__ import annotations

import time

import pytest
import torch

from services.trainer.gauge import Machine, Meter, measured_peak_flops, peak_flops
from shared.contracts.model_config import ModelConfig


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 3060", 25.5e12),
        ("Some Card", None),
    ],
)
def test_a_device_s_peak(name: str, peak: float | None) -> None:
    assert peak_flops(name, torch.bfloat16) == peak


def test_no_peak_is_claimed_for_float32() -> None:
    assert peak_flops("NVIDIA H200", torch.float32) is None


def test_the_flops_of_the_reference_preset() -> None:
    """6 x 12.49M matrix weights and 12 x 6 layers x 512 x 320, counted by hand."""
    matrices = 16_000 * 320 + 6 * (4 * 320 * 320 + 2 * 320 * 1280)
    assert ModelConfig().flops_per_token == 6 * matrices + 12 * 6 * 512 * 320 == 86_753_280


def test_a_cpu_s_bound_is_measured() -> None:
    assert 1e8 < measured_peak_flops(torch.float32) < 1e15


def test_time_goes_to_what_it_was_spent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    machine = Machine(device=torch.device("cpu"), flops_per_token=50, peak_flops=1000.0)
    meter = Meter(machine, tokens=0, step=0)
    with meter.data():
        now[0] += 1.0
    now[0] += 3.0
    with meter.away():  # an evaluation
        now[0] += 10.0
    with meter.away(saving=True):
        now[0] += 2.0
    values = meter.take(40, 2)
    del values["peak_memory_bytes"]
    assert values == {
        "tokens_per_second": 10.0,
        "mfu": 0.5,
        "data_wait_seconds": 0.5,
        "checkpoint_stall_seconds": 2.0,
        "flops": 2000.0,
    }
    now[0] += 4.0
    assert meter.take(80, 4)["checkpoint_stall_seconds"] == 0.0
