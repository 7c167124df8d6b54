"""What the supervisors of a worker share, and what a slot gives to the process that runs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shared.base.settings import Settings
from shared.contracts.names import PROGRAM_OF_KIND, JobKind
from shared.db.session import Database
from shared.jobs.reading.report import render_report
from shared.jobs.worker.cache import InputCache
from shared.storage.base import ObjectStore


def _tell_nobody(_job_id: str) -> None:
    """No hints: readers poll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Shared by all slots of a worker; everything in it may be used from any thread."""

    settings: Settings
    database: Database
    store: ObjectStore
    cache: InputCache
    changed: Callable[[str], None] = _tell_nobody
    """Told the id of a job whose stream has grown; a hint."""
    render_report: Callable[[Database, str], str] = render_report
    """Makes a training job's report from its rows."""
    programs: Mapping[JobKind, str] = field(default_factory=lambda: PROGRAM_OF_KIND)
    """The module to run for each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A slot's share of the machine."""

    num_threads: int
    """CPU threads a job may use."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of the worker's."""
    niceness: int = 0
    """How much the process yields to others."""
    processes: int = 1
    """As how many processes a job runs."""
