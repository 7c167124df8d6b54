"""What a user asks of the data jobs: raw material to a dataset, a dataset to tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from shared.contracts.base import FieldError
from shared.contracts.names import END_TOKEN, ArtifactType
from shared.contracts.specs import InputRef, Label, Spec

MAX_WEIGHT = 100


class IngestSpec(Spec):
    """Turn raw material into a clean dataset of documents or dialogues."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {"upload": ArtifactType.UPLOAD}

    source: Literal[
        "text", "jsonl", "dialogues", "wikipedia", "c4", "dailydialog", "python_docs", "python_qa"
    ]
    """`text`, `jsonl` and `dialogues` read an upload (plain, gzip or bzip2), `wikipedia` a
    MediaWiki XML dump, `c4` one of C4's JSONL files, `dailydialog` one of DailyDialog's ZIP
    archives; `python_docs` and `python_qa` read the documentation that this machine's Python
    carries."""
    upload: InputRef | None = None
    """The uploaded file. Without one, `wikipedia`, `c4` and `dailydialog` are fetched from their
    well-known public addresses; the last two sources take none."""
    edition: str = Field("simplewiki", pattern=r"^[a-z_]{1,20}wiki$")
    """Which Wikipedia is fetched: simplewiki is the Simple English one, enwiki the English one."""
    split: Literal["train", "validation", "test"] = "train"
    """Which part of DailyDialog is fetched."""
    name: Label = "dataset"
    """Name shown in lists."""
    text_field: Label = "text"
    """Key of the text in a JSONL document."""
    document_separator: str = Field(END_TOKEN, max_length=100)
    """A line of a text file that is exactly this ends a document; a file without one is cut at
    paragraphs."""
    min_chars: int = Field(1, ge=1, le=1_000_000)
    """Shorter documents are dropped."""
    max_document_chars: int = Field(20_000, ge=100, le=10_000_000)
    """Longer documents are cut at paragraphs (then lines, then anywhere)."""
    max_documents: int | None = Field(None, ge=1)
    """Stop after this many documents."""
    deduplicate: bool = True
    """Drop exact repetitions of a document."""

    @model_validator(mode="after")
    def _check_upload(self) -> IngestSpec:
        needs_upload = self.source in {"text", "jsonl", "dialogues"}
        if needs_upload and self.upload is None:
            raise FieldError(f"source {self.source!r} needs an upload", "upload")
        if self.source.startswith("python_") and self.upload is not None:
            raise FieldError(f"source {self.source!r} takes no upload", "upload")
        if self.source == "c4" and self.upload is None and self.max_documents is None:
            raise FieldError("say how much of C4 (15 GB) to fetch", "max_documents")
        return self


class TokenizeSpec(Spec):
    """Learn a byte-level BPE (or take one) and encode a dataset into token shards."""

    INPUTS: ClassVar[dict[str, ArtifactType]] = {
        "dataset": ArtifactType.DATASET,
        "more_datasets": ArtifactType.DATASET,
        "tokenizer": ArtifactType.TOKENIZER,
        "validation_dataset": ArtifactType.DATASET,
    }

    dataset: InputRef
    """Documents or dialogues to encode."""
    more_datasets: tuple[InputRef, ...] = Field((), max_length=31)
    """Datasets of the same kind that are encoded with it into one training set. A row that several
    of them hold is taken once."""
    weights: tuple[float, ...] = Field((), max_length=32)
    """How often a training row of `dataset` and of each of `more_datasets` is seen in an epoch: 2
    twice, 0.5 every second one (by its hash); once by default. Held-out rows are never repeated."""
    tokenizer: InputRef | None = None
    """Use this tokenizer; without one a new one is learned from the dataset."""
    vocab_size: int = Field(16_000, ge=259, le=65_536)
    """Size of a tokenizer that is learned, specials included."""
    min_frequency: int = Field(2, ge=1, le=1000)
    """A pair seen less often is not merged."""
    validation_fraction: float = Field(0.01, ge=0, le=0.5)
    """Share of documents held out, chosen by their hash."""
    validation_dataset: InputRef | None = None
    """Hold out this dataset in place of a share of the first."""
    shard_tokens: int = Field(16_777_216, ge=1024, le=1 << 30)
    """Tokens in one shard file at most."""
    name: Label = "tokens"
    """Name shown in lists."""

    @model_validator(mode="after")
    def _check_weights(self) -> TokenizeSpec:
        datasets = 1 + len(self.more_datasets)
        if self.weights and len(self.weights) != datasets:
            raise FieldError(
                f"{len(self.weights)} weights for {datasets} datasets: give one for each", "weights"
            )
        if not all(0 < weight <= MAX_WEIGHT for weight in self.weights):
            raise FieldError(f"a weight must lie in (0, {MAX_WEIGHT}]", "weights")
        return self
