"""Parameters that many routes share: ids, names, pages.

An id that is malformed is simply not there: 404, before any database is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator

from shared.base.errors import NotFoundError
from shared.base.ids import ID_PATTERN, IdPrefix, is_id
from shared.contracts.specs import MODEL_NAME_PATTERN

MAX_SEQ = 2**63 - 1


def _id_of(prefix: IdPrefix, noun: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not is_id(text, prefix):
            raise NotFoundError(f"There is no {noun} {text!r}.")
        return text

    return check


def _artifact_id(text: str) -> str:
    if not re.fullmatch(ID_PATTERN, text):
        raise NotFoundError(f"There is no artifact {text!r}.")
    return text


def _model_name(text: str) -> str:
    if not re.fullmatch(MODEL_NAME_PATTERN, text):
        raise NotFoundError(f"There is no model {text!r}.")
    return text


JobId = Annotated[str, Path(), AfterValidator(_id_of(IdPrefix.JOB, "job"))]
PipelineId = Annotated[str, Path(), AfterValidator(_id_of(IdPrefix.PIPELINE, "pipeline"))]
UploadId = Annotated[str, Path(), AfterValidator(_id_of(IdPrefix.UPLOAD, "upload"))]
CheckpointId = Annotated[str, Path(), AfterValidator(_id_of(IdPrefix.CHECKPOINT, "checkpoint"))]
ArtifactId = Annotated[str, Path(), AfterValidator(_artifact_id)]
ModelNamePath = Annotated[str, Path(), AfterValidator(_model_name)]

Limit = Annotated[int, Query(ge=1, le=200, description="Entries of a page at most.")]
After = Annotated[
    str | None,
    Query(pattern=ID_PATTERN, description="`next_after` of the page before."),
]
AfterSeq = Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only entries numbered above.")]
