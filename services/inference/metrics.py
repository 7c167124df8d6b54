"""What Prometheus is told. Names are vLLM's with the prefix `ryangpt_` in place of `vllm:`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.inference.engine import StepStats
from services.inference.loader import LoadStage
from services.inference.registry import ModelRegistry
from services.inference.request_histograms import TOKENS, RequestHistograms
from services.inference.sequence import FinishReason, Sequence
from shared.contracts.serving import ModelPointer

SWAP_SECONDS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """The observer of engine and watcher, as counters and histograms."""

    def __init__(self, models: ModelRegistry, runtime: dict[str, str], *, num_slots: int) -> None:
        self._num_slots = num_slots
        self._registry = CollectorRegistry()
        self._running = self._gauge("num_requests_running", "Requests that hold a slot.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait for a slot.")
        self._cache_used = self._gauge("kv_cache_usage_perc", "Share of the slots in use, 0 to 1.")
        self._rejected = self._counter(
            "admission_rejections", "Requests refused before any work.", ("reason",)
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens computed.")
        self._generated = self._counter("generation_tokens", "Tokens generated.")
        self._per_step = self._histogram("iteration_tokens_total", "Tokens of a step.", TOKENS)
        self._requests = RequestHistograms(self._registry)
        self._finished = self._counter(
            "request_finished", "Requests by how they ended.", ("model_name", "finished_reason")
        )
        self._swaps = self._histogram(
            "model_swap_seconds", "From publication to service.", SWAP_SECONDS, ("model_name",)
        )
        self._failed = self._counter(
            "model_swap_failures",
            "Published versions that could not be served.",
            ("model_name", "stage"),
        )
        info = Gauge(
            "ryangpt_runtime_info", "How this process computes.", list(runtime),
            registry=self._registry,
        )  # fmt: skip
        info.labels(**runtime).set(1)
        self._registry.register(_ModelCollector(models))

    def watch_index_age(self, last_read: Callable[[], float]) -> None:
        """Show the seconds since the index of models was read; a store outage makes them grow."""
        gauge = self._gauge("model_index_age_seconds", "Since the published models were read.")
        gauge.set_function(lambda: time.monotonic() - last_read())

    def on_step(self, stats: StepStats) -> None:
        """See EngineObserver."""
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._cache_used.set(stats.num_running / self._num_slots)
        self._prompt_tokens.inc(stats.prompt_tokens)
        self._generated.inc(stats.generated_tokens)
        self._per_step.observe(stats.prompt_tokens + stats.generated_tokens)

    def on_token(self, sequence: Sequence, seconds: float) -> None:
        """See EngineObserver."""
        self._requests.on_token(sequence, seconds)

    def on_finish(self, sequence: Sequence) -> None:
        """See EngineObserver."""
        name = sequence.model.name
        reason = sequence.finish_reason or FinishReason.ABORT
        self._finished.labels(name, reason.value).inc()
        self._requests.on_finish(sequence, reason)

    def on_rejection(self, reason: str) -> None:
        """A request was refused before any work, for a reason such as `queue_full`."""
        self._rejected.labels(reason).inc()

    def on_swap(self, pointer: ModelPointer, seconds: float | None) -> None:
        """See SwapObserver."""
        if seconds is not None:
            self._swaps.labels(pointer.model).observe(seconds)

    def on_swap_failure(self, pointer: ModelPointer, stage: LoadStage) -> None:
        """See SwapObserver."""
        self._failed.labels(pointer.model, stage.value).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"ryangpt_{name}", text, registry=self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"ryangpt_{name}", text, labels, registry=self._registry)

    def _histogram(
        self,
        name: str,
        text: str,
        buckets: tuple[float, ...],
        labels: tuple[str, ...] = (),
    ) -> Histogram:
        return Histogram(f"ryangpt_{name}", text, labels, buckets=buckets, registry=self._registry)


class _ModelCollector(Collector):
    """Reads what is served at the moment of the scrape."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        labels = ("model_name", "version", "sha256", "stage")
        info = GaugeMetricFamily("ryangpt_model_info", "Served versions.", labels=labels)
        for model in self._models.models():
            digest = model.pointer.manifest_sha256
            info.add_metric([model.name, str(model.version), digest, model.stage], 1)
        failing = GaugeMetricFamily(
            "ryangpt_model_failing", "Newest versions not served.", labels=("model_name", "version")
        )
        for failure in self._models.failures():
            failing.add_metric([failure.pointer.model, str(failure.pointer.version)], 1)
        yield info
        yield failing
