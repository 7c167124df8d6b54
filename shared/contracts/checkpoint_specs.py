"""What a user asks of the jobs that work on a finished checkpoint."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.base import FieldError
from shared.contracts.names import ArtifactType
from shared.contracts.specs import InputRef, ModelSpec, Spec

REPOSITORY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)+$"
"""No segment begins with a dot, so none leads upwards."""


class ExportSpec(Spec):
    """Write a checkpoint in another program's format."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {"checkpoint": ArtifactType.CHECKPOINT}

    checkpoint: InputRef
    """What to export."""
    format: Literal["huggingface", "gguf"] = "huggingface"
    """`huggingface`: a folder that transformers and vLLM read; `gguf`: a file for llama.cpp."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the exported weights."""


class EvaluateSpec(Spec):
    """Measure a checkpoint on held-out text: bits per byte, loss, samples, repetition, memory."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {
        "checkpoint": ArtifactType.CHECKPOINT,
        "tokens": ArtifactType.TOKENS,
        "more_tokens": ArtifactType.TOKENS,
    }

    checkpoint: InputRef
    """What to measure."""
    tokens: InputRef
    """Documents or dialogues, encoded with the checkpoint's tokenizer."""
    more_tokens: tuple[InputRef, ...] = Field((), max_length=31)
    """Further sources, each measured for itself in the same report; samples and memory are of
    `tokens` alone."""
    split: Literal["validation", "train"] = "validation"
    """Which part of them is measured."""
    max_tokens: int | None = Field(None, ge=2)
    """Measure the first so many tokens of each source only; by default all."""
    bootstrap_samples: int = Field(1000, ge=10, le=100_000)
    """Resamplings of the documents behind each interval."""
    prompts: tuple[Annotated[str, StringConstraints(max_length=2000)], ...] = Field(
        ("The capital of France is", "Hello", "What is your name?"), max_length=32
    )
    """Completed greedily and by chance; where the tokens are dialogues, as a user's turns."""
    temperature: float = Field(0.8, gt=0, le=2)
    """Of the samples drawn by chance."""
    sample_tokens: int = Field(64, ge=1, le=512)
    """Tokens of a sample at most."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the samples and the bootstrap."""
    memorisation_documents: int = Field(32, ge=0, le=1024)
    """Documents of each split whose beginnings are completed to see whether they were learned by
    heart; 0 leaves that out."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """cpu leaves the GPU to training, beside which evaluations run."""


class ImportSpec(ModelSpec):
    """Take in a ready checkpoint of another program, and serve it."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {"files": ArtifactType.UPLOAD}

    files: tuple[InputRef, ...] = Field((), max_length=64)
    """Uploads, told apart by their names: a reference checkpoint (`ckpt_final.pt`) with
    `vocab.json` and `merges.txt`, or a Hugging Face folder's `config.json`, `*.safetensors` and
    `tokenizer.json`."""
    repository: str | None = Field(None, max_length=300, pattern=REPOSITORY_PATTERN)
    """A public Hugging Face repository `owner/name`, or `owner/name/folder` in one, to fetch what
    is not among `files`."""
    stage: Literal["pretrain", "finetune"] = "pretrain"
    """A base model completes text; a finetuned one answers."""
    publish: Literal["latest", "best", "final", "never"] | None = "latest"
    """latest: serve it at once; never: keep it as a checkpoint only."""

    @model_validator(mode="after")
    def _check_there_is_something(self) -> ImportSpec:
        if not self.files and self.repository is None:
            raise FieldError("give files, or a repository to fetch them from", "files")
        return self
