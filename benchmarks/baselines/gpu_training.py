"""What a GPU does in training: compile, speed, memory, kernels, a resume. A part of gpu_check.

Tokens are synthetic; model, loop, checkpoint and compilation are the trainer's own.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from torch.profiler import ProfilerActivity, profile

from benchmarks.baselines.synthetic_run import SEED, SyntheticRun
from services.trainer.checkpoint import environment_of, make_state, restore, write_checkpoint
from services.trainer.data import DataOrder
from services.trainer.device import compiled_loss, device_name, eager_loss
from services.trainer.evaluate import complete
from services.trainer.snapshot import Snapshot
from shared.base.version import code_version
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import SPECIAL_TOKENS
from shared.jobs.program import publish_folder
from shared.text.tokenizer import Tokenizer

PRESET = ModelConfig()
SMOKE = ModelConfig(
    vocab_size=512, context_length=32, num_layers=1, d_model=64, num_heads=1, d_ff=128
)
REFERENCE_BATCH = 32
REFERENCE_TOKENS = 80_000 * 32_768
"""Of the whole reference run."""
TOP_KERNELS = 15
RESUMED_STEPS = 10
PROMPTS, NEW_TOKENS = 8, 64
ATTENTION_WORDS = ("flash", "fmha", "efficient_attention", "attention")


def byte_tokenizer(vocab_size: int = 0) -> Tokenizer:
    """Special tokens, single bytes and, up to `vocab_size`, tokens that no text becomes.

    Enough for a checkpoint to be whole.
    """
    entries = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    entries += [f"unused{number}" for number in range(vocab_size - len(entries))]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer.from_json(backend.to_str())


class Check:
    """The stages in order; `facts` is what they found."""

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        *,
        batch: int,
        accumulation: int,
        optimizer: Literal["adamw", "muon"],
    ) -> None:
        self.config, self.batch, self.device = config, batch, device
        self.accumulation, self.optimizer = accumulation, optimizer
        self.on_gpu = device.type == "cuda"
        self.facts: dict[str, Any] = {
            "device": device_name(device),
            "torch": torch.__version__,
            "code": code_version(),
            "parameters": config.num_parameters,
            "batch": [batch, config.context_length],
            "gradient_accumulation_steps": accumulation,
            "optimizer": optimizer,
            "seconds": {},
        }
        self.run = self._fresh_run()

    def _fresh_run(self) -> SyntheticRun:
        dtype = torch.bfloat16 if self.on_gpu else torch.float32
        return SyntheticRun(
            self.config,
            self.batch,
            self.device,
            dtype=dtype,
            accumulation=self.accumulation,
            kind=self.optimizer,
        )

    def compile(self) -> None:
        """Compile as the trainer does; a fallback to eager is a fact, not a failure."""
        notices: list[str] = []
        order = DataOrder(seed=SEED, num_sequences=self.run.data.num_sequences)
        example = self.run.data.batch(*order.locate(0, self.batch))
        began = time.perf_counter()
        self.run.loss, compiled = compiled_loss(self.run.model, example, notices.append)
        self._synchronize()
        self.facts["compiled"] = compiled
        self.facts["compile_seconds"] = time.perf_counter() - began
        self.facts["notices"] = notices
        with torch.no_grad():
            eager = float(eager_loss(self.run.model)(example))
            self.facts["compiled_loss_share"] = float(self.run.loss(example)) / eager

    def train(self, steps: int) -> None:
        """Train; speed is the median over tenths of the run, the first one left out."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        lines = self.run.train(steps, log_interval=max(1, steps // 10))
        speeds = [line.values["tokens_per_second"] for line in lines]
        self.facts["steps"] = steps
        self.facts["tokens_per_second"] = statistics.median(speeds[1:] or speeds)
        self.facts["mfu"] = statistics.median(line.values.get("mfu", 0.0) for line in lines) or None
        # Arithmetic, no measurement: the whole run at this speed.
        self.facts["reference_run_minutes_extrapolated"] = (
            REFERENCE_TOKENS / self.facts["tokens_per_second"] / 60
        )
        self.facts["first_loss"] = lines[0].values["loss"]
        self.facts["last_loss"] = lines[-1].values["loss"]
        if self.on_gpu:
            peak = torch.cuda.max_memory_allocated(self.device)
            self.facts["peak_memory_gib"] = peak / 2**30

    def find_kernels(self) -> None:
        """Name the kernels of one step that speak of attention, and those that take longest."""
        activity = ProfilerActivity.CUDA if self.on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            self.run.train(1)
        events = profiler.key_averages()
        names = {event.key for event in events}
        attribute = "self_device_time_total" if self.on_gpu else "self_cpu_time_total"
        slowest = sorted(events, key=lambda event: -getattr(event, attribute))[:TOP_KERNELS]
        self.facts["slowest_kernels_us"] = {e.key: getattr(e, attribute) for e in slowest}
        found = {name for name in names if any(word in name.lower() for word in ATTENTION_WORDS)}
        self.facts["attention_kernels"] = sorted(found)

    def resume(self) -> None:
        """Write a checkpoint, go on; then load it anew, go on, and compare the losses."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "checkpoint"
            position = self.run.position
            began = time.perf_counter()
            self._save(folder)
            self.facts["save_seconds"] = time.perf_counter() - began
            straight = self.run.train(RESUMED_STEPS)
            again = self._fresh_run()
            restore(folder, again.model, again.optimizer)
        again.position = position
        resumed = again.train(RESUMED_STEPS)
        gaps = [
            abs(one.values["loss"] - other.values["loss"])
            for one, other in zip(straight, resumed, strict=True)
        ]
        self.facts["resume_largest_loss_gap"] = max(gaps)

    def _save(self, folder: Path) -> None:
        tokenizer = byte_tokenizer()
        environment = environment_of(
            device=device_name(self.device), dtype=self.run.dtype, compiled=True
        )
        state = make_state(
            self.run.position,
            stage="pretrain",
            tokenizer=tokenizer,
            tokens_id="synthetic",
            spec={},
            code_version=code_version(),
            environment=environment,
        )
        write_checkpoint(
            folder,
            config=self.config,
            snapshot=Snapshot(self.run.model, self.run.optimizer, step=self.run.position.step),
            state=state,
            tokenizer=tokenizer,
            publish=publish_folder,
        )

    def generate(self) -> None:
        """Greedy text as the trainer samples it (without a key/value cache)."""
        prompts = [[3 + n, 4 + n, 5 + n] for n in range(PROMPTS)]
        room = min(NEW_TOKENS, self.config.context_length - 3)
        began = time.perf_counter()
        texts = complete(self.run.model, prompts, max_tokens=room, end_id=-1)
        seconds = time.perf_counter() - began
        self.facts["generated_tokens"] = sum(map(len, texts))
        self.facts["generated_tokens_per_second"] = self.facts["generated_tokens"] / seconds

    def _synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def check_training(device: torch.device, *, smoke: bool, steps: int) -> dict[str, Any]:
    """Both presets on one model: the reference's two micro-batches and AdamW, and ours.

    Each stage says when it begins, as a compilation may take minutes. The smoke test compiles for
    the first preset only: on a CPU that is most of its time.
    """
    config, batch = (SMOKE, 2) if smoke else (PRESET, REFERENCE_BATCH)
    presets = {
        "ryan-gpt": Check(config, device, batch=batch, accumulation=2, optimizer="adamw"),
        "ryan-gpt-fast": Check(config, device, batch=2 * batch, accumulation=1, optimizer="muon"),
    }
    found: dict[str, Any] = {}
    for name, check in presets.items():
        stages: dict[str, Callable[[], None]] = {
            "compile": check.compile,
            "train": partial(check.train, steps),
            "find kernels": check.find_kernels,
            "resume": check.resume,
            "generate": check.generate,
        }
        if smoke and found:
            del stages["compile"]
        for stage, work in stages.items():
            print(f"{name}: {stage} ...", flush=True)
            began = time.perf_counter()
            work()
            check.facts["seconds"][stage] = time.perf_counter() - began
        found[name] = check.facts
    return found
