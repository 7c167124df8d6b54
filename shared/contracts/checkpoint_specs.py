"""What a user asks of the jobs that work on a finished checkpoint."""

from __future__ import annotations

from typing import ClassVar, Literal

from shared.contracts.names import ArtifactType
from shared.contracts.specs import InputRef, Spec


class ExportSpec(Spec):
    """Write a checkpoint in another program's format."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {"checkpoint": ArtifactType.CHECKPOINT}

    checkpoint: InputRef
    """What to export."""
    format: Literal["huggingface", "gguf"] = "huggingface"
    """`huggingface`: a folder that transformers and vLLM read; `gguf`: a file for llama.cpp."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the exported weights."""
