"""What all job specs share: names, inputs, and the base class. One module beside this a stage.

An input is an id, or `{job, output}` naming another job of the same pipeline (or a job id) whose
output will be bound when it is there.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, StringConstraints

from shared.base.ids import ID_PATTERN
from shared.contracts.base import Contract
from shared.contracts.names import ArtifactType

MODEL_NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
PRINTABLE_PATTERN = r"^[^\x00-\x1f\x7f]*$"
"""No control characters: PostgreSQL stores no NUL, and a name must not move a terminal's cursor."""
JOB_KEY_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$|" + ID_PATTERN

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PRINTABLE_PATTERN)]
Auto = Literal["auto"]


class JobOutput(Contract):
    """A reference to what another job will put out."""

    job: Annotated[str, StringConstraints(pattern=JOB_KEY_PATTERN)]
    """Name of a job in the same pipeline, or the id of any job."""
    output: ArtifactType
    """Which of its outputs."""


InputRef = Id | JobOutput


class Spec(Contract):
    """What a user asks of a job. `INPUTS` says which fields are inputs, and of what type."""

    model_config = ConfigDict(allow_inf_nan=False)

    INPUTS: ClassVar[dict[str, ArtifactType]] = {}

    def input_references(self) -> dict[str, tuple[ArtifactType, InputRef]]:
        """Every input that is given, with its type, by its path: `tokens`, or `datasets.0` where
        the field is a list."""
        found: dict[str, tuple[ArtifactType, InputRef]] = {}
        for name, artifact in self.INPUTS.items():
            value = getattr(self, name)
            if isinstance(value, tuple):
                found |= {f"{name}.{index}": (artifact, item) for index, item in enumerate(value)}
            elif value is not None:
                found[name] = (artifact, value)
        return found


def pointer_to(path: str) -> str:
    """The JSON pointer of an input's path, below its spec."""
    return "/" + path.replace(".", "/")


def input_field(path: str) -> str:
    """The spec's field that an input's path lies in."""
    return path.partition(".")[0]


class ModelSpec(Spec):
    """Base of the jobs that put out checkpoints of a named model."""

    model: ModelName
    """Name under which checkpoints are published."""
    publish: Literal["latest", "best", "final", "never"] | None = None
    """Which checkpoints become a version of the model; by default the first run of a name follows
    `latest` (finetuning: `best`) and later runs replace it with their last (best) one only."""
