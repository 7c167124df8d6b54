"""A copy of weights and optimizer state in host memory that stays the same while training goes on.

Its buffers are allocated and touched once, so that taking it costs one copy: checkpoints are
written from it by another thread, and a run that diverges goes back to it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from services.trainer.optim import state_keys


class Snapshot:
    """Of one model and its optimizer. Pinned memory where they are on a GPU."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, step: int) -> None:
        self._parameters = dict(model.named_parameters())
        self._optimizer = optimizer
        self._keys = state_keys(model, optimizer)
        self._weights = {name: _buffer(p) for name, p in self._parameters.items()}
        self._state = {
            f"{key}.{name}": _buffer(p if key != "step" else torch.zeros(()), pinned=p.is_cuda)
            for name, p in self._parameters.items()
            for key in self._keys[name]
        }
        self._has_state = False
        self.step = step
        """Where the run was."""
        self.take(step)

    @property
    def weights(self) -> dict[str, Tensor]:
        """By parameter."""
        return self._weights

    @property
    def optimizer_state(self) -> dict[str, Tensor]:
        """As `<key>.<parameter>`; empty before the first step."""
        return self._state if self._has_state else {}

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Copy what is there now over what was; returns when the copy is whole."""
        state = self._optimizer.state
        self._has_state = any(state.get(p) for p in self._parameters.values())
        for name, parameter in self._parameters.items():
            self._weights[name].copy_(parameter, non_blocking=True)
            for key in self._keys[name] if self._has_state else ():
                self._state[f"{key}.{name}"].copy_(state[parameter][key], non_blocking=True)
        if any(parameter.is_cuda for parameter in self._parameters.values()):
            torch.cuda.current_stream().synchronize()
        self.step = step

    @torch.no_grad()
    def put_back(self) -> None:
        """Let the run have these weights and this state again."""
        state = self._optimizer.state
        for name, parameter in self._parameters.items():
            parameter.copy_(self._weights[name])
            for key in self._keys[name] if self._has_state else ():
                state[parameter][key].copy_(self._state[f"{key}.{name}"])
        if not self._has_state:
            state.clear()


def _buffer(like: Tensor, *, pinned: bool = False) -> Tensor:
    """Host memory for a copy; filled, so that the copying meets no page for the first time."""
    pinned = pinned or like.is_cuda
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned).zero_()
