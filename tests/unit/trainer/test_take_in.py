"""Taking in checkpoints: equal afterwards, and refused with a reason before anything is written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from services.trainer.take_in import take_in
from shared.base.errors import JobFailedError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.checkpoint_specs import ImportSpec
from shared.contracts.manifest import MODEL_WEIGHTS
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import SPECIAL_TOKENS, JobKind
from shared.contracts.progress import CheckpointLine, OutputLine
from shared.contracts.run_file import RunFile, RunInput
from shared.jobs.program import publish_folder
from shared.model.canary import canary_loss
from shared.model.huggingface import export_huggingface
from shared.model.transformer import Transformer, initialize
from shared.model.weights import load_model, load_state
from shared.text.tokenizer import Tokenizer
from tests.support.hostile import Hostile, torch_archive
from tests.support.models import small_tokenizer, write_checkpoint
from tests.support.tokenizers import tokenizer_document

IDS = torch.tensor([[0, 5, 77, 210, 299, 3, 42]])


def taken_in(folder: Path, files: dict[str, Path], **spec: Any) -> list[Any]:
    """Run the import and return what it reported."""
    uploads = {name: new_id(IdPrefix.UPLOAD) for name in files}
    run = RunFile(
        job_id=new_id(IdPrefix.JOB),
        kind=JobKind.IMPORT,
        attempt=1,
        token=1,
        spec=ImportSpec.model_validate({"model": "taken", "files": list(uploads.values()), **spec}),
        inputs={
            f"files.{index}": RunInput(id=uploads[name], path=path, name=name)
            for index, (name, path) in enumerate(files.items())
        },
        spool=folder / "spool",
        outputs=folder / "outputs",
        events=folder / "events",
        num_threads=1,
        slot_locks=folder / "slots",
        code_version="1",
    )
    reported: list[Any] = []
    assert isinstance(run.spec, ImportSpec)
    take_in(run, run.spec, report=reported.append, publish=publish_folder)
    return reported


def refusal(folder: Path, files: dict[str, Path]) -> JobFailedError:
    """The error of an import that must leave nothing behind."""
    with pytest.raises(JobFailedError) as caught:
        taken_in(folder / "run", files)
    assert not (folder / "run").exists()
    return caught.value


def files_of(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def exported(folder: Path, family: str = "arcee", *, tied: bool = True) -> Path:
    config = ModelConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=300,
        context_length=64,
        num_layers=2,
        d_model=64,
        num_heads=2,
        d_ff=96,
        tie_embeddings=tied,
    )
    model = Transformer(config)
    initialize(model, seed=3, scheme="xavier")
    target = folder / "hf"
    target.mkdir()
    export_huggingface(write_checkpoint(folder / "ckpt", model), target)
    return target


@pytest.mark.parametrize(("family", "tied"), [("arcee", True), ("llama", False)])
def test_an_exported_folder_comes_back_bit_for_bit(tmp_path: Path, family: str, tied: bool) -> None:
    folder = exported(tmp_path, family, tied=tied)
    reported = taken_in(tmp_path, files_of(folder), stage="finetune")
    (line,) = [entry for entry in reported if isinstance(entry, CheckpointLine)]
    assert (line.meta.step, line.meta.stage, line.meta.final) == (0, "finetune", True)
    loss = canary_loss(
        line.meta.model,
        load_state(Path(line.path) / MODEL_WEIGHTS),
        Tokenizer.load(Path(line.path)),
    )
    assert line.meta.canary_loss == loss
    assert sorted(path.name for path in Path(line.path).iterdir()) == [
        "model.safetensors",
        "model_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    before, after = load_model(tmp_path / "ckpt"), load_model(Path(line.path))
    assert before.config == after.config
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    (output,) = [entry for entry in reported if isinstance(entry, OutputLine)]
    assert output.output == "tokenizer"
    assert Tokenizer.load(Path(output.path)).sha256 == small_tokenizer().sha256


@torch.no_grad()
def test_a_foreign_llama_keeps_its_logits(tmp_path: Path) -> None:
    """Grouped heads, several files, special tokens at the end, an unknown one, rows to spare."""
    torch.manual_seed(1)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=310,
            hidden_size=128,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            eos_token_id=300,
        )
    )
    folder = tmp_path / "hf"
    theirs.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    save_file({name: state[name] for name in names[::2]}, folder / "model-1-of-2.safetensors")
    save_file({name: state[name] for name in names[1::2]}, folder / "model-2-of-2.safetensors")
    document: Any = tokenizer_document([("a", "b"), ("ab", "c")])
    vocabulary = [token for token in document["model"]["vocab"] if token not in SPECIAL_TOKENS]
    document["model"]["vocab"] = {token: index for index, token in enumerate(vocabulary)}
    document["added_tokens"] = [
        {**document["added_tokens"][0], "id": index, "content": token}
        for index, token in ((300, "</s>"), (301, "<pad>"), (302, SPECIAL_TOKENS[1]))
    ]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    reported = taken_in(tmp_path, files_of(folder))
    notices = [entry.message for entry in reported if entry.type == "notice"]
    assert notices == ["Left out the special tokens <pad>."]
    (line,) = [entry for entry in reported if isinstance(entry, CheckpointLine)]
    ours, tokenizer = load_model(Path(line.path)), Tokenizer.load(Path(line.path))
    ids = tokenizer.encode("abc and ab")
    theirs_of = {0: 300, 1: 302} | {
        index: vocabulary.index(token)
        for token, index in json.loads(tokenizer.json_text)["model"]["vocab"].items()
        if index > 2
    }
    logits = theirs(torch.tensor([[theirs_of[index] for index in [0, *ids]]])).logits[0]
    expected = logits[:, [theirs_of[index] for index in sorted(theirs_of)]]
    found = ours(torch.tensor([[0, *ids]]))[0][:, sorted(theirs_of)]
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "There is no config.json beside the weights."),
        ("tokenizer.json", "model.safetensors comes without its tokenizer: tokenizer.json is miss"),
        ("model.safetensors", "These files are no checkpoint: config.json, "),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path: Path, missing: str, message: str) -> None:
    files = files_of(exported(tmp_path))
    del files[missing]
    error = refusal(tmp_path, files)
    assert error.message.startswith(message)
    assert error.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "config.json describes a 'gpt2' model; only arcee and llama"),
        ({"hidden_act": "gelu"}, "The model has the activation 'gelu', which cannot be kept"),
        ({"attention_bias": True}, "The model has biases, which cannot be kept exactly here."),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "The model has rotary frequencies of type 'yarn'",
        ),
        ({"head_dim": 64}, "config.json has heads of 64 where hidden_size makes 32"),
        ({"num_hidden_layers": 3}, "The checkpoint does not fit the model: model.layers.2."),
        ({"hidden_size": None}, "config.json: d_model "),
    ],
)
def test_what_cannot_be_kept_exactly_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = exported(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert refusal(tmp_path, files_of(folder)).message.startswith(message)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def overlap(path: Path) -> None:
    """Let the second tensor begin inside the first."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    tensors = sorted((name for name in header if name != "__metadata__"),
                     key=lambda name: header[name]["data_offsets"])  # fmt: skip
    first, second = header[tensors[0]], header[tensors[1]]
    size = second["data_offsets"][1] - second["data_offsets"][0]
    second["data_offsets"] = [first["data_offsets"][0], first["data_offsets"][0] + size]
    packed = json.dumps(header).encode().ljust(length + 64)
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + raw[8 + length :])


def huge_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(os.system, "true")))


@pytest.mark.parametrize("damage", [cut, overlap, huge_header, pickled])
def test_damaged_safetensors_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = exported(tmp_path)
    damage(folder / "model.safetensors")
    message = refusal(tmp_path, files_of(folder)).message
    assert message.startswith("model.safetensors is not a whole safetensors file: ")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][3] = float("nan")
    save_file(state, folder / "model.safetensors")
    assert refusal(tmp_path, files_of(folder)).message == (
        "The model computes values that are not finite numbers."
    )


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(
    shared_data: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    program = pickle.dumps({"model_state_dict": Hostile(os.system, f"touch {canary}")}, 2)
    files = files_of(shared_data / "reference")
    files["ckpt_final.pt"] = torch_archive(tmp_path / "hostile.pt", program)
    error = refusal(tmp_path, files)
    assert error.message.startswith("ckpt_final.pt: The file asks for 'posix.system'")
    assert not canary.exists()


def test_a_reference_checkpoint_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {}}, tmp_path / "ckpt_final.pt")
    error = refusal(tmp_path, {"ckpt_final.pt": tmp_path / "ckpt_final.pt"})
    assert error.message == (
        "ckpt_final.pt comes without its tokenizer: vocab.json and merges.txt is missing."
    )
    assert "--tokenizer" in (error.hint or "")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vocab.json", lambda text: text[:-1] + ', "1024": "7878"}', "does not match the weights"),
        ("vocab.json", lambda text: text.replace('"00"', '"0x"'), "vocab.json does not map ids"),
        ("vocab.json", lambda text: text.replace('"7"', '"9999"'), "are not 0, 1, 2, ..."),
        ("vocab.json", lambda text: text.replace("3c7c656e64", "3c7c656e65"), "has no <|endoftext"),
        ("vocab.json", lambda text: "[1]", "vocab.json is not a JSON object."),
        ("merges.txt", lambda text: text + "zz 20\n", "is not two hexadecimal texts."),
        ("merges.txt", lambda text: text + "ff ff\n", "merges what the vocabulary does not have."),
    ],
)
def test_a_tokenizer_that_does_not_belong_is_refused(
    shared_data: Path, tmp_path: Path, name: str, change: Callable[[str], str], message: str
) -> None:
    files = files_of(shared_data / "reference")
    changed = change(files[name].read_text())
    assert changed != files[name].read_text()
    files[name] = tmp_path / name
    files[name].write_text(changed)
    assert message in refusal(tmp_path, files).message


def test_transformers_reads_what_was_taken_in_and_exported_again(
    shared_data: Path, tmp_path: Path
) -> None:
    reported = taken_in(tmp_path, files_of(shared_data / "reference"))
    (line,) = [entry for entry in reported if isinstance(entry, CheckpointLine)]
    target = tmp_path / "again"
    target.mkdir()
    export_huggingface(Path(line.path), target)
    shutil.rmtree(tmp_path / "spool", ignore_errors=False)
    assert AutoModelForCausalLM.from_pretrained(target).num_parameters() == 590_464
