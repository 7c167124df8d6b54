"""The part of gpu_check that generates as the inference service does. Knows no HTTP."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.generate import load, random_model, with_cache
from services.inference.runtime import open_runtime
from shared.base.settings import Settings
from shared.contracts.model_config import ModelConfig

BATCHES = (1, 64, 512)
"""Requests at once."""
SMOKE = ModelConfig(
    vocab_size=512, context_length=32, num_layers=2, d_model=64, num_heads=1, d_ff=128
)


def check_serving(device: torch.device, *, smoke: bool, steps: int) -> dict[str, Any]:
    """Tokens/s by batch with the attention the service would choose, greedy, random weights.

    Prompts as in benchmarks.serve_cpu. Answers may part where two logits are within rounding of
    each other; how many tokens agree between the smaller two batches is a fact as well.
    """
    del steps
    batches = BATCHES[:2] if smoke else BATCHES
    runtime = open_runtime(Settings(device="cpu" if smoke else "cuda", inference_slots=batches[-1]))
    model = random_model(SMOKE if smoke else ModelConfig()).to(device)
    loaded = load(model, runtime, num_slots=batches[-1])
    prompt, new = (4, 8) if smoke else (32, 128)
    generator = torch.Generator().manual_seed(2)
    size = (batches[-1], prompt)
    prompts = torch.randint(model.config.vocab_size, size, generator=generator).tolist()
    facts: dict[str, Any] = runtime.describe()
    answers: dict[int, list[list[int]]] = {}
    for batch in batches:
        with_cache(loaded, prompts[:batch], new)
        seconds, answers[batch] = with_cache(loaded, prompts[:batch], new)
        facts[f"tokens_per_second_of_{batch}"] = batch * new / seconds
    alone, among = answers[batches[0]][0], answers[batches[1]][0]
    agreeing = [one == other for one, other in zip(alone, among, strict=True)]
    facts["tokens_that_agree"] = f"{[*agreeing, False].index(False)} of {new}"
    return facts
