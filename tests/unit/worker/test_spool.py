"""Two checkpoints are held; the newest and the final one are never given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shared.contracts.manifest import CheckpointMeta
from shared.contracts.progress import CheckpointLine
from shared.jobs.worker.spool import Spool
from tests.support.programs import TINY_MODEL, TOKENIZER_SHA256
from tests.support.waiting import wait_until


def line(step: int, *, final: bool = False) -> CheckpointLine:
    meta = CheckpointMeta(
        step=step,
        stage="pretrain",
        model=TINY_MODEL,
        tokenizer_sha256=TOKENIZER_SHA256,
        final=final,
    )
    return CheckpointLine(path=f"/spool/step-{step}", meta=meta)


class SlowUploads:
    """Uploads that wait for leave, and what became of each checkpoint."""

    def __init__(self) -> None:
        self.leave = threading.Semaphore(0)
        self.begun: list[int] = []
        self.uploaded: list[int] = []
        self.replaced: list[int] = []
        self.spool = Spool(
            upload=self._upload, replaced=lambda item: self.replaced.append(item.meta.step)
        )

    def _upload(self, item: CheckpointLine) -> None:
        self.begun.append(item.meta.step)
        self.leave.acquire()
        if item.meta.step == 13:
            raise ConnectionError("unlucky")
        self.uploaded.append(item.meta.step)

    def begin(self, step: int) -> None:
        self.spool.offer(line(step))
        wait_until(lambda: self.begun == [step], f"the upload of step {step}")

    def finish(self) -> None:
        for _ in range(20):
            self.leave.release()
        self.spool.close()
        assert self.spool.wait(20)


@pytest.fixture
def uploads() -> Iterator[SlowUploads]:
    made = SlowUploads()
    yield made
    made.finish()


def test_everything_is_uploaded_in_order_when_there_is_time(uploads: SlowUploads) -> None:
    uploads.begin(1)
    uploads.spool.offer(line(2))
    uploads.finish()
    assert (uploads.uploaded, uploads.replaced) == ([1, 2], [])
    assert uploads.spool.is_empty


def test_newest_replaces_the_older_unstarted_one(uploads: SlowUploads) -> None:
    uploads.begin(1)
    for step in (2, 3, 4):
        uploads.spool.offer(line(step))
    assert uploads.replaced == [2, 3]
    assert not uploads.spool.is_empty
    uploads.finish()
    assert uploads.uploaded == [1, 4]


def test_final_checkpoint_is_never_replaced(uploads: SlowUploads) -> None:
    uploads.begin(1)
    uploads.spool.offer(line(2, final=True))
    uploads.spool.offer(line(3))
    assert uploads.replaced == []
    uploads.finish()
    assert uploads.uploaded == [1, 2, 3]


def test_failure_for_good_is_kept_and_ends_the_uploads(uploads: SlowUploads) -> None:
    uploads.begin(13)
    uploads.spool.offer(line(14))
    uploads.leave.release()
    wait_until(lambda: uploads.spool.failure is not None, "the failure")
    assert str(uploads.spool.failure) == "unlucky"
    uploads.spool.offer(line(15))
    uploads.finish()
    assert uploads.uploaded == []


def test_spool_that_was_never_used_ends_at_once() -> None:
    spool = Spool(upload=lambda item: None, replaced=lambda item: None)
    spool.close()
    assert spool.is_empty
    assert spool.wait(0)
