"""The decoder-only transformer as it is trained: pre-norm RMSNorm, RoPE, no biases.

Module names follow Hugging Face, so `state_dict()` has the tensor names of `LlamaForCausalLM`.
Knows no file, no optimizer and no tokenizer. Shapes: B sequences, T tokens, d = d_model.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.contracts.model_config import ModelConfig
from shared.model.attention import causal_attention
from shared.model.functions import relu_squared, rms_norm, rotate
from shared.model.products import linear
from shared.model.rope import rope_tables


class Linear(nn.Linear):
    """A bias-free matrix kept in float32 and cast to the type of what it multiplies."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain per channel."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class SelfAttention(nn.Module):
    """Multi-head causal attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.q_proj = Linear(config.d_model, config.d_model)
        self.k_proj = Linear(config.d_model, config.d_model)
        self.v_proj = Linear(config.d_model, config.d_model)
        self.o_proj = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            projection(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = causal_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, mask)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class ReluSquaredMlp(nn.Module):
    """`arcee`: down(relu(up(x))^2) (So et al., 2021, arXiv:2109.08668)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = Linear(config.d_model, config.d_ff)
        self.down_proj = Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(relu_squared(self.up_proj(x)))
        return out


class SwiGluMlp(nn.Module):
    """`llama`: down(silu(gate(x)) * up(x)) (Shazeer, 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ff)
        self.up_proj = Linear(config.d_model, config.d_ff)
        self.down_proj = Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


MLP_OF_FAMILY: dict[str, type[ReluSquaredMlp] | type[SwiGluMlp]] = {
    "arcee": ReluSquaredMlp,
    "llama": SwiGluMlp,
}


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on a normed copy of the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MLP_OF_FAMILY[config.family](config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Backbone(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)


class Transformer(nn.Module):
    """Maps token ids to next-token logits.

    `compute_dtype` is the type of activations; parameters stay as they are (float32 in training).
    """

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.model = Backbone(config)
        self.lm_head = None if config.tie_embeddings else Linear(config.d_model, config.vocab_size)
        cos, sin = rope_tables(config)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    @property
    def head_weight(self) -> Tensor:
        """The matrix (vocab_size, d) that turns hidden states into logits."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden(
        self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normed last hidden states (B, T, d) of ids (B, T), T <= context_length.

        `positions` (B, T) defaults to 0, 1, 2, ...; `mask` as in `causal_attention`.
        """
        if positions is None:
            cos, sin = self.rope_cos[: ids.shape[1]], self.rope_sin[: ids.shape[1]]
        else:
            cos, sin = self.rope_cos[positions][:, None], self.rope_sin[positions][:, None]
        cos, sin = cos.to(self.compute_dtype), sin.to(self.compute_dtype)
        x = self.model.embed_tokens(ids).to(self.compute_dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        normed: Tensor = self.model.norm(x)
        return normed

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, vocab_size); position t predicts token t + 1."""
        hidden = self.hidden(ids, positions, mask)
        return linear(hidden, self.head_weight.to(hidden.dtype))


def initialize(
    model: Transformer, *, seed: int, scheme: Literal["xavier", "zero_residual"] = "zero_residual"
) -> None:
    """Set first weights from `seed` alone, without touching torch's global generator.

    `xavier`, the reference's: all hidden matrices normal, variance 2 / (fan-in + fan-out), cut at
    three deviations.
    `zero_residual`: matrices that read the residual stream normal, variance 1 / fan-in; matrices
    that write to it zero, so that each block begins as the identity. In both, embeddings and head
    are normal and small enough that the first loss is ln(vocab_size), head tied or not.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
            std = 0.2 / math.sqrt(parameter.shape[1])
            nn.init.normal_(parameter, std=std, generator=generator)
        elif scheme == "xavier":
            std = math.sqrt(2 / sum(parameter.shape))
            nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std, generator=generator)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
        else:
            std = 1.0 / math.sqrt(parameter.shape[1])
            nn.init.normal_(parameter, std=std, generator=generator)
