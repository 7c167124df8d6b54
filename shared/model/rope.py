"""Rotary position embedding, half-split as Hugging Face's Llama family has it.

Pair i of a head is (x[i], x[i + head_dim/2]); it is turned by position * theta^(-2i / head_dim)
(Su et al., 2021, arXiv:2104.09864, section 3.2.2; pairing of GPT-NeoX).
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.contracts.model_config import ModelConfig


def rope_tables(
    config: ModelConfig, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (context_length, head_dim / 2), float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    inverse_frequencies = 1.0 / (config.rope_theta ** (exponents / config.head_dim))
    positions = torch.arange(config.context_length, dtype=torch.float32, device=device)
    angles = positions[:, None] * inverse_frequencies[None, :]
    return angles.cos(), angles.sin()
