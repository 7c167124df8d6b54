"""A database, a store and a data folder with jobs in them, for tests of what runs jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.base.clock import utc_now
from shared.base.ids import IdPrefix, new_id
from shared.base.settings import Settings
from shared.contracts.jobs import EvaluateJob, ExportJob, IngestJob, TrainJob
from shared.contracts.manifest import Manifest, SplitIndex, TokensMeta
from shared.contracts.names import ArtifactType, JobKind, Queue
from shared.contracts.views import EventType
from shared.db.repositories import artifacts, checkpoints, jobs, stream
from shared.db.session import Database
from shared.db.tables import ArtifactRow, Base, CheckpointRow, EventRow, JobRow
from shared.jobs.life.lifecycle import claim
from shared.jobs.life.requests import request_cancel
from shared.jobs.life.submission import submit_job
from shared.jobs.worker.cache import InputCache
from shared.jobs.worker.supervisor import Supervisor
from shared.jobs.worker.workshop import Place, Workshop
from shared.storage.base import ObjectStore
from shared.storage.folders import describe_folder, store_folder
from shared.storage.keys import output_prefix
from shared.storage.local import LocalStore
from tests.support.programs import TOKENIZER_SHA256, Script

PROGRAMS = dict.fromkeys(JobKind, "tests.support.programs")
LEASE_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class JobBench:
    """Everything that a supervisor needs, on SQLite and local folders."""

    settings: Settings
    database: Database
    store: ObjectStore
    changed: list[str] = field(default_factory=list)
    """Job ids of which a hint was given."""

    @classmethod
    def create(cls, data_dir: Path, *, time_factor: float = 0.1, **settings: Any) -> JobBench:
        """An empty platform below `data_dir`."""
        data_dir.mkdir(parents=True, exist_ok=True)
        made = Settings(data_dir=data_dir, time_factor=time_factor, **settings)
        database = Database(made.resolved_database_url)
        Base.metadata.create_all(database.engine)
        return cls(settings=made, database=database, store=LocalStore(data_dir / "objects"))

    def workshop(self, **changes: Any) -> Workshop:
        """What supervisors share."""
        parts: dict[str, Any] = {
            "settings": self.settings,
            "database": self.database,
            "store": self.store,
            "cache": InputCache(self.settings.data_dir / "cache", max_bytes=1 << 30),
            "changed": self.changed.append,
            "programs": PROGRAMS,
        }
        return Workshop(**parts | changes)

    def add_train_job(self, script: Script, **spec: Any) -> str:
        """Submit a train job that acts out the script; return its id."""
        document = {
            "kind": "train",
            "spec": {
                "tokens": self._tokens(),
                "model": "demo",
                "context_length": 16,
                "max_steps": script.steps,
                "sample_prompts": [script.text()],
                **spec,
            },
        }
        return self.submit(TrainJob.model_validate(document))

    def add_ingest_job(self, script: Script) -> str:
        """Submit an ingest job that acts out the script; return its id."""
        spec = {"source": "python_docs", "name": script.text()}
        document = {"kind": "ingest", "spec": spec, "fresh": True}
        return self.submit(IngestJob.model_validate(document))

    def add_export_job(self, checkpoint_id: str) -> str:
        """Submit an export of a checkpoint; return its id."""
        document = {"kind": "export", "spec": {"checkpoint": checkpoint_id}}
        return self.submit(ExportJob.model_validate(document))

    def add_evaluate_job(self, checkpoint_id: str) -> str:
        """Submit an evaluation of a checkpoint; return its id."""
        spec = {"checkpoint": checkpoint_id, "tokens": self._tokens()}
        return self.submit(EvaluateJob.model_validate({"kind": "evaluate", "spec": spec}))

    def submit(self, request: Any) -> str:
        """Submit a job of any kind; return its id."""
        with self.database.transaction() as session:
            return submit_job(session, request, code_version="test").id

    def _tokens(self) -> str:
        """A stored token set, made once."""
        with self.database.reading() as session:
            found = artifacts.list_artifacts(session, [ArtifactType.TOKENS], limit=1)
        if found:
            return found[0].id
        folder = self.settings.data_dir / "tokens-source"
        folder.mkdir()
        (folder / "train-00000.bin").write_bytes(bytes(2000))
        split = SplitIndex(
            shards=1, documents=10, tokens=1000, text_bytes=4000, learned_tokens=1000
        )
        meta = TokensMeta(
            format="documents",
            vocab_size=300,
            tokenizer_sha256=TOKENIZER_SHA256,
            train=split,
            validation=split,
        )
        return self.store_tokens(folder, meta)

    def store_tokens(self, folder: Path, meta: TokensMeta) -> str:
        """Store a token set that lies in a folder; return its id."""
        maker = self.add_ingest_job(Script())
        with self.database.transaction() as session:
            request_cancel(session, maker)  # it owns the row, and is never run
        manifest = Manifest(
            id=new_id(IdPrefix.DATASET),
            job_id=maker,
            token=1,
            created_at=utc_now(),
            files=describe_folder(folder),
            meta=meta,
        )
        prefix = output_prefix(maker, 1, ArtifactType.TOKENS)
        store_folder(self.store, prefix, folder, manifest)
        row = ArtifactRow(
            id=manifest.id,
            type=ArtifactType.TOKENS,
            name="tokens",
            job_id=maker,
            token=1,
            prefix=prefix,
            manifest=manifest.model_dump(mode="json"),
            bytes=manifest.total_bytes,
            created_at=utc_now(),
        )
        with self.database.transaction() as session:
            artifacts.add_artifacts(session, [row])
        return manifest.id

    def claim(self, queue: Queue = Queue.TRAINER_GPU) -> JobRow:
        """Claim the next job of a queue; there must be one."""
        with self.database.transaction() as session:
            row = claim(session, queue, worker_id="bench", lease_seconds=LEASE_SECONDS)
        assert row is not None, f"nothing to claim on {queue}"
        return row

    def supervise(
        self, queue: Queue = Queue.TRAINER_GPU, *, environment: Mapping[str, str] | None = None
    ) -> JobRow:
        """Claim the next job, see it through in this thread, and return its row afterwards."""
        job = self.claim(queue)
        place = Place(num_threads=1, environment=environment or {})
        Supervisor(self.workshop(), job, place).run()
        return self.row(job.id)

    def row(self, job_id: str) -> JobRow:
        """The job as it is now."""
        with self.database.reading() as session:
            return jobs.get_job(session, job_id)

    def checkpoints(self, job_id: str) -> Sequence[CheckpointRow]:
        """The job's checkpoints that are still there."""
        with self.database.reading() as session:
            return checkpoints.list_checkpoints(session, job_id)

    def events(self, job_id: str) -> Sequence[EventRow]:
        """The job's events, in order."""
        with self.database.reading() as session:
            return stream.read_events(session, job_id, after=0, limit=10_000)

    def states(self, job_id: str) -> list[str]:
        """The states the job has gone through, wishes left out."""
        return [
            event.data["state"]
            for event in self.events(job_id)
            if event.type is EventType.STATE and "desired" not in event.data
        ]

    def notices(self, job_id: str) -> list[str]:
        """The messages of the job's notices."""
        return [
            event.data["message"] for event in self.events(job_id) if event.type is EventType.NOTICE
        ]

    def training_losses(self, job_id: str) -> dict[int, float]:
        """The loss of each logged step."""
        with self.database.reading() as session:
            rows = stream.read_metrics(session, job_id, after=0, limit=10_000)
        return {row.step: row.values["loss"] for row in rows if row.series == "train"}

    def metric_steps(self, job_id: str) -> list[tuple[int, int]]:
        """Attempt and step of each training metric, in order."""
        with self.database.reading() as session:
            rows = stream.read_metrics(session, job_id, after=0, limit=10_000)
        return [(row.attempt, row.step) for row in rows]

    def log(self, job_id: str) -> list[str]:
        """The job's log."""
        with self.database.reading() as session:
            return [row.line for row in stream.read_logs(session, job_id, after=0, limit=10_000)]

    def stored_keys(self, job_id: str) -> list[str]:
        """Keys of the job's objects, without their common beginning."""
        prefix = f"jobs/{job_id}/"
        return [key.removeprefix(prefix) for key in self.store.list_keys(prefix)]

    def leftovers(self) -> list[str]:
        """What is left of run folders."""
        runs = self.settings.data_dir / "runs"
        return [str(path.relative_to(runs)) for path in sorted(runs.rglob("*"))]
