"""The parts of one inference process, put together and started and stopped in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence as Items
from concurrent.futures import ThreadPoolExecutor

from services.inference.detokenizer import Detokenizer
from services.inference.draining import Draining
from services.inference.engine import Engine
from services.inference.loaded_model import LoadedModel
from services.inference.loader import ModelLoader
from services.inference.mailbox import Dispatcher, Generation
from services.inference.metrics import Metrics
from services.inference.registry import ModelRegistry
from services.inference.runtime import Runtime
from services.inference.scheduler import Scheduler
from services.inference.sequence import Binding, SamplingParams, Sequence
from services.inference.watcher import ModelWatcher
from shared.base.errors import PlatformError
from shared.base.hints import HintListener
from shared.base.settings import Settings
from shared.contracts.names import HintChannel
from shared.storage.base import ObjectStore

STEP_TOKENS = 512
"""Tokens computed in a step at most (more only if there are as many slots): bounds how long a
prompt can hold up the others' next token."""
POLL_SECONDS = 1.0
SLOW_READER_SECONDS = 60.0
"""How long after its last token a stream's reader may still be reading."""
STALLED_SECONDS = 60.0
"""An engine whose loop has not come round for so long is taken for dead."""


Choice = tuple[Items[int], SamplingParams]
"""A prompt and how its continuation is chosen."""


class InferenceService:
    """Engine, models and the threads that keep them up to date."""

    def __init__(
        self, settings: Settings, store: ObjectStore, runtime: Runtime, *, use_hints: bool = True
    ) -> None:
        self.runtime = runtime
        self.models = ModelRegistry()
        self.metrics = Metrics(self.models, runtime.describe(), num_slots=settings.inference_slots)
        self._dispatcher = Dispatcher()
        self._num_slots = settings.inference_slots
        scheduler = Scheduler(
            num_slots=self._num_slots,
            token_budget=max(STEP_TOKENS, 2 * self._num_slots),
            max_waiting=settings.inference_queue,
            max_waiting_tokens=settings.inference_queue_tokens,
        )
        self._answer_seconds = settings.inference_answer_seconds
        self._queue_seconds = settings.inference_queue_seconds
        self.keepalive_seconds = settings.inference_keepalive_seconds
        """How long a stream may be silent."""
        self.engine = Engine(scheduler, runtime.runner, self._dispatcher.deliver, self.metrics)
        self.watcher = ModelWatcher(
            store,
            ModelLoader(store, settings.data_dir.resolve() / "inference", runtime),
            self.models,
            Draining(self.engine, seconds=self._answer_seconds),
            self.metrics,
            interval_seconds=settings.seconds(POLL_SECONDS),
        )
        self.metrics.watch_index_age(lambda: self.watcher.last_read)
        url = settings.redis_url.get_secret_value()
        self._hints = (
            HintListener(url, HintChannel.MODELS, self.watcher.wake) if use_hints else None
        )

    @property
    def is_alive(self) -> bool:
        """Whether the engine's loop turns."""
        beat_age = time.monotonic() - self.engine.last_beat
        return self.engine.is_running and beat_age < STALLED_SECONDS

    @property
    def longest_stream_seconds(self) -> float:
        """How long a stream's reader may take: the longest answer and a little more."""
        return self._answer_seconds + SLOW_READER_SECONDS

    def start(self) -> None:
        """Start engine, watcher and hints; on the event loop that will answer."""
        self._dispatcher.attach(asyncio.get_running_loop())
        self.engine.start()
        self.watcher.start()
        if self._hints:
            self._hints.start()

    async def stop(self) -> None:
        """Stop all threads; what is still being generated is failed."""
        stops = [self.engine.stop, self.watcher.stop]
        if self._hints:
            stops.append(self._hints.stop)
        with ThreadPoolExecutor(len(stops)) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, stop) for stop in stops))

    def generate(
        self,
        model: LoadedModel,
        choices: Items[Choice],
        *,
        stream: bool,
    ) -> Generation:
        """Begin to generate choices, each a prompt and its parameters.

        Raises QueueFullError and what else `Engine.submit` does; nothing has begun then.
        """
        now, binding = time.monotonic(), Binding(model)
        sequences = [
            Sequence(
                binding=binding,
                prompt=tuple(prompt),
                sampling=sampling,
                detokenizer=Detokenizer(model.tokenizer.token_contents, sampling.stop),
                capacity=model.context_length,
                deadline=now + self._answer_seconds,
                start_deadline=now + self._queue_seconds,
            )
            for prompt, sampling in choices
        ]
        try:
            return Generation(self.engine, self._dispatcher, sequences, stream=stream)
        except PlatformError as error:
            self.metrics.on_rejection(error.code)
            raise
