"""What a user asks of pretraining and finetuning. Defaults are the reference's recipe."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.base import FieldError
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import ArtifactType
from shared.contracts.specs import Auto, InputRef, ModelSpec


class TrainingOptions(ModelSpec):
    """What pretraining and finetuning share: batch, schedule, optimizer, evaluation, device."""

    batch_size: int | Auto = Field(32, description="Sequences in one micro-batch.")
    gradient_accumulation_steps: int = Field(2, ge=1, le=4096)
    """Micro-batches a step."""
    merge_micro_batches: bool = False
    """On a GPU do a step's micro-batches as one: the same step in fewer, larger kernels."""
    max_steps: int | Auto | None = Field(None, description="Optimizer steps.")
    epochs: float | None = Field(None, gt=0, le=10_000)
    """Passes over the training tokens, in place of max_steps."""
    lr: float | Auto = Field(6e-4, description="Peak learning rate; auto scales with the width.")
    min_lr: float = Field(6e-5, ge=0, le=1)
    """Learning rate at the end of the schedule; at most lr."""
    warmup_steps: int = Field(2000, ge=0)
    """Steps of linear warm-up; cut to a tenth of a run that is shorter than ten times this."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Shape after warm-up: cosine decay, warm-up-stable-decay (last fifth linear), or none."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon on the hidden matrices, AdamW on embedding, head and norms, one learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    adam_eps: float = Field(1e-8, gt=0, lt=1)
    """AdamW's epsilon."""
    weight_decay: float = Field(0.1, ge=0, le=1)
    """On matrices only; norms have none."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    seed: int = Field(1337, ge=0, lt=2**63)
    """Fixes initial weights and data order."""
    log_interval: int = Field(10, ge=1)
    """Steps between training metrics."""
    eval_interval: int = Field(1000, ge=1)
    """Steps between evaluations; the last step is always evaluated."""
    eval_tokens: int = Field(262_144, ge=1)
    """Validation tokens of one evaluation at most: fixed contiguous windows from the start."""
    save_interval: int = Field(1000, ge=1)
    """Steps between checkpoints; the last step is always saved."""
    early_stop_evaluations: int | None = Field(None, ge=1)
    """End the run after so many evaluations in a row without a new lowest validation loss; each
    new lowest one is then saved whatever save_interval says."""
    keep_checkpoints: int = Field(3, ge=1, le=1000)
    """Last checkpoints kept beside the best and the published ones."""
    sample_prompts: tuple[Annotated[str, StringConstraints(max_length=2000)], ...] = Field(
        ("The capital of France is", "Albert Einstein was born in"), max_length=8
    )
    """Prompts completed greedily at each evaluation."""
    sample_tokens: int = Field(48, ge=1, le=512)
    """Tokens of a sample."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    num_gpus: int = Field(1, ge=1, le=64)
    """GPUs of one machine that train together (without GPUs: processes). A step's batch_size x
    gradient_accumulation_steps sequences are dealt out to them, so the step stays the same."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; master weights are float32. auto: bfloat16 on CUDA, float32 on CPU."""
    compile: bool | Auto = Field(
        "auto", description="Whether to use torch.compile; auto means on CUDA only."
    )
    resume_from: InputRef | None = None
    """Continue this checkpoint: weights, optimizer, data position and step count."""

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_the_default_steps(cls, values: object) -> object:
        """Giving `epochs` alone must not collide with max_steps' default."""
        if isinstance(values, dict) and values.get("epochs") is not None:
            return {"max_steps": None, **values}
        return values

    @model_validator(mode="after")
    def _check_ranges(self) -> TrainingOptions:
        _check_positive("batch_size", self.batch_size, 65_536)
        _check_positive("max_steps", self.max_steps, 100_000_000)
        if isinstance(self.lr, float) and not 0 < self.lr <= 1:
            raise FieldError(f"lr must lie in (0, 1], got {self.lr}", "lr")
        if isinstance(self.lr, float) and self.min_lr > self.lr:
            raise FieldError(f"min_lr {self.min_lr} is above lr {self.lr}", "min_lr")
        if self.epochs is not None and isinstance(self.max_steps, int):
            raise FieldError("give max_steps or epochs, not both", "max_steps")
        if isinstance(self.batch_size, int):
            rows = self.batch_size * self.gradient_accumulation_steps
            if rows % self.num_gpus:
                raise FieldError(
                    f"{rows} sequences a step cannot be dealt out evenly to {self.num_gpus} GPUs",
                    "num_gpus",
                )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise FieldError(f"betas must lie in [0, 1), got {self.betas}", "betas")
        return self


def _check_positive(name: str, value: float | str | None, limit: int) -> None:
    if isinstance(value, int | float) and not 1 <= value <= limit:
        raise FieldError(f"{name} must lie in [1, {limit}], got {value}", name)


class TrainSpec(TrainingOptions):
    """Pretrain a transformer from scratch on token shards of documents."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {
        "tokens": ArtifactType.TOKENS,
        "resume_from": ArtifactType.CHECKPOINT,
    }

    tokens: InputRef
    """Encoded documents."""
    family: Literal["arcee", "llama"] = "arcee"
    """arcee: ReLU^2 feed-forward; llama: SwiGLU."""
    vocab_size: int | Auto = Field("auto", description="auto takes the tokenizer's.")
    context_length: int = Field(512, ge=8, le=131_072)
    """Tokens of one training sequence, and the longest prompt plus answer."""
    num_layers: int = Field(6, ge=1, le=128)
    """Transformer blocks."""
    d_model: int = Field(320, ge=32, le=16_384)
    """Width of the residual stream."""
    num_heads: int = Field(5, ge=1, le=256)
    """Attention heads; d_model / num_heads must be 32, 64 or 128."""
    d_ff: int = Field(1280, ge=1, le=65_536)
    """Width inside the feed-forward."""
    rope_theta: float = Field(10_000.0, gt=1)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(1e-5, gt=0, lt=1)
    """Added to the mean square inside RMSNorm."""
    tie_embeddings: bool = True
    """Whether the head shares the embedding's matrix."""
    init: Literal["xavier", "zero_residual"] = "xavier"
    """First weights. xavier: every matrix random, as the reference; zero_residual: matrices that
    write to the residual stream are zero, so that each block begins as the identity."""

    max_steps: int | Auto | None = Field(
        80_000, description="Optimizer steps; auto means 20 tokens a parameter (Chinchilla)."
    )

    @model_validator(mode="after")
    def _check_shape(self) -> TrainSpec:
        self.model_config_for(16_000 if self.vocab_size == "auto" else self.vocab_size)
        return self

    def model_config_for(self, vocab_size: int) -> ModelConfig:
        """The model's shape for a tokenizer of `vocab_size` entries."""
        return ModelConfig(
            family=self.family,
            vocab_size=vocab_size,
            context_length=self.context_length,
            num_layers=self.num_layers,
            d_model=self.d_model,
            num_heads=self.num_heads,
            d_ff=self.d_ff,
            rope_theta=self.rope_theta,
            norm_eps=self.norm_eps,
            tie_embeddings=self.tie_embeddings,
        )


class FinetuneSpec(TrainingOptions):
    """Continue a base model on dialogues, learning the assistant's turns or all of them."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {
        "checkpoint": ArtifactType.CHECKPOINT,
        "tokens": ArtifactType.TOKENS,
        "resume_from": ArtifactType.CHECKPOINT,
    }

    checkpoint: InputRef
    """The base model."""
    tokens: InputRef
    """Encoded dialogues, made with the base model's tokenizer."""
    loss_on: Literal["assistant", "all"] = "assistant"
    """Which tokens are learned: what the assistant says, or all (the user's turns and the marks of
    who speaks too). The best checkpoint is the one with the lowest assistant's loss either way."""

    max_steps: int | Auto | None = Field(
        1000, description="Optimizer steps; auto means three epochs."
    )
    lr: float | Auto = Field(3e-5, description="Peak learning rate; auto scales with the width.")
    min_lr: float = Field(3e-6, ge=0, le=1)
    """Learning rate at the end of the schedule; at most lr."""
    warmup_steps: int = Field(50, ge=0)
    """Steps of linear warm-up; cut to a tenth of a run that is shorter than ten times this."""
    eval_interval: int = Field(100, ge=1)
    """Steps between evaluations; the last step is always evaluated."""
    save_interval: int = Field(100, ge=1)
    """Steps between checkpoints; the last step is always saved."""
    sample_prompts: tuple[Annotated[str, StringConstraints(max_length=2000)], ...] = Field(
        ("Hello", "How are you?", "What is your name?"), max_length=8
    )
    """User turns answered greedily at each evaluation."""
