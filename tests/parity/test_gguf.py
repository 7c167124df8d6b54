"""The GGUF file: tensors and tokenizer as ours, and llama.cpp's greedy text where it is installed.

pip install scikit-build-core cmake ninja && pip install --no-build-isolation llama-cpp-python
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gguf
import numpy as np
import pytest
import torch

from services.trainer.export import export
from shared.base.ids import IdPrefix, new_id
from shared.contracts.checkpoint_specs import ExportSpec
from shared.contracts.run_file import RunFile, RunInput
from shared.model.gguf import FILE_NAME, export_gguf
from shared.model.transformer import Transformer
from tests.parity.test_export import small_config
from tests.support.models import small_tokenizer, write_checkpoint
from tests.support.serving import greedy_without_cache, random_model

TEXT = "question: één 🙂 What's the\n\n  answer, 1234?"


def exported(model: Transformer, folder: Path, dtype: str = "float32") -> Path:
    (folder / "gguf").mkdir()
    export_gguf(write_checkpoint(folder / "ckpt", model), folder / "gguf", dtype=dtype)
    assert [path.name for path in (folder / "gguf").iterdir()] == [FILE_NAME]
    return folder / "gguf" / FILE_NAME


def value_of(reader: gguf.GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def test_the_file_describes_model_and_tokenizer(tmp_path: Path) -> None:
    model = random_model(small_config("arcee", tied=True))
    reader = gguf.GGUFReader(exported(model, tmp_path))
    assert value_of(reader, "general.architecture") == "arcee"
    assert value_of(reader, "arcee.context_length") == 64
    assert value_of(reader, "arcee.rope.freq_base") == 5000.0
    assert value_of(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert value_of(reader, "tokenizer.ggml.eos_token_id") == 0
    tokens = value_of(reader, "tokenizer.ggml.tokens")
    assert tokens[:3] == ["<|endoftext|>", "<|user|>", "<|assistant|>"]
    assert len(tokens) == len(set(tokens)) == 300
    assert value_of(reader, "tokenizer.ggml.token_type")[:4] == [3, 3, 3, 1]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    state = model.state_dict()
    assert len(tensors) == len(state)
    assert "output.weight" not in tensors
    up = state["model.layers.1.mlp.up_proj.weight"].numpy()
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"].data, up)


def test_bfloat16_halves_the_file_and_keeps_norms(tmp_path: Path) -> None:
    model = random_model(small_config("arcee", tied=True))
    reader = gguf.GGUFReader(exported(model, tmp_path, "bfloat16"))
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight"] == "BF16"
    assert types["output_norm.weight"] == "F32"
    stored = next(one for one in reader.tensors if one.name == "blk.0.ffn_up.weight")
    expected = model.state_dict()["model.layers.0.mlp.up_proj.weight"].to(torch.bfloat16)
    found = gguf.quants.dequantize(stored.data, gguf.GGMLQuantizationType.BF16)
    np.testing.assert_array_equal(found, expected.float().numpy())


def test_an_export_job_makes_one(tmp_path: Path) -> None:
    model = random_model(small_config("arcee", tied=True))
    checkpoint = write_checkpoint(tmp_path / "ckpt", model)
    identity = new_id(IdPrefix.CHECKPOINT)
    source = RunInput(id=identity, path=checkpoint, name="tiny")
    run = cast(RunFile, SimpleNamespace(inputs={"checkpoint": source}, outputs=tmp_path / "out"))
    told: list[Any] = []
    spec = ExportSpec(checkpoint=identity, format="gguf")
    export(run, spec, report=told.append, publish=lambda source, target: source.rename(target))
    assert (told[-1].name, told[-1].meta.format) == ("tiny (gguf)", "gguf")
    assert (tmp_path / "out" / "export" / FILE_NAME).stat().st_size > 0


@pytest.mark.parametrize(("family", "tied"), [("arcee", True), ("llama", False)])
def test_llama_cpp_reads_the_same_ids_and_says_the_same(
    family: str, tied: bool, tmp_path: Path
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is built from source")
    model = random_model(small_config(family, tied=tied))
    path = exported(model, tmp_path)
    peer = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    tokenizer = small_tokenizer()
    assert peer.tokenize(TEXT.encode(), add_bos=False, special=False) == tokenizer.encode(TEXT)
    prompt = tokenizer.encode("The answer")
    found = []
    for token in peer.generate(prompt, temp=0.0, repeat_penalty=1.0):
        found.append(token)
        if len(found) == 30:
            break
    assert found == greedy_without_cache(model, prompt, 30)
