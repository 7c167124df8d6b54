"""An engine without thread, store and HTTP: models in memory, stepped by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import torch

from services.inference.attention import SdpaBackend
from services.inference.detokenizer import Detokenizer
from services.inference.engine import Engine, StepStats
from services.inference.loaded_model import LoadedModel
from services.inference.resident.decode_step import recompute
from services.inference.runtime import Runtime, open_runtime, resident_runtime
from services.inference.scheduler import Scheduler
from services.inference.sequence import Binding, Delta, SamplingParams, Sequence
from shared.base.settings import Settings
from shared.contracts.serving import ModelPointer
from shared.model.transformer import Transformer
from tests.support.models import small_tokenizer

CPU = torch.device("cpu")


def open_resident_on_cpu(settings: Settings) -> Runtime:
    """The runtime of a CUDA device on the CPU: all of it but graphs and asynchronous copies."""
    torch.set_num_threads(settings.resolved_num_threads)
    return resident_runtime(
        settings,
        device=CPU,
        dtype=torch.float32,
        attention=SdpaBackend(),
        new_capture=lambda: recompute,
    )


class RecordingObserver:
    """Keeps what the engine tells."""

    def __init__(self) -> None:
        self.steps: list[StepStats] = []
        self.finished: list[Sequence] = []
        self.num_tokens = 0

    def on_step(self, stats: StepStats) -> None:
        self.steps.append(stats)

    def on_token(self, sequence: Sequence, seconds: float) -> None:
        assert seconds >= 0
        self.num_tokens += 1

    def on_finish(self, sequence: Sequence) -> None:
        self.finished.append(sequence)


class EngineBench:
    """An engine over `num_slots` slots, and everything it has delivered."""

    open_runtime = staticmethod(open_runtime)

    def __init__(self, *, num_slots: int = 6, token_budget: int = 64) -> None:
        self.delivered: list[tuple[Sequence, Delta]] = []
        self.observer = RecordingObserver()
        settings = Settings(device="cpu", num_threads=1, inference_slots=num_slots)
        self.runtime = self.open_runtime(settings)
        scheduler = Scheduler(num_slots=num_slots, token_budget=token_budget, max_waiting=99)
        self.engine = Engine(scheduler, self.runtime.runner, self.delivered.extend, self.observer)

    def load(self, model: Transformer, *, version: int = 1) -> LoadedModel:
        """Lay a training module out for generation."""
        pointer = ModelPointer(
            model="m",
            version=version,
            seq=version,
            checkpoint_id="ckpt",
            manifest_key="key",
            manifest_sha256="0" * 64,
            stage="pretrain",
            published_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        config, state, runtime = model.config, model.state_dict(), self.runtime
        network, resident = runtime.build("m", config, state)
        return LoadedModel(
            pointer=pointer,
            tokenizer=small_tokenizer(),
            network=network,
            cache=runtime.caches.cache_for(config),
            attention=runtime.attention,
            device=runtime.device,
            resident=resident,
        )

    def add(self, model: LoadedModel, prompt: list[int], **wishes: Any) -> Sequence:
        """Submit a greedy request for 20 tokens, or what `wishes` says."""
        (sequence,) = self.add_choices(model, [prompt], **wishes)
        return sequence

    def add_choices(
        self, model: LoadedModel, prompts: list[list[int]], **wishes: Any
    ) -> list[Sequence]:
        """Submit one request with a choice for each prompt, like `add`."""
        params = SamplingParams(**{"max_tokens": 20, "seed": 0, "temperature": 0.0, **wishes})
        binding = Binding(model)
        sequences = [
            Sequence(
                binding=binding,
                prompt=tuple(prompt),
                sampling=params.for_choice(number),
                detokenizer=Detokenizer(model.tokenizer.token_contents, params.stop),
                capacity=model.context_length,
            )
            for number, prompt in enumerate(prompts)
        ]
        self.engine.submit(*sequences)
        return sequences

    def finish(self) -> None:
        """Step until nothing is left."""
        while self.engine.step():
            pass

    def text(self, sequence: Sequence) -> str:
        """The text delivered for a sequence."""
        return "".join(delta.text for one, delta in self.delivered if one is sequence)


class ResidentBench(EngineBench):
    """One that generates as on CUDA: tokens stay on the device, and the host is a step behind."""

    open_runtime = staticmethod(open_resident_on_cpu)


BENCHES = (EngineBench, ResidentBench)


def answer_ids(sequence: Sequence) -> list[int]:
    """What was generated."""
    return sequence.tokens[len(sequence.prompt) :]
