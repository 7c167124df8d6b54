"""Folders that travel through the object store, each described by a manifest written last.

A checkpoint, dataset, tokenizer, token set or export is a folder of files plus `manifest.json`.
Without its manifest an artifact does not exist; with it every byte can be verified.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from shared.contracts.base import Contract
from shared.contracts.evaluation import Evaluation
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import ArtifactType, FileRole

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.json"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"
MODEL_CONFIG_JSON = "model_config.json"
MODEL_WEIGHTS = "model.safetensors"
OPTIMIZER_WEIGHTS = "optimizer.safetensors"
STATE_JSON = "state.json"
EVALUATION_JSON = "evaluation.json"
REPORT_MD = "report.md"

ROLE_OF_FILE = {
    MODEL_WEIGHTS: FileRole.MODEL,
    MODEL_CONFIG_JSON: FileRole.MODEL,
    OPTIMIZER_WEIGHTS: FileRole.OPTIMIZER,
    STATE_JSON: FileRole.STATE,
    TOKENIZER_JSON: FileRole.TOKENIZER,
    TOKENIZER_CONFIG_JSON: FileRole.TOKENIZER,
    REPORT_MD: FileRole.REPORT,
}
"""Files with a role of their own; every other file is data."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(Contract):
    """One file of an artifact."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    """Name relative to the artifact's folder; never absolute, never upwards."""
    bytes: int = Field(ge=0)
    """Size."""
    sha256: Sha256
    """Digest of the content."""
    role: FileRole
    """What the file is for."""

    @field_validator("path")
    @classmethod
    def _stay_inside(cls, path: str) -> str:
        parts = path.split("/")
        if path.startswith("/") or "\\" in path or "\0" in path or {"", ".", ".."} & set(parts):
            raise ValueError(f"{path!r} is not a plain relative path")
        return path


class DatasetMeta(Contract):
    """What is known of ingested documents or dialogues (`part-*.jsonl`, one JSON object a line:
    `{"text": ...}` or `{"messages": [{"role", "content"}, ...]}`)."""

    type: Literal[ArtifactType.DATASET] = ArtifactType.DATASET
    format: Literal["documents", "dialogues"]
    """What one line holds."""
    documents: int = Field(ge=0)
    """Lines."""
    text_bytes: int = Field(ge=0)
    """UTF-8 bytes of the texts themselves."""
    duplicates_dropped: int = Field(ge=0)
    """Exact repetitions left out."""
    source: str
    """Where the material came from, for people."""


class TokenizerMeta(Contract):
    """What is known of a tokenizer (`tokenizer.json`, `tokenizer_config.json`)."""

    type: Literal[ArtifactType.TOKENIZER] = ArtifactType.TOKENIZER
    vocab_size: int = Field(ge=259, le=65_536)
    """Entries, specials included."""
    tokenizer_sha256: Sha256
    """Digest of tokenizer.json: the identity of a tokenizer."""
    bytes_per_token: float = Field(gt=0)
    """Text bytes a token on the data it was learned from."""


class SplitIndex(Contract):
    """One split of a token set. Shard i is `<split>-<i:05d>.bin` (uint16, little endian), beside
    `.len` (uint32 document lengths in tokens) and, for dialogues, `.mask` (uint8: 1 where the
    token is learned)."""

    shards: int = Field(ge=0)
    """Number of shard files."""
    documents: int = Field(ge=0)
    """Documents or dialogues."""
    tokens: int = Field(ge=0)
    """Tokens, end-of-document tokens included."""
    text_bytes: int = Field(ge=0)
    """UTF-8 bytes of the encoded text; special tokens count nothing."""
    learned_tokens: int = Field(ge=0)
    """Tokens the loss counts: all of documents, the masked ones of dialogues."""


class TokensMeta(Contract):
    """What is known of a token set; also its `index.json`. It carries its tokenizer's files."""

    type: Literal[ArtifactType.TOKENS] = ArtifactType.TOKENS
    format: Literal["documents", "dialogues"]
    """What was encoded."""
    vocab_size: int = Field(ge=259, le=65_536)
    """Every id is below this."""
    tokenizer_sha256: Sha256
    """The tokenizer that made the ids."""
    train: SplitIndex
    """What is learned from."""
    validation: SplitIndex
    """What is held out."""


class CheckpointMeta(Contract):
    """What is known of a checkpoint (`model.safetensors`, `model_config.json`, tokenizer files,
    `optimizer.safetensors`, `state.json`)."""

    type: Literal[ArtifactType.CHECKPOINT] = ArtifactType.CHECKPOINT
    step: int = Field(ge=0)
    """Optimizer steps done."""
    stage: Literal["pretrain", "finetune"]
    """A base model completes text; a finetuned one answers."""
    model: ModelConfig
    """Shape of the weights."""
    tokenizer_sha256: Sha256
    """The tokenizer the weights were trained with."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Latest evaluation: validation_loss, bits_per_byte, ..."""
    canary_loss: float | None = None
    """Loss of a fixed short text by these weights in float32, nats a token (`model.canary`): who
    loads them must find the same. None in older checkpoints."""
    final: bool = False
    """Whether the run ended with it."""


class ExportMeta(Contract):
    """What is known of an export."""

    type: Literal[ArtifactType.EXPORT] = ArtifactType.EXPORT
    format: str
    """Such as `huggingface`."""
    checkpoint_id: str
    """What was exported."""


class EvaluationMeta(Contract):
    """What an evaluation found; also its `evaluation.json`, beside `report.md`."""

    type: Literal[ArtifactType.EVALUATION] = ArtifactType.EVALUATION
    checkpoint_id: str
    """What was measured."""
    tokens_id: str
    """On what."""
    more_tokens_ids: tuple[str, ...] = ()
    """And on what else, in the order of the result's sources after the first."""
    result: Evaluation
    """What came out."""


ArtifactMeta = Annotated[
    DatasetMeta | TokenizerMeta | TokensMeta | CheckpointMeta | EvaluationMeta | ExportMeta,
    Field(discriminator="type"),
]


class Manifest(Contract):
    """Everything about one artifact. Written last, so its presence means the rest is there."""

    id: str
    """The artifact's id (`ds_`, `tok_`, `ckpt_`; an export has its job's)."""
    job_id: str
    """The job that made it."""
    token: int = Field(ge=0)
    """The fence under which it was made."""
    created_at: datetime
    """When."""
    files: tuple[FileEntry, ...]
    """All files but this one."""
    meta: ArtifactMeta
    """What it is."""

    def with_roles(self, *roles: FileRole) -> tuple[FileEntry, ...]:
        """The files that have one of `roles`; all of them when none is given."""
        return tuple(file for file in self.files if not roles or file.role in roles)

    @property
    def total_bytes(self) -> int:
        """Summed size of all files."""
        return sum(file.bytes for file in self.files)
