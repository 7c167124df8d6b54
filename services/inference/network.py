"""A transformer's forward pass over a packed batch with a key/value cache.

Matrices are laid out for the device (see `matrix`), so that the tied head is a copy. q, k and v are
one product, and so are gate and up of the `llama` family; gains of norms are laid into the matrices
behind them (see `norm`). Knows no request.
Shapes: N tokens of all rows, d = d_model, H heads of K, V = vocab_size, S sampled rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from services.inference.attention import StepAttention
from services.inference.kv_cache import KVCache
from services.inference.matrix import Int8Matrix, Matrix, WeightType, int8_bytes, lay_out
from services.inference.norm import Norm, make_norm
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
    sampled: Tensor | None
    """(S,) tokens whose logits are wanted; None means all of them."""
    attention: StepAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    qkv: Matrix
    out: Matrix
    up: Matrix
    """d to d_ff, or gate and up side by side, d to 2 * d_ff."""
    down: Matrix


class Network:
    """Weights of one model, laid out for generation."""

    def __init__(
        self,
        config: ModelConfig,
        state: Mapping[str, Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
        weights: WeightType = "auto",
        layout: Callable[[Tensor], Matrix] = lay_out,
        norm: Norm | None = None,
    ) -> None:
        """Lay out `state` (Hugging Face's names). Raises IntegrityError for what does not fit.

        `weights` is the type of the layers' matrices; embedding and head are of `dtype`. `layout`
        and `norm` are the device's own unless the weights are to be copied to another.
        """
        self.config = config
        self.weights = weights
        self.norm = norm or make_norm(config.d_model, config.norm_eps, device)
        source = _Weights(state, device, dtype, layout, norm_factor=self.norm.factor)
        self._embedding = source.plain("model.embed_tokens.weight", config.vocab_size, config)
        layers = source.laid_out_by(Int8Matrix) if weights == "int8" else source
        self._layers = [_load_layer(layers, config, n) for n in range(config.num_layers)]
        head = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
        gain = source.gain("model.norm.weight", config)
        self._head = source.matrix((head,), config.vocab_size, config.d_model, gain)
        self._turns = torch.complex(*rope_tables(config, device=device))[:, None]

    @property
    def num_bytes(self) -> int:
        """Memory of all weights."""
        return self._embedding.nbytes + sum(matrix.num_bytes for matrix in self._matrices)

    @property
    def _matrices(self) -> list[Matrix]:
        of_layers = [(one.qkv, one.out, one.up, one.down) for one in self._layers]
        return [self._head, *itertools.chain.from_iterable(of_layers)]

    def copy_from(self, other: Network) -> None:
        """Take over the weights of a network of the same shape and layout, at one's own addresses,
        in the order of the current stream."""
        self._embedding.copy_(other._embedding)
        for own, theirs in zip(self._matrices, other._matrices, strict=True):
            own.weight.copy_(theirs.weight)

    @torch.inference_mode()
    def forward(self, batch: PackedBatch, cache: KVCache) -> Tensor:
        """Write the batch's keys and values to the cache; return logits (S, V), float32.

        The head, the largest matrix, is applied to the sampled tokens only.
        """
        x = F.embedding(batch.ids, self._embedding)
        turns = self._turns[batch.positions]
        for number, layer in enumerate(self._layers):
            layer.out.add_to(x, self._attend(x, layer, number, turns, batch, cache))
            layer.down.add_to(x, self._feed_forward(x, layer))
        if batch.sampled is not None:
            x = x[batch.sampled]
        return self._head(self.norm(x)).float()

    def _attend(
        self,
        x: Tensor,
        layer: _Layer,
        number: int,
        turns: Tensor,
        batch: PackedBatch,
        cache: KVCache,
    ) -> Tensor:
        heads, head_dim = self.config.num_heads, self.config.head_dim
        qkv = layer.qkv(self.norm(x)).view(-1, 3 * heads, head_dim)
        _turn(qkv.narrow(1, 0, 2 * heads), turns)
        q, k, v = qkv.chunk(3, 1)
        keys, values = cache.keys[number], cache.values[number]
        batch.attention.store(k, v, keys, values)
        return batch.attention.mix(q, keys, values).reshape(-1, heads * head_dim)

    def _feed_forward(self, x: Tensor, layer: _Layer) -> Tensor:
        hidden = layer.up(self.norm(x))
        if self.config.family == "llama":
            gate, up = hidden.chunk(2, dim=-1)
            return F.silu(gate) * up
        return F.relu_(hidden).square_()


def weight_bytes(config: ModelConfig, dtype: torch.dtype, weights: WeightType = "auto") -> int:
    """`num_bytes` of a network that is not built yet."""
    copied_head = config.vocab_size * config.d_model if config.tie_embeddings else 0
    gains = (2 * config.num_layers + 1) * config.d_model  # are laid into the matrices
    if weights == "auto":
        return (config.num_parameters + copied_head - gains) * dtype.itemsize
    inputs = 2 * config.d_ff if config.family == "llama" else config.d_ff
    from_d_model = int8_bytes(4 * config.d_model + inputs, config.d_model)
    layer = from_d_model + int8_bytes(config.d_model, config.d_ff)
    return 2 * config.vocab_size * config.d_model * dtype.itemsize + config.num_layers * layer


def _turn(x: Tensor, turns: Tensor) -> None:
    """Rotary positions as one product of complex numbers: x (N, H, K) by turns (N, 1, K / 2).

    In place, and in float32: neighbours of x are the parts of one number.
    """
    wide = x.float()
    wide.view(torch.complex64).mul_(turns)
    if wide is not x:
        x.copy_(wide)


class _Weights:
    """Takes tensors out of a state by name, checked, moved and laid out.

    All are copies: the state may be a file in memory, which is not to be kept, nor to be trusted
    to stay the same.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        layout: Callable[[Tensor], Matrix],
        *,
        norm_factor: float,
    ) -> None:
        self._state = state
        self._device = device
        self._dtype = dtype
        self._layout = layout
        self._norm_factor = norm_factor

    def laid_out_by(self, layout: Callable[[Tensor], Matrix]) -> _Weights:
        """The same tensors in another layout."""
        return _Weights(
            self._state, self._device, self._dtype, layout, norm_factor=self._norm_factor
        )

    def plain(self, name: str, rows: int, config: ModelConfig) -> Tensor:
        return self._take(name, (rows, config.d_model)).to(self._device, self._dtype, copy=True)

    def gain(self, name: str, config: ModelConfig) -> Tensor:
        """What a norm leaves to the matrix behind it, by column; float32."""
        return self._take(name, (config.d_model,)).float() * self._norm_factor

    def matrix(
        self, names: tuple[str, ...], out: int, width: int, gain: Tensor | None = None
    ) -> Matrix:
        """Matrices (out, width) as one, of `width` to len(names) * out."""
        return self._lay_out([self._take(name, (out, width)) for name in names], gain)

    def qkv(self, prefix: str, config: ModelConfig, gain: Tensor) -> Matrix:
        """The projections of q, k and v as one; those of q and k with the pairs of `_turn`.

        Rotary positions turn entry i of a head with entry i + K / 2: here they become neighbours,
        which are one complex number. In products of q and k the order of entries does not matter.
        """
        size = (config.d_model, config.d_model)
        q, k, v = (self._take(f"{prefix}{name}_proj.weight", size) for name in "qkv")
        halves = (config.num_heads, 2, config.head_dim // 2, config.d_model)
        paired = [one.view(halves).transpose(1, 2).reshape(size) for one in (q, k)]
        return self._lay_out([*paired, v], gain)

    def _lay_out(self, parts: list[Tensor], gain: Tensor | None) -> Matrix:
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        if gain is not None:
            joined = joined * gain
        return self._layout(joined.to(self._device, self._dtype))

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
    gated = config.family == "llama"
    inputs = ("gate", "up") if gated else ("up",)
    attention_gain = weights.gain(f"{prefix}input_layernorm.weight", config)
    mlp_gain = weights.gain(f"{prefix}post_attention_layernorm.weight", config)
    up = tuple(f"{mlp}{name}_proj.weight" for name in inputs)
    return _Layer(
        qkv=weights.qkv(attention, config, attention_gain),
        out=weights.matrix((f"{attention}o_proj.weight",), d_model, d_model),
        up=weights.matrix(up, d_ff, d_model, mlp_gain),
        down=weights.matrix((f"{mlp}down_proj.weight",), d_model, d_ff),
    )
