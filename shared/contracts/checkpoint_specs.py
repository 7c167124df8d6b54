"""What a user asks of the jobs that work on a finished checkpoint."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from shared.contracts.names import ArtifactType
from shared.contracts.specs import InputRef, ModelSpec, Spec


class ExportSpec(Spec):
    """Write a checkpoint in another program's format."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {"checkpoint": ArtifactType.CHECKPOINT}

    checkpoint: InputRef
    """What to export."""
    format: Literal["huggingface", "gguf"] = "huggingface"
    """`huggingface`: a folder that transformers and vLLM read; `gguf`: a file for llama.cpp."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the exported weights."""


class ImportSpec(ModelSpec):
    """Take in a ready checkpoint of another program, and serve it."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {"files": ArtifactType.UPLOAD}

    files: tuple[InputRef, ...] = Field((), max_length=64)
    """Uploads, told apart by their names: a reference checkpoint (`ckpt_final.pt`) with
    `vocab.json` and `merges.txt`, or a Hugging Face folder's `config.json`, `*.safetensors` and
    `tokenizer.json`."""
    stage: Literal["pretrain", "finetune"] = "pretrain"
    """A base model completes text; a finetuned one answers."""
    publish: Literal["latest", "best", "final", "never"] | None = "latest"
    """latest: serve it at once; never: keep it as a checkpoint only."""
