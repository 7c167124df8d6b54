"""Inputs come verified, and only as much of them as the job needs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shared.base.clock import utc_now
from shared.base.errors import IntegrityError, NotFoundError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.names import JobKind, JobState
from shared.db.repositories.artifacts import add_upload
from shared.db.tables import UploadRow
from shared.jobs.worker.cache import InputCache
from shared.jobs.worker.fetching import FetchedInputs, InputFetcher
from shared.jobs.worker.retries import AbandonedError
from shared.storage.keys import upload_key
from shared.storage.local import LocalStore
from tests.support.job_bench import JobBench
from tests.support.programs import Script

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[JobBench]:
    made = JobBench.create(tmp_path / "data")
    yield made
    made.database.close()


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def fetch(
    bench: JobBench,
    held: ExitStack,
    kind: JobKind,
    ids: dict[str, str],
    resume_id: str | None = None,
    *,
    abandoned: bool = False,
) -> FetchedInputs:
    event = threading.Event()
    if abandoned:
        event.set()
    fetcher = InputFetcher(
        database=bench.database,
        store=bench.store,
        cache=InputCache(bench.settings.data_dir / "cache", max_bytes=1 << 30),
        settings=bench.settings,
        held=held,
        abandoned=event,
    )
    return fetcher.fetch(kind, ids, resume_id)


def add_upload_of(bench: JobBench, content: bytes, *, stored: bytes | None = None) -> str:
    row = UploadRow(
        id=new_id(IdPrefix.UPLOAD),
        filename="corpus.txt.gz",
        state="ready",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        created_at=utc_now(),
    )
    bench.store.put_bytes(upload_key(row.id), content if stored is None else stored)
    with bench.database.transaction() as session:
        add_upload(session, row)
    return row.id


def trained_checkpoint(bench: JobBench) -> str:
    bench.add_train_job(Script(steps=1))
    row = bench.supervise()
    assert row.state is JobState.SUCCEEDED
    return row.outputs["checkpoint"]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_upload_is_a_file_under_its_own_name(bench: JobBench, held: ExitStack) -> None:
    upload_id = add_upload_of(bench, b"some text")
    fetched = fetch(bench, held, JobKind.INGEST, {"upload": upload_id})
    entry = fetched.inputs["upload"]
    assert (entry.id, entry.name) == (upload_id, "corpus.txt.gz")
    assert entry.path.is_absolute()
    assert entry.path.read_bytes() == b"some text"
    assert fetched.resume is None


def test_changed_upload_is_refused(bench: JobBench, held: ExitStack) -> None:
    upload_id = add_upload_of(bench, b"some text", stored=b"some tex!")
    with pytest.raises(IntegrityError, match="another sha256"):
        fetch(bench, held, JobKind.INGEST, {"upload": upload_id})
    assert names_in(bench.settings.data_dir / "cache") == {".locks"}


def test_base_model_comes_without_its_optimizer_state(bench: JobBench, held: ExitStack) -> None:
    checkpoint_id = trained_checkpoint(bench)
    fetched = fetch(bench, held, JobKind.FINETUNE, {"checkpoint": checkpoint_id})
    base = fetched.inputs["checkpoint"].path
    assert names_in(base) == {"manifest.json", "model.safetensors", "tokenizer.json"}


def test_checkpoint_to_resume_comes_whole_and_is_no_input(bench: JobBench, held: ExitStack) -> None:
    checkpoint_id = trained_checkpoint(bench)
    ids = {"resume_from": checkpoint_id}
    fetched = fetch(bench, held, JobKind.TRAIN, ids, checkpoint_id)
    assert fetched.inputs == {}
    assert fetched.resume is not None
    assert names_in(fetched.resume) == {
        "manifest.json",
        "model.safetensors",
        "state.json",
        "tokenizer.json",
    }


def test_unknown_input_is_named(bench: JobBench, held: ExitStack) -> None:
    missing = new_id(IdPrefix.DATASET)
    with pytest.raises(NotFoundError, match=missing):
        fetch(bench, held, JobKind.TOKENIZE, {"dataset": missing})


def test_nothing_is_fetched_for_a_job_that_nobody_wants(bench: JobBench, held: ExitStack) -> None:
    upload_id = add_upload_of(bench, b"some text")
    with pytest.raises(AbandonedError):
        fetch(bench, held, JobKind.INGEST, {"upload": upload_id}, abandoned=True)
    assert not (bench.settings.data_dir / "cache").exists()


def test_download_ends_when_nobody_wants_it_any_more(bench: JobBench, held: ExitStack) -> None:
    upload_id = add_upload_of(bench, bytes(3 << 20))
    abandoned = threading.Event()

    class CancelledMeanwhile(LocalStore):
        @contextmanager
        def stream(self, key: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
            with super().stream(key, offset=offset) as chunks:
                yield (abandoned.set() or chunk for chunk in chunks)

    fetcher = InputFetcher(
        database=bench.database,
        store=CancelledMeanwhile(bench.settings.data_dir / "objects"),
        cache=InputCache(bench.settings.data_dir / "cache", max_bytes=1 << 30),
        settings=bench.settings,
        held=held,
        abandoned=abandoned,
    )
    with pytest.raises(AbandonedError):
        fetcher.fetch(JobKind.INGEST, {"upload": upload_id}, None)
    assert names_in(bench.settings.data_dir / "cache") == {".locks"}
