"""Jobs, artifacts and checkpoints as tests need them, made by the code that makes real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from shared.base.clock import utc_now
from shared.base.ids import IdPrefix, new_id
from shared.contracts.jobs import JobCreate, PipelineCreate
from shared.contracts.manifest import (
    ArtifactMeta,
    CheckpointMeta,
    DatasetMeta,
    ExportMeta,
    FileEntry,
    Manifest,
    SplitIndex,
    TokenizerMeta,
    TokensMeta,
)
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import (
    QUEUE_OF_KIND,
    ArtifactType,
    Desired,
    FileRole,
    JobKind,
    JobState,
    Queue,
)
from shared.db.repositories.artifacts import add_upload
from shared.db.repositories.pipelines import jobs_of_pipelines
from shared.db.session import Database
from shared.db.tables import CheckpointRow, JobRow, UploadRow
from shared.jobs.life.lifecycle import claim, succeed
from shared.jobs.life.outputs import FinishedOutput
from shared.jobs.life.publication import commit_checkpoint
from shared.jobs.life.submission import submit_job, submit_pipeline

LEASE = 45.0
CODE = "1.0"
SHA_A = "a" * 64
SHA_B = "b" * 64
TINY_MODEL = {"num_layers": 1, "d_model": 32, "num_heads": 1, "d_ff": 64, "context_length": 16}
INGEST: dict[str, Any] = {"kind": "ingest", "spec": {"source": "python_docs"}}
_JOB_CREATE: TypeAdapter[JobCreate] = TypeAdapter(JobCreate)


def job_request(document: dict[str, Any]) -> JobCreate:
    """A request as the API reads it."""
    return _JOB_CREATE.validate_python(document)


def submit(session: Session, document: dict[str, Any], *, code_version: str = CODE) -> JobRow:
    """Submit one job."""
    return submit_job(session, job_request(document), code_version=code_version)


def submit_all(session: Session, jobs: dict[str, Any]) -> dict[str, JobRow]:
    """Submit a pipeline and return its jobs by key."""
    request = PipelineCreate.model_validate({"name": "test", "jobs": jobs})
    row = submit_pipeline(session, request, code_version=CODE)
    return {str(job.pipeline_key): job for job in jobs_of_pipelines(session, [row.id])}


def claim_next(
    session: Session, queue: Queue = Queue.TOKENIZER, *, lease_seconds: float = LEASE
) -> JobRow:
    """Claim the next job of a queue; there must be one."""
    row = claim(session, queue, worker_id="worker-1", lease_seconds=lease_seconds)
    assert row is not None
    return row


def claim_job(session: Session, row: JobRow, *, lease_seconds: float = LEASE) -> JobRow:
    """Claim this job, whichever else is queued."""
    session.execute(update(JobRow).where(JobRow.id == row.id).values(priority=100))
    claimed = claim_next(session, QUEUE_OF_KIND[row.kind], lease_seconds=lease_seconds)
    assert claimed.id == row.id
    return claimed


def finish(session: Session, row: JobRow, *metas: ArtifactMeta) -> JobRow:
    """Claim this job and let it succeed with outputs of these descriptions."""
    claimed = claim_job(session, row)
    outputs = [finished_output(claimed, meta) for meta in metas]
    return succeed(session, claimed.id, claimed.token, outputs=outputs)


def finished_output(row: JobRow, meta: ArtifactMeta) -> FinishedOutput:
    """An output in the store, as the supervisor hands it over."""
    prefix = IdPrefix.TOKENIZER if meta.type is ArtifactType.TOKENIZER else IdPrefix.DATASET
    artifact_id = row.id if meta.type is ArtifactType.EXPORT else new_id(prefix)
    return FinishedOutput(
        output=meta.type,
        name=f"my {meta.type}",
        prefix=f"jobs/{row.id}/t{row.token}/{meta.type}/",
        manifest=manifest(artifact_id, row, meta),
    )


def manifest(artifact_id: str, row: JobRow, meta: ArtifactMeta) -> Manifest:
    """A manifest of one file of 100 bytes."""
    entry = FileEntry(path="part-0", bytes=100, sha256=SHA_A, role=FileRole.DATA)
    return Manifest(
        id=artifact_id,
        job_id=row.id,
        token=row.token,
        created_at=utc_now(),
        files=(entry,),
        meta=meta,
    )


def dataset_meta(**changes: Any) -> DatasetMeta:
    """A dataset of documents."""
    values = {
        "format": "documents",
        "documents": 10,
        "text_bytes": 1000,
        "duplicates_dropped": 0,
        "source": "test",
    }
    return DatasetMeta.model_validate(values | changes)


def tokenizer_meta(sha256: str = SHA_A) -> TokenizerMeta:
    """A tokenizer of 300 entries."""
    return TokenizerMeta(vocab_size=300, tokenizer_sha256=sha256, bytes_per_token=3.0)


def tokens_meta(*, validation_tokens: int = 100, **changes: Any) -> TokensMeta:
    """A token set of documents."""
    values = {
        "format": "documents",
        "vocab_size": 300,
        "tokenizer_sha256": SHA_A,
        "train": split(1000),
        "validation": split(validation_tokens),
    }
    return TokensMeta.model_validate(values | changes)


def split(tokens: int) -> SplitIndex:
    """A split of one document of so many tokens."""
    return SplitIndex(
        shards=1, documents=1, tokens=tokens, text_bytes=3 * tokens, learned_tokens=tokens
    )


def checkpoint_meta(step: int, **changes: Any) -> CheckpointMeta:
    """A checkpoint of the tiny model."""
    values = {
        "step": step,
        "stage": "pretrain",
        "model": ModelConfig.model_validate(TINY_MODEL | {"vocab_size": 300}),
        "tokenizer_sha256": SHA_A,
        "metrics": {"validation_loss": 3.0},
    }
    return CheckpointMeta.model_validate(values | changes)


def export_meta(checkpoint_id: str) -> ExportMeta:
    """An export."""
    return ExportMeta(format="huggingface", checkpoint_id=checkpoint_id)


def commit(
    session: Session, row: JobRow, step: int, *, best: bool = False, **changes: Any
) -> CheckpointRow:
    """Commit a checkpoint of a running job."""
    checkpoint_id = new_id(IdPrefix.CHECKPOINT)
    return commit_checkpoint(
        session,
        row.id,
        row.token,
        checkpoint_id=checkpoint_id,
        prefix=f"jobs/{row.id}/t{row.token}/step-{step}/",
        manifest=manifest(checkpoint_id, row, checkpoint_meta(step, **changes)),
        manifest_sha256=SHA_B,
        best=best,
    )


def add_tokens(session: Session, **changes: Any) -> str:
    """Make a token set by running both data jobs; return its id."""
    name = new_id(IdPrefix.DATASET)  # so that it is no repetition of another one
    ingest = submit(session, {"kind": "ingest", "spec": {"source": "python_docs", "name": name}})
    dataset_format = changes.get("format", "documents")
    finish(session, ingest, dataset_meta(format=dataset_format))
    spec = {"dataset": ingest.outputs["dataset"], "name": name}
    tokenize = submit(session, {"kind": "tokenize", "spec": spec})
    done = finish(session, tokenize, tokenizer_meta(), tokens_meta(**changes))
    return done.outputs["tokens"]


def train_document(tokens: Any, *, model: str = "demo", **spec: Any) -> dict[str, Any]:
    """A request to train the tiny model."""
    return {"kind": "train", "spec": {"tokens": tokens, "model": model, **TINY_MODEL, **spec}}


def running_training(session: Session, **spec: Any) -> JobRow:
    """A train job that a worker has just claimed."""
    return claim_job(session, submit(session, train_document(add_tokens(session), **spec)))


def base_model(session: Session, **spec: Any) -> JobRow:
    """A train job that has succeeded with one checkpoint at step 10."""
    job = running_training(session, **spec)
    commit(session, job, 10, final=True)
    return succeed(session, job.id, job.token)


def add_ready_upload(session: Session, *, state: str = "ready", sha256: str = SHA_A) -> str:
    """An upload; return its id."""
    upload_id = new_id(IdPrefix.UPLOAD)
    row = UploadRow(
        id=upload_id,
        filename="text.txt",
        state=state,
        bytes=10,
        sha256=sha256,
        created_at=utc_now(),
    )
    add_upload(session, row)
    return upload_id


def add_queued(
    database: Database,
    owners: Sequence[str],
    *,
    priority: int = 0,
    queue: Queue = Queue.TOKENIZER,
) -> None:
    """Queue one job for each entry of `owners`, all written at once."""
    job = {
        "kind": JobKind.INGEST, "name": "bulk", "queue": queue, "priority": priority,
        "state": JobState.QUEUED, "desired": Desired.RUN, "spec": {"source": "python_docs"},
        "resolved_inputs": {}, "outputs": {}, "seq": 0, "token": 0, "attempt": 0, "stalls": 0,
        "created_at": utc_now(),
    }  # fmt: skip
    rows = [{**job, "id": new_id(IdPrefix.JOB), "owner": owner} for owner in owners]
    with database.transaction() as session:
        session.execute(insert(JobRow), rows)
