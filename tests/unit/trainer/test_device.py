"""Choosing where to compute, the compile fallback, and the CUDA path where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from services.trainer.data import Batch
from services.trainer.device import (
    BatchLoss,
    choose_dtype,
    compiled_loss,
    eager_loss,
    memory_fraction,
    out_of_memory,
    wants_compile,
)
from services.trainer.loop import Outcome
from services.trainer.plan import make_plan
from shared.base.errors import JobFailedError
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import FailureCode
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
    error = out_of_memory(32, 2, fits=10)
    assert error.code == "gpu_oom"
    assert "batch_size 10 fits: with gradient_accumulation_steps 8" in (error.hint or "")
    assert "shorter context_length" in (out_of_memory(1, 2, fits=0).hint or "")


def failing(wrong: Exception, *, above: int) -> Callable[[Transformer], BatchLoss]:
    """A loss that raises for more rows than that."""

    def make(model: Transformer) -> BatchLoss:
        real = eager_loss(model)

        def loss(batch: Batch) -> torch.Tensor:
            if len(batch.ids) > above:
                raise wrong
            return real(batch)

        return loss

    return make


@pytest.mark.parametrize(("above", "hint"), [
    (2, "batch_size 2 fits: with gradient_accumulation_steps 4 it is the same training"),
    (0, "Not even one sequence fits"),
])  # fmt: skip
def test_a_run_out_of_memory_finds_the_batch_that_fits(
    above: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr("services.trainer.training.eager_loss", failing(wrong, above=above))
    tokens = tiny_tokens(tmp_path / "tokens")
    with pytest.raises(JobFailedError, match="does not hold a micro-batch of 4") as caught:
        run_training(make_run(tmp_path / "run", tiny_spec(), {"tokens": tokens}))
    assert caught.value.code == "gpu_oom"
    assert (caught.value.hint or "").startswith(hint)


def test_a_driver_that_disappears_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")
    monkeypatch.setattr("services.trainer.training.eager_loss", failing(wrong, above=0))
    tokens = tiny_tokens(tmp_path / "tokens")
    with pytest.raises(JobFailedError, match="answering: CUDA error: unspecified launch fail") as e:
        run_training(make_run(tmp_path / "run", tiny_spec(), {"tokens": tokens}))
    assert e.value.code == "gpu_lost"


def test_micro_batches_become_one_on_a_gpu_only() -> None:
    spec = tiny_spec(merge_micro_batches=True)
    model = spec.model_config_for(300)
    on_gpu, on_cpu = make_plan(spec, model, 100, on_gpu=True), make_plan(spec, model, 100)
    assert (on_gpu.batch_size, on_gpu.accumulation) == (8, 1)
    assert (on_cpu.batch_size, on_cpu.accumulation) == (4, 2)
    assert on_gpu.sequences_per_step == on_cpu.sequences_per_step


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


def test_training_leaves_inference_its_share_of_the_card() -> None:
    assert memory_fraction(12 << 30, 3 << 30) == 0.75
    assert memory_fraction(12 << 30, 0) == 1.0
    assert memory_fraction(2 << 30, 1 << 30) == 0.5
    with pytest.raises(JobFailedError, match=r"has 1\.5 GiB and 1\.0 of them") as refused:
        memory_fraction(3 << 29, 1 << 30)
    assert refused.value.code == FailureCode.GPU_OOM
