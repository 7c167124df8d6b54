"""Muon for hidden matrices, all of one shape at a time, beside fused AdamW for everything else.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest semi-orthogonal matrix, found
by five Newton-Schulz steps. `torch.optim.Muon` walks the matrices one by one, some 1,260 kernels a
step for 36 of them; here equal shapes are stacked, so a step costs a few batched products.
Knows no model: it is handed the two kinds of parameters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Coefficients of the odd quintic that drives singular values towards 1 (Jordan et al.)."""
NEWTON_SCHULZ_STEPS = 5
NORM_FLOOR = 1e-7
RMS_SHARE = 0.2
"""Times sqrt(the longer side): the update then has the root mean square of AdamW's, so that both
follow one learning rate and one weight decay (Liu et al., 2025, arXiv:2502.16982, section 2.2)."""


class Muon(torch.optim.Optimizer):
    """The algorithm of `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, stacked by shape.

    With `found_inf` set to a scalar tensor, a step changes nothing where that is not zero, as
    torch's fused optimizers do, without waiting for the device.
    """

    found_inf: Tensor | None = None

    def __init__(self, params: list[nn.Parameter], *, weight_decay: float) -> None:
        defaults = {"lr": 0.0, "weight_decay": weight_decay, "momentum": MOMENTUM}
        super().__init__(params, defaults)
        stacks: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in params:
            rows, columns = parameter.shape
            stacks[min(rows, columns), max(rows, columns)].append(parameter)
        self._stacks = list(stacks.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix; all of them need a gradient."""
        assert closure is None, "Muon evaluates no closure"
        for stack in self._stacks:
            self._step_stack(stack)

    def _step_stack(self, parameters: list[Tensor]) -> None:
        group = self.param_groups[0]
        gradients = [wide(_gradient(parameter)) for parameter in parameters]
        gradient = torch.stack(gradients).float()
        momentum = torch.stack([wide(self._momentum(parameter)) for parameter in parameters])
        new_momentum = momentum.lerp(gradient, 1 - group["momentum"])
        update = orthogonalized(gradient.lerp_(new_momentum, group["momentum"]))
        rate = group["lr"] * RMS_SHARE * math.sqrt(update.shape[-1])
        for index, parameter in enumerate(parameters):
            target = wide(parameter)
            decayed = target * (1 - group["lr"] * group["weight_decay"])
            self._put(target, decayed.sub_(update[index], alpha=rate))
            self._put(wide(self._momentum(parameter)), new_momentum[index])

    def _put(self, target: Tensor, value: Tensor) -> None:
        if self.found_inf is not None:
            value = torch.where(self.found_inf == 0, value, target)
        target.copy_(value)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that look like one: their groups and their state are its own."""

    found_inf: Tensor | None = None

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._parts: tuple[Any, Any] = (muon, adamw)
        # A resume puts state in here, and a step of either part finds it.
        muon.state = adamw.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Let both parts step."""
        assert closure is None, "neither part evaluates a closure"
        for part in self._parts:
            part.found_inf = self.found_inf
            part.step()


def orthogonalized(stack: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, of each in (n, rows, columns), rows <= columns.

    In bfloat16 on a GPU, which suffices; in float32 on a CPU, where it is the faster one.
    """
    first, third, fifth = NEWTON_SCHULZ
    x = stack if stack.device.type == "cpu" else stack.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=NORM_FLOOR)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first
        )
    return x.to(stack.dtype)


def wide(matrix: Tensor) -> Tensor:
    """A view with no more rows than columns."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "every matrix takes part in the loss"
    return parameter.grad
