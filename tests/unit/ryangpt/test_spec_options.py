"""Flags come from the specs: nothing to keep in step by hand."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ryangpt.cli import app
from ryangpt.spec_options import build_job, option_parameters
from shared.base.errors import InvalidInputError
from shared.contracts.jobs import SPEC_OF_KIND, TrainJob
from shared.contracts.names import ArtifactType, JobKind
from shared.contracts.specs import JobOutput

JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"
TOKENS = "ds_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize("kind", list(JobKind))
def test_every_field_of_every_spec_is_a_flag(kind: JobKind) -> None:
    names = [parameter.name for parameter in option_parameters(SPEC_OF_KIND[kind])]
    assert names == list(SPEC_OF_KIND[kind].model_fields)


def test_help_shows_the_docstring_and_default_of_a_field() -> None:
    text = CliRunner().invoke(app, ["tokenize", "--help"], env={"COLUMNS": "200"}).output
    assert "--vocab_size" in text
    assert "Size of a tokenizer that is learned, specials included. [default: (16000)]" in text


def test_only_given_values_are_sent() -> None:
    job = build_job(JobKind.TRAIN, {"model": "m", "tokens": TOKENS, "lr": "3e-4", "min_lr": None})
    assert isinstance(job, TrainJob)
    assert job.model_dump(mode="json", exclude_unset=True) == {
        "kind": "train",
        "spec": {"model": "m", "tokens": TOKENS, "lr": 0.0003},
    }


def test_a_jobs_id_means_its_output() -> None:
    job = build_job(JobKind.TRAIN, {"model": "m", "tokens": JOB, "max_steps": "auto"})
    assert isinstance(job, TrainJob)
    assert job.spec.tokens == JobOutput(job=JOB, output=ArtifactType.TOKENS)
    assert job.spec.max_steps == "auto"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 7}, "d_model 320 is not a multiple of num_heads 7."),
        ({"tokens": "zzz"}, "--tokens: 'zzz' is neither an id of tokens nor the id of a job that "
         "makes it."),
        ({"batch_size": "many"}, "--batch_size: Input should be a valid integer, unable to parse "
         "string as an integer (given: many)."),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_line_that_names_it(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        build_job(JobKind.TRAIN, {"model": "m", "tokens": TOKENS, **values})
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "--model", "m", "--tokens", "x"],
         "Error: --tokens: 'x' is neither an id of tokens nor the id of a job that makes it."),
        (["nonsense"], "Error: No such command 'nonsense'. Try `ryangpt --help`."),
        (["train"], "Error: Missing option '--model'. Try `ryangpt train --help`."),
        (["jobs", "--url", "http://127.0.0.1:9"],
         "Error: http://127.0.0.1:9 cannot be reached: [Errno 111] Connection refused. Is `ryangpt "
         "up` running? Another address: --url or RYANGPT_URL."),
        (["run", "nonsense"], "Error: There is no recipe 'nonsense'. There are: quickstart, "
         "ryan-gpt, ryan-gpt-fast, ryan-gpt-upstream; or give the path of a YAML file."),
    ],
)  # fmt: skip
def test_errors_are_one_readable_line(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(app, arguments, prog_name="ryangpt")
    assert result.exit_code in (1, 2)
    assert result.stderr.splitlines() == [line]
    assert result.stdout == ""
