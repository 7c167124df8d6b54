"""Checkpoint folder in, Hugging Face folder out: what transformers, vLLM and llama.cpp read.

The tensors need no renaming; what this adds is `config.json` and `generation_config.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from shared.base.files import write_bytes
from shared.contracts.manifest import MODEL_WEIGHTS
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import END_TOKEN, SPECIAL_TOKENS
from shared.model.weights import load_model, save_weights
from shared.text.tokenizer import Tokenizer
from shared.text.tokenizer_files import write_tokenizer_files

ARCHITECTURE_OF_FAMILY = {"arcee": "ArceeForCausalLM", "llama": "LlamaForCausalLM"}
ACTIVATION_OF_FAMILY = {"arcee": "relu2", "llama": "silu"}
END_ID = SPECIAL_TOKENS.index(END_TOKEN)
EXPORT_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def huggingface_config(config: ModelConfig, *, dtype: str) -> dict[str, Any]:
    """Return `config.json` as a dict.

    The rotary base is written twice: transformers 5 reads `rope_parameters`, 4.x, vLLM and
    llama.cpp read `rope_theta`. The special ids are explicit, since the families' defaults
    (128000 and up for arcee) lie outside our vocabulary.
    """
    return {
        "architectures": [ARCHITECTURE_OF_FAMILY[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "hidden_act": ACTIVATION_OF_FAMILY[config.family],
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
        **special_ids(),
    }


def special_ids() -> dict[str, int]:
    """The ids every platform tokenizer gives its end token, which also begins and pads."""
    return {"bos_token_id": END_ID, "eos_token_id": END_ID, "pad_token_id": END_ID}


def export_huggingface(checkpoint: Path, target: Path, *, dtype: str = "float32") -> ModelConfig:
    """Write the checkpoint's model and tokenizer into the existing, empty folder `target`.

    `dtype` is float32 or bfloat16. Returns the model's shape. Raises IntegrityError or
    NotFoundError when the checkpoint is incomplete.
    """
    model = load_model(checkpoint)
    save_weights(model, target / MODEL_WEIGHTS, as_type=EXPORT_TYPES[dtype])
    _write_json(target / "config.json", huggingface_config(model.config, dtype=dtype))
    _write_json(target / "generation_config.json", {"do_sample": False, **special_ids()})
    write_tokenizer_files(
        target, Tokenizer.load(checkpoint), context_length=model.config.context_length
    )
    return model.config


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())
