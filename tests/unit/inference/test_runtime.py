"""What the engine refuses to start with."""

from __future__ import annotations

import pytest
import torch

from services.inference import runtime
from services.inference.runtime import open_runtime
from shared.base.errors import StartupError
from shared.base.settings import Settings


def test_rounded_weights_are_refused_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.torch.cuda, "is_available", lambda: True)
    with pytest.raises(StartupError, match="INFERENCE_WEIGHTS is int8, which needs an x86 CPU"):
        open_runtime(Settings(device="cuda", num_threads=1, inference_weights="int8"))


def test_rounded_weights_are_refused_where_the_cpu_only_imitates_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    settings = Settings(device="cpu", num_threads=1, inference_weights="int8")
    with pytest.raises(StartupError, match="INFERENCE_WEIGHTS is int8, which needs an x86 CPU"):
        open_runtime(settings)
    assert open_runtime(Settings(device="cpu", num_threads=1)).weights == "auto"
