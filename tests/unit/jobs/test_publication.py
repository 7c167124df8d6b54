"""Which checkpoints are published, served, pinned and kept."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from shared.base.clock import utc_now
from shared.base.errors import ConflictError, NotFoundError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.names import FailureCode
from shared.db.repositories import checkpoints, models
from shared.db.repositories.jobs import get_job
from shared.db.repositories.stream import read_events
from shared.db.session import Database
from shared.db.tables import CheckpointRow, JobRow
from shared.jobs.life import lifecycle
from shared.jobs.life.publication import commit_checkpoint, pin, publish
from shared.jobs.life.retention import checkpoints_to_delete, retire_checkpoints
from shared.jobs.life.submission import retry
from tests.support.rows import (
    SHA_B,
    add_tokens,
    base_model,
    checkpoint_meta,
    claim_job,
    commit,
    manifest,
    running_training,
    submit,
)


def published_steps(session: Session, model: str) -> list[int]:
    """Steps of all versions in the order of publication."""
    return [row.step for _, row in reversed(models.list_versions(session, [model]))]


def running_finetune(session: Session, **spec: Any) -> JobRow:
    inputs = {
        "checkpoint": base_model(session, publish="never").outputs["checkpoint"],
        "tokens": add_tokens(session, format="dialogues"),
    }
    document = {"kind": "finetune", "spec": {"model": "demo", **inputs, **spec}}
    return claim_job(session, submit(session, document))


def commit_run(session: Session, job: JobRow) -> None:
    """Four checkpoints: the second is the best, the fourth the last."""
    for step, best, final in ((1, True, False), (2, True, False), (3, False, False)):
        commit(session, job, step, best=best, final=final)
    commit(session, job, 4, final=True)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest", [1, 2, 3, 4]),
        ("best", [1, 2]),
        ("final", [4]),
        ("never", []),
        (None, [1, 2, 3, 4]),
    ],
)
def test_the_first_training_of_a_model(
    database: Database, policy: str | None, expected: list[int]
) -> None:
    with database.transaction() as session:
        commit_run(session, running_training(session, publish=policy))
        assert published_steps(session, "demo") == expected
        if expected:
            row = models.get_model(session, "demo")
            assert (row.served_version, row.pointer_dirty) == (len(expected), True)


@pytest.mark.parametrize(
    ("policy", "expected"), [("latest", [1, 2, 3, 4]), ("final", [4]), (None, [1, 2])]
)
def test_the_first_finetuning_of_a_model(
    database: Database, policy: str | None, expected: list[int]
) -> None:
    with database.transaction() as session:
        commit_run(session, running_finetune(session, publish=policy))
        assert published_steps(session, "demo") == expected


def test_a_later_training_replaces_the_served_model_with_its_last_only(
    database: Database,
) -> None:
    with database.transaction() as session:
        base_model(session)
        job = running_training(session)
        for step in (1, 2):
            commit(session, job, step, best=True)
        assert models.get_model(session, "demo").served_version == 1
        commit(session, job, 3, final=True)
        assert published_steps(session, "demo") == [10, 3]
        assert models.get_model(session, "demo").served_version == 2


def test_a_later_finetuning_replaces_it_with_its_best_at_the_end(database: Database) -> None:
    with database.transaction() as session:
        base_model(session)
        job = running_finetune(session)
        commit(session, job, 1, best=True)
        commit(session, job, 2)
        assert published_steps(session, "demo") == [10]
        commit(session, job, 3, final=True)
        assert published_steps(session, "demo") == [10, 1]


def test_a_retry_of_the_first_run_is_the_first_run(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        commit(session, job, 1)
        lifecycle.fail(session, job.id, 1, code=FailureCode.DIVERGED, message="NaN")
        again = claim_job(session, retry(session, job.id))
        commit(session, again, 2)
        assert published_steps(session, "demo") == [1, 2]


def test_a_run_without_a_best_checkpoint_publishes_its_last(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session, publish="best")
        commit(session, job, 1)
        assert published_steps(session, "demo") == []
        commit(session, job, 2, final=True)
        assert published_steps(session, "demo") == [2]


def test_a_commit_writes_row_and_event(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        row = commit(session, job, 5, best=True, metrics={"validation_loss": 2.5})
        assert (row.step, row.best, row.final, row.token, row.attempt) == (5, True, False, 1, 1)
        assert (row.metrics, row.bytes, row.stage) == ({"validation_loss": 2.5}, 100, "pretrain")
        assert get_job(session, job.id).last_checkpoint_id == row.id
        event = read_events(session, job.id, after=job.seq - 1, limit=9)[-1]
        assert event.type == "checkpoint"
        assert event.data == {
            "checkpoint_id": row.id,
            "step": 5,
            "best": True,
            "final": False,
            "metrics": {"validation_loss": 2.5},
            "published": "demo:1",
        }


def test_committing_twice_is_committing_once(database: Database) -> None:
    """The answer to a commit can be lost on the way."""
    with database.transaction() as session:
        job = running_training(session)
        checkpoint_id = new_id(IdPrefix.CHECKPOINT)
        for _ in range(2):
            commit_checkpoint(
                session,
                job.id,
                1,
                checkpoint_id=checkpoint_id,
                prefix="p/",
                manifest=manifest(checkpoint_id, job, checkpoint_meta(1)),
                manifest_sha256=SHA_B,
                best=False,
            )
        assert len(checkpoints.list_checkpoints(session, job.id)) == 1
        assert published_steps(session, "demo") == [1]


def test_promotion_serves_an_old_version_again_or_makes_a_new_one(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        first, _ = commit(session, job, 1), commit(session, job, 2)
        row = publish(session, "demo", first.id)
        assert (row.served_version, published_steps(session, "demo")) == (1, [1, 2])
        row = publish(session, "other", first.id)
        assert (row.served_version, row.first_job_id) == (1, job.id)
        with pytest.raises(NotFoundError):
            publish(session, "demo", new_id(IdPrefix.CHECKPOINT))


def test_a_pin_stays_whatever_is_published(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        commit(session, job, 1)
        assert pin(session, "demo", 1).pinned_version == 1
        commit(session, job, 2)
        row = models.get_model(session, "demo")
        assert (row.pinned_version, row.served_version) == (1, 2)
        assert pin(session, "demo", None).pinned_version is None
        with pytest.raises(NotFoundError, match="no version 3"):
            pin(session, "demo", 3)
        with pytest.raises(NotFoundError, match="no model"):
            pin(session, "nobody", 1)


def row(name: str, *, best: bool = False, final: bool = False) -> CheckpointRow:
    return CheckpointRow(id=name, best=best, final=final)


def test_retention_keeps_last_best_final_and_needed() -> None:
    present = [row("a", best=True), row("b", best=True), row("c"), row("d", final=True)]
    present += [row(name) for name in "efgh"]

    def deleted(keep_last: int, *needed: str) -> str:
        found = checkpoints_to_delete(present, keep_last=keep_last, needed=needed)
        return "".join(item.id for item in found)

    assert deleted(1) == "acefg"
    assert deleted(3) == "ace"
    assert deleted(1, "a", "f") == "ceg"
    assert deleted(8) == ""
    assert checkpoints_to_delete([], keep_last=1, needed=()) == []


def test_retention_keeps_what_is_served_pinned_or_taken_in_by_another_job(
    database: Database,
) -> None:
    with database.transaction() as session:
        job = running_training(session, keep_checkpoints=1)
        ids = [commit(session, job, step).id for step in range(1, 9)]
        pin(session, "demo", 2)
        publish(session, "other", ids[3])
        submit(session, {"kind": "export", "spec": {"checkpoint": ids[4]}})
        retired = [found.id for found in retire_checkpoints(session, job.id)]
        assert retired == [ids[0], ids[2], ids[5]]  # the served one (8), the one before (7), ...
        left = [found.id for found in checkpoints.list_checkpoints(session, job.id)]
        assert left == [ids[1], ids[3], ids[4], ids[6], ids[7]]
        assert retire_checkpoints(session, job.id) == []
        with pytest.raises(NotFoundError, match="removed by retention"):
            checkpoints.get_checkpoint(session, ids[0])
        with pytest.raises(NotFoundError, match="removed by retention"):
            publish(session, "demo", ids[0])
        with pytest.raises(ConflictError, match="can no longer be served"):
            pin(session, "demo", 1)
        gone = checkpoints.find_checkpoint(session, ids[0])
        assert gone is not None
        assert gone.deleted_at is not None
        assert (utc_now() - gone.deleted_at).total_seconds() < 60
