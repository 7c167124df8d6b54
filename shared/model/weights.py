"""Weights on disk: safetensors with Hugging Face's tensor names, loaded strictly. Never pickle."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, dtype, float32

from shared.base.errors import IntegrityError
from shared.contracts.manifest import MODEL_CONFIG_JSON, MODEL_WEIGHTS
from shared.contracts.model_config import ModelConfig
from shared.model.transformer import Transformer

SHOWN_PROBLEMS = 5


def save_weights(model: Transformer, path: Path, *, as_type: dtype = float32) -> None:
    """Write all parameters (a tied head once). The caller makes the folder durable."""
    state = {
        name: tensor.detach().to("cpu", as_type).contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_tensors(state, path, metadata={"format": "pt"})


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. Raises OSError with its number when the disk is full.

    The library reports every failure as its own error, with the number in the text alone.
    """
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if f"(os error {number})" in str(error):
                raise OSError(number, "the disk is full", str(path)) from error
        raise


def load_state(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file as it is stored.

    Raises IntegrityError when the file is missing, cut short or not safetensors.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path.name} is missing from {path.parent}") from error
    except SafetensorError as error:
        raise IntegrityError(f"{path} is not a whole safetensors file: {error}") from error


def load_config(folder: Path) -> ModelConfig:
    """Read a checkpoint's model shape. Raises IntegrityError when it is missing or malformed."""
    path = folder / MODEL_CONFIG_JSON
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise IntegrityError(f"{path.name} is missing from {folder}") from error
    except ValidationError as error:
        raise IntegrityError(
            f"{path} does not describe a model: {error.errors()[0]['msg']}"
        ) from error


def load_model(folder: Path) -> Transformer:
    """Build the model of a checkpoint folder on the CPU, in float32, weights loaded strictly."""
    model = Transformer(load_config(folder))
    fill_model(model, load_state(folder / MODEL_WEIGHTS), source=str(folder / MODEL_WEIGHTS))
    return model


def fill_model(model: Transformer, state: dict[str, Tensor], *, source: str) -> None:
    """Copy `state` into the model; IntegrityError names what is missing, extra or misshapen."""
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own.keys() - state.keys()]
    problems += [f"{name} is unknown" for name in state.keys() - own.keys()]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:SHOWN_PROBLEMS])
        more = len(problems) - SHOWN_PROBLEMS
        raise IntegrityError(
            f"{source} does not fit the model: {shown}{f'; and {more} more' if more > 0 else ''}"
        )
    model.load_state_dict(state)
