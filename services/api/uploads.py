"""Uploads: a file is announced, streamed to a temporary file, checked, stored, and only then ready.

A filename is a label and never part of a path. A request that breaks off leaves nothing behind and
can be sent again.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from services.api.context import ApiContext, Context
from services.api.parameters import After, Limit, UploadId
from shared.base.clock import utc_now
from shared.base.errors import (
    ConflictError,
    InvalidInputError,
    PlatformError,
    TooLargeError,
)
from shared.base.files import CHUNK_BYTES
from shared.base.ids import IdPrefix, new_id
from shared.contracts.names import FailureCode
from shared.contracts.views import Page, UploadCreate, UploadView
from shared.db.repositories.artifacts import add_upload, get_upload, lock_upload
from shared.db.tables import UploadRow
from shared.jobs.reading.listings import uploads_page
from shared.jobs.reading.views import upload_view
from shared.storage.keys import upload_key

INCOMING_FOLDER = "incoming"
LEFTOVER_SECONDS = 24 * 3600.0
"""A temporary file this old belongs to a process that was killed."""

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


@router.post("", status_code=201)
def create_upload(context: ApiContext, body: UploadCreate, response: Response) -> UploadView:
    """Announce a file; send its content to `Location`/content."""
    if body.bytes is not None:
        _check_limit(context, body.bytes)
    row = UploadRow(
        id=new_id(IdPrefix.UPLOAD),
        filename=body.filename,
        state="writing",
        declared_bytes=body.bytes,
        declared_sha256=body.sha256,
        bytes=0,
        created_at=utc_now(),
    )
    with context.database.transaction() as session:
        add_upload(session, row)
    response.headers["Location"] = f"/v1/uploads/{row.id}"
    return upload_view(row)


@router.put(
    "/{upload_id}/content",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def put_content(context: ApiContext, upload_id: UploadId, request: Request) -> UploadView:
    """Send the file's bytes as the body. The answer comes once they are stored and usable."""
    declared = await run_in_threadpool(_open_for_writing, context, upload_id)
    with _temporary_file(context) as file:
        incoming = _Incoming(file=file, declared=declared, limit=context.settings.max_upload_bytes)
        buffer = bytearray()
        async for chunk in request.stream():
            buffer += chunk
            if len(buffer) >= CHUNK_BYTES:
                await run_in_threadpool(incoming.write, bytes(buffer))
                buffer.clear()
        return await run_in_threadpool(_finish, context, upload_id, incoming, bytes(buffer))


@router.get("")
def list_uploads(context: ApiContext, after: After = None, limit: Limit = 50) -> Page[UploadView]:
    """Uploads, newest first."""
    with context.database.reading() as session:
        return uploads_page(session, after=after, limit=limit)


@router.get("/{upload_id}")
def read_upload(context: ApiContext, upload_id: UploadId) -> UploadView:
    """One upload as it is now."""
    with context.database.reading() as session:
        return upload_view(get_upload(session, upload_id))


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process has left behind."""
    for path in folder.glob("*"):
        if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    bytes: int | None
    sha256: str | None


@dataclass(slots=True, kw_only=True)
class _Incoming:
    """A body as it arrives: written, counted and hashed; refused as soon as it cannot be right."""

    file: IO[bytes]
    declared: _Declared
    limit: int
    num_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def write(self, chunk: bytes) -> None:
        """Raises TooLargeError or InvalidInputError."""
        self.num_bytes += len(chunk)
        if self.num_bytes > self.limit:
            raise _too_large(self.limit)
        if self.declared.bytes is not None and self.num_bytes > self.declared.bytes:
            raise InvalidInputError(
                f"The content is longer than the {self.declared.bytes} bytes announced.",
                code="size_mismatch",
            )
        self.digest.update(chunk)
        self.file.write(chunk)

    def complete(self) -> str:
        """Check the whole against what was announced; return its sha256."""
        self.file.flush()
        if self.declared.bytes is not None and self.num_bytes != self.declared.bytes:
            raise InvalidInputError(
                f"The content has {self.num_bytes} bytes; {self.declared.bytes} were announced.",
                code="size_mismatch",
                hint="Send the whole file again.",
            )
        sha256 = str(self.digest.hexdigest())
        if self.declared.sha256 is not None and sha256 != self.declared.sha256:
            raise InvalidInputError(
                f"The content's SHA-256 is {sha256}; {self.declared.sha256} was announced.",
                code="digest_mismatch",
                hint="The file was changed on the way or while it was read; send it again.",
            )
        return sha256


def _open_for_writing(context: Context, upload_id: str) -> _Declared:
    with context.database.reading() as session:
        row = get_upload(session, upload_id)
    if row.state == "ready":
        raise _already_there(upload_id)
    return _Declared(bytes=row.declared_bytes, sha256=row.declared_sha256)


def _finish(context: Context, upload_id: str, incoming: _Incoming, rest: bytes) -> UploadView:
    """Check, store, and let the upload be usable: in this order.

    The row takes the content's digest before the object is written, so that of two different
    contents sent at once only one can ever be stored under the upload's key.
    """
    incoming.write(rest)
    sha256 = incoming.complete()
    with context.database.transaction() as session:
        row = lock_upload(session, upload_id)
        if row.state == "ready" or row.sha256 not in {None, sha256}:
            raise _already_there(upload_id)
        row.sha256, row.bytes = sha256, incoming.num_bytes
    context.store.put_file(upload_key(upload_id), Path(incoming.file.name))
    with context.database.transaction() as session:
        row = lock_upload(session, upload_id)
        row.state = "ready"
        return upload_view(row)


@contextmanager
def _temporary_file(context: Context) -> Iterator[IO[bytes]]:
    """A file in the data folder that is gone afterwards; in here a full disk is an error 507."""
    folder = context.settings.data_dir / INCOMING_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with _full_disk_is_507(), NamedTemporaryFile(dir=folder, prefix="upload-") as file:
        yield file


@contextmanager
def _full_disk_is_507() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _storage_full() from error
    except PlatformError as error:
        if error.code != FailureCode.STORAGE_FULL:
            raise
        raise _storage_full() from error


def _storage_full() -> PlatformError:
    error = PlatformError(
        "There is no space left to store this file.",
        code=FailureCode.STORAGE_FULL,
        hint="Free some space on the platform's disk, then send the file again.",
    )
    error.status_code = 507
    return error


def _check_limit(context: Context, num_bytes: int) -> None:
    if num_bytes > context.settings.max_upload_bytes:
        raise _too_large(context.settings.max_upload_bytes)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"An upload may have {limit} bytes at most.",
        hint="Split the file, or raise RYANGPT_MAX_UPLOAD_BYTES.",
    )


def _already_there(upload_id: str) -> ConflictError:
    return ConflictError(
        f"Upload {upload_id} already has its content.", hint="Announce another upload."
    )
