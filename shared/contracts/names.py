"""Names that more than one process must spell alike: kinds, queues, tasks, states, codes, keys."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class JobKind(StrEnum):
    """What a job does."""

    INGEST = "ingest"
    TOKENIZE = "tokenize"
    TRAIN = "train"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"
    EXPORT = "export"
    IMPORT = "import"


class Queue(StrEnum):
    """A Celery queue; also the lane whose slots its jobs occupy."""

    TOKENIZER = "tokenizer"
    TRAINER_GPU = "trainer-gpu"
    TRAINER_LIGHT = "trainer-light"


QUEUE_OF_KIND: dict[JobKind, Queue] = {
    JobKind.INGEST: Queue.TOKENIZER,
    JobKind.TOKENIZE: Queue.TOKENIZER,
    JobKind.TRAIN: Queue.TRAINER_GPU,
    JobKind.FINETUNE: Queue.TRAINER_GPU,
    JobKind.EVALUATE: Queue.TRAINER_LIGHT,
    JobKind.EXPORT: Queue.TRAINER_LIGHT,
    JobKind.IMPORT: Queue.TRAINER_LIGHT,
}

PROGRAM_OF_KIND: dict[JobKind, str] = {
    JobKind.INGEST: "services.tokenizer.run",
    JobKind.TOKENIZE: "services.tokenizer.run",
    JobKind.TRAIN: "services.trainer.run",
    JobKind.FINETUNE: "services.trainer.run",
    JobKind.EVALUATE: "services.trainer.run",
    JobKind.EXPORT: "services.trainer.run",
    JobKind.IMPORT: "services.trainer.run",
}
"""The module a worker starts as a fresh process for a job of this kind."""


LAUNCHER = "services.trainer.launch"
"""The module that runs a program as several processes: `LAUNCHER N MODULE RUN_FILE`."""


class TaskName(StrEnum):
    """Celery task names."""

    WAKE = "ryangpt.wake"


class HintChannel(StrEnum):
    """Redis channels that carry hints: losing one costs a poll interval, never data."""

    EVENTS = "ryangpt.events"
    MODELS = "ryangpt.models"


class JobState(StrEnum):
    """Where a job stands. `waiting`: an input is not there yet."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

LEGAL_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset(
        {
            JobState.QUEUED,
            JobState.PAUSED,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.QUEUED: frozenset(
        {JobState.RUNNING, JobState.PAUSED, JobState.SUCCEEDED, JobState.CANCELLED}
    ),
    JobState.RUNNING: frozenset(
        {
            JobState.QUEUED,
            JobState.PAUSED,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.PAUSED: frozenset(
        {
            JobState.WAITING,
            JobState.QUEUED,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""A job succeeds without running when an equal one did before it (`reused_job_id`), and fails
without running when its inputs, once there, turn out not to fit."""


class Desired(StrEnum):
    """What its owner wants of a job; the worker learns it with each heartbeat."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class ExitCode(IntEnum):
    """How a job's process ended. Anything else counts as a stall."""

    DONE = 0
    DISK_FULL = 74
    """Not even the line that says so has found room."""
    DRAINED = 75
    PAUSED = 76
    CANCELLED = 77
    BAD_INPUT = 78


class FailureCode(StrEnum):
    """Why a job failed, for programs; the message beside it is for people."""

    BAD_DATA = "bad_data"
    BAD_SPEC = "bad_spec"
    DIVERGED = "diverged"
    GPU_OOM = "gpu_oom"
    GPU_LOST = "gpu_lost"
    STORAGE_FULL = "storage_full"
    LOST_WORKER = "lost_worker"
    CRASHED = "crashed"
    UPSTREAM_FAILED = "upstream_failed"


class ArtifactType(StrEnum):
    """What a job puts out and another takes in."""

    UPLOAD = "upload"
    DATASET = "dataset"
    TOKENIZER = "tokenizer"
    TOKENS = "tokens"
    CHECKPOINT = "checkpoint"
    EVALUATION = "evaluation"
    EXPORT = "export"


OUTPUTS_OF_KIND: dict[JobKind, frozenset[ArtifactType]] = {
    JobKind.INGEST: frozenset({ArtifactType.DATASET}),
    JobKind.TOKENIZE: frozenset({ArtifactType.TOKENIZER, ArtifactType.TOKENS}),
    JobKind.TRAIN: frozenset({ArtifactType.CHECKPOINT}),
    JobKind.FINETUNE: frozenset({ArtifactType.CHECKPOINT}),
    JobKind.EVALUATE: frozenset({ArtifactType.EVALUATION}),
    JobKind.EXPORT: frozenset({ArtifactType.EXPORT}),
    JobKind.IMPORT: frozenset({ArtifactType.CHECKPOINT, ArtifactType.TOKENIZER}),
}


class FileRole(StrEnum):
    """What a file of an artifact is for, so that a reader fetches only what it needs."""

    MODEL = "model"
    OPTIMIZER = "optimizer"
    STATE = "state"
    TOKENIZER = "tokenizer"
    DATA = "data"
    REPORT = "report"


USER_TOKEN = "<|user|>"
ASSISTANT_TOKEN = "<|assistant|>"
END_TOKEN = "<|endoftext|>"
SPECIAL_TOKENS = (END_TOKEN, USER_TOKEN, ASSISTANT_TOKEN)
"""Their ids are 0, 1 and 2 in every tokenizer this platform makes."""
