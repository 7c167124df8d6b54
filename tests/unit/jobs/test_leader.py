"""One leader at a time; what it sends, reaps, writes and forgets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy.orm import Session

from shared.base.clock import utc_now
from shared.base.errors import UnavailableError
from shared.base.settings import Settings
from shared.contracts.names import HintChannel, JobState, Queue
from shared.contracts.serving import MODELS_INDEX_KEY, ModelPointer, ModelsIndex, pointer_key
from shared.db.repositories import models, workers
from shared.db.repositories.idempotency import keep_answer, take_key
from shared.db.repositories.jobs import get_job
from shared.db.session import Database
from shared.db.tables import WorkerRow
from shared.jobs.leader import leadership
from shared.jobs.leader.dispatch import note_wakes, plan_wakes
from shared.jobs.leader.leadership import Leadership
from shared.jobs.leader.loop import LeaderLoop
from shared.jobs.leader.pointers import write_dirty_pointers
from shared.jobs.life.lifecycle import claim
from shared.jobs.life.presence import worker_gone, worker_heartbeat
from shared.jobs.life.publication import pin, publish
from shared.storage.local import LocalStore
from tests.support.rows import INGEST, SHA_B, claim_next, commit, running_training, submit
from tests.support.waiting import wait_until

FACTOR = 0.04
"""A lease of 1.8 s, a dispatch every 40 ms."""


class Clock:
    """The database's clock, set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.passed = 0.0

    def __call__(self, session: Session) -> datetime:
        del session
        return self.now

    def elapsed(self) -> float:
        return self.passed

    def advance(self, seconds: float) -> None:
        self.passed += seconds
        self.set_by(seconds)

    def set_by(self, seconds: float) -> None:
        """Somebody sets it; no time passes."""
        self.now += timedelta(seconds=seconds)

    def candidate(self, name: str) -> Leadership:
        return Leadership(name, lease_seconds=15, elapsed=self.elapsed)


class Bell:
    """Keeps the wake-ups it is given; out of order on demand."""

    def __init__(self) -> None:
        self.sent: list[tuple[Queue, str]] = []
        self.broken = False
        self.answers = Event()
        self.answers.set()

    def send(self, queue: Queue, job_id: str) -> None:
        if self.broken:
            raise UnavailableError("Redis cannot be reached.", code="redis")
        self.answers.wait()
        self.sent.append((queue, job_id))


class Hints:
    """Keeps the hints it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[HintChannel, str]] = []

    def publish(self, channel: HintChannel, payload: str) -> None:
        self.sent.append((channel, payload))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leadership, "database_now", clock)
    return clock


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def leader(database: Database, store: LocalStore, bell: Bell) -> Iterator[LeaderLoop]:
    settings = Settings(time_factor=FACTOR)
    loop = LeaderLoop(database, store, bell, settings, hints=Hints())  # type: ignore[arg-type] # a bell is all it rings
    yield loop
    loop.stop()


def hold(database: Database, candidate: Leadership) -> bool:
    with database.transaction() as session:
        return candidate.hold(session)


def planned(database: Database) -> list[str]:
    with database.reading() as session:
        return [wake.job_id for wake in plan_wakes(session, lease_seconds=45, resend_seconds=60)]


def test_one_candidate_leads_until_its_lease_ends(database: Database, clock: Clock) -> None:
    one, two = map(clock.candidate, ("one", "two"))
    assert hold(database, one)
    assert not hold(database, two)
    clock.advance(14)
    assert hold(database, one)
    clock.advance(14)
    assert not hold(database, two)
    clock.advance(1)
    assert hold(database, two)
    assert not hold(database, one)
    assert (one.held, two.held) == (False, True)


def test_a_released_lead_is_free_at_once(database: Database, clock: Clock) -> None:
    one, two = map(clock.candidate, ("one", "two"))
    assert hold(database, one)
    with database.transaction() as session:
        one.release(session)
    assert not one.held
    assert hold(database, two)


def test_only_unbroken_leadership_counts(database: Database, clock: Clock) -> None:
    leader = clock.candidate("one")
    assert leader.unbroken_seconds() == 0
    for _ in range(10):
        assert hold(database, leader)
        clock.advance(5)
    assert leader.unbroken_seconds() == 45
    clock.advance(3600)  # the laptop slept
    assert hold(database, leader)
    assert leader.unbroken_seconds() == 0
    clock.advance(10)
    assert hold(database, leader)
    assert leader.unbroken_seconds() == 10
    leader.interrupt()  # the database was away
    assert hold(database, leader)
    assert leader.unbroken_seconds() == 0


@pytest.mark.parametrize("step", [-3600, 3600, -5, 5])
def test_a_clock_that_is_set_starts_the_count_anew(
    database: Database, clock: Clock, step: float
) -> None:
    leader = clock.candidate("one")
    for _ in range(3):
        assert hold(database, leader)
        clock.advance(5)
    clock.set_by(step)
    assert hold(database, leader)
    assert leader.unbroken_seconds() == 0
    clock.advance(5)
    assert hold(database, leader)
    assert leader.unbroken_seconds() == 5


def test_a_clock_set_back_keeps_no_dead_leader_in_office(database: Database, clock: Clock) -> None:
    dead, heir = map(clock.candidate, ("dead", "heir"))
    assert hold(database, dead)
    clock.set_by(-20)
    assert hold(database, heir)
    assert not hold(database, dead)


def test_wake_ups_are_bounded_by_the_free_slots(database: Database) -> None:
    with database.transaction() as session:
        ids = [submit(session, INGEST | {"fresh": True}).id for _ in range(6)]
        urgent = submit(session, INGEST | {"priority": 9}).id
    assert planned(database) == []  # nobody is there
    with database.transaction() as session:
        worker_heartbeat(session, "w", slots={Queue.TOKENIZER: 2}, running=[])
    assert planned(database) == [urgent, *ids[:3]]
    with database.transaction() as session:
        wakes = plan_wakes(session, lease_seconds=45, resend_seconds=60)
        note_wakes(session, wakes)
    assert planned(database) == []
    with database.transaction() as session:
        assert claim_next(session).id == urgent
    assert planned(database) == []  # one slot left, three wake-ups under way
    with database.transaction() as session:
        note_wakes(session, wakes)
        claim_next(session)
    assert planned(database) == []  # no slot left
    with database.transaction() as session:
        worker_gone(session, "w")
    assert planned(database) == []


def test_a_lost_wake_up_is_repeated(database: Database) -> None:
    with database.transaction() as session:
        job_id = submit(session, INGEST).id
        worker_heartbeat(session, "w", slots={Queue.TOKENIZER: 1}, running=[])
        note_wakes(session, plan_wakes(session, lease_seconds=45, resend_seconds=60))
        assert plan_wakes(session, lease_seconds=45, resend_seconds=60) == []
        again = plan_wakes(session, lease_seconds=45, resend_seconds=0)
        assert [wake.job_id for wake in again] == [job_id]


def test_a_silent_worker_has_no_slots(database: Database) -> None:
    with database.transaction() as session:
        submit(session, INGEST)
        row = WorkerRow(
            id="w",
            slots={"tokenizer": 2},
            running=[],
            heartbeat_at=utc_now() - timedelta(seconds=46),
        )
        workers.save_worker(session, row)
    assert planned(database) == []


def test_the_leader_sends_reaps_and_survives_an_outage_of_redis(
    database: Database, leader: LeaderLoop, bell: Bell
) -> None:
    bell.broken = True
    with database.transaction() as session:
        waiting = submit(session, INGEST | {"fresh": True}).id
        lost = submit(session, INGEST | {"fresh": True, "priority": 9}).id
        claimed = claim(session, Queue.TOKENIZER, worker_id="lost", lease_seconds=0.1)
        assert claimed is not None
        assert claimed.id == lost
    leader.start()

    def state_of(job_id: str) -> JobState:
        with database.transaction() as session:
            worker_heartbeat(session, "w", slots={Queue.TOKENIZER: 4}, running=[])
        with database.reading() as session:
            return get_job(session, job_id).state

    wait_until(lambda: state_of(lost) is JobState.QUEUED, "the lost job is reaped")
    assert leader.leading
    assert bell.sent == []
    bell.broken = False
    expected = {(Queue.TOKENIZER, waiting), (Queue.TOKENIZER, lost)}
    wait_until(lambda: state_of(lost) and set(bell.sent) == expected, "both are sent for")


def test_servers_that_are_silent_keep_no_dead_worker_alive(
    database: Database,
    leader: LeaderLoop,
    bell: Bell,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bell.answers.clear()
    asked = Event()

    def silent(*_arguments: object) -> bytes:
        asked.set()
        bell.answers.wait()
        return b""

    monkeypatch.setattr(store, "get_bytes", silent)
    with database.transaction() as session:
        commit(session, running_training(session), 1)  # a pointer is to be written
        submit(session, INGEST | {"fresh": True})
        lost = submit(session, INGEST | {"fresh": True, "priority": 9}).id
        worker_heartbeat(session, "w", slots={Queue.TOKENIZER: 4}, running=[])
        assert claim(session, Queue.TOKENIZER, worker_id="lost", lease_seconds=0.1) is not None
    leader.start()
    try:
        wait_until(asked.is_set, "the store is asked")

        def state() -> JobState:
            with database.reading() as session:
                return get_job(session, lost).state

        wait_until(lambda: state() is JobState.QUEUED, "the lost job is reaped")
        assert bell.sent == []
    finally:
        bell.answers.set()


def test_a_database_outage_is_survived_and_counts_as_a_break(
    database: Database, leader: LeaderLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader.start()
    wait_until(lambda: leader._leadership.unbroken_seconds() > 0.1, "it leads for a while")

    def unreachable(*_arguments: object) -> bool:
        raise UnavailableError("The database cannot be reached.", code="database")

    with monkeypatch.context() as outage:
        outage.setattr(leader._leadership, "hold", unreachable)
        wait_until(lambda: leader._leadership.unbroken_seconds() == 0, "the count is anew")
    wait_until(lambda: leader._leadership.unbroken_seconds() > 0, "it leads again")


def test_the_leader_forgets_old_answers_and_workers(database: Database, leader: LeaderLoop) -> None:
    with database.transaction() as session:
        for key, hours in (("old", 49), ("young", 47)):
            moment = utc_now() - timedelta(hours=hours)
            row = take_key(session, key, request_sha256="0" * 64, now=moment)
            keep_answer(session, row, status=201, location="/", response={})
        for name, hours in (("gone", 25), ("silent", 23)):
            moment = utc_now() - timedelta(hours=hours)
            workers.save_worker(
                session, WorkerRow(id=name, slots={}, running=[], heartbeat_at=moment)
            )
    leader.sweep_once()
    with database.transaction() as session:
        assert [row.id for row in workers.list_workers(session)] == ["silent"]
        now = utc_now()
        assert take_key(session, "young", request_sha256="1" * 64, now=now).status == 201
        assert take_key(session, "old", request_sha256="1" * 64, now=now).status == 0


def pointer(store: LocalStore, model: str) -> ModelPointer:
    return ModelPointer.model_validate_json(store.get_bytes(pointer_key(model)))


def test_pointers_follow_rows(database: Database, store: LocalStore) -> None:
    hints = Hints()
    with database.transaction() as session:
        job = running_training(session)
        first, second = commit(session, job, 1), commit(session, job, 2)
    assert write_dirty_pointers(database, store, hints) == ["demo"]
    written = pointer(store, "demo")
    assert (written.version, written.seq, written.checkpoint_id) == (2, 1, second.id)
    assert written.manifest_key == f"{second.prefix}manifest.json"
    assert (written.manifest_sha256, written.stage, written.pinned) == (SHA_B, "pretrain", False)
    assert hints.sent == [(HintChannel.MODELS, '{"model": "demo", "seq": 1}')]
    assert write_dirty_pointers(database, store, hints) == []
    with database.transaction() as session:
        pin(session, "demo", 1)
        publish(session, "a-second", second.id)
    assert write_dirty_pointers(database, store, hints) == ["a-second", "demo"]
    written = pointer(store, "demo")
    assert (written.version, written.seq, written.pinned) == (1, 2, True)
    assert written.checkpoint_id == first.id
    index = ModelsIndex.model_validate_json(store.get_bytes(MODELS_INDEX_KEY))
    assert (index.seq, index.models) == (2, (written, pointer(store, "a-second")))


def test_a_pointer_never_goes_back_in_number(database: Database, store: LocalStore) -> None:
    """An older database beside a newer store, or a broken object."""
    with database.transaction() as session:
        commit(session, running_training(session), 1)
    write_dirty_pointers(database, store, Hints())
    ahead = pointer(store, "demo").model_copy(update={"seq": 41})
    store.put_bytes(pointer_key("demo"), ahead.model_dump_json().encode())
    with database.transaction() as session:
        pin(session, "demo", 1)
    write_dirty_pointers(database, store, Hints())
    assert pointer(store, "demo").seq == 42
    store.put_bytes(pointer_key("demo"), b"not json")
    with database.transaction() as session:
        pin(session, "demo", None)
    write_dirty_pointers(database, store, Hints())
    assert pointer(store, "demo").seq == 43


def test_a_choice_that_changes_while_its_pointer_is_written_is_written_again(
    database: Database, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.transaction() as session:
        job = running_training(session)
        commit(session, job, 1)
    put_bytes = store.put_bytes

    def publish_meanwhile(key: str, content: bytes) -> None:
        put_bytes(key, content)
        if key == MODELS_INDEX_KEY:
            monkeypatch.setattr(store, "put_bytes", put_bytes)
            with database.transaction() as session:
                commit(session, job, 2)

    monkeypatch.setattr(store, "put_bytes", publish_meanwhile)
    assert write_dirty_pointers(database, store, Hints()) == ["demo"]
    assert pointer(store, "demo").version == 1
    with database.reading() as session:
        assert models.get_model(session, "demo").pointer_dirty
    assert write_dirty_pointers(database, store, Hints()) == ["demo"]
    assert (pointer(store, "demo").version, pointer(store, "demo").seq) == (2, 2)
