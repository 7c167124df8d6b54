"""The object store that the settings ask for."""

from __future__ import annotations

from shared.base.settings import Settings
from shared.storage.base import ObjectStore
from shared.storage.local import LocalStore
from shared.storage.s3 import S3Store


def open_store(settings: Settings) -> ObjectStore:
    """Open the store; nothing is sent to a server yet, see `ObjectStore.check`."""
    if settings.object_store == "local":
        return LocalStore(settings.data_dir / "objects")
    return S3Store(
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
        secure=settings.s3_secure,
    )
