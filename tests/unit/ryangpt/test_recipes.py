"""Recipes: conditions, files, references and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from ryangpt.recipes import (
    Changes,
    Recipe,
    build_pipeline,
    load_recipe,
    read_changes,
    recipe_names,
)
from shared.base.errors import InvalidInputError, NotFoundError
from shared.contracts.jobs import FinetuneJob, IngestJob, TokenizeJob, TrainJob
from shared.contracts.names import ArtifactType
from shared.contracts.specs import JobOutput
from shared.contracts.training_specs import TrainSpec

UPLOAD = "upl_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt.gz"
    path.write_bytes(b"not read here")
    return path


def test_quickstart_needs_nothing_and_names_its_models() -> None:
    recipe = load_recipe("quickstart")
    pipeline = build_pipeline(recipe, read_changes(recipe, [], []), {})
    chat, train, tokens = (pipeline.jobs[key] for key in ("chat", "train", "question-tokens"))
    assert isinstance(train, TrainJob)
    assert isinstance(chat, FinetuneJob)
    assert isinstance(tokens, TokenizeJob)
    assert (train.spec.model, chat.spec.model) == ("quickstart", "quickstart-chat")
    assert tokens.spec.tokenizer == JobOutput(job="tokens", output=ArtifactType.TOKENIZER)
    assert 900_000 < train.spec.model_config_for(2048).num_parameters < 1_100_000


def test_ryan_gpt_is_the_reference_to_the_parameter(text_file: Path) -> None:
    recipe = load_recipe("ryan-gpt")
    changes = read_changes(recipe, ["--data", str(text_file)], [])
    train = build_pipeline(recipe, changes, {"data": UPLOAD}).jobs["train"]
    assert isinstance(train, TrainJob)
    assert train.spec.model_config_for(16_000).num_parameters == 12_496_960
    given = train.spec.model_dump(exclude={"model", "tokens"})
    reference = TrainSpec(model="x", tokens=UPLOAD).model_dump(exclude={"model", "tokens"})
    assert given == reference


def train_spec(name: str, text_file: Path) -> TrainSpec:
    recipe = load_recipe(name)
    changes = read_changes(recipe, ["--data", str(text_file)], [])
    train = build_pipeline(recipe, changes, {"data": UPLOAD}).jobs["train"]
    assert isinstance(train, TrainJob)
    return train.spec


def test_upstream_differs_from_the_reference_recipe_in_its_shape_alone(text_file: Path) -> None:
    reference, upstream = (
        train_spec(name, text_file) for name in ("ryan-gpt", "ryan-gpt-upstream")
    )
    assert upstream.model_config_for(16_000).num_parameters == 20_074_560
    given, wanted = upstream.model_dump(), reference.model_dump()
    changed = {name: value for name, value in given.items() if value != wanted[name]}
    assert changed == {"model": "ryan-gpt-upstream", "family": "llama", "tie_embeddings": False}


def test_fast_trains_the_same_model_on_as_many_tokens_a_step(text_file: Path) -> None:
    reference, fast = (train_spec(name, text_file) for name in ("ryan-gpt", "ryan-gpt-fast"))
    assert fast.model_config_for(16_000) == reference.model_config_for(16_000)
    assert (fast.batch_size, fast.gradient_accumulation_steps) == (32, 2)
    assert (fast.optimizer, fast.init, fast.schedule) == ("muon", "zero_residual", "wsd")
    assert (reference.optimizer, reference.init, reference.schedule) == (
        "adamw", "xavier", "cosine",
    )  # fmt: skip


@pytest.mark.parametrize("with_dialogues", [True, False])
def test_own_dialogues_take_the_place_of_daily_dialog(
    text_file: Path, tmp_path: Path, with_dialogues: bool
) -> None:
    dialogues = tmp_path / "talk.jsonl"
    dialogues.write_text("{}")
    recipe = load_recipe("ryan-gpt")
    arguments = ["--data", str(text_file)]
    arguments += ["--dialogues", str(dialogues)] if with_dialogues else []
    changes = read_changes(recipe, arguments, [])
    jobs = build_pipeline(recipe, changes, dict.fromkeys(changes.files, UPLOAD)).jobs
    tokens = jobs["dialogue-tokens"]
    assert isinstance(tokens, TokenizeJob)
    chosen = "dialogues" if with_dialogues else "dailydialog"
    assert tokens.spec.dataset == JobOutput(job=chosen, output=ArtifactType.DATASET)
    assert {"dialogues", "dailydialog"} & set(jobs) == {chosen}
    assert (tokens.spec.validation_dataset is None) is with_dialogues


@pytest.mark.parametrize(
    ("name", "source"), [("a.txt", "text"), ("a.txt.gz", "text"), ("a.jsonl", "jsonl"),
                         ("a.b.JSONL.gz", "jsonl"), ("plain", "text"),
                         ("w.xml.bz2", "wikipedia"), ("train.zip", "dailydialog")]
)  # fmt: skip
def test_the_file_name_chooses_the_ingest_source(tmp_path: Path, name: str, source: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    recipe = load_recipe("ryan-gpt")
    changes = read_changes(recipe, [f"--data={tmp_path / name}"], [])
    text = build_pipeline(recipe, changes, {"data": UPLOAD}).jobs["text"]
    assert isinstance(text, IngestJob)
    assert (text.spec.source, text.spec.upload) == (source, UPLOAD)


def test_a_flag_changes_every_job_that_has_the_field() -> None:
    recipe = load_recipe("quickstart")
    arguments = ["--max_steps", "20", "--vocab-size=512"]
    changes = read_changes(recipe, arguments, ["train.lr=3e-4", "train.min_lr=1e-5"])
    jobs = build_pipeline(recipe, changes, {}).jobs
    train, chat, tokens = jobs["train"], jobs["chat"], jobs["tokens"]
    assert isinstance(train, TrainJob)
    assert isinstance(chat, FinetuneJob)
    assert isinstance(tokens, TokenizeJob)
    assert (train.spec.max_steps, chat.spec.max_steps) == (20, 20)
    assert (train.spec.vocab_size, tokens.spec.vocab_size) == (512, 512)
    assert train.spec.lr == 0.0003
    assert chat.spec.lr != 0.0003


def test_epochs_take_the_place_of_steps() -> None:
    recipe = load_recipe("quickstart")
    train = build_pipeline(recipe, read_changes(recipe, ["--epochs", "2"], []), {}).jobs["train"]
    assert isinstance(train, TrainJob)
    assert (train.spec.epochs, train.spec.max_steps) == (2.0, None)


@pytest.mark.parametrize(
    ("recipe", "arguments", "sets", "message"),
    [
        ("quickstart", ["--max_stepz", "2"], [], "Recipe quickstart has no flag --max_stepz."),
        ("quickstart", ["--model", "m"], [], "Recipe quickstart has no flag --model."),
        ("quickstart", ["--max_steps"], [], "--max_steps needs a value."),
        ("quickstart", ["20"], [], "Unexpected argument '20': flags look like --name value."),
        ("quickstart", [], ["lr=1"], "--set lr=1: expected job.field=value."),
        ("ryan-gpt", ["--data", "/nowhere"], [], "--data: there is no file /nowhere."),
    ],
)
def test_a_wrong_command_line_is_named(
    recipe: str, arguments: list[str], sets: list[str], message: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_changes(load_recipe(recipe), arguments, sets)
    assert caught.value.message == message


def test_an_unknown_flag_lists_those_there_are() -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_changes(load_recipe("ryan-gpt"), ["--x", "1"], [])
    hint = caught.value.hint or ""
    assert hint.startswith("It has: --data, --dialogues, ")
    assert "--max_steps" in hint
    assert "--model," not in hint


def test_a_bad_value_names_job_and_field() -> None:
    recipe = load_recipe("quickstart")
    with pytest.raises(InvalidInputError, match=r"^Recipe quickstart: jobs\.train\.train\.spec"):
        build_pipeline(recipe, Changes(job_fields={("train", "num_layers"): "few"}), {})


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ndescription: d\njobs:\n  docs: {kind: ingest, spec: {source: python_docs}}\n"
    )
    recipe = load_recipe(str(path))
    assert list(build_pipeline(recipe, Changes(), {}).jobs) == ["docs"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [", "is not YAML"),
        ("name: x\ndescription: d\njobs: {}\n", "at least 1 item"),
        ("name: x\ndescription: d\njobs: {a: {kind: cook, spec: {}}}\n", "jobs.a.kind: "),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InvalidInputError) as caught:
        load_recipe(str(path))
    assert str(path) in caught.value.message
    assert message in caught.value.message


def test_unknown_recipes_list_the_known_ones() -> None:
    assert recipe_names() == ["quickstart", "ryan-gpt", "ryan-gpt-fast", "ryan-gpt-upstream"]
    with pytest.raises(NotFoundError) as caught:
        load_recipe("nonsense")
    assert caught.value.hint == (
        "There are: quickstart, ryan-gpt, ryan-gpt-fast, ryan-gpt-upstream; "
        "or give the path of a YAML file."
    )


def test_a_condition_must_name_a_parameter() -> None:
    job = {"kind": "ingest", "spec": {"source": "python_docs"}, "when": "typo"}
    recipe = Recipe.model_validate({"name": "x", "description": "d", "jobs": {"a": job}})
    with pytest.raises(InvalidInputError, match="names no parameter"):
        build_pipeline(recipe, Changes(), {})


@pytest.mark.parametrize("name", ["ryan-gpt", "ryan-gpt-fast", "ryan-gpt-upstream"])
def test_without_files_the_reference_s_corpora_are_fetched_and_combined(name: str) -> None:
    recipe = load_recipe(name)
    jobs = build_pipeline(recipe, read_changes(recipe, [], []), {}).jobs
    assert list(jobs) == [
        "wikipedia",
        "c4",
        "tokens",
        "dailydialog",
        "dailydialog-validation",
        "dialogue-tokens",
        "train",
        "chat",
    ]
    tokens = jobs["tokens"]
    assert isinstance(tokens, TokenizeJob)
    assert tokens.spec.dataset == JobOutput(job="wikipedia", output=ArtifactType.DATASET)
    assert tokens.spec.more_datasets == (JobOutput(job="c4", output=ArtifactType.DATASET),)


def test_own_text_takes_the_place_of_all_corpora(text_file: Path) -> None:
    recipe = load_recipe("ryan-gpt")
    changes = read_changes(recipe, ["--data", str(text_file)], [])
    jobs = build_pipeline(recipe, changes, {"data": UPLOAD}).jobs
    tokens = jobs["tokens"]
    assert isinstance(tokens, TokenizeJob)
    assert tokens.spec.dataset == JobOutput(job="text", output=ArtifactType.DATASET)
    assert tokens.spec.more_datasets == ()
    assert not {"wikipedia", "c4"} & set(jobs)
