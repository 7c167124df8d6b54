"""A transformer's forward pass over a packed batch with a key/value cache.

Weights are stored K-major, so that a layer is `x @ W` with W (in, out): on the CPU, products with
few rows run up to twice as fast that way as `F.linear` on (out, in). The tied head is a transposed
copy. q, k and v are one product, and so are gate and up of the `llama` family. Knows no request.
Shapes: N tokens of all rows, d = d_model, H heads of K, V = vocab_size, S sampled rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from services.inference.attention import StepAttention
from services.inference.kv_cache import KVCache
from shared.base.errors import IntegrityError
from shared.contracts.model_config import ModelConfig
from shared.model.rope import rope_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """The tokens of one step, row after row."""

    ids: Tensor
    """(N,) token ids."""
    positions: Tensor
    """(N,) place of each token in its sequence."""
    cache_rows: Tensor
    """(N,) where each token's key and value go."""
    sampled: Tensor | None
    """(S,) tokens whose logits are wanted; None means all of them."""
    attention: StepAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    up: Tensor
    """(d, d_ff), or gate and up side by side (d, 2 * d_ff)."""
    down: Tensor


class Network:
    """Weights of one model, laid out for generation."""

    def __init__(
        self,
        config: ModelConfig,
        state: Mapping[str, Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Lay out `state` (Hugging Face's names). Raises IntegrityError for what does not fit."""
        self.config = config
        weights = _Weights(state, device, dtype)
        self._embedding = weights.plain("model.embed_tokens.weight", config.vocab_size, config)
        self._layers = [_load_layer(weights, config, n) for n in range(config.num_layers)]
        self._norm = weights.vector("model.norm.weight", config)
        head = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
        self._head = weights.k_major((head,), config.vocab_size, config.d_model)
        cos, sin = rope_tables(config, device=device)
        self._cos = torch.cat((cos, cos), dim=-1).to(dtype)[:, None]
        self._sin = torch.cat((-sin, sin), dim=-1).to(dtype)[:, None]

    @property
    def num_bytes(self) -> int:
        """Memory of all weights."""
        tensors = [self._embedding, self._norm, self._head]
        for layer in self._layers:
            tensors += [layer.attention_norm, layer.qkv, layer.out]
            tensors += [layer.mlp_norm, layer.up, layer.down]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.inference_mode()
    def forward(self, batch: PackedBatch, cache: KVCache) -> Tensor:
        """Write the batch's keys and values to the cache; return logits (S, V), float32.

        The head, the largest matrix, is applied to the sampled tokens only.
        """
        x = F.embedding(batch.ids, self._embedding)
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        for number, layer in enumerate(self._layers):
            x.addmm_(self._attend(x, layer, number, cos, sin, batch, cache), layer.out)
            x.addmm_(self._feed_forward(x, layer), layer.down)
        if batch.sampled is not None:
            x = x[batch.sampled]
        return (self._normalize(x, self._norm) @ self._head).float()

    def _attend(
        self,
        x: Tensor,
        layer: _Layer,
        number: int,
        cos: Tensor,
        sin: Tensor,
        batch: PackedBatch,
        cache: KVCache,
    ) -> Tensor:
        heads, head_dim = self.config.num_heads, self.config.head_dim
        qkv = self._normalize(x, layer.attention_norm) @ layer.qkv
        qkv = qkv.view(-1, 3 * heads, head_dim)
        turned, v = _turn(qkv[:, : 2 * heads], cos, sin), qkv[:, 2 * heads :]
        cache.write(number, batch.cache_rows, turned[:, heads:], v)
        mixed = batch.attention(turned[:, :heads], cache.keys[number], cache.values[number])
        return mixed.reshape(-1, heads * head_dim)

    def _feed_forward(self, x: Tensor, layer: _Layer) -> Tensor:
        hidden = self._normalize(x, layer.mlp_norm) @ layer.up
        if self.config.family == "llama":
            gate, up = hidden.chunk(2, dim=-1)
            return F.silu(gate) * up
        return F.relu_(hidden).square_()

    def _normalize(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in three kernels: x (N, H, K) by tables (N, 1, K), those of sine signed.

    Half-split: entry i is turned with entry i + K/2, so that exchanging the halves pairs them.
    """
    num_tokens, heads, head_dim = x.shape
    exchanged = x.reshape(num_tokens, heads, 2, head_dim // 2).flip(2).view(x.shape)
    return torch.addcmul(x * cos, exchanged, sin)


class _Weights:
    """Takes tensors out of a state by name, checked, moved and laid out."""

    def __init__(
        self, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._state = state
        self._device = device
        self._dtype = dtype

    def plain(self, name: str, rows: int, config: ModelConfig) -> Tensor:
        return self._take(name, (rows, config.d_model)).to(self._device, self._dtype)

    def vector(self, name: str, config: ModelConfig) -> Tensor:
        return self._take(name, (config.d_model,)).to(self._device, self._dtype)

    def k_major(self, names: tuple[str, ...], out: int, width: int) -> Tensor:
        """Matrices (out, width) side by side as one (width, len(names) * out)."""
        joined = torch.cat([self._take(name, (out, width)) for name in names])
        return joined.to(self._device, self._dtype).t().contiguous()

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._state.get(name)
        if tensor is None:
            raise IntegrityError(f"The weights lack {name}.")
        if tuple(tensor.shape) != shape:
            raise IntegrityError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}.")
        if not torch.isfinite(tensor).all():
            raise IntegrityError(f"{name} holds NaN or infinity.")
        return tensor


def _load_layer(weights: _Weights, config: ModelConfig, number: int) -> _Layer:
    prefix = f"model.layers.{number}."
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    d_model, d_ff = config.d_model, config.d_ff
    projections = tuple(f"{attention}{name}_proj.weight" for name in "qkv")
    gated = config.family == "llama"
    inputs = ("gate", "up") if gated else ("up",)
    return _Layer(
        attention_norm=weights.vector(f"{prefix}input_layernorm.weight", config),
        qkv=weights.k_major(projections, d_model, d_model),
        out=weights.k_major((f"{attention}o_proj.weight",), d_model, d_model),
        mlp_norm=weights.vector(f"{prefix}post_attention_layernorm.weight", config),
        up=weights.k_major(tuple(f"{mlp}{name}_proj.weight" for name in inputs), d_ff, d_model),
        down=weights.k_major((f"{mlp}down_proj.weight",), d_model, d_ff),
    )
