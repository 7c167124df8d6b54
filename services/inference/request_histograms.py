"""How long each request took, phase by phase, and how large it was: histograms by model."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Histogram

from services.inference.sequence import FinishReason, Sequence

FINE_SECONDS = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075,
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1,
    0.2, 0.5, 1, 2, 5, 10, 30, 60,
)  # fmt: skip
"""Small models answer in milliseconds; vLLM's buckets begin where these end."""
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
SECONDS = {
    "time_to_first_token_seconds": "From arrival to the first token.",
    "inter_token_latency_seconds": "Between two tokens of a request.",
    "e2e_request_latency_seconds": "From arrival to the last token.",
    "request_queue_time_seconds": "From arrival to a slot.",
    "request_prefill_time_seconds": "From a slot to the first token.",
    "request_decode_time_seconds": "From the first token to the last.",
    "request_inference_time_seconds": "From a slot to the last token.",
    "request_time_per_output_token_seconds": "Decode time a token.",
}
SIZES = {
    "request_prompt_tokens": "Prompt tokens of a request.",
    "request_generation_tokens": "Generated tokens of a request.",
}


class RequestHistograms:
    """Fed by the engine's observer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        described = [(SECONDS, FINE_SECONDS), (SIZES, TOKENS)]
        self._histograms = {
            name: Histogram(
                f"ryangpt_{name}", text, ("model_name",), buckets=buckets, registry=registry
            )
            for texts, buckets in described
            for name, text in texts.items()
        }
        self._first_at: dict[int, float] = {}

    def on_token(self, sequence: Sequence, seconds: float) -> None:
        """A sequence got a token, so many seconds after its last one (or its arrival)."""
        if sequence.last_token_at is None:
            self._first_at[sequence.number] = sequence.created_at + seconds
            self._observe(sequence, "time_to_first_token_seconds", seconds)
        else:
            self._observe(sequence, "inter_token_latency_seconds", seconds)

    def on_finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """A sequence has ended; only whole answers count beyond the time in the queue."""
        first_at = self._first_at.pop(sequence.number, None)
        started_at, last_at = sequence.started_at, sequence.last_token_at
        if started_at is not None:
            self._observe(sequence, "request_queue_time_seconds", started_at - sequence.created_at)
        if reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return
        now = time.monotonic()
        self._observe(sequence, "e2e_request_latency_seconds", now - sequence.created_at)
        self._observe(sequence, "request_prompt_tokens", len(sequence.prompt))
        self._observe(sequence, "request_generation_tokens", sequence.num_generated)
        if started_at is None or first_at is None or last_at is None:
            return  # it asked for no token
        self._observe(sequence, "request_prefill_time_seconds", first_at - started_at)
        self._observe(sequence, "request_decode_time_seconds", last_at - first_at)
        self._observe(sequence, "request_inference_time_seconds", last_at - started_at)
        if sequence.num_generated > 1:
            each = (last_at - first_at) / (sequence.num_generated - 1)
            self._observe(sequence, "request_time_per_output_token_seconds", each)

    def _observe(self, sequence: Sequence, name: str, value: float) -> None:
        self._histograms[name].labels(sequence.model.name).observe(value)
