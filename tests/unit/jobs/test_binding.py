"""What the end of one job does to those that wait for it, and what is reused."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from shared.contracts.names import FailureCode, JobState
from shared.db.repositories.jobs import get_job
from shared.db.repositories.stream import read_events
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life import binding, lifecycle, requests
from tests.support.rows import (
    INGEST,
    SHA_A,
    SHA_B,
    add_ready_upload,
    base_model,
    claim_job,
    commit,
    dataset_meta,
    export_meta,
    finish,
    submit,
    submit_all,
    tokenizer_meta,
    tokens_meta,
    train_document,
)

QA: dict[str, Any] = {"kind": "ingest", "spec": {"source": "python_qa"}}


def whole_recipe() -> dict[str, Any]:
    tokenizer = {"job": "tokens", "output": "tokenizer"}
    qa_spec = {"dataset": {"job": "qa", "output": "dataset"}, "tokenizer": tokenizer}
    return {
        "docs": INGEST,
        "qa": QA,
        "tokens": {"kind": "tokenize", "spec": {"dataset": {"job": "docs", "output": "dataset"}}},
        "qa-tokens": {"kind": "tokenize", "spec": qa_spec},
        "base": train_document({"job": "tokens", "output": "tokens"}, model="base"),
        "chat": {
            "kind": "finetune",
            "spec": {
                "checkpoint": {"job": "base", "output": "checkpoint"},
                "tokens": {"job": "qa-tokens", "output": "tokens"},
                "model": "chat",
            },
        },
        "export": {
            "kind": "export",
            "spec": {"checkpoint": {"job": "chat", "output": "checkpoint"}},
        },
    }


def states(session: Session, rows: dict[str, JobRow]) -> dict[str, str]:
    return {key: str(get_job(session, row.id).state) for key, row in rows.items()}


def run_data_jobs(session: Session, rows: dict[str, JobRow], **qa_tokens: Any) -> None:
    finish(session, rows["docs"], dataset_meta())
    finish(session, rows["qa"], dataset_meta(format="dialogues"))
    finish(session, rows["tokens"], tokenizer_meta(), tokens_meta())
    meta = tokens_meta(format="dialogues", **qa_tokens)
    finish(session, rows["qa-tokens"], tokenizer_meta(), meta)


def test_a_recipe_runs_from_text_to_export(database: Database) -> None:
    with database.transaction() as session:
        rows = submit_all(session, whole_recipe())
        run_data_jobs(session, rows)
        assert states(session, rows)["base"] == "queued"
        base = claim_job(session, rows["base"])
        commit(session, base, 5)
        final = commit(session, base, 10, final=True)
        lifecycle.succeed(session, base.id, base.token)
        chat = claim_job(session, rows["chat"])
        assert chat.resolved_inputs["checkpoint"] == final.id
        best = commit(session, chat, 3, best=True, stage="finetune")
        commit(session, chat, 6, final=True, stage="finetune")
        lifecycle.succeed(session, chat.id, chat.token)
        export = get_job(session, rows["export"].id)
        assert export.resolved_inputs == {"checkpoint": best.id}
        done = finish(session, export, export_meta(best.id))
        assert done.outputs == {"export": export.id}
        assert set(states(session, rows).values()) == {"succeeded"}


def test_a_second_run_reuses_data_jobs_and_trains_anew(database: Database) -> None:
    with database.transaction() as session:
        first = submit_all(session, whole_recipe())
        run_data_jobs(session, first)
        second = submit_all(session, whole_recipe())
        assert states(session, second) == {
            "docs": "succeeded",
            "qa": "succeeded",
            "tokens": "succeeded",
            "qa-tokens": "succeeded",
            "base": "queued",
            "chat": "waiting",
            "export": "waiting",
        }
        for key in ("docs", "qa", "tokens", "qa-tokens"):
            original, reused = get_job(session, first[key].id), second[key]
            assert (reused.reused_job_id, reused.outputs) == (original.id, original.outputs)
            assert (reused.attempt, reused.started_at) == (0, None)
        event = read_events(session, second["docs"].id, after=1, limit=9)[0]
        assert event.data == {
            "state": "succeeded",
            "outputs": second["docs"].outputs,
            "reused_job_id": first["docs"].id,
        }
        third = submit_all(session, whole_recipe())
        assert third["docs"].reused_job_id == first["docs"].id


def test_fresh_jobs_other_specs_and_other_code_are_not_reused(database: Database) -> None:
    with database.transaction() as session:
        finish(session, submit(session, INGEST), dataset_meta())
        assert submit(session, INGEST).state is JobState.SUCCEEDED
        assert submit(session, INGEST | {"fresh": True}).state is JobState.QUEUED
        assert submit(session, INGEST, code_version="2.0").state is JobState.QUEUED
        other = {"kind": "ingest", "spec": {"source": "python_docs", "min_chars": 2}}
        assert submit(session, other).state is JobState.QUEUED


def test_a_file_sent_twice_is_the_same_input(database: Database) -> None:
    with database.transaction() as session:

        def ingest(sha256: str) -> JobRow:
            upload = add_ready_upload(session, sha256=sha256)
            spec = {"source": "text", "upload": upload}
            return submit(session, {"kind": "ingest", "spec": spec})

        finish(session, ingest(SHA_A), dataset_meta())
        assert ingest(SHA_A).state is JobState.SUCCEEDED
        assert ingest(SHA_B).state is JobState.QUEUED


def test_a_child_is_reused_when_its_input_turns_out_to_be_known(database: Database) -> None:
    with database.transaction() as session:
        reference = {"job": "docs", "output": "dataset"}
        jobs = {"docs": INGEST, "tokens": {"kind": "tokenize", "spec": {"dataset": reference}}}
        one, two = submit_all(session, jobs), submit_all(session, jobs)
        finish(session, one["docs"], dataset_meta())
        finish(session, one["tokens"], tokenizer_meta(), tokens_meta())
        requests.request_pause(session, two["docs"].id)
        resumed = requests.request_resume(session, two["docs"].id)
        assert (resumed.state, resumed.reused_job_id) == (JobState.SUCCEEDED, one["docs"].id)
        child = get_job(session, two["tokens"].id)
        assert (child.state, child.reused_job_id) == (JobState.SUCCEEDED, one["tokens"].id)


def test_training_is_never_reused(database: Database) -> None:
    with database.transaction() as session:
        base = base_model(session)
        again = submit(session, {"kind": "train", "spec": base.spec})
        assert (again.state, again.reuse_key) == (JobState.QUEUED, None)


def test_a_failure_cancels_everything_below_it(database: Database) -> None:
    with database.transaction() as session:
        rows = submit_all(session, whole_recipe())
        docs = claim_job(session, rows["docs"])
        lifecycle.fail(session, docs.id, 1, code=FailureCode.BAD_DATA, message="Nothing in it.")
        assert states(session, rows) == {
            "docs": "failed",
            "qa": "queued",
            "tokens": "cancelled",
            "qa-tokens": "cancelled",
            "base": "cancelled",
            "chat": "cancelled",
            "export": "cancelled",
        }
        for key in ("tokens", "qa-tokens", "base", "chat", "export"):
            row = get_job(session, rows[key].id)
            assert (row.error_code, row.desired) == ("upstream_failed", "cancel")
            assert row.finished_at is not None
        assert get_job(session, rows["tokens"].id).error_message == (
            f"Job {docs.id} (ingest), whose dataset is needed, is failed."
        )


def test_cancelling_a_queued_job_cancels_what_waits_for_it(database: Database) -> None:
    with database.transaction() as session:
        rows = submit_all(session, whole_recipe())
        requests.request_cancel(session, rows["qa"].id)
        cancelled = {key for key, state in states(session, rows).items() if state == "cancelled"}
        assert cancelled == {"qa", "qa-tokens", "chat", "export"}


def test_inputs_that_do_not_fit_when_bound_fail_the_job(database: Database) -> None:
    with database.transaction() as session:
        rows = submit_all(session, whole_recipe())
        run_data_jobs(session, rows, tokenizer_sha256=SHA_B)
        base = claim_job(session, rows["base"])
        commit(session, base, 10, final=True)
        lifecycle.succeed(session, base.id, base.token)
        chat = get_job(session, rows["chat"].id)
        assert (chat.state, chat.error_code) == (JobState.FAILED, "bad_spec")
        assert chat.error_message == (
            "The tokens were made with another tokenizer (bbbbbbbbbbbb) than the base model "
            "(aaaaaaaaaaaa). (/spec/tokens)"
        )
        assert get_job(session, rows["export"].id).error_code == "upstream_failed"


def test_a_paused_child_is_bound_but_does_not_start(database: Database) -> None:
    with database.transaction() as session:
        reference = {"job": "docs", "output": "dataset"}
        jobs = {"docs": INGEST, "tokens": {"kind": "tokenize", "spec": {"dataset": reference}}}
        rows = submit_all(session, jobs)
        child_id = rows["tokens"].id
        assert requests.request_pause(session, child_id).state is JobState.PAUSED
        assert requests.request_resume(session, child_id).state is JobState.WAITING
        requests.request_pause(session, child_id)
        done = finish(session, rows["docs"], dataset_meta())
        child = get_job(session, child_id)
        assert (child.state, child.resolved_inputs) == (JobState.PAUSED, done.outputs)
        assert requests.request_resume(session, child_id).state is JobState.QUEUED


def test_documentation_of_another_python_is_another_input(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.transaction() as session:
        spec = {"source": "text", "upload": add_ready_upload(session)}
        upload_job = {"kind": "ingest", "spec": spec}
        for document in (INGEST, upload_job):
            finish(session, submit(session, document), dataset_meta())
        monkeypatch.setattr(binding.platform, "python_version", lambda: "3.12.99")
        states = [submit(session, document).state for document in (INGEST, upload_job)]
        assert states == [JobState.QUEUED, JobState.SUCCEEDED]
