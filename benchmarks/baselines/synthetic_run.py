"""Training on made-up tokens through the real loop: what the speed measurements share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from services.trainer.data import DataOrder, WindowData
from services.trainer.device import BatchLoss, eager_loss
from services.trainer.gauge import Machine
from services.trainer.loop import Hooks, Position, Trainer
from services.trainer.optim import make_optimizer
from services.trainer.plan import Plan
from services.trainer.schedule import Schedule
from services.trainer.team import ALONE, TeamLoss
from shared.contracts.model_config import ModelConfig
from shared.contracts.progress import MetricsLine, ProgressMessage
from shared.model.transformer import Transformer, initialize

SEED = 1


def synthetic_stream(config: ModelConfig, tokens: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Ids with the skew of words (Zipf), so that the loss has something to fall to."""
    generator = np.random.default_rng(SEED)
    return (generator.zipf(1.3, tokens) % config.vocab_size).astype(np.uint16)


@dataclass(slots=True)
class SyntheticRun:
    """The real model, optimizer, data and loop over synthetic tokens."""

    config: ModelConfig
    batch_size: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    tokens: int = 1 << 20
    accumulation: int = 1
    kind: Literal["adamw", "muon"] = "adamw"
    model: Transformer = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    data: WindowData = field(init=False)
    loss: BatchLoss = field(init=False)
    machine: Machine = field(init=False)
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self.model = Transformer(self.config)
        initialize(self.model, seed=SEED)
        self.model.to(self.device)
        self.model.compute_dtype = self.dtype
        self.optimizer = make_optimizer(
            self.model, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, kind=self.kind
        )
        stream = synthetic_stream(self.config, self.tokens)
        context = self.config.context_length
        self.data = WindowData(stream, context=context, seed=SEED, device=self.device)
        self.loss = eager_loss(self.model)
        self.machine = Machine.of(
            self.device, self.dtype, flops_per_token=self.config.flops_per_token
        )

    def train(self, steps: int, *, log_interval: int = 1) -> list[MetricsLine]:
        """Go `steps` further; returns the training metrics."""
        lines: list[ProgressMessage] = []
        plan = self._plan(self.position.step + steps, log_interval)
        trainer = self._trainer(plan, lines)
        trainer.run()
        self.position = trainer.position
        return [x for x in lines if isinstance(x, MetricsLine) and x.series == "train"]

    def _trainer(self, plan: Plan, lines: list[ProgressMessage]) -> Trainer:
        hooks = Hooks(
            report=lines.append,
            evaluate=lambda step: None,
            save=lambda position, best, final: None,
            roll_back=lambda: 0,
            cancelled=lambda: False,
            stopping=lambda: False,
        )
        return Trainer(
            model=self.model,
            optimizer=self.optimizer,
            loss=TeamLoss(self.model, self.loss, ALONE),
            data=self.data,
            order=DataOrder(seed=SEED, num_sequences=self.data.num_sequences),
            plan=plan,
            position=replace(self.position),  # the trainer changes its own
            hooks=hooks,
            machine=self.machine,
        )

    def _plan(self, total_steps: int, log_interval: int) -> Plan:
        schedule = Schedule(
            shape="constant", peak=6e-4, low=6e-5, warmup_steps=0, total_steps=total_steps
        )
        return Plan(
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            total_steps=total_steps,
            schedule=schedule,
            max_grad_norm=1.0,
            log_interval=log_interval,
            eval_interval=total_steps,
            save_interval=total_steps,
        )
