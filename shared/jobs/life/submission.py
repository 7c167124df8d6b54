"""How jobs come to be: validated, their inputs resolved, written in one transaction.

No broker is asked here: the row is its own outbox, and the leader sends for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from shared.base.errors import ConflictError, TooManyError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.jobs import (
    SPEC_OF_KIND,
    JobCreate,
    JobEstimate,
    PipelineCreate,
    PipelineEstimate,
)
from shared.contracts.manifest import ArtifactMeta, CheckpointMeta, TokensMeta
from shared.contracts.names import (
    OUTPUTS_OF_KIND,
    QUEUE_OF_KIND,
    TERMINAL_STATES,
    Desired,
    JobKind,
    JobState,
)
from shared.contracts.specs import Spec, input_field, pointer_to
from shared.contracts.training_specs import FinetuneSpec, TrainingOptions, TrainSpec
from shared.contracts.views import EventType
from shared.db.repositories import checkpoints, jobs, links
from shared.db.repositories.pipelines import add_pipeline
from shared.db.repositories.transitions import add_event
from shared.db.session import database_now
from shared.db.tables import JobParentRow, JobRow, PipelineRow
from shared.jobs.life.binding import reuse_earlier
from shared.jobs.life.capacity import check_slots, slots_of
from shared.jobs.life.compatibility import check_inputs
from shared.jobs.life.inputs import Link, ResolvedInputs, check_exists, load_metas, resolve_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a job stands in a pipeline."""

    pipeline_id: str | None = None
    key: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Everything a new row is made of."""

    kind: JobKind
    spec: Spec
    name: str
    priority: int
    owner: str
    fresh: bool
    code_version: str
    inputs: ResolvedInputs
    place: _Place = _Place()
    retry_of: str | None = None


def validate_request(session: Session, request: JobCreate) -> JobEstimate:
    """Check everything that submitting checks, writing nothing.

    Raises InvalidInputError or ConflictError with a pointer, as `submit_job` does.
    """
    spec: Spec = request.spec
    inputs = resolve_inputs(session, spec)
    metas = load_metas(session, inputs.bound)
    check_inputs(spec, metas)
    check_slots(session, request.kind, spec, pointer="/spec")
    return _estimate(request, metas)


def validate_pipeline(session: Session, request: PipelineCreate) -> PipelineEstimate:
    """Check all that submitting checks. The jobs are written to find out, as they refer to each
    other: the caller must give the session of a rehearsal.

    Raises as `submit_pipeline` does.
    """
    submit_pipeline(session, request, code_version="")
    return PipelineEstimate(jobs={key: _estimate(job, {}) for key, job in request.jobs.items()})


def _estimate(request: JobCreate, metas: Mapping[str, ArtifactMeta]) -> JobEstimate:
    spec: Spec = request.spec
    return JobEstimate(
        kind=request.kind,
        num_parameters=_num_parameters(spec, metas),
        tokens_per_step=_tokens_per_step(spec, metas),
        outputs=tuple(sorted(OUTPUTS_OF_KIND[request.kind])),
    )


def submit_job(
    session: Session, request: JobCreate, *, code_version: str, queued_limit: int = 0
) -> JobRow:
    """Write a job. With an input to wait for it is `waiting`, else `queued`; a data job that an
    equal one has done before is `succeeded` at once.

    Raises InvalidInputError (can never work) or ConflictError (an input is not ready, or its job
    has failed), both with a pointer into the request; TooManyError when its owner has
    `queued_limit` jobs that have not begun.
    """
    _check_room(session, [request], queued_limit)
    return _submit(session, request, code_version=code_version, now=database_now(session))


def submit_pipeline(
    session: Session, request: PipelineCreate, *, code_version: str, queued_limit: int = 0
) -> PipelineRow:
    """Write a pipeline and all its jobs, or raise as `submit_job` does, with longer pointers."""
    _check_room(session, request.jobs.values(), queued_limit)
    now = database_now(session)
    row = PipelineRow(id=new_id(IdPrefix.PIPELINE), name=request.name, created_at=now)
    add_pipeline(session, row)
    job_ids: dict[str, str] = {}
    for position, (key, job) in enumerate(request.jobs.items()):
        written = _submit(
            session,
            job,
            code_version=code_version,
            now=now,
            place=_Place(pipeline_id=row.id, key=key, position=position),
            job_ids=job_ids,
            pointer=f"/jobs/{key}",
        )
        job_ids[key] = written.id
    return row


def retry(session: Session, job_id: str) -> JobRow:
    """Submit a failed or cancelled job again, as a new job in its place.

    Training goes on from the last checkpoint. An input from a job that has failed too is taken
    from that job's own retry.

    Raises ConflictError when the job has not failed, or an input's job has not been tried again.
    """
    old = jobs.lock_job(session, job_id)
    if old.state not in TERMINAL_STATES or old.state is JobState.SUCCEEDED:
        raise ConflictError(f"Job {job_id} is {old.state}: only a failed or cancelled job can be "
                            "tried again.")  # fmt: skip
    spec = SPEC_OF_KIND[old.kind].model_validate(old.spec)
    inputs = _inputs_again(session, old)
    if isinstance(spec, TrainingOptions) and old.last_checkpoint_id is not None:
        checkpoints.get_checkpoint(session, old.last_checkpoint_id)
        spec = spec.model_copy(update={"resume_from": old.last_checkpoint_id})
        inputs.bound["resume_from"] = old.last_checkpoint_id
        inputs.links.pop("resume_from", None)
    order = _Order(
        kind=old.kind,
        spec=spec,
        name=old.name,
        priority=old.priority,
        owner=old.owner,
        fresh=old.fresh,
        code_version=old.code_version,
        inputs=inputs,
        place=_Place(
            pipeline_id=old.pipeline_id, key=old.pipeline_key, position=old.pipeline_position
        ),
        retry_of=old.id,
    )
    return _write(session, order, database_now(session))


def _check_room(session: Session, requests: Iterable[JobCreate], queued_limit: int) -> None:
    if not queued_limit:
        return
    jobs.lock_owner_counts(session)
    for owner, adding in Counter(request.owner for request in requests).items():
        present = jobs.count_open(session, owner)
        if present + adding > queued_limit:
            raise TooManyError(
                f"{present} jobs of owner {owner!r} have not begun yet; with {adding} more they "
                f"would be more than the {queued_limit} allowed.",
                retry_after=60,
                hint="Wait for some to begin, or cancel some.",
            )


def _submit(
    session: Session,
    request: JobCreate,
    *,
    code_version: str,
    now: datetime,
    place: _Place = _Place(),
    job_ids: Mapping[str, str] | None = None,
    pointer: str = "",
) -> JobRow:
    spec: Spec = request.spec
    inputs = resolve_inputs(session, spec, job_ids=job_ids, pointer=f"{pointer}/spec")
    check_inputs(spec, load_metas(session, inputs.bound), pointer=f"{pointer}/spec")
    check_slots(session, request.kind, spec, pointer=f"{pointer}/spec")
    order = _Order(
        kind=request.kind,
        spec=spec,
        name=request.name or request.kind,
        priority=request.priority,
        owner=request.owner,
        fresh=request.fresh,
        code_version=code_version,
        inputs=inputs,
        place=place,
    )
    return _write(session, order, now)


def _write(session: Session, order: _Order, now: datetime) -> JobRow:
    inputs = order.inputs
    row = JobRow(
        id=new_id(IdPrefix.JOB),
        kind=order.kind,
        name=order.name,
        queue=QUEUE_OF_KIND[order.kind],
        num_slots=slots_of(order.spec),
        priority=order.priority,
        owner=order.owner,
        state=JobState.QUEUED if inputs.complete else JobState.WAITING,
        desired=Desired.RUN,
        spec=order.spec.model_dump(mode="json"),
        resolved_inputs=dict(inputs.bound),
        outputs={},
        fresh=order.fresh,
        code_version=order.code_version,
        retry_of=order.retry_of,
        pipeline_id=order.place.pipeline_id,
        pipeline_key=order.place.key,
        pipeline_position=order.place.position,
        token=0,
        attempt=0,
        seq=1,
        created_at=now,
    )
    jobs.add_job(session, row)
    add_event(session, row, EventType.STATE, {"state": row.state}, now)
    links.add_links(
        session,
        [
            JobParentRow(job_id=row.id, field=field, parent_id=link.parent_id, output=link.output)
            for field, link in inputs.links.items()
        ],
    )
    reused = reuse_earlier(session, row, now) if inputs.complete else None
    return reused or row


def _inputs_again(session: Session, old: JobRow) -> ResolvedInputs:
    """The inputs of a job that is tried again: what was bound stays, the rest is waited for."""
    inputs = ResolvedInputs()
    types = SPEC_OF_KIND[old.kind].INPUTS
    for path, artifact_id in old.resolved_inputs.items():
        pointer = f"/spec{pointer_to(path)}"
        check_exists(session, types[input_field(path)], artifact_id, pointer)
        inputs.bound[path] = artifact_id
    for link in links.links_of_job(session, old.id):
        parent = _newest_attempt(session, link.parent_id)
        inputs.links[link.field] = Link(parent_id=parent.id, output=link.output)
        if link.field in inputs.bound:
            continue
        if parent.state is JobState.SUCCEEDED:
            inputs.bound[link.field] = parent.outputs[link.output]
        elif parent.state in TERMINAL_STATES:
            raise ConflictError(
                f"Job {parent.id} ({parent.name}), whose {link.output} is needed, is "
                f"{parent.state}.",
                hint="Retry that job first.",
            )
    return inputs


def _newest_attempt(session: Session, job_id: str) -> JobRow:
    """The job, or the last in the row of jobs that try it again; held until the commit."""
    while (retried := jobs.newest_retry(session, job_id)) is not None:
        job_id = retried.id
    return jobs.share_job(session, job_id) or jobs.get_job(session, job_id)


def _num_parameters(spec: Spec, metas: Mapping[str, ArtifactMeta]) -> int | None:
    base = metas.get("checkpoint")
    if isinstance(spec, FinetuneSpec) and isinstance(base, CheckpointMeta):
        return base.model.num_parameters
    if not isinstance(spec, TrainSpec):
        return None
    tokens = metas.get("tokens")
    if spec.vocab_size != "auto":
        return spec.model_config_for(spec.vocab_size).num_parameters
    if isinstance(tokens, TokensMeta):
        return spec.model_config_for(tokens.vocab_size).num_parameters
    return None


def _tokens_per_step(spec: Spec, metas: Mapping[str, ArtifactMeta]) -> int | None:
    if not isinstance(spec, TrainingOptions) or spec.batch_size == "auto":
        return None
    base = metas.get("checkpoint")
    if isinstance(spec, TrainSpec):
        context_length = spec.context_length
    elif isinstance(base, CheckpointMeta):
        context_length = base.model.context_length
    else:
        return None
    return int(spec.batch_size) * spec.gradient_accumulation_steps * context_length
