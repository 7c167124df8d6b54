"""Weights on disk: round trip, and readable refusals of what does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.base.errors import IntegrityError
from shared.contracts.manifest import MODEL_CONFIG_JSON, MODEL_WEIGHTS
from shared.contracts.model_config import ModelConfig
from shared.model.transformer import Transformer, initialize
from shared.model.weights import load_model
from tests.support.models import write_checkpoint

ROOT = Path(__file__).parents[3]
CONFIG = ModelConfig(
    vocab_size=300, context_length=32, num_layers=1, d_model=64, num_heads=2, d_ff=96
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = Transformer(CONFIG)
    initialize(model, seed=1)
    return write_checkpoint(tmp_path / "checkpoint", model)


def test_round_trip_is_exact(folder: Path) -> None:
    model = Transformer(CONFIG)
    initialize(model, seed=1)
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_tensor_names_are_hugging_faces_and_a_tied_head_is_stored_once(folder: Path) -> None:
    assert sorted(load_file(folder / MODEL_WEIGHTS)) == [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.norm.weight",
    ]


def test_what_does_not_fit_is_named(folder: Path) -> None:
    state = load_file(folder / MODEL_WEIGHTS)
    state["model.norm.weight"] = torch.ones(3)
    state["stranger"] = torch.ones(1)
    del state["model.embed_tokens.weight"]
    save_file(state, folder / MODEL_WEIGHTS)
    with pytest.raises(IntegrityError) as caught:
        load_model(folder)
    assert caught.value.message == (
        f"{folder / MODEL_WEIGHTS} does not fit the model: model.embed_tokens.weight is missing; "
        "model.norm.weight has shape (3,), expected (64,); stranger is unknown"
    )


def test_a_file_cut_short_is_refused(folder: Path) -> None:
    path = folder / MODEL_WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("name", [MODEL_WEIGHTS, MODEL_CONFIG_JSON])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        load_model(folder)


def test_a_malformed_config_says_what_is_wrong(folder: Path) -> None:
    (folder / MODEL_CONFIG_JSON).write_text('{"d_model": 100, "num_heads": 4}')
    with pytest.raises(IntegrityError, match=r"does not describe a model: .*it must be one of"):
        load_model(folder)


FULL_DISK = """
import errno, sys, torch
import subprocess
import sys
from pathlib import Path
from shared.model.weights import write_tensors
try:
    write_tensors({"a": torch.zeros(1_000_000)}, Path(sys.argv[1]) / "weights")
except OSError as error:
    sys.exit(41 if error.errno == errno.ENOSPC else 1)
"""


def test_full_disk_is_an_os_error(tmp_path: Path) -> None:
    """On a real disk of 1 MB, mounted in a namespace of its own."""
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 41, done.stderr
