"""What crosses a process is frozen, strict, documented, and survives a round trip."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.base.ids import IdPrefix, new_id
from shared.contracts.jobs import SPEC_OF_KIND, JobCreate, PipelineCreate
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import (
    LEGAL_TRANSITIONS,
    OUTPUTS_OF_KIND,
    PROGRAM_OF_KIND,
    QUEUE_OF_KIND,
    TERMINAL_STATES,
    JobKind,
    JobState,
)
from shared.contracts.training_specs import TrainSpec

TOKENS = new_id(IdPrefix.DATASET)
CHECKPOINT = new_id(IdPrefix.CHECKPOINT)
MINIMAL_SPECS: dict[JobKind, dict[str, object]] = {
    JobKind.INGEST: {"source": "python_docs"},
    JobKind.TOKENIZE: {"dataset": TOKENS},
    JobKind.TRAIN: {"model": "demo", "tokens": TOKENS},
    JobKind.FINETUNE: {"model": "demo", "tokens": TOKENS, "checkpoint": CHECKPOINT},
    JobKind.EVALUATE: {"checkpoint": CHECKPOINT, "tokens": TOKENS},
    JobKind.EXPORT: {"checkpoint": CHECKPOINT},
    JobKind.IMPORT: {"model": "demo", "files": [new_id(IdPrefix.UPLOAD)]},
}
JOB_CREATE: TypeAdapter[JobCreate] = TypeAdapter(JobCreate)


def test_the_reference_preset_has_exactly_the_reference_number_of_parameters() -> None:
    assert ModelConfig().num_parameters == 12_496_960


def test_the_defaults_of_a_train_spec_are_the_reference_preset() -> None:
    spec = TrainSpec(model="demo", tokens=TOKENS)
    assert spec.model_config_for(16_000) == ModelConfig()
    assert (spec.max_steps, spec.batch_size, spec.gradient_accumulation_steps) == (80_000, 32, 2)
    assert (spec.lr, spec.min_lr, spec.warmup_steps, spec.schedule) == (6e-4, 6e-5, 2000, "cosine")


@pytest.mark.parametrize("kind", list(JobKind))
def test_a_spec_survives_json(kind: JobKind) -> None:
    job = JOB_CREATE.validate_python({"kind": kind, "spec": MINIMAL_SPECS[kind]})
    assert JOB_CREATE.validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize("kind", list(JobKind))
def test_a_spec_refuses_an_unknown_key(kind: JobKind) -> None:
    body = {"kind": kind, "spec": {**MINIMAL_SPECS[kind], "learning_rat": 1}}
    with pytest.raises(ValidationError) as caught:
        JOB_CREATE.validate_python(body)
    assert [error["type"] for error in caught.value.errors()] == ["extra_forbidden"]


@pytest.mark.parametrize("kind", list(JobKind))
def test_every_field_of_a_spec_is_explained(kind: JobKind) -> None:
    fields = SPEC_OF_KIND[kind].model_fields
    assert [name for name, field in fields.items() if not field.description] == []


def test_every_kind_has_a_queue_a_program_and_outputs() -> None:
    kinds = set(JobKind)
    assert set(QUEUE_OF_KIND) == set(PROGRAM_OF_KIND) == set(OUTPUTS_OF_KIND) == kinds


def test_terminal_states_lead_nowhere_and_every_other_state_leads_on() -> None:
    dead_ends = {state for state in JobState if not LEGAL_TRANSITIONS[state]}
    assert dead_ends == TERMINAL_STATES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4}, "d_model / num_heads is 80; it must be one of 32, 64, 128"),
        ({"num_heads": 7}, "d_model 320 is not a multiple of num_heads 7"),
        ({"vocab_size": 65_537}, "Input should be less than or equal to 65536"),
        ({"vocab_size": 258}, "Input should be greater than or equal to 259"),
        ({"num_layers": -1}, "Input should be greater than or equal to 1"),
        ({"min_lr": 1e-3}, "min_lr 0.001 is above lr 0.0006"),
        ({"epochs": 2, "max_steps": 10}, "give max_steps or epochs, not both"),
        ({"batch_size": 0}, "batch_size must lie in [1, 65536], got 0"),
    ],
)
def test_a_train_spec_that_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSpec.model_validate({"model": "demo", "tokens": TOKENS, **changes})
    assert any(message in error["msg"] for error in caught.value.errors())


def test_a_pipeline_refuses_a_reference_to_a_later_job() -> None:
    train = {"kind": "train", "spec": {"model": "m", "tokens": {"job": "tok", "output": "tokens"}}}
    tokenize = {"kind": "tokenize", "spec": {"dataset": TOKENS}}
    with pytest.raises(ValidationError, match="which does not come before it"):
        PipelineCreate.model_validate({"name": "p", "jobs": {"train": train, "tok": tokenize}})


def test_a_pipeline_refuses_an_output_that_the_job_does_not_have() -> None:
    train = {"kind": "train", "spec": {"model": "m", "tokens": {"job": "a", "output": "dataset"}}}
    tokenize = {"kind": "tokenize", "spec": {"dataset": TOKENS}}
    with pytest.raises(ValidationError, match="a tokenize job has no output 'dataset'"):
        PipelineCreate.model_validate({"name": "p", "jobs": {"a": tokenize, "b": train}})
