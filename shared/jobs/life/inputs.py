"""What a job takes in: references become ids, and ids are checked against what they name.

Everything here reads; nothing writes. A mistake is an InvalidInputError (it can never work) or a
ConflictError (not now), with a pointer to the field of the submitted document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from shared.base.errors import ConflictError, InvalidInputError
from shared.base.ids import IdPrefix, is_id
from shared.contracts.manifest import ArtifactMeta, Manifest
from shared.contracts.names import OUTPUTS_OF_KIND, TERMINAL_STATES, ArtifactType, JobState
from shared.contracts.specs import JobOutput, Spec, pointer_to
from shared.db.repositories.artifacts import find_artifact, find_upload
from shared.db.repositories.checkpoints import share_checkpoint
from shared.db.repositories.jobs import find_job, share_job
from shared.db.tables import JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An input that another job puts out."""

    parent_id: str
    output: ArtifactType


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedInputs:
    """The inputs of one spec, by their paths in it."""

    bound: dict[str, str] = field(default_factory=dict)
    """Ids that are there."""
    links: dict[str, Link] = field(default_factory=dict)
    """Every input that is another job's output, there or not."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.links.keys() <= self.bound.keys()


def resolve_inputs(
    session: Session,
    spec: Spec,
    *,
    job_ids: Mapping[str, str] | None = None,
    pointer: str = "/spec",
) -> ResolvedInputs:
    """Look up every input of `spec`; `job_ids` are the pipeline's jobs by key.

    Parents that have not ended are held until the transaction ends, so that they cannot succeed
    unseen.
    """
    resolved = ResolvedInputs()
    for name, (wanted, value) in spec.input_references().items():
        where = f"{pointer}{pointer_to(name)}"
        if isinstance(value, JobOutput):
            parent = _find_parent(session, value, job_ids or {}, where)
            _check_output(value, parent, wanted, where)
            resolved.links[name] = Link(parent_id=parent.id, output=value.output)
            if parent.state is JobState.SUCCEEDED:
                resolved.bound[name] = _output_of(parent, value.output, where)
        else:
            check_exists(session, wanted, value, where)
            resolved.bound[name] = value
    return resolved


def check_exists(session: Session, wanted: ArtifactType, artifact_id: str, pointer: str) -> None:
    """Raise unless `artifact_id` names something of type `wanted` that can be read now."""
    if wanted is ArtifactType.UPLOAD:
        _check_upload(session, artifact_id, pointer)
    elif wanted is ArtifactType.CHECKPOINT:
        _check_checkpoint(session, artifact_id, pointer)
    else:
        row = find_artifact(session, artifact_id)
        if row is None:
            raise _explain_missing(session, wanted, artifact_id, pointer)
        if row.type is not wanted:
            raise InvalidInputError(
                f"{artifact_id} is a {row.type}, where a {wanted} is needed.", pointer=pointer
            )


def load_metas(session: Session, inputs: Mapping[str, str]) -> dict[str, ArtifactMeta]:
    """What the manifests say about bound inputs, by their paths; an upload has none."""
    metas: dict[str, ArtifactMeta] = {}
    for name, artifact_id in inputs.items():
        row = (
            share_checkpoint(session, artifact_id)
            if is_id(artifact_id, IdPrefix.CHECKPOINT)
            else find_artifact(session, artifact_id)
        )
        if row is not None:
            metas[name] = Manifest.model_validate(row.manifest).meta
    return metas


def _find_parent(
    session: Session, reference: JobOutput, job_ids: Mapping[str, str], pointer: str
) -> JobRow:
    parent = share_job(session, job_ids.get(reference.job, reference.job))
    if parent is None:
        raise InvalidInputError(
            f"There is no job {reference.job!r}.",
            hint="Outside a pipeline, name a job by its id.",
            pointer=pointer,
        )
    if parent.state in TERMINAL_STATES and parent.state is not JobState.SUCCEEDED:
        raise ConflictError(
            f"Job {parent.id}, whose {reference.output} is needed, is {parent.state}.",
            hint="Retry that job and name the new one.",
            pointer=pointer,
        )
    return parent


def _check_output(reference: JobOutput, parent: JobRow, wanted: ArtifactType, pointer: str) -> None:
    if reference.output is not wanted:
        raise InvalidInputError(
            f"A {wanted} is needed here, not a {reference.output}.", pointer=f"{pointer}/output"
        )
    if wanted not in OUTPUTS_OF_KIND[parent.kind]:
        raise InvalidInputError(
            f"Job {parent.id} is of kind {parent.kind} and puts out no {wanted}.",
            pointer=f"{pointer}/output",
        )


def _output_of(parent: JobRow, output: ArtifactType, pointer: str) -> str:
    artifact_id = parent.outputs.get(output)
    if artifact_id is None:
        raise InvalidInputError(f"Job {parent.id} left no {output}.", pointer=pointer)
    return artifact_id


def _check_upload(session: Session, upload_id: str, pointer: str) -> None:
    row = find_upload(session, upload_id)
    if row is None:
        raise _explain_missing(session, ArtifactType.UPLOAD, upload_id, pointer)
    if row.state != "ready":
        raise _still_being_written(f"Upload {upload_id}", pointer)


def _check_checkpoint(session: Session, checkpoint_id: str, pointer: str) -> None:
    row = share_checkpoint(session, checkpoint_id)
    if row is None:
        raise _explain_missing(session, ArtifactType.CHECKPOINT, checkpoint_id, pointer)
    if row.deleted_at is not None:
        raise InvalidInputError(
            f"Checkpoint {checkpoint_id} was removed by retention.",
            hint="Take a later one of its job, or raise keep_checkpoints there.",
            pointer=pointer,
        )


def _explain_missing(
    session: Session, wanted: ArtifactType, artifact_id: str, pointer: str
) -> InvalidInputError | ConflictError:
    """Say what the id names instead: most wrong ids are another thing's."""
    if is_id(artifact_id, IdPrefix.UPLOAD) and wanted is not ArtifactType.UPLOAD:
        upload = find_upload(session, artifact_id)
        if upload is not None and upload.state != "ready":
            return _still_being_written(f"Upload {artifact_id}", pointer)
        if upload is not None:
            return InvalidInputError(
                f"{artifact_id} is an upload, where a {wanted} is needed.",
                hint="Ingest it first, and name the dataset that comes out.",
                pointer=pointer,
            )
    if is_id(artifact_id, IdPrefix.JOB):
        job = find_job(session, artifact_id)
        if job is not None and wanted in OUTPUTS_OF_KIND[job.kind]:
            hint = f'To wait for it, write {{"job": "{job.id}", "output": "{wanted}"}}.'
            if job.state in TERMINAL_STATES:
                hint = f"Name the {wanted} itself: it is among the job's outputs."
                message = f"{artifact_id} is a job, where a {wanted} is needed."
                return InvalidInputError(message, hint=hint, pointer=pointer)
            message = f"The {wanted} of job {job.id} is still being written ({job.state})."
            return ConflictError(message, hint=hint, pointer=pointer)
    return InvalidInputError(
        f"There is no {wanted} {artifact_id}.", code="unknown_input", pointer=pointer
    )


def _still_being_written(what: str, pointer: str) -> ConflictError:
    return ConflictError(
        f"{what} is still being written.",
        hint="Send its content first, then try again.",
        pointer=pointer,
    )
