"""Real corpora through ingest and tokenize: the counts, the texts back, and both encoders."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from services.tokenizer.bulk import BulkEncoder
from services.tokenizer.ingest import ingest
from services.tokenizer.input_file import InputFile
from services.tokenizer.rows import parse_row, read_lines
from services.tokenizer.tokenize import TokenizeFolders, tokenize
from shared.contracts.data_specs import IngestSpec, TokenizeSpec
from shared.contracts.manifest import DatasetMeta, TokensMeta
from shared.text.token_set import TokenSplit
from shared.text.tokenizer import Tokenizer
from tests.support.watching import quiet_watch

UPLOAD = "upl_01J00000000000000000000000"
DATASET = "ds_01J00000000000000000000000"


def ingest_file(path: Path, folder: Path, source: str, **options: object) -> DatasetMeta:
    spec = IngestSpec.model_validate({"source": source, "upload": UPLOAD, **options})
    return ingest(spec, InputFile(path, path.name), folder, quiet_watch())


def tokenize_folder(root: Path, **options: object) -> TokensMeta:
    spec = TokenizeSpec.model_validate({"dataset": DATASET, **options})
    given = root / "given"
    folders = TokenizeFolders(
        datasets=(root / "dataset",),
        tokenizer=given if given.is_dir() else None,
        tokenizer_output=root / "tokenizer",
        tokens_output=root / "tokens",
    )
    return tokenize(spec, folders, num_threads=2, watch=quiet_watch())[1]


def decoded(split: TokenSplit, tokenizer: Tokenizer) -> list[str]:
    """The text of every document of the split's first shard."""
    ends = np.cumsum(split.document_lengths[0])
    return [tokenizer.decode(part.tolist()) for part in np.split(split.tokens[0], ends[:-1])]


@pytest.fixture(scope="module")
def mixed(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokensMeta]:
    """The folder of mixed-val, ingested and tokenized at vocabulary 2,000."""
    root = tmp_path_factory.mktemp("mixed")
    upload = shared_data / "text" / "mixed-val.txt.gz"
    ingest_file(upload, root / "dataset", "text", deduplicate=False)
    return root, tokenize_folder(root, vocab_size=2000, validation_fraction=0.1)


def test_mixed_text_keeps_every_document(mixed: tuple[Path, TokensMeta], shared_data: Path) -> None:
    root, meta = mixed
    content = gzip.decompress((shared_data / "text" / "mixed-val.txt.gz").read_bytes()).decode()
    rows = [parse_row(line) for line in read_lines(root / "dataset")]
    separated = [part for part in content.split("\n<|endoftext|>\n") if part.strip()]
    assert len(separated) == 246
    assert "".join("".join(row["text"] for row in rows).split()) == "".join(
        "".join(separated).split()
    )
    tokenizer = Tokenizer.load(root / "tokenizer")
    texts = [
        text
        for split in ("train", "validation")
        for text in decoded(TokenSplit(root / "tokens", split), tokenizer)
    ]
    assert sorted(texts) == sorted(row["text"] for row in rows)
    assert meta.train.documents + meta.validation.documents == len(rows)
    assert meta.train.text_bytes + meta.validation.text_bytes == sum(
        len(row["text"].encode()) for row in rows
    )


def test_both_encoders_agree_on_mixed_text(mixed: tuple[Path, TokensMeta]) -> None:
    root, _ = mixed
    tokenizer = Tokenizer.load(root / "tokenizer")
    texts = [parse_row(line)["text"] for line in read_lines(root / "dataset")]
    encoder = BulkEncoder(tokenizer)
    assert encoder.is_fast
    assert [encoder.encode(text).tolist() for text in texts] == tokenizer.encode_batch(texts)


def test_daily_dialog_becomes_dialogues(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "dailydialog" / "validation.zip"
    dataset = ingest_file(archive, tmp_path / "dataset", "dailydialog")
    assert dataset.documents + dataset.duplicates_dropped == 1000
    meta = tokenize_folder(tmp_path, vocab_size=2000, validation_fraction=0.1)
    assert meta.train.documents + meta.validation.documents == dataset.documents
    assert 60 < meta.validation.documents < 150
    assert 0.4 < meta.train.learned_tokens / meta.train.tokens < 0.6
    split = TokenSplit(tmp_path / "tokens", "train")
    tokens, mask = split.tokens[0], split.masks[0]
    assert (tokens == 1).sum() == (tokens == 2).sum() == (tokens == 0).sum()
    assert mask[tokens == 0].all()
    assert not mask[tokens == 1].any()
    assert not mask[tokens == 2].any()
