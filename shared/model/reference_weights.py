"""The reference implementation's state dict as this platform's `llama` family.

SwiGLU, a head of its own, and rotary pairs of neighbours (2i, 2i + 1), where Hugging Face's Llama
pairs i with i + head_dim / 2: the rows of the query and key matrices change places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError
from torch import Tensor

from shared.base.errors import InvalidInputError
from shared.contracts.model_config import ModelConfig

HEAD_DIM = 64
CONTEXT_LENGTH = 512
"""The weights do not tell; the reference knows no other."""
EMBEDDING = "token_embeddings.embedding_matrix"
FEED_FORWARD = "transformer_blocks.0.ffn.w1.W"
BLOCK = re.compile(r"transformer_blocks\.(\d{1,3})\.(.+)")
OUTER_NAMES = {
    EMBEDDING: "model.embed_tokens.weight",
    "rmsnorm_final.weight": "model.norm.weight",
    "lm_head.W": "lm_head.weight",
}
BLOCK_NAMES = {
    "rmsnorm1.weight": "input_layernorm.weight",
    "rmsnorm2.weight": "post_attention_layernorm.weight",
    "mha.w_q": "self_attn.q_proj.weight",
    "mha.w_k": "self_attn.k_proj.weight",
    "mha.w_v": "self_attn.v_proj.weight",
    "mha.w_o": "self_attn.o_proj.weight",
    "ffn.w1.W": "mlp.gate_proj.weight",
    "ffn.w3.W": "mlp.up_proj.weight",
    "ffn.w2.W": "mlp.down_proj.weight",
}
ROTATED = ("mha.w_q", "mha.w_k")


def reference_config(state: Mapping[str, Tensor], *, vocab_size: int) -> ModelConfig:
    """Read a model's shape off its weights. Raises InvalidInputError when they are another's."""
    if EMBEDDING not in state or FEED_FORWARD not in state:
        raise InvalidInputError(
            "The checkpoint's tensors are not named as the reference implementation's.",
            hint=f"Expected {EMBEDDING} and others; found: {', '.join(sorted(state)[:5])}.",
        )
    layers = {int(found[1]) for name in state if (found := BLOCK.fullmatch(name))}
    width = state[EMBEDDING].shape[-1]
    try:
        return ModelConfig(
            family="llama",
            vocab_size=vocab_size,
            context_length=CONTEXT_LENGTH,
            num_layers=len(layers),
            d_model=width,
            num_heads=max(1, width // HEAD_DIM),
            d_ff=state[FEED_FORWARD].shape[0],
            tie_embeddings=False,
        )
    except ValidationError as error:
        raise InvalidInputError(f"The checkpoint's shape: {error.errors()[0]['msg']}.") from error


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under this platform's names, in its rotary order.

    Raises InvalidInputError naming a tensor that has no place.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = BLOCK.fullmatch(name)
        inner = block[2] if block else ""
        if name in OUTER_NAMES:
            renamed[OUTER_NAMES[name]] = tensor
        elif block and inner in BLOCK_NAMES:
            target = f"model.layers.{int(block[1])}.{BLOCK_NAMES[inner]}"
            renamed[target] = half_split(tensor) if inner in ROTATED else tensor
        else:
            raise InvalidInputError(f"The checkpoint's tensor {name[:100]!r} has no place here.")
    return renamed


def half_split(weight: Tensor) -> Tensor:
    """Reorder the rows (d, d) of each head from (0, 1, 2, 3, ...) to (0, 2, ..., 1, 3, ...)."""
    rows, columns = weight.shape
    pairs = weight.view(rows // HEAD_DIM, HEAD_DIM // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)
