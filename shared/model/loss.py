"""Cross-entropy of a large vocabulary without ever holding all logits.

The head's product, the softmax and both gradients are done chunk by chunk of tokens in the forward
pass, so a chunk's logits stay in cache (CPU) or in a small buffer (GPU) and are never recomputed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.model.products import add_product, product

IGNORED = -100
"""A target that the loss does not count."""
CHUNK_TOKENS = {"cpu": 512, "cuda": 8192}
"""Tokens whose logits are held at once. 512 x 16,000 floats are 32 MB, about a CPU's last cache."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over tokens of -log softmax(hidden @ weight.T)[target]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        """hidden (N, d), weight (V, d) float32, targets (N,) -> scalar float32."""
        matrix = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            loss, logits_grad = _chunk_loss(product(hidden[part], matrix), targets[part])
            total = total + loss
            hidden_grad[part] = product(logits_grad, matrix.T)
            add_product(weight_grad, logits_grad.T, hidden[part].T)
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Both gradients are known already; only the outer factor is missing."""
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grads[0].to(hidden_grad.dtype), weight_grad * grads[0], None, None


def _chunk_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss of (n, V) logits and its gradient (n, V) in the logits' type."""
    counted = targets != IGNORED
    safe = targets.masked_fill(~counted, 0)[:, None]
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    loss = -(log_probs.gather(1, safe)[:, 0] * counted).sum()
    grad = log_probs.exp_().scatter_add_(1, safe, torch.full_like(safe, -1, dtype=torch.float32))
    return loss, grad.mul_(counted[:, None]).to(logits.dtype)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed loss in nats of targets (...) given hidden (..., d) and the head (V, d).

    Targets equal to IGNORED count nothing. The result is float32 whatever hidden's type.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    chunk = CHUNK_TOKENS.get(hidden.device.type, CHUNK_TOKENS["cuda"])
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        flat, weight, targets.reshape(-1), chunk
    )
    return loss


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Loss in nats of each target (...), float32; zero where it is IGNORED. No gradient."""
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    matrix = weight.to(hidden.dtype)
    chunk = CHUNK_TOKENS.get(hidden.device.type, CHUNK_TOKENS["cuda"])
    losses = [
        F.cross_entropy(product(part, matrix).float(), goal, ignore_index=IGNORED, reduction="none")
        for part, goal in zip(torch.split(flat, chunk), torch.split(wanted, chunk), strict=True)
    ]
    return torch.cat(losses).view(targets.shape)
