"""A snapshot keeps what was there, whatever training does meanwhile, and gives it back exactly."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from services.trainer.checkpoint_writer import CheckpointWriter
from services.trainer.optim import make_optimizer, set_rate
from services.trainer.snapshot import Snapshot
from shared.contracts.model_config import ModelConfig
from shared.model.loss import linear_cross_entropy
from shared.model.transformer import Transformer, initialize

TINY = ModelConfig(
    vocab_size=300, context_length=16, num_layers=1, d_model=64, num_heads=2, d_ff=96
)


class Run:
    def __init__(self, kind: str) -> None:
        self.model = Transformer(TINY)
        initialize(self.model, seed=3)
        self.optimizer = make_optimizer(
            self.model, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, kind=kind
        )
        set_rate(self.optimizer, 1e-2)

    def step(self, seed: int) -> None:
        ids = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(seed))
        hidden = self.model.hidden(ids[:, :-1])
        linear_cross_entropy(hidden, self.model.head_weight, ids[:, 1:]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_going_back_repeats_the_same_steps(kind: str) -> None:
    run = Run(kind)
    run.step(0)
    snapshot = Snapshot(run.model, run.optimizer, step=1)
    before = run.weights()
    run.step(1)
    run.step(2)
    after = run.weights()
    assert same(snapshot.weights, before)
    snapshot.put_back()
    assert same(run.weights(), before)
    run.step(1)
    run.step(2)
    assert same(run.weights(), after)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_before_the_first_step_there_is_no_optimizer_state(kind: str) -> None:
    run = Run(kind)
    snapshot = Snapshot(run.model, run.optimizer, step=0)
    first = run.weights()
    assert snapshot.optimizer_state == {}
    run.step(1)
    after = run.weights()
    snapshot.put_back()
    assert same(run.weights(), first)
    run.step(1)
    assert same(run.weights(), after)
    snapshot.take(1)
    assert snapshot.step == 1
    assert len(snapshot.optimizer_state) >= 2 * len(first) - 6


def test_the_writer_does_one_thing_at_a_time_and_passes_its_error_on() -> None:
    gate, done = threading.Event(), []

    def slow() -> None:
        assert gate.wait(60)
        done.append("slow")

    def broken() -> None:
        raise OSError(28, "no space")

    with CheckpointWriter() as writer:
        writer.start(slow)
        assert done == []
        gate.set()
        writer.wait()
        assert done == ["slow"]
        writer.start(broken)
        with pytest.raises(OSError, match="no space"):
            writer.wait()
    with pytest.raises(OSError, match="no space"), CheckpointWriter() as writer:
        writer.start(broken)
    writer = CheckpointWriter()
    writer.start(broken)
    writer.__exit__(KeyError, KeyError("what happened first is told"), None)
