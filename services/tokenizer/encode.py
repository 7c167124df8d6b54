"""A stream of dataset lines into a stream of encoded rows, on several threads, in order.

Memory is a few batches, however long the stream is. Knows nothing of files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.tokenizer.bulk import BulkEncoder
from services.tokenizer.rows import Row, parse_row, text_bytes_of
from shared.contracts.split_rule import digest_of
from shared.text.chat import join_turns
from shared.text.token_set import MASK_TYPE, TOKEN_TYPE

BATCH_BYTES = 1 << 20
BATCHES_A_THREAD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow:
    """A document or dialogue as it goes into a shard."""

    ids: npt.NDArray[np.uint16]
    """(n,), the last one the end token."""
    mask: npt.NDArray[np.uint8] | None
    """(n,), 1 where the token is learned; None for a document, where all are."""
    text_bytes: int
    """UTF-8 bytes of the text behind the ids."""
    held_out: bool
    """Whether the row belongs to the validation split."""


def encode_lines(
    lines: Iterable[bytes],
    encoder: BulkEncoder,
    num_threads: int,
    place: Callable[[bytes], bool | None],
) -> Iterator[list[EncodedRow]]:
    """Yield the rows of `lines`, a batch at a time, in their order.

    `place` says of a row's digest whether the row is held out; None leaves the row out.
    """

    def encode_batch(batch: list[bytes]) -> list[EncodedRow]:
        rows = map(parse_row, batch)
        placed = ((row, place(digest_of(row))) for row in rows)
        return [
            encode_row(row, encoder, held_out) for row, held_out in placed if held_out is not None
        ]

    waiting: deque[Future[list[EncodedRow]]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="encode") as pool:
        for batch in _batches(lines):
            waiting.append(pool.submit(encode_batch, batch))
            if len(waiting) > BATCHES_A_THREAD * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def encode_row(row: Row, encoder: BulkEncoder, held_out: bool) -> EncodedRow:
    """Return a document with its end token, or a dialogue with its roles, ends and mask."""
    text_bytes = text_bytes_of(row)
    if "messages" not in row:
        ids = np.append(encoder.encode(row["text"]), TOKEN_TYPE.type(encoder.tokenizer.end_id))
        return EncodedRow(ids=ids, mask=None, text_bytes=text_bytes, held_out=held_out)
    contents = [encoder.encode(message["content"]).tolist() for message in row["messages"]]
    joined, mask = join_turns(encoder.tokenizer, row["messages"], contents)
    return EncodedRow(
        ids=np.array(joined, TOKEN_TYPE),
        mask=np.array(mask, MASK_TYPE),
        text_bytes=text_bytes,
        held_out=held_out,
    )


def _batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Group lines into batches of about `BATCH_BYTES`."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
