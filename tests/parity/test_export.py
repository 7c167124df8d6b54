"""Our transformer against Hugging Face's: equal logits, equal greedy text, equal token ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.contracts.model_config import ModelConfig
from shared.model.huggingface import export_huggingface
from shared.model.transformer import Transformer, initialize
from shared.text.tokenizer import Tokenizer
from tests.support.models import write_checkpoint

FAMILIES = ["arcee", "llama"]


def small_config(family: str, *, tied: bool) -> ModelConfig:
    return ModelConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=300,
        context_length=64,
        num_layers=3,
        d_model=96,
        num_heads=3,
        d_ff=160,
        rope_theta=5000.0,
        tie_embeddings=tied,
    )


def scrambled_model(config: ModelConfig) -> Transformer:
    """A model none of whose tensors is zero, one or symmetric."""
    model = Transformer(config)
    initialize(model, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def greedy(model: Transformer, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        logits: Tensor = model(torch.tensor([ids]))[0, -1]
        ids.append(int(logits.argmax()))
    return ids


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_and_greedy_text_equal_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    model = scrambled_model(small_config(family, tied=tied))
    (tmp_path / "hf").mkdir()
    export_huggingface(write_checkpoint(tmp_path / "ckpt", model), tmp_path / "hf")

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    assert (
        type(theirs).__name__ == {"arcee": "ArceeForCausalLM", "llama": "LlamaForCausalLM"}[family]
    )
    ids = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(1))
    assert (model(ids) - theirs(ids).logits).abs().max() <= 1e-5

    prompt = [17, 250, 3, 99]
    # An untrained model may well emit the end token; both must then go on alike.
    generated = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None
    )
    assert generated[0].tolist() == greedy(model, prompt, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_export_keeps_the_parameter_count(family: str, tmp_path: Path) -> None:
    config = small_config(family, tied=True)
    (tmp_path / "hf").mkdir()
    export_huggingface(write_checkpoint(tmp_path / "ckpt", Transformer(config)), tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert theirs.num_parameters() == config.num_parameters


def test_exported_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt", Transformer(small_config("arcee", tied=True)))
    (tmp_path / "hf").mkdir()
    export_huggingface(folder, tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = Tokenizer.load(folder)
    for text in ("The capital of France is", "naïve café, 東京 🙂\n\n  x", "a\tb  c\n"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (0, 0)
    assert theirs.model_max_length == 64


def test_bfloat16_export_halves_the_weights(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt", Transformer(small_config("arcee", tied=True)))
    (tmp_path / "hf").mkdir()
    export_huggingface(folder, tmp_path / "hf", dtype="bfloat16")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert theirs.dtype == torch.bfloat16
