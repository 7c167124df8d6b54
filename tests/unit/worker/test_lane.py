"""Slots of one worker: dealt out whole, given back, and waited for by whoever needs several."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

from shared.base.errors import InvalidInputError
from shared.base.settings import Settings
from shared.contracts.names import JobKind, JobState, Queue
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life.capacity import check_slots
from shared.jobs.life.lifecycle import claim
from shared.jobs.life.presence import free_slots, worker_heartbeat
from shared.jobs.worker.lane import Lane
from tests.support import rows
from tests.support.databases import create_sqlite
from tests.support.training import tiny_spec


def needing(count: int) -> Callable[[int], JobRow | None]:
    return lambda free: JobRow(num_slots=count) if count <= free else None


def test_a_job_takes_its_slots_and_gives_them_back() -> None:
    lane = Lane(Settings(num_threads=8), Queue.TRAINER_GPU, 4)
    rung: list[str] = []
    lane.ring_when_free(lambda: rung.append("ring"))
    first = lane.claim(needing(3))
    assert first is not None
    assert first[1] == (0, 1, 2)
    place = lane.place(first[1])
    assert place.environment["CUDA_VISIBLE_DEVICES"] == "0,1,2"
    assert (place.num_threads, place.processes) == (6, 3)
    assert lane.claim(needing(2)) is None
    with lane.occupied(first[1]):
        last = lane.claim(needing(1))
        assert last is not None
        assert last[1] == (3,)
        assert lane.claim(needing(1)) is None
    assert rung == ["ring"]
    again = lane.claim(needing(2))
    assert again is not None
    assert again[1] == (0, 1)


def test_a_worker_of_one_slot_hides_no_device() -> None:
    settings = Settings(num_threads=2, compile_cache="/kernels")
    place = Lane(settings, Queue.TRAINER_GPU, 1).place((0,))
    assert place.environment == {"TORCHINDUCTOR_CACHE_DIR": "/kernels"}
    assert (place.num_threads, place.processes) == (2, 1)


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database(f"sqlite:///{create_sqlite(tmp_path_factory.mktemp('lane') / 'lane.db')}")


def test_a_large_job_is_not_overtaken_where_it_fits_at_all(database: Database) -> None:
    with database.transaction() as session:
        large = rows.running_training(session)
        small = rows.running_training(session)
        session.execute(update(JobRow).values(state=JobState.QUEUED, priority=0))
        session.execute(update(JobRow).where(JobRow.id == large.id).values(num_slots=2, priority=5))
        want = {"worker_id": "w", "lease_seconds": 60.0}
        queue = Queue.TRAINER_GPU
        assert claim(session, queue, **want, free_slots=1, all_slots=2) is None
        taken = claim(session, queue, **want, free_slots=1, all_slots=1)
        assert taken is not None
        assert taken.id == small.id, "a worker that can never run the large one goes on"
        taken = claim(session, queue, **want, free_slots=2, all_slots=2)
        assert taken is not None
        assert taken.id == large.id
        worker_heartbeat(session, "w", slots={queue: 4}, running=[large.id, small.id])
        now = taken.started_at
        assert now is not None
        assert free_slots(session, now, lease_seconds=60)[queue] == 1


def test_gpus_that_no_worker_has_are_refused_at_submission(database: Database) -> None:
    spec = tiny_spec(num_gpus=4)
    with database.transaction() as session:
        check_slots(session, JobKind.TRAIN, spec, pointer="/spec")  # nobody is there yet
        worker_heartbeat(session, "a", slots={Queue.TRAINER_GPU: 2}, running=[])
        worker_heartbeat(session, "b", slots={Queue.TOKENIZER: 8}, running=[])
        with pytest.raises(InvalidInputError, match=r"asks for 4 GPUs; .* offers 2") as caught:
            check_slots(session, JobKind.TRAIN, spec, pointer="/spec")
        assert caught.value.pointer == "/spec/num_gpus"
        check_slots(session, JobKind.TRAIN, tiny_spec(num_gpus=2), pointer="/spec")


def test_a_step_must_deal_out_evenly() -> None:
    with pytest.raises(ValueError, match="8 sequences a step cannot be dealt out evenly to 3"):
        tiny_spec(num_gpus=3)
