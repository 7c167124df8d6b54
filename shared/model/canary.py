"""A short text whose loss tells whether two programs compute the same model.

Who writes a checkpoint notes the loss, who loads it computes it again. Digests show that the bytes
are the same, not that they mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.contracts.model_config import ModelConfig
from shared.model.rope import rope_tables
from shared.model.transformer import Transformer
from shared.text.tokenizer import Tokenizer

CANARY_TEXT = (
    "The miner carried a small yellow bird into the shaft. As long as it sang, the air was good.\n"
    "def is_safe(bird):\n    return bird.sings  # 17 times out of 20\n"
)
MAX_CANARY_TOKENS = 64


def canary_ids(tokenizer: Tokenizer, config: ModelConfig) -> list[int]:
    """The text's first tokens, after the token that ends a document."""
    ids = [tokenizer.end_id, *tokenizer.encode(CANARY_TEXT)]
    return ids[: min(MAX_CANARY_TOKENS, config.context_length)]


def mean_loss(logits: Tensor, ids: Sequence[int]) -> float:
    """Mean cross-entropy, nats a token, of ids[1:] by logits (len(ids), V) at their places."""
    targets = torch.tensor(ids[1:], device=logits.device)
    return float(F.cross_entropy(logits[:-1].float(), targets))


@torch.no_grad()
def canary_loss(
    config: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer
) -> float | None:
    """The loss by float32 weights on the CPU, computed where they lie; None if it is not finite."""
    with torch.device("meta"):
        model = Transformer(config)
    cos, sin = rope_tables(config)
    ids = canary_ids(tokenizer, config)
    state = {**weights, "rope_cos": cos, "rope_sin": sin}
    logits = torch.func.functional_call(model, state, (torch.tensor([ids]),), strict=True)
    loss = mean_loss(logits[0], ids)
    return loss if loss < float("inf") else None
