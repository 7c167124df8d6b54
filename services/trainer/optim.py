"""Which optimizer updates which parameters, which of them decay, and their state by name."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from services.trainer.muon import Muon, MuonWithAdamW

UNDECAYED = ("norm.weight", "embed_tokens.weight")
"""Norm gains and the embedding do not decay. A tied embedding is a table as much as a head: decay
would pull rare tokens' rows towards zero on every step that does not see them. An untied head is a
matrix like any other."""


HEAD = "lm_head.weight"
"""An untied head is a matrix, but not a hidden one: its rows are tokens, so AdamW keeps it."""
STATE_KEYS = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",)}
"""What each kind of update remembers of a parameter."""


def make_optimizer(
    model: nn.Module,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    kind: Literal["adamw", "muon"] = "adamw",
) -> torch.optim.Optimizer:
    """Fused AdamW (Loshchilov & Hutter, 2019); with kind `muon`, Muon for the hidden matrices.

    The learning rate is set before each step by the loop.
    """
    decayed = {n: p for n, p in model.named_parameters() if not n.endswith(UNDECAYED)}
    undecayed = [p for n, p in model.named_parameters() if n.endswith(UNDECAYED)]
    hidden = [p for n, p in decayed.items() if kind == "muon" and not n.endswith(HEAD)]
    by_adamw = [p for n, p in decayed.items() if kind == "adamw" or n.endswith(HEAD)]
    groups: list[dict[str, Any]] = [
        {"params": by_adamw, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    return MuonWithAdamW(Muon(hidden, weight_decay=weight_decay), adamw) if hidden else adamw


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def state_keys(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[str, ...]]:
    """What the optimizer remembers (from the first step on) of each parameter, by its name."""
    by_muon = {
        parameter
        for group in optimizer.param_groups
        if "momentum" in group
        for parameter in group["params"]
    }
    return {
        name: STATE_KEYS["muon" if parameter in by_muon else "adamw"]
        for name, parameter in model.named_parameters()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put back a state by names `<key>.<parameter>`; nothing is the state before the first step.

    Raises KeyError when a parameter's state is not there.
    """
    if not tensors:
        return
    keys = state_keys(model, optimizer)
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to(parameter.device, copy=True) for key in keys[name]
        }
