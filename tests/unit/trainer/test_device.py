"""Choosing where to compute, the compile fallback, and the CUDA path where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.trainer.data import Batch
from services.trainer.device import choose_dtype, compiled_loss, out_of_memory, wants_compile
from services.trainer.loop import Outcome
from shared.contracts.model_config import ModelConfig
from shared.model.transformer import Transformer, initialize
from tests.support.training import make_run, run_training, tiny_spec, tiny_tokens

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_bfloat16_and_compiled_on_cuda_only() -> None:
    assert choose_dtype("auto", CPU) is torch.float32
    assert choose_dtype("auto", CUDA) is torch.bfloat16
    assert choose_dtype("float32", CUDA) is torch.float32
    spec = tiny_spec()
    assert (wants_compile(spec, CPU), wants_compile(spec, CUDA)) == (False, True)
    assert not wants_compile(tiny_spec(compile=False), CUDA)


def test_a_failed_compile_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Transformer(
        ModelConfig(vocab_size=300, context_length=8, num_layers=1, d_model=32, num_heads=1)
    )
    initialize(model, seed=1)

    def broken(*args: object, **options: object) -> object:
        def call(batch: Batch) -> object:
            raise RuntimeError("no C compiler\nat all")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    ids = torch.arange(16).view(2, 8)
    notices: list[str] = []
    loss, compiled = compiled_loss(model, Batch(ids=ids, targets=ids + 1), notices.append)
    assert not compiled
    assert notices == ["torch.compile failed, training without it (RuntimeError: no C compiler)."]
    assert float(loss(Batch(ids=ids, targets=ids + 1))) > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_out_of_memory_says_what_to_try() -> None:
    error = out_of_memory(32, 2)
    assert error.code == "gpu_oom"
    assert "batch_size 16 with gradient_accumulation_steps 4" in (error.hint or "")
    assert "shorter context_length" in (out_of_memory(1, 2).hint or "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this box")
def test_a_small_run_on_cuda(tmp_path: Path) -> None:
    tokens = tiny_tokens(tmp_path / "tokens")
    spec = tiny_spec(device="cuda", max_steps=60)
    recording = run_training(make_run(tmp_path / "run", spec, {"tokens": tokens}))
    assert recording.outcome is Outcome.FINISHED
    assert recording.losses()[-1] < recording.losses()[0] - 1
    middle = Path(recording.checkpoints()[-1].path)
    longer = tiny_spec(device="cuda", max_steps=70)
    again = run_training(make_run(tmp_path / "b", longer, {"tokens": tokens}, resume=middle))
    assert [line.step for line in again.metrics("train")] == list(range(61, 71))
