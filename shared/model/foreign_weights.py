"""Hugging Face folders of the two families as this platform's models: config and weights, exactly.

What cannot be kept exactly (another activation, scaled rotary frequencies, biases) is refused.
Grouped key and value heads are written out, one for each query head, which changes no result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from shared.base.errors import InvalidInputError, PlatformError
from shared.contracts.model_config import ModelConfig
from shared.model.huggingface import ACTIVATION_OF_FAMILY
from shared.model.weights import load_state

MAX_CONFIG_BYTES = 1 << 20
GROUPED = (".self_attn.k_proj.weight", ".self_attn.v_proj.weight")
VOCABULARY_ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def read_config(path: Path) -> dict[str, Any]:
    """Read `config.json`. Raises InvalidInputError when it is none."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InvalidInputError(f"{path.name} is larger than {MAX_CONFIG_BYTES} bytes.")
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidInputError(f"{path.name} is not a JSON object.")
    return document


def model_config_of(config: Mapping[str, Any], *, vocab_size: int) -> ModelConfig:
    """The model's shape, with a vocabulary of `vocab_size` rows.

    Raises InvalidInputError naming what this platform cannot keep exactly.
    """
    family = config.get("model_type")
    if family not in ACTIVATION_OF_FAMILY:
        raise InvalidInputError(
            f"config.json describes a {family!r} model; only "
            f"{' and '.join(ACTIVATION_OF_FAMILY)} can be taken in."
        )
    _refuse_differences(config, family)
    rope = config.get("rope_parameters") or {}
    try:
        model = ModelConfig(
            family=family,
            vocab_size=vocab_size,
            context_length=config.get("max_position_embeddings", 2048),
            num_layers=config["num_hidden_layers"],
            d_model=config["hidden_size"],
            num_heads=config["num_attention_heads"],
            d_ff=config["intermediate_size"],
            rope_theta=rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
            norm_eps=config.get("rms_norm_eps", 1e-6),
            tie_embeddings=config.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise InvalidInputError(f"config.json has no {error.args[0]}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"config.json: {where} {first['msg']}.") from error
    if config.get("head_dim") not in (None, model.head_dim):
        raise InvalidInputError(
            f"config.json has heads of {config['head_dim']} where hidden_size makes "
            f"{model.head_dim}; only equal ones can be taken in."
        )
    return model


def _refuse_differences(config: Mapping[str, Any], family: str) -> None:
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    usual = ACTIVATION_OF_FAMILY[family]
    differences = {
        f"the activation {config.get('hidden_act')!r}": config.get("hidden_act", usual) != usual,
        "biases": bool(config.get("attention_bias") or config.get("mlp_bias")),
        f"rotary frequencies of type {kind!r}": kind != "default",
    }
    found = [what for what, is_there in differences.items() if is_there]
    if found:
        raise InvalidInputError(f"The model has {found[0]}, which cannot be kept exactly here.")


def read_weights(paths: Sequence[Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read all tensors as float32, grouped heads written out.

    Raises InvalidInputError for a file that is cut, overlaps itself or repeats a tensor.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        try:
            part = load_state(path)
        except PlatformError as error:
            raise InvalidInputError(
                f"{path.name} is not a whole safetensors file: {error.message}"
            ) from error
        if repeated := state.keys() & part.keys():
            raise InvalidInputError(f"{path.name} repeats the tensor {min(repeated)!r}.")
        state |= part
    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    if not isinstance(groups, int) or groups < 1 or heads % groups:
        raise InvalidInputError(f"config.json has {groups} key-value heads for {heads} heads.")
    if config.get("tie_word_embeddings"):
        state.pop("lm_head.weight", None)
    return {
        name: _ungrouped(tensor, groups, heads // groups) if name.endswith(GROUPED) else tensor
        for name, tensor in ((name, tensor.to(torch.float32)) for name, tensor in state.items())
        if not name.endswith("rotary_emb.inv_freq")
    }


def _ungrouped(weight: Tensor, groups: int, repeats: int) -> Tensor:
    """Repeat each group's rows (groups * head_dim, d) for every query head of the group."""
    if repeats == 1 or weight.ndim != 2 or weight.shape[0] % groups:
        return weight
    by_group = weight.view(groups, -1, weight.shape[1])
    return by_group.repeat_interleave(repeats, dim=0).reshape(-1, weight.shape[1])


def move_vocabulary(state: dict[str, Tensor], rows: Sequence[int | None]) -> None:
    """Put the vocabulary's rows in the order of `rows`; None makes a row that is the mean of all.

    Raises InvalidInputError when the weights have no row for an id.
    """
    for name in VOCABULARY_ROWS:
        matrix = state.get(name)
        if matrix is None:
            continue
        highest = max(row for row in rows if row is not None)
        if matrix.ndim != 2 or highest >= matrix.shape[0]:
            raise InvalidInputError(
                f"The tokenizer does not match the weights: it has an id {highest}, the weights "
                f"have {matrix.shape[0]} rows.",
                hint="Give the tokenizer that the model was trained with.",
            )
        mean = matrix.mean(dim=0)
        state[name] = torch.stack([mean if row is None else matrix[row] for row in rows])
