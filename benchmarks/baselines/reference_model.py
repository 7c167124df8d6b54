"""The reference implementation's architecture and training step, written compactly from its
description, to measure against.

SwiGLU, untied head, interleaved rotary pairs, and its habits: attention on three-dimensional
tensors (which only the materialising kernel takes), full float32 logits with separate
temporaries in the loss, plain AdamW with decay on everything, embeddings of deviation 1, two waits
for a value each step. `tuned` keeps the architecture and drops the habits: what a careful author
would write in a page of PyTorch today.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.contracts.model_config import ModelConfig


class Norm(nn.Module):
    """RMSNorm in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Layer(nn.Module):
    """Attention and SwiGLU, each on a normed copy of the stream."""

    def __init__(self, config: ModelConfig, *, tuned: bool) -> None:
        super().__init__()
        d, self.num_heads = config.d_model, config.num_heads
        self.tuned = tuned
        self.norm1, self.norm2 = Norm(d), Norm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(d, config.d_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(config.d_ff, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        normed = self.norm1(x)
        q, k, v = (
            p(normed).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for p in (self.q, self.k, self.v)
        )
        if not self.tuned:
            # (B * H, T, head_dim): three dimensions, so no fused kernel applies.
            q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        mixed = F.scaled_dot_product_attention(
            turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True
        )
        mixed = mixed.view(batch, self.num_heads, length, -1).transpose(1, 2)
        x = x + self.o(mixed.reshape(batch, length, width))
        normed = self.norm2(x)
        out: Tensor = x + self.down(F.silu(self.gate(normed)) * self.up(normed))
        return out


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs (x[2i], x[2i + 1])."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class ReferenceModel(nn.Module):
    """20,074,560 parameters in the reference's shape."""

    def __init__(self, config: ModelConfig, *, tuned: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)  # deviation 1
        self.layers = nn.ModuleList(Layer(config, tuned=tuned) for _ in range(config.num_layers))
        self.norm = Norm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        pairs = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(torch.arange(config.context_length), config.rope_theta**-pairs)
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def reference_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy by its definition, each temporary as large as the logits."""
    shifted = logits.float() - logits.max(dim=-1, keepdim=True).values
    log_sums = shifted.exp().sum(dim=-1, keepdim=True).log()
    log_probs = shifted - log_sums
    return -log_probs.gather(-1, targets[..., None])[..., 0].mean()


class ReferenceTrainer:
    """One optimizer step at a time."""

    def __init__(self, config: ModelConfig, *, tuned: bool = False) -> None:
        self.model = ReferenceModel(config, tuned=tuned)
        self.tuned = tuned
        kernels = {"fused": True} if tuned else {"foreach": False}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=6e-4, betas=(0.9, 0.99), weight_decay=0.1, **kernels
        )

    def step(self, ids: Tensor, targets: Tensor) -> float:
        """Train on ids and targets (B, T); returns the loss."""
        logits = self.model(ids)
        if self.tuned:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        else:
            loss = reference_loss(logits, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=self.tuned)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.tuned:
            norm.item()
        return loss.item()
