"""Several processes that train one model together, each on its share of every step's rows.

The step is that of one process: the same rows in the same order, the loss divided by the count of
the whole step. Whoever asks whether to stop asks all, so that all stop at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from services.trainer.data import Batch

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""A rank that waits longer for the others gives up: one of them hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """This process's place among `size`; one process alone unless told otherwise."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Team:
        """Meet the other processes that `torch.distributed.run` started.

        Tensors on a CPU travel by gloo, tensors on a GPU by NCCL.
        """
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
        return cls(rank=dist.get_rank(), size=dist.get_world_size())

    def leave(self) -> None:
        """Part from the others in good order."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is the process that reports and saves."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's part of `rows` rows, which are a multiple of `size`."""
        each = rows // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def total(self, value: Tensor) -> Tensor:
        """The sum of every process's `value`; on a GPU no host waits for it."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def highest(self, value: int) -> int:
        """The highest of every process's `value`, over the CPU's network."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def told(self, values: list[int]) -> list[int]:
        """What the leading process says, over the CPU's network: `size` values, or none."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values or [-1] * self.size)
        dist.broadcast(tensor, src=0)
        return [value for value in tensor.tolist() if value >= 0]


ALONE = Team()


class TeamLoss:
    """A loss whose gradients are summed over the team once a step, during its last backward pass.

    Call it inside `micro_batch`, and backward too.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Batch], Tensor], team: Team) -> None:
        self._team = team
        self._loss = loss
        self._parallel: DistributedDataParallel | None = None
        if team.size > 1:
            # The mean over processes that it makes is undone below: a sum over rows is wanted.
            self._parallel = DistributedDataParallel(
                _LossModule(model, loss), broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, batch: Batch) -> Tensor:
        """Summed loss in nats of this process's rows, times `size` for the mean to come."""
        if self._parallel is None:
            return self._loss(batch)
        loss: Tensor = self._parallel(batch) * self._team.size
        return loss

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Where gradients only add up here; at the step's `last` they also meet the others'."""
        if last or self._parallel is None:
            return nullcontext()
        quiet: AbstractContextManager[None] = self._parallel.no_sync()
        return quiet


class _LossModule(nn.Module):
    def __init__(self, model: nn.Module, loss: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(batch)


def agreed(team: Team, wishes: Sequence[str], own: str | None) -> str | None:
    """The strongest wish (a later one overrides an earlier) that any process has heard."""
    index = team.highest(-1 if own is None else wishes.index(own))
    return None if index < 0 else wishes[index]
