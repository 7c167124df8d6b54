"""Prefixed ULIDs: sortable by creation time, readable in a log line."""

from __future__ import annotations

import re
from enum import StrEnum

from ulid import ULID


class IdPrefix(StrEnum):
    """What an id names."""

    JOB = "job"
    PIPELINE = "pipe"
    DATASET = "ds"
    TOKENIZER = "tok"
    CHECKPOINT = "ckpt"
    UPLOAD = "upl"
    EVALUATION = "eval"


ID_PATTERN = r"^(job|pipe|ds|tok|ckpt|upl|eval)_[0-9A-HJKMNP-TV-Z]{26}$"
_ID = re.compile(ID_PATTERN)


def new_id(prefix: IdPrefix) -> str:
    """Return a fresh id such as `job_01J...`; ids made later sort later (to the millisecond)."""
    return f"{prefix}_{ULID()}"


def is_id(text: str, prefix: IdPrefix) -> bool:
    """Whether `text` is a well-formed id of this prefix."""
    return _ID.fullmatch(text) is not None and text.startswith(f"{prefix}_")
