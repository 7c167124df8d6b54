"""The shape of a transformer, and what follows from it. Knows no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from shared.contracts.base import Contract, FieldError

SUPPORTED_HEAD_DIMS = (32, 64, 128)
"""Head sizes for which every attention kernel we use exists."""


class ModelConfig(Contract):
    """A decoder-only transformer: pre-norm RMSNorm, RoPE (half-split), no biases.

    `arcee` has a non-gated ReLU^2 feed-forward, `llama` a SwiGLU one (three matrices).
    """

    family: Literal["arcee", "llama"] = "arcee"
    """Which Hugging Face architecture the weights export to, exactly."""
    vocab_size: int = Field(16_000, ge=259, le=65_536)
    """Rows of the embedding: 256 bytes and 3 specials at least, what uint16 holds at most."""
    context_length: int = Field(512, ge=8, le=131_072)
    """Longest sequence, in tokens."""
    num_layers: int = Field(6, ge=1, le=128)
    """Transformer blocks."""
    d_model: int = Field(320, ge=32, le=16_384)
    """Width of the residual stream."""
    num_heads: int = Field(5, ge=1, le=256)
    """Attention heads; d_model / num_heads must be 32, 64 or 128."""
    d_ff: int = Field(1280, ge=1, le=65_536)
    """Width inside the feed-forward."""
    rope_theta: float = Field(10_000.0, gt=1)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(1e-5, gt=0, lt=1)
    """Added to the mean square inside RMSNorm."""
    tie_embeddings: bool = True
    """Whether the head shares the embedding's matrix."""

    @model_validator(mode="after")
    def _check_heads(self) -> ModelConfig:
        if self.d_model % self.num_heads:
            raise FieldError(
                f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}",
                "num_heads",
            )
        if self.head_dim not in SUPPORTED_HEAD_DIMS:
            raise FieldError(
                f"d_model / num_heads is {self.head_dim}; it must be one of "
                f"{', '.join(map(str, SUPPORTED_HEAD_DIMS))}",
                "num_heads",
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    @property
    def num_parameters(self) -> int:
        """Learned numbers, a tied head counted once."""
        feed_forward = (2 if self.family == "arcee" else 3) * self.d_model * self.d_ff
        block = 4 * self.d_model**2 + feed_forward + 2 * self.d_model
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * block + self.d_model

    @property
    def flops_per_token(self) -> int:
        """Training FLOPs a token: 6 per matrix weight plus 12 * layers * context * d_model.

        The count of PaLM's appendix B (attention not halved for causality); the embedding look-up
        is free, the head is not.
        """
        matrix_weights = self.num_parameters - (2 * self.num_layers + 1) * self.d_model
        if not self.tie_embeddings:
            matrix_weights -= self.vocab_size * self.d_model
        return 6 * matrix_weights + 12 * self.num_layers * self.context_length * self.d_model
