"""Deletes objects that no row names: of attempts that died, of deletions that were cut short.

An object belongs to the fence in its key. Once the job has ended, or its fence has moved on, no row
can come that names it: what is unnamed then stays unnamed. The age is a grace for readers who
learned of an object before its row went. A platform must have its bucket to itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import groupby

from sqlalchemy.orm import Session

from shared.contracts.names import JobState
from shared.db.repositories import artifacts, checkpoints, jobs
from shared.db.session import Database
from shared.storage.base import ObjectStore
from shared.storage.keys import JOBS_FOLDER, UPLOADS_FOLDER

logger = logging.getLogger(__name__)

_ATTEMPT = re.compile(r"jobs/[^/]+/t(\d+)/")


def collect_garbage(database: Database, store: ObjectStore, *, older_than: datetime) -> list[str]:
    """Delete what nothing names and is older than that; return the keys.

    Uploads that were announced before then and never completed are forgotten, too. Raises
    UnavailableError when database or store is away; what is left is found the next time.
    """
    store.remove_unfinished(older_than=older_than)
    with database.transaction() as session:
        artifacts.delete_unfinished_uploads(session, before=older_than)
    deleted: list[str] = []
    for folder, select_garbage in ((JOBS_FOLDER, _of_job), (UPLOADS_FOLDER, _of_upload)):
        old = (item.key for item in store.list_objects(folder) if item.modified_at < older_than)
        for owner_id, found in groupby(old, key=lambda key: key.split("/")[1]):
            keys = list(found)
            with database.reading() as session:
                garbage = select_garbage(session, owner_id, keys)
            store.delete(garbage)
            deleted += garbage
    if deleted:
        logger.info("Deleted %d objects that nothing names.", len(deleted))
    return deleted


def _of_job(session: Session, job_id: str, keys: Sequence[str]) -> list[str]:
    """The job is read before the rows that name its objects: after it has moved on, none come."""
    job = jobs.find_job(session, job_id)
    if job is None:
        return list(keys)
    prefixes = {row.prefix for row in checkpoints.list_checkpoints(session, job_id)}
    prefixes |= artifacts.prefixes_of_job(session, job_id)
    living = job.token if job.state is JobState.RUNNING else job.token + 1
    return [key for key in keys if _token(key, living) < living and not _named(key, prefixes)]


def _token(key: str, otherwise: int) -> int:
    """The fence in the key; an object of the job as a whole, such as its report, has none."""
    found = _ATTEMPT.match(key)
    return int(found[1]) if found else otherwise


def _named(key: str, prefixes: Collection[str]) -> bool:
    return any(key.startswith(prefix) for prefix in prefixes)


def _of_upload(session: Session, upload_id: str, keys: Sequence[str]) -> list[str]:
    return list(keys) if artifacts.find_upload(session, upload_id) is None else []
