"""From a spec to numbers: every `auto` resolved, every combination checked. Knows no torch.

Rules, and where they come from:

- lr of pretraining: 3e-3 * sqrt(128 / d_model). nanochat scales AdamW's rate alike, by
  1 / sqrt(width); the constant is the quickstart recipe's, measured at width 128.
- lr of finetuning: a third of that, as in the same recipe.
- steps of pretraining: 20 tokens a parameter (Hoffmann et al., 2022, arXiv:2203.15556, table 3).
- steps of finetuning: three epochs.
- batch: as many sequences as make TOKENS_PER_STEP tokens a step (the reference's 32,768), fewer
  when an epoch would then have less than STEPS_PER_EPOCH steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.trainer.schedule import Schedule
from shared.base.errors import JobFailedError
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import FailureCode
from shared.contracts.training_specs import FinetuneSpec, TrainingOptions, TrainSpec

TOKENS_PER_STEP = 32_768
STEPS_PER_EPOCH = 16
TOKENS_PER_PARAMETER = 20
FINETUNE_EPOCHS = 3.0
TUNED_RATE, TUNED_WIDTH = 3e-3, 128
FINETUNE_RATE_SHARE = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the loop follows."""

    batch_size: int
    accumulation: int
    total_steps: int
    schedule: Schedule
    max_grad_norm: float
    log_interval: int
    eval_interval: int
    save_interval: int
    early_stop_evaluations: int | None = None

    @property
    def sequences_per_step(self) -> int:
        """Rows of one optimizer step."""
        return self.batch_size * self.accumulation


def make_plan(
    spec: TrainSpec | FinetuneSpec, model: ModelConfig, num_sequences: int, *, on_gpu: bool = False
) -> Plan:
    """Resolve `spec` for a model and a training split of `num_sequences` rows of its context.

    Raises JobFailedError when the run would have no step.
    """
    batch_size = _batch_size(spec, model, num_sequences)
    accumulation = spec.gradient_accumulation_steps
    sequences = batch_size * accumulation
    if on_gpu and spec.merge_micro_batches:
        batch_size, accumulation = sequences, 1
    total_steps = _total_steps(spec, model, sequences, num_sequences)
    if total_steps < 1:
        raise JobFailedError(
            f"{spec.epochs} epochs of {num_sequences} sequences do not fill one step.",
            code=FailureCode.BAD_SPEC,
            hint="Raise epochs or lower batch_size.",
        )
    peak = _peak_rate(spec, model)
    schedule = Schedule(
        shape=spec.schedule,
        peak=peak,
        low=min(spec.min_lr, peak),
        warmup_steps=spec.warmup_steps,
        total_steps=total_steps,
    )
    return Plan(
        batch_size=batch_size,
        accumulation=accumulation,
        total_steps=total_steps,
        schedule=schedule,
        max_grad_norm=spec.max_grad_norm,
        log_interval=spec.log_interval,
        eval_interval=spec.eval_interval,
        save_interval=spec.save_interval,
        early_stop_evaluations=spec.early_stop_evaluations,
    )


def _batch_size(spec: TrainingOptions, model: ModelConfig, num_sequences: int) -> int:
    if isinstance(spec.batch_size, int):
        return spec.batch_size
    wanted = TOKENS_PER_STEP // model.context_length
    wanted = min(wanted, num_sequences // STEPS_PER_EPOCH)
    batch_size = max(1, wanted // spec.gradient_accumulation_steps)
    # A step's rows are dealt out evenly.
    return max(spec.num_gpus, batch_size - batch_size % spec.num_gpus)


def _peak_rate(spec: TrainingOptions, model: ModelConfig) -> float:
    if isinstance(spec.lr, float):
        return spec.lr
    rate = TUNED_RATE * math.sqrt(TUNED_WIDTH / model.d_model)
    return rate * FINETUNE_RATE_SHARE if isinstance(spec, FinetuneSpec) else rate


def _total_steps(
    spec: TrainingOptions, model: ModelConfig, sequences: int, num_sequences: int
) -> int:
    if isinstance(spec.max_steps, int):
        return spec.max_steps
    if spec.epochs is not None:
        return int(spec.epochs * num_sequences / sequences)
    if isinstance(spec, FinetuneSpec):
        return max(1, int(FINETUNE_EPOCHS * num_sequences / sequences))
    tokens = TOKENS_PER_PARAMETER * model.num_parameters
    return math.ceil(tokens / (sequences * model.context_length))
