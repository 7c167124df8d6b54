"""An object store on any S3 server, by the `minio` client.

Plain S3 only: no tags, no notifications, no user metadata, no ETag as identity, since servers
differ in all four. The digest of an object is in the manifest that names it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError

from shared.base.errors import InvalidInputError, NotFoundError, PlatformError, UnavailableError
from shared.base.files import CHUNK_BYTES
from shared.contracts.names import FailureCode
from shared.storage.base import StoredObject

PART_BYTES = 16 << 20
"""Larger files go up in parts of this size, three at a time."""
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 60.0
_PRESIGNED_FOR = timedelta(minutes=5)
_FULL_CODES = frozenset(
    {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded"}
)
_CREDENTIAL_CODES = frozenset(
    {"AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidSecurity"}
)


class S3Store:
    """Objects in one bucket, which must exist. Satisfies `ObjectStore`."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        secure: bool = False,
    ) -> None:
        self.bucket = bucket
        self._endpoint = endpoint
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            maxsize=10,
            retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[502, 503, 504]),
        )
        self._client = Minio(
            endpoint,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            secure=secure,
            http_client=self._http,
        )

    def put_file(self, key: str, path: Path) -> None:
        """Store the file's content under `key`, in parts if it is large."""
        with path.open("rb") as file, self._translated_errors(key):
            num_bytes = path.stat().st_size
            self._client.put_object(
                self.bucket, _checked(key), file, num_bytes, part_size=PART_BYTES
            )

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, replacing what is there."""
        with self._translated_errors(key):
            self._client.put_object(self.bucket, _checked(key), io.BytesIO(content), len(content))

    def put_bytes_if_absent(self, key: str, content: bytes) -> bool:
        """Store `content` unless `key` exists.

        Of several callers exactly one stores, on a server that honours `If-None-Match` (AWS, MinIO
        and most do; one that ignores it overwrites). The client has no argument for this header,
        so the request is a presigned one. It is never repeated by itself: a repetition would find
        its own object and report that it was there before.
        """
        with self._translated_errors(key):
            url = self._client.presigned_put_object(self.bucket, _checked(key), _PRESIGNED_FOR)
            headers = {"If-None-Match": "*", "Content-Type": "application/octet-stream"}
            answer = self._http.request("PUT", url, body=content, headers=headers, retries=False)
        if answer.status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT):
            return False
        if answer.status != HTTPStatus.OK:
            raise self._refusal(answer.status, key)
        return True

    def get_bytes(self, key: str) -> bytes:
        """Return the whole content."""
        with self.stream(key) as chunks:
            return b"".join(chunks)

    @contextmanager
    def stream(self, key: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open the content from byte `offset` on, as chunks of up to 1 MiB."""
        with self._translated_errors(key):
            response = self._open(key, offset)
        if response is None:
            yield iter(())
            return
        try:
            yield self._chunks(response, key)
        finally:
            response.close()
            response.release_conn()

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None if there is no such object."""
        try:
            with self._translated_errors(key):
                return self._client.stat_object(self.bucket, _checked(key)).size
        except NotFoundError:
            return None

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with `prefix`, in lexical order."""
        for found in self.list_objects(prefix):
            yield found.key

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every object whose key starts with `prefix`, in lexical order of the keys."""
        with self._translated_errors(prefix):
            for entry in self._client.list_objects(self.bucket, prefix=prefix, recursive=True):
                if entry.object_name is not None and entry.last_modified is not None:
                    yield StoredObject(key=entry.object_name, modified_at=entry.last_modified)

    def remove_unfinished(self, *, older_than: datetime) -> None:
        """Nothing: parts of uploads that were cut short are the server's to expire."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing one is no error."""
        with self._translated_errors(""):
            objects = [DeleteObject(_checked(key)) for key in keys]
            errors = list(self._client.remove_objects(self.bucket, objects))
        errors = [error for error in errors if error.code != "NoSuchKey"]
        if errors:
            raise UnavailableError(
                f"{len(errors)} objects could not be deleted, the first one "
                f"{errors[0].name!r}: {errors[0].message}.",
                code="storage",
            )

    def check(self) -> None:
        """Raise `UnavailableError` unless the bucket is there and these credentials open it."""
        with self._translated_errors(""):
            exists = self._client.bucket_exists(self.bucket)
        if not exists:
            raise self._no_bucket()

    def _open(self, key: str, offset: int) -> urllib3.BaseHTTPResponse | None:
        """The object from `offset` on; None from its very end on, where S3 finds no range."""
        try:
            return self._client.get_object(self.bucket, _checked(key), offset=offset)
        except S3Error as error:
            if error.code != "InvalidRange":
                raise
        except InvalidResponseError as error:
            if error._code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        return None

    def _chunks(self, response: urllib3.BaseHTTPResponse, key: str) -> Iterator[bytes]:
        with self._translated_errors(key):
            yield from response.stream(CHUNK_BYTES)

    @contextmanager
    def _translated_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._translated(error, key) from error
        except InvalidResponseError as error:
            # Some servers send errors as text/xml, which the client does not read as XML. The
            # status is in no public attribute.
            raise self._refusal(error._code, key) from error
        except (MinioException, HTTPError, OSError) as error:
            detail = f"HTTP {error.status_code}" if isinstance(error, ServerError) else f"{error}"
            raise UnavailableError(
                f"The S3 server {self._endpoint} does not answer: {detail}.", code="storage"
            ) from error

    def _translated(self, error: S3Error, key: str) -> PlatformError:
        if error.code == "NoSuchBucket":
            return self._no_bucket()
        if error.code in {"NoSuchKey", "NoSuchObject"}:
            return self._refusal(HTTPStatus.NOT_FOUND, key)
        if error.code in _CREDENTIAL_CODES:
            return self._refusal(HTTPStatus.FORBIDDEN, key)
        if error.code in _FULL_CODES:
            return self._refusal(HTTPStatus.INSUFFICIENT_STORAGE, key)
        return UnavailableError(
            f"The S3 server {self._endpoint} refused {key!r}: {error.code}, {error.message}.",
            code="storage",
        )

    def _refusal(self, status: int, key: str) -> PlatformError:
        if status == HTTPStatus.NOT_FOUND:
            return NotFoundError(f"There is no object {key!r}.", code="no_object")
        if status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
            return UnavailableError(
                f"The S3 server {self._endpoint} refuses these credentials for bucket "
                f"{self.bucket!r}.",
                code="storage_credentials",
                hint="Check RYANGPT_S3_ACCESS_KEY and RYANGPT_S3_SECRET_KEY.",
            )
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            return UnavailableError(
                f"The S3 server {self._endpoint} has no room for {key!r}.",
                code=FailureCode.STORAGE_FULL,
                hint="Free some space on it, or raise the bucket's quota.",
            )
        return UnavailableError(
            f"The S3 server {self._endpoint} answered {int(status)} for {key!r}.", code="storage"
        )

    def _no_bucket(self) -> UnavailableError:
        return UnavailableError(
            f"There is no bucket {self.bucket!r} on the S3 server {self._endpoint}.",
            code="storage_bucket",
            hint="Create it, or set RYANGPT_S3_BUCKET.",
        )


def _checked(key: str) -> str:
    if {"", ".", ".."} & set(key.split("/")) or "\0" in key:
        raise InvalidInputError(f"{key!r} is not a usable object key.")
    return key
