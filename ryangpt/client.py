"""A typed client of the platform's API: contracts in, contracts out.

```python
from ryangpt import Client

with Client("http://127.0.0.1:8000") as client:
    for event in client.events("job_01..."):
        print(event.seq, event.type, event.data)
    print(client.chat("quickstart-chat", "What does os.path.join do?"))
```
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from ryangpt.generation import Generation
from ryangpt.transport import UNREACHABLE, ApiError, Transport
from shared.base.errors import IntegrityError
from shared.base.files import CHUNK_BYTES, atomic_write, sha256_of
from shared.contracts.jobs import JobCreate, JobEstimate, JobView, PipelineCreate, PipelineView
from shared.contracts.names import TERMINAL_STATES, JobKind, JobState
from shared.contracts.views import (
    ArtifactView,
    CheckpointView,
    EventView,
    MetricsView,
    ModelView,
    PreviewView,
    UploadView,
    WorkerView,
)

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE_SIZE = 100
RECONNECT_SECONDS = 60.0
"""How long a broken stream of events is tried again before its error is raised."""

Document = TypeVar("Document", bound=BaseModel)


class Client(Generation):
    """Everything the API offers. Each method raises ApiError when the server refuses.

    Not for use by several threads at once while a stream is open.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(Transport(url, token=token, timeout=timeout, transport=transport))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self.http.close()

    # Uploads

    def upload(self, path: Path, *, on_progress: Callable[[int], None] | None = None) -> UploadView:
        """Send a file; the server checks size and SHA-256.

        An upload with the same content that the server already has is returned instead, so that
        data jobs made from it can be reused. `on_progress` is told each chunk's bytes.
        """
        digest = sha256_of(path)
        known = (u for u in self.uploads() if u.sha256 == digest and u.state == "ready")
        existing = next(known, None)
        if existing is not None:
            return existing
        announced = {"filename": path.name, "bytes": path.stat().st_size, "sha256": digest}
        created = UploadView.model_validate(self.http.json("POST", "/v1/uploads", json=announced))
        answer = self.http.json(
            "PUT",
            f"/v1/uploads/{created.id}/content",
            content=_chunks(path, on_progress),
            headers={"Content-Length": str(announced["bytes"])},
            timeout=httpx.Timeout(30.0, read=600.0, write=60.0),
        )
        return UploadView.model_validate(answer)

    def uploads(self) -> Iterator[UploadView]:
        """Every upload, newest first."""
        return self._pages("/v1/uploads", UploadView)

    # Jobs

    def submit(self, job: JobCreate, *, idempotency_key: str | None = None) -> JobView:
        """Submit one job."""
        return JobView.model_validate(self._create("/v1/jobs", job, idempotency_key))

    def validate(self, job: JobCreate) -> JobEstimate:
        """Check a job as `submit` would, without writing anything."""
        body = job.model_dump(mode="json", exclude_unset=True)
        answer = self.http.json("POST", "/v1/jobs", json=body, params={"validate_only": "true"})
        return JobEstimate.model_validate(answer)

    def submit_pipeline(
        self, pipeline: PipelineCreate, *, idempotency_key: str | None = None
    ) -> PipelineView:
        """Submit several jobs at once."""
        return PipelineView.model_validate(self._create("/v1/pipelines", pipeline, idempotency_key))

    def job(self, job_id: str) -> JobView:
        """One job as it is now."""
        return JobView.model_validate(self.http.json("GET", f"/v1/jobs/{job_id}"))

    def jobs(
        self,
        *,
        state: JobState | None = None,
        kind: JobKind | None = None,
        pipeline_id: str | None = None,
    ) -> Iterator[JobView]:
        """Jobs, newest first; pages are fetched as needed."""
        filters = {"state": state, "kind": kind, "pipeline_id": pipeline_id}
        return self._pages("/v1/jobs", JobView, **filters)

    def pipeline(self, pipeline_id: str) -> PipelineView:
        """One pipeline and its jobs as they are now."""
        return PipelineView.model_validate(self.http.json("GET", f"/v1/pipelines/{pipeline_id}"))

    def pipelines(self) -> Iterator[PipelineView]:
        """Pipelines, newest first."""
        return self._pages("/v1/pipelines", PipelineView)

    def cancel(self, job_id: str) -> JobView:
        """Ask for a job to end, dropping the step it is in."""
        return JobView.model_validate(self.http.json("POST", f"/v1/jobs/{job_id}/cancel"))

    def pause(self, job_id: str) -> JobView:
        """Ask a job to write a checkpoint and stop until it is resumed."""
        return JobView.model_validate(self.http.json("POST", f"/v1/jobs/{job_id}/pause"))

    def resume(self, job_id: str) -> JobView:
        """Let a paused job go on."""
        return JobView.model_validate(self.http.json("POST", f"/v1/jobs/{job_id}/resume"))

    def retry(self, job_id: str) -> JobView:
        """Submit an ended job anew, from its last checkpoint if it has one; return the new job."""
        return JobView.model_validate(self.http.json("POST", f"/v1/jobs/{job_id}/retry"))

    def wait(self, job_id: str, *, poll_seconds: float = 1.0) -> JobView:
        """Return the job once it has ended."""
        while (job := self.job(job_id)).state not in TERMINAL_STATES:
            time.sleep(poll_seconds)
        return job

    # What a job tells

    def events(self, job_id: str, *, after: int = 0) -> Iterator[EventView]:
        """Every event past number `after`, as it happens, until the job has ended.

        A broken connection is resumed where it was; ApiError when that fails for a minute.
        """
        last_heard = time.monotonic()
        while True:
            try:
                for event in self._open_events(job_id, after):
                    if event is None:
                        return
                    after, last_heard = event.seq, time.monotonic()
                    yield event
            except ApiError as error:
                temporary = error.code == UNREACHABLE or error.status_code == 503
                if not temporary or time.monotonic() - last_heard > RECONNECT_SECONDS:
                    raise
            time.sleep(1.0)

    def _open_events(self, job_id: str, after: int) -> Iterator[EventView | None]:
        """Events of one connection; None when the server says that the job has ended."""
        path, headers = f"/v1/jobs/{job_id}/events/stream", {"Last-Event-ID": str(after)}
        with self.http.events("GET", path, headers=headers) as source:
            for message in source.iter_sse():
                if message.event == "done":
                    yield None
                    return
                if message.data:  # a bare `retry:` line is a message too
                    yield EventView.model_validate_json(message.data)

    def past_events(self, job_id: str, *, after: int = 0) -> Iterator[EventView]:
        """The events there are past number `after`, oldest first."""
        return self._pages(f"/v1/jobs/{job_id}/events", EventView, after=after)

    def metrics(self, job_id: str, *, max_points: int = 2000) -> MetricsView:
        """The curves of a job."""
        answer = self.http.json(
            "GET", f"/v1/jobs/{job_id}/metrics", params={"max_points": max_points}
        )
        return MetricsView.model_validate(answer)

    def logs(self, job_id: str) -> Iterator[str]:
        """The lines that the job's process wrote so far, oldest first."""
        after = "0"
        while True:
            params = {"after": after, "limit": "1000"}
            answer = self.http.request("GET", f"/v1/jobs/{job_id}/logs", params=params)
            if not answer.text:
                return
            yield from answer.text.removesuffix("\n").split("\n")
            after = answer.headers["X-Next-After"]

    def report(self, job_id: str) -> str:
        """The finished run's report, in Markdown."""
        return self.http.request("GET", f"/v1/jobs/{job_id}/report").text

    def plot(self, job_id: str) -> str:
        """The job's loss curves, as SVG."""
        return self.http.request("GET", f"/v1/jobs/{job_id}/plot.svg").text

    # What jobs put out

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """A job's checkpoints."""
        return list(self._pages(f"/v1/jobs/{job_id}/checkpoints", CheckpointView))

    def datasets(self) -> Iterator[ArtifactView]:
        """Datasets and token sets, newest first."""
        return self._pages("/v1/datasets", ArtifactView)

    def artifact(self, resource: str, artifact_id: str) -> ArtifactView:
        """One artifact; `resource` is `datasets`, `tokenizers` or `exports`."""
        return ArtifactView.model_validate(self.http.json("GET", f"/v1/{resource}/{artifact_id}"))

    def preview(self, dataset_id: str, *, rows: int = 5) -> PreviewView:
        """The first rows of a dataset."""
        answer = self.http.json("GET", f"/v1/datasets/{dataset_id}/preview", params={"n": rows})
        return PreviewView.model_validate(answer)

    def download(self, artifact: ArtifactView, folder: Path) -> list[Path]:
        """Save an artifact's files below `folder`, each verified; return their paths.

        Raises IntegrityError when a file is not what its manifest says.
        """
        saved = []
        for entry in artifact.manifest.files:
            target = folder / entry.path
            self._download(f"/v1/artifacts/{artifact.id}/files/{entry.path}", target, entry.sha256)
            saved.append(target)
        return saved

    def _download(self, path: str, target: Path, sha256: str) -> None:
        digest = hashlib.sha256()
        with self.http.stream("GET", path) as response, atomic_write(target) as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != sha256:
                raise IntegrityError(f"{path} arrived with other bytes than its manifest names.")

    # Models and workers

    def models(self) -> list[ModelView]:
        """Every model with its published versions."""
        return list(self._pages("/v1/models", ModelView))

    def model(self, name: str) -> ModelView:
        """One model."""
        return ModelView.model_validate(self.http.json("GET", f"/v1/models/{name}"))

    def publish(self, model: str, checkpoint_id: str) -> ModelView:
        """Make a checkpoint the served version of a model."""
        body = {"checkpoint_id": checkpoint_id}
        answer = self.http.json("POST", f"/v1/models/{model}/publish", json=body)
        return ModelView.model_validate(answer)

    def pin(self, model: str, version: int | None) -> ModelView:
        """Serve this version whatever is published later; None lifts the pin."""
        answer = self.http.json("POST", f"/v1/models/{model}/pin", json={"version": version})
        return ModelView.model_validate(answer)

    def workers(self) -> list[WorkerView]:
        """Every worker process and its last sign of life."""
        return list(self._pages("/v1/workers", WorkerView))

    # Helpers

    def _create(self, path: str, document: BaseModel, idempotency_key: str | None) -> Any:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        body = document.model_dump(mode="json", exclude_unset=True)
        return self.http.json("POST", path, json=body, headers=headers)

    def _pages(self, path: str, item: type[Document], **filters: Any) -> Iterator[Document]:
        params = {name: value for name, value in filters.items() if value is not None}
        params["limit"] = PAGE_SIZE
        while True:
            page = self.http.json("GET", path, params=params)
            yield from (item.model_validate(entry) for entry in page["data"])
            if not page["has_more"]:
                return
            params["after"] = page["next_after"]


def _chunks(path: Path, on_progress: Callable[[int], None] | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            if on_progress:
                on_progress(len(chunk))
