"""AdamW as we use it: which parameters decay, the fused kernel, its state by parameter name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

UNDECAYED = ("norm.weight", "embed_tokens.weight")
"""Norm gains and the embedding do not decay. A tied embedding is a table as much as a head: decay
would pull rare tokens' rows towards zero on every step that does not see them. An untied head is a
matrix like any other."""


def make_optimizer(
    model: nn.Module, *, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter, 2019) over the model's parameters, in two groups.

    The learning rate is set before each step by the loop.
    """
    decayed = [p for name, p in model.named_parameters() if not name.endswith(UNDECAYED)]
    undecayed = [p for name, p in model.named_parameters() if name.endswith(UNDECAYED)]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<key>.<parameter name>` tensors on the CPU."""
    return {
        f"{key}.{name}": value.detach().to("cpu").contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises KeyError when a parameter's state is not there.
    """
    keys = {name.split(".", 1)[0] for name in tensors}
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to(parameter.device, copy=True) for key in keys
        }
