"""What is accepted, what is refused and where the refusal points."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from shared.base.errors import ConflictError, InvalidInputError, PlatformError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.names import FailureCode, JobKind, JobState
from shared.db.repositories.jobs import get_job, list_jobs
from shared.db.repositories.stream import read_events
from shared.db.session import Database
from shared.jobs.life import lifecycle, submission
from tests.support.rows import (
    INGEST,
    SHA_B,
    TINY_MODEL,
    add_ready_upload,
    add_tokens,
    base_model,
    claim_job,
    commit,
    dataset_meta,
    finish,
    job_request,
    running_training,
    submit,
    submit_all,
    train_document,
)


def refusal(session: Session, document: dict[str, Any]) -> tuple[type[PlatformError], str | None]:
    with pytest.raises(PlatformError) as submitted:
        submit(session, document)
    with pytest.raises(PlatformError) as validated:
        submission.validate_request(session, job_request(document))
    error = submitted.value
    assert str(validated.value) == str(error)
    return type(error), error.pointer


def tokenize(dataset: Any, **spec: Any) -> dict[str, Any]:
    return {"kind": "tokenize", "spec": {"dataset": dataset, **spec}}


def finetune(checkpoint: str, tokens: str, **spec: Any) -> dict[str, Any]:
    inputs = {"checkpoint": checkpoint, "tokens": tokens, "model": "chat"}
    return {"kind": "finetune", "spec": {**inputs, **spec}}


def test_a_job_without_inputs_is_queued(database: Database) -> None:
    with database.transaction() as session:
        row = submit(session, INGEST | {"name": "docs", "priority": 3})
        assert (row.state, row.kind, row.queue) == (JobState.QUEUED, JobKind.INGEST, "tokenizer")
        assert (row.name, row.priority, row.seq, row.code_version) == ("docs", 3, 1, "1.0")
        assert row.spec["max_document_chars"] == 20_000
        assert submit(session, INGEST).name == "ingest"
        event = read_events(session, row.id, after=0, limit=9)[0]
        assert (event.type, event.data) == ("state", {"state": "queued"})


def test_an_upload_must_be_ready(database: Database) -> None:
    with database.transaction() as session:
        ingest = {"kind": "ingest", "spec": {"source": "text", "upload": new_id(IdPrefix.UPLOAD)}}
        assert refusal(session, ingest) == (InvalidInputError, "/spec/upload")
        ingest["spec"]["upload"] = add_ready_upload(session, state="writing")
        assert refusal(session, ingest) == (ConflictError, "/spec/upload")
        ingest["spec"]["upload"] = add_ready_upload(session)
        assert submit(session, ingest).state is JobState.QUEUED


def test_a_dataset_still_being_written_is_a_conflict(database: Database) -> None:
    with database.transaction() as session:
        ingest = claim_job(session, submit(session, INGEST))
        assert refusal(session, tokenize(ingest.id)) == (ConflictError, "/spec/dataset")
        writing = add_ready_upload(session, state="writing")
        assert refusal(session, tokenize(writing)) == (ConflictError, "/spec/dataset")
        ready = add_ready_upload(session)
        assert refusal(session, tokenize(ready)) == (InvalidInputError, "/spec/dataset")


def test_an_input_must_be_of_its_type(database: Database) -> None:
    with database.transaction() as session:
        tokens = add_tokens(session)
        assert refusal(session, tokenize(tokens)) == (InvalidInputError, "/spec/dataset")
        missing = new_id(IdPrefix.DATASET)
        assert refusal(session, tokenize(missing)) == (InvalidInputError, "/spec/dataset")
        export = {"kind": "export", "spec": {"checkpoint": tokens}}
        assert refusal(session, export) == (InvalidInputError, "/spec/checkpoint")


def test_a_reference_needs_a_job_that_puts_that_out(database: Database) -> None:
    with database.transaction() as session:
        ingest = submit(session, INGEST)
        where = "/spec/dataset/output"
        reference = {"job": ingest.id, "output": "tokens"}
        assert refusal(session, tokenize(reference)) == (InvalidInputError, where)
        training = running_training(session)
        reference = {"job": training.id, "output": "dataset"}
        assert refusal(session, tokenize(reference)) == (InvalidInputError, where)
        reference = {"job": "nobody", "output": "dataset"}
        assert refusal(session, tokenize(reference)) == (InvalidInputError, "/spec/dataset")


def test_a_reference_to_a_job_waits_binds_or_is_refused(database: Database) -> None:
    with database.transaction() as session:
        ingest = submit(session, INGEST)
        reference = {"job": ingest.id, "output": "dataset"}
        child = submit(session, tokenize(reference))
        assert (child.state, child.resolved_inputs) == (JobState.WAITING, {})
        done = finish(session, ingest, dataset_meta())
        child = get_job(session, child.id)
        assert (child.state, child.resolved_inputs) == (JobState.QUEUED, done.outputs)
        late = submit(session, tokenize(reference))
        assert (late.state, late.resolved_inputs) == (JobState.QUEUED, done.outputs)
        failing = claim_job(session, submit(session, INGEST | {"fresh": True, "priority": 9}))
        lifecycle.fail(session, failing.id, 1, code=FailureCode.BAD_DATA, message="no")
        reference["job"] = failing.id
        assert refusal(session, tokenize(reference)) == (ConflictError, "/spec/dataset")


def test_the_validation_split_must_not_be_empty(database: Database) -> None:
    with database.transaction() as session:
        dataset = finish(session, submit(session, INGEST), dataset_meta()).outputs["dataset"]
        document = tokenize(dataset, validation_fraction=0)
        assert refusal(session, document) == (InvalidInputError, "/spec/validation_fraction")
        assert submit(session, tokenize(dataset, validation_fraction=0, validation_dataset=dataset))
        tokens = add_tokens(session, validation_tokens=0)
        assert refusal(session, train_document(tokens)) == (InvalidInputError, "/spec/tokens")


def test_both_datasets_of_a_token_set_have_one_format(database: Database) -> None:
    with database.transaction() as session:
        documents = finish(session, submit(session, INGEST), dataset_meta()).outputs["dataset"]
        other = submit(session, INGEST | {"fresh": True})
        dialogues = finish(session, other, dataset_meta(format="dialogues")).outputs["dataset"]
        document = tokenize(documents, validation_dataset=dialogues)
        assert refusal(session, document) == (InvalidInputError, "/spec/validation_dataset")


def test_training_takes_documents_that_fill_a_sequence(database: Database) -> None:
    with database.transaction() as session:
        dialogues = add_tokens(session, format="dialogues")
        assert refusal(session, train_document(dialogues)) == (InvalidInputError, "/spec/tokens")
        tokens = add_tokens(session)
        document = train_document(tokens, context_length=1000)
        assert refusal(session, document) == (InvalidInputError, "/spec/tokens")
        assert submit(session, train_document(tokens, context_length=999))
        document = train_document(tokens, vocab_size=299)
        assert refusal(session, document) == (InvalidInputError, "/spec/vocab_size")
        assert submit(session, train_document(tokens, vocab_size=300))


def test_finetuning_takes_dialogues_of_the_base_models_tokenizer(database: Database) -> None:
    with database.transaction() as session:
        base = base_model(session).outputs["checkpoint"]
        documents = add_tokens(session)
        assert refusal(session, finetune(base, documents)) == (InvalidInputError, "/spec/tokens")
        strange = add_tokens(session, format="dialogues", tokenizer_sha256=SHA_B)
        assert refusal(session, finetune(base, strange)) == (InvalidInputError, "/spec/tokens")
        dialogues = add_tokens(session, format="dialogues")
        assert submit(session, finetune(base, dialogues)).state is JobState.QUEUED
        document = finetune(base, dialogues, resume_from=base)
        assert refusal(session, document) == (InvalidInputError, "/spec/resume_from")


def test_a_resumed_checkpoint_must_fit_the_spec(database: Database) -> None:
    with database.transaction() as session:
        base = base_model(session)
        spec = {**base.spec, "resume_from": base.outputs["checkpoint"]}
        wider = {"kind": "train", "spec": {**spec, "d_ff": 65}}
        assert refusal(session, wider) == (InvalidInputError, "/spec/resume_from")
        shorter = {"kind": "train", "spec": {**spec, "max_steps": 9}}
        assert refusal(session, shorter) == (InvalidInputError, "/spec/max_steps")
        assert submit(session, {"kind": "train", "spec": {**spec, "max_steps": 10}})


def test_validating_estimates_and_writes_nothing(database: Database) -> None:
    with database.transaction() as session:
        tokens = add_tokens(session)
        before = len(list_jobs(session, limit=99))
        estimate = submission.validate_request(session, job_request(train_document(tokens)))
        assert estimate.num_parameters == 300 * 32 + 4 * 32 * 32 + 2 * 32 * 64 + 3 * 32
        assert estimate.tokens_per_step == 32 * 2 * 16
        assert estimate.outputs == ("checkpoint",)
        estimate = submission.validate_request(session, job_request(INGEST))
        assert (estimate.num_parameters, estimate.tokens_per_step) == (None, None)
        assert len(list_jobs(session, limit=99)) == before


def test_the_reference_preset_is_estimated_exactly(database: Database) -> None:
    with database.reading() as session:
        ingest = job_request(
            {
                "kind": "train",
                "spec": {
                    "tokens": {"job": "x", "output": "tokens"},
                    "model": "ryan-gpt",
                    "vocab_size": 16_000,
                },
            }
        )
        with pytest.raises(InvalidInputError):
            submission.validate_request(session, ingest)
    with database.transaction() as session:
        tokens = add_tokens(session, train=dict.fromkeys(
            ("shards", "documents", "tokens", "text_bytes", "learned_tokens"), 1000
        ))  # fmt: skip
        document = {
            "kind": "train",
            "spec": {"tokens": tokens, "model": "ryan-gpt", "vocab_size": 16_000},
        }
        estimate = submission.validate_request(session, job_request(document))
        assert (estimate.num_parameters, estimate.tokens_per_step) == (12_496_960, 32_768)


def test_a_pipeline_is_written_whole_or_not_at_all(database: Database) -> None:
    jobs = {
        "ingest": INGEST,
        "tokens": tokenize({"job": "ingest", "output": "dataset"}),
        "base": train_document({"job": "tokens", "output": "tokens"}),
    }
    with database.transaction() as session:
        rows = submit_all(session, jobs)
        assert [row.state for row in rows.values()] == ["queued", "waiting", "waiting"]
        assert [row.pipeline_position for row in rows.values()] == [0, 1, 2]
    jobs["export"] = {"kind": "export", "spec": {"checkpoint": new_id(IdPrefix.CHECKPOINT)}}
    with pytest.raises(InvalidInputError) as raised, database.transaction() as session:
        submit_all(session, jobs)
    assert raised.value.pointer == "/jobs/export/spec/checkpoint"
    with database.reading() as session:
        assert len(list_jobs(session, limit=99)) == 3


def test_retrying_goes_on_from_the_last_checkpoint(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        commit(session, job, 5)
        last = commit(session, job, 7)
        lifecycle.fail(session, job.id, job.token, code=FailureCode.DIVERGED, message="NaN")
        again = submission.retry(session, job.id)
        assert (again.state, again.retry_of) == (JobState.QUEUED, job.id)
        assert again.resolved_inputs == {**job.resolved_inputs, "resume_from": last.id}
        assert again.spec == {**job.spec, "resume_from": last.id}
        assert again.spec["d_model"] == TINY_MODEL["d_model"]


def test_retrying_a_pipelines_job_takes_its_place_and_its_parents_retry(
    database: Database,
) -> None:
    with database.transaction() as session:
        reference = {"job": "ingest", "output": "dataset"}
        rows = submit_all(session, {"ingest": INGEST, "tokens": tokenize(reference)})
        ingest = claim_job(session, rows["ingest"])
        lifecycle.fail(session, ingest.id, 1, code=FailureCode.BAD_DATA, message="no")
        cancelled = get_job(session, rows["tokens"].id)
        assert cancelled.error_code == "upstream_failed"
        with pytest.raises(ConflictError, match="is failed"):
            submission.retry(session, cancelled.id)
        new_ingest = submission.retry(session, ingest.id)
        new_tokens = submission.retry(session, cancelled.id)
        assert (new_tokens.state, new_tokens.pipeline_key) == (JobState.WAITING, "tokens")
        done = finish(session, new_ingest, dataset_meta())
        assert get_job(session, new_tokens.id).resolved_inputs == done.outputs
