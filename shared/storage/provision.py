"""Prepares an S3 server, once: `python -m shared.storage.provision FOLDER`.

Makes the bucket, and on a MinIO server a user who may use this bucket and nothing else. FOLDER
holds that user's key (`s3_access_key`, `s3_secret_key`); this process itself is given the server's
root key as its own. Whatever is there already stays.
"""

from __future__ import annotations

import json
import logging
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import InvalidResponseError, MinioAdminException, MinioException, S3Error
from urllib3.exceptions import HTTPError

from shared.base.errors import PlatformError, StartupError
from shared.base.logs import configure_logging
from shared.base.secret_files import PLATFORM_FILES, S3_ACCESS_KEY, S3_SECRET_KEY, SecretFolder
from shared.base.settings import Settings, get_settings
from shared.storage.s3 import S3Store

ALREADY_ATTACHED = "XMinioAdminPolicyChangeAlreadyApplied"
NO_SUCH_API = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.NOT_IMPLEMENTED,
    }
)
"""How S3 servers that are no MinIO answer to MinIO's administration; the root key has been proven
before, so that a refusal does not mean a wrong key."""

logger = logging.getLogger(__name__)


def policy_for(bucket: str) -> dict[str, Any]:
    """What the platform's user may do: everything with the objects of one bucket, no more."""
    arn = f"arn:aws:s3:::{bucket}"
    of_bucket = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    of_objects = [
        "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject",
        "s3:ListMultipartUploadParts", "s3:PutObject",
    ]  # fmt: skip
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": of_bucket, "Resource": [arn]},
            {"Effect": "Allow", "Action": of_objects, "Resource": [f"{arn}/*"]},
        ],
    }


def provision(settings: Settings, folder: Path) -> None:
    """Make bucket and user. Raises StartupError when the server refuses, or cannot be reached."""
    root_secret = settings.s3_secret_key.get_secret_value()
    access_key, secret_key = (
        (folder / name).read_text("utf-8").strip() for name in (S3_ACCESS_KEY, S3_SECRET_KEY)
    )
    _make_bucket(settings, root_secret)
    if access_key == settings.s3_access_key:
        logger.warning("The platform uses the S3 server's root key, as an earlier start decided.")
    elif not _make_user(settings, root_secret, access_key, secret_key):
        access_key, secret_key = settings.s3_access_key, root_secret
        _share_root_key(folder, access_key, secret_key)
    S3Store(
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        access_key=access_key,
        secret_key=secret_key,
        region=settings.s3_region,
        secure=settings.s3_secure,
    ).check()
    logger.info("Bucket %r is open to key %r.", settings.s3_bucket, access_key)


def _make_bucket(settings: Settings, root_secret: str) -> None:
    client = Minio(
        settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=root_secret,
        region=settings.s3_region,
        secure=settings.s3_secure,
    )
    try:
        if not client.bucket_exists(settings.s3_bucket):
            client.make_bucket(settings.s3_bucket)
            logger.info("Bucket %r was made.", settings.s3_bucket)
    except (S3Error, InvalidResponseError) as error:
        raise StartupError(
            f"The S3 server {settings.s3_endpoint} does not take its root key: {error}. Was its "
            "volume made with other secrets?"
        ) from error
    except (MinioException, HTTPError, OSError) as error:
        raise StartupError(
            f"The S3 server {settings.s3_endpoint} cannot be used: {error}."
        ) from error


def _make_user(settings: Settings, root_secret: str, access_key: str, secret_key: str) -> bool:
    """Make the user and its policy; return False on a server without MinIO's administration."""
    admin = MinioAdmin(
        endpoint=settings.s3_endpoint,
        credentials=StaticProvider(settings.s3_access_key, root_secret),
        region=settings.s3_region,
        secure=settings.s3_secure,
    )
    policy = f"{settings.s3_bucket}-objects"
    try:
        admin.policy_add(policy, policy=policy_for(settings.s3_bucket))
        admin.user_add(access_key, secret_key)
        _attach(admin, policy, access_key)
    except MinioAdminException as error:
        if _is_missing(error):
            return False
        raise StartupError(
            f"The S3 server {settings.s3_endpoint} refuses to make user {access_key!r}: {error}."
        ) from error
    except (MinioException, HTTPError, OSError) as error:
        raise StartupError(
            f"The S3 server {settings.s3_endpoint} cannot be used: {error}."
        ) from error
    logger.info("User %r may use bucket %r and nothing else.", access_key, settings.s3_bucket)
    return True


def _attach(admin: MinioAdmin, policy: str, user: str) -> None:
    try:
        admin.attach_policy([policy], user=user)
    except MinioAdminException as error:
        if _code_of(error) != ALREADY_ATTACHED:
            raise


def _is_missing(error: MinioAdminException) -> bool:
    """Whether this is the answer of a server that has no such interface, not of one that refuses.

    MinIO answers in JSON, and its refusals name an admin error or a signature.
    """
    return int(error._code) in NO_SUCH_API and not _code_of(error)


def _code_of(error: MinioAdminException) -> str:
    try:
        return str(json.loads(error._body)["Code"])
    except (ValueError, TypeError, KeyError):
        return ""


def _share_root_key(folder: Path, access_key: str, secret_key: str) -> None:
    logger.warning(
        "This S3 server has no MinIO administration, so no user of the platform's own can be made: "
        "the platform uses the server's root key. Give it a server of its own."
    )
    keys = SecretFolder(folder, PLATFORM_FILES)
    keys.write_one(S3_SECRET_KEY, secret_key)
    keys.write_one(S3_ACCESS_KEY, access_key)


def main() -> int:
    """Prepare the configured server; on failure one sentence on stderr and exit code 1."""
    if len(sys.argv) != 2:
        return _complain("usage: python -m shared.storage.provision FOLDER")
    try:
        settings = get_settings()
        configure_logging(log_format=settings.log_format, level=settings.log_level)
        provision(settings, Path(sys.argv[1]))
    except PlatformError as error:
        return _complain(error.message)
    except OSError as error:
        return _complain(f"{error.filename} cannot be used: {error.strerror}.")
    return 0


def _complain(sentence: str) -> int:
    sys.stderr.write(f"provision: {sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
