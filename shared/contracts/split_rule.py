"""Which rows of a dataset are held out: a pure function of a row's content.

Whoever knows a dataset and its `validation_fraction` can tell the two splits apart: the tokenizer
when it encodes, a client when it looks for questions that a model has never seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST_BYTES = 16


def digest_of(row: Mapping[str, Any]) -> bytes:
    """Return the identity of a row, `{"text"}` or `{"messages"}`: a hash of its content.

    It does not matter where the row lies or how its JSON is written.
    """
    if "messages" in row:
        turns = [[message["role"], message["content"]] for message in row["messages"]]
        content = json.dumps(turns, ensure_ascii=False, separators=(",", ":"))
    else:
        content = row["text"]
    return hashlib.blake2b(content.encode(), digest_size=DIGEST_BYTES).digest()


def share_of(digest: bytes) -> float:
    """Return the row's fixed place in [0, 1); rows below the fraction are held out."""
    return int.from_bytes(digest[:6]) / (1 << 48)


def is_held_out(digest: bytes, fraction: float) -> bool:
    """Whether a row belongs to the validation split."""
    return share_of(digest) < fraction
