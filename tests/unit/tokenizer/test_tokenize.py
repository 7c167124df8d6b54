"""Token sets on disk: splits, shards, masks, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from services.tokenizer.dataset_writer import DatasetWriter
from services.tokenizer.mixture import lot_of
from services.tokenizer.rows import Row
from services.tokenizer.tokenize import TokenizeFolders, tokenize
from services.tokenizer.watch import Stopped
from shared.base.errors import IntegrityError, JobFailedError
from shared.contracts.data_specs import TokenizeSpec
from shared.contracts.manifest import SplitIndex, TokenizerMeta, TokensMeta
from shared.contracts.progress import PhaseLine, ProgressLine
from shared.contracts.split_rule import digest_of, is_held_out, share_of
from shared.text.chat import Message, encode_dialogue
from shared.text.token_set import TokenSplit
from shared.text.tokenizer import Tokenizer
from shared.text.tokenizer_files import write_tokenizer_files
from tests.support.tokenizers import SENTENCES, small_tokenizer
from tests.support.watching import quiet_watch, recording_watch

DATASET = "ds_01J00000000000000000000000"
DOCUMENTS: list[Row] = [{"text": f"{SENTENCES[n % 5]} ({n})"} for n in range(40)]
DIALOGUES: list[Row] = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": f"It is {n}. <|endoftext|>"},
        ]
    }
    for n in range(40)
]


def write_dataset(folder: Path, rows: Sequence[Row]) -> Path:
    with DatasetWriter(folder, deduplicate=False, part_bytes=1500) as writer:
        for row in rows:
            writer.add(row)
    return folder


def folders_in(root: Path, rows: Sequence[Row], held_out: Sequence[Row] = ()) -> TokenizeFolders:
    write_tokenizer_files(root / "given", small_tokenizer())
    return TokenizeFolders(
        datasets=(write_dataset(root / "dataset", rows),),
        tokenizer=root / "given",
        validation_dataset=write_dataset(root / "held_out", held_out) if held_out else None,
        tokenizer_output=root / "tokenizer",
        tokens_output=root / "tokens",
    )


def run(folders: TokenizeFolders, **options: object) -> tuple[TokenizerMeta, TokensMeta]:
    spec = TokenizeSpec.model_validate({"dataset": DATASET, **options})
    return tokenize(spec, folders, num_threads=2, watch=quiet_watch())


def documents_in(split: TokenSplit) -> list[list[int]]:
    """Every document's ids, cut by the stored lengths."""
    found = []
    for tokens, lengths in zip(split.tokens, split.document_lengths, strict=True):
        ends = np.cumsum(lengths)
        found += [part.tolist() for part in np.split(tokens, ends[:-1])]
    return found


def test_every_document_is_there_in_order_with_its_end(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    meta, tokens = run(folders_in(tmp_path, DOCUMENTS), validation_fraction=0.2)
    for split_name in ("train", "validation"):
        rows = [
            row
            for row in DOCUMENTS
            if is_held_out(digest_of(row), 0.2) == (split_name == "validation")
        ]
        split = TokenSplit(tmp_path / "tokens", split_name)
        assert documents_in(split) == [[*tokenizer.encode(row["text"]), 0] for row in rows]
        assert split.masks == ()
        count = sum(len(document) for document in documents_in(split))
        assert split.index == SplitIndex(
            shards=1,
            documents=len(rows),
            tokens=count,
            text_bytes=sum(len(row["text"].encode()) for row in rows),
            learned_tokens=count,
        )
    assert tokens == TokenSplit(tmp_path / "tokens", "train").meta
    assert (tokens.format, tokens.vocab_size) == ("documents", 300)
    assert tokens.tokenizer_sha256 == meta.tokenizer_sha256 == tokenizer.sha256
    assert meta.bytes_per_token == tokens.train.text_bytes / tokens.train.tokens


def test_the_split_does_not_depend_on_order(tmp_path: Path) -> None:
    run(folders_in(tmp_path / "a", DOCUMENTS), validation_fraction=0.2)
    run(folders_in(tmp_path / "b", DOCUMENTS[::-1]), validation_fraction=0.2)
    forward = documents_in(TokenSplit(tmp_path / "a" / "tokens", "validation"))
    backward = documents_in(TokenSplit(tmp_path / "b" / "tokens", "validation"))
    assert forward == backward[::-1]
    assert 2 < len(forward) < 16


def test_shards_hold_whole_documents(tmp_path: Path) -> None:
    rows: list[Row] = [{"text": f"{n:03d}" + "!?" * 150} for n in range(40)]
    run(folders_in(tmp_path / "one", rows), validation_fraction=0.2)
    _, tokens = run(folders_in(tmp_path / "many", rows), validation_fraction=0.2, shard_tokens=1024)
    one = TokenSplit(tmp_path / "one" / "tokens", "train")
    many = TokenSplit(tmp_path / "many" / "tokens", "train")
    assert documents_in(many) == documents_in(one)
    assert tokens.train.shards == len(many.tokens) == -(-many.index.documents // 3)
    assert [len(lengths) for lengths in many.document_lengths[:-1]] == [3] * (
        tokens.train.shards - 1
    )


def test_a_document_longer_than_a_shard_is_refused(tmp_path: Path) -> None:
    rows: list[Row] = [*DOCUMENTS, {"text": "!?" * 600}]
    with pytest.raises(JobFailedError, match="has 1201 tokens; a shard holds 1024") as caught:
        run(folders_in(tmp_path, rows), validation_fraction=0.2, shard_tokens=1024)
    assert caught.value.code == "bad_spec"
    assert not (tmp_path / "tokens" / "index.json").exists()


def test_dialogues_carry_masks(tmp_path: Path) -> None:
    _, tokens = run(folders_in(tmp_path, DIALOGUES), validation_fraction=0.2)
    expected = [
        encode_dialogue(small_tokenizer(), row["messages"])
        for row in DIALOGUES
        if not is_held_out(digest_of(row), 0.2)
    ]
    split = TokenSplit(tmp_path / "tokens", "train")
    assert documents_in(split) == [ids for ids, _ in expected]
    assert split.masks[0].tolist() == [bit for _, mask in expected for bit in mask]
    assert tokens.format == "dialogues"
    assert tokens.train.learned_tokens == sum(sum(mask) for _, mask in expected)
    assert (split.tokens[0] == 0).sum() == len(expected)


def test_a_tokenizer_is_learned_from_the_training_split_alone(tmp_path: Path) -> None:
    zebra: list[Row] = [{"text": "zqzq zqzq zqzq"}]
    folders = folders_in(tmp_path, DOCUMENTS, held_out=zebra)
    learning = TokenizeFolders(
        datasets=folders.datasets,
        validation_dataset=folders.validation_dataset,
        tokenizer_output=folders.tokenizer_output,
        tokens_output=folders.tokens_output,
    )
    meta, tokens = run(learning, vocab_size=320)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert tokenizer.vocab_size == meta.vocab_size == tokens.vocab_size == 320
    assert b"zq" not in tokenizer.token_contents
    assert tokens.train.documents == 40
    assert tokens.validation.documents == 1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        own, carried = tmp_path / "tokenizer" / name, tmp_path / "tokens" / name
        assert own.read_bytes() == carried.read_bytes()


def test_a_tokenizer_can_be_learned_from_dialogues(tmp_path: Path) -> None:
    folders = TokenizeFolders(
        datasets=(write_dataset(tmp_path / "dataset", DIALOGUES),),
        tokenizer_output=tmp_path / "tokenizer",
        tokens_output=tmp_path / "tokens",
    )
    run(folders, vocab_size=270, validation_fraction=0.2)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    first = documents_in(TokenSplit(tmp_path / "tokens", "train"))[0]
    row = next(row for row in DIALOGUES if not is_held_out(digest_of(row), 0.2))
    assert first == encode_dialogue(tokenizer, row["messages"])[0]


def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folders = TokenizeFolders(
            datasets=(write_dataset(tmp_path / name / "dataset", DOCUMENTS),),
            tokenizer_output=tmp_path / name / "tokenizer",
            tokens_output=tmp_path / name / "tokens",
        )
        run(folders, vocab_size=320, validation_fraction=0.2)
    files = sorted((tmp_path / "a" / "tokens").iterdir())
    assert [file.name for file in files] == [
        *("index.json", "tokenizer.json", "tokenizer_config.json", "train-00000.bin"),
        *("train-00000.len", "validation-00000.bin", "validation-00000.len"),
    ]
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / "tokens" / file.name).read_bytes()


def test_an_empty_validation_split_is_refused_with_a_fraction_that_works(tmp_path: Path) -> None:
    rows = [row for row in DOCUMENTS if share_of(digest_of(row)) > 0.2]
    lowest = min(share_of(digest_of(row)) for row in rows)
    with pytest.raises(JobFailedError) as caught:
        run(folders_in(tmp_path / "a", rows), validation_fraction=0.1)
    assert caught.value.message == (
        f"The validation split would be empty: of {len(rows)} rows in the dataset none falls "
        "into it at validation_fraction 0.1."
    )
    hint = caught.value.hint or ""
    fraction = float(hint.split()[3])
    assert lowest < fraction < lowest + 0.0021
    _, tokens = run(folders_in(tmp_path / "b", rows), validation_fraction=fraction)
    assert tokens.validation.documents >= 1


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError) as caught:
        run(folders_in(tmp_path, DOCUMENTS[:1]), validation_fraction=0.0)
    assert caught.value.hint == "Ingest more documents, or give a validation_dataset."


def test_an_empty_training_split_is_refused(tmp_path: Path) -> None:
    rows = [row for row in DOCUMENTS if share_of(digest_of(row)) < 0.5]
    with pytest.raises(JobFailedError, match="The training split would be empty"):
        run(folders_in(tmp_path, rows), validation_fraction=0.5)


def test_documents_are_not_validated_by_dialogues(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="holds documents, but the validation dataset holds"):
        run(folders_in(tmp_path, DOCUMENTS, held_out=DIALOGUES))


def test_progress_and_stop(tmp_path: Path) -> None:
    folders = folders_in(tmp_path, DOCUMENTS)
    spec = TokenizeSpec(dataset=DATASET, validation_fraction=0.2)
    watch, lines = recording_watch(stop_after=10)
    with pytest.raises(Stopped):
        tokenize(spec, folders, num_threads=2, watch=watch)
    assert lines[:2] == [PhaseLine(phase="loading"), PhaseLine(phase="encoding")]
    assert isinstance(lines[2], ProgressLine)
    total = sum(part.stat().st_size for part in folders.datasets[0].iterdir())
    assert (lines[2].total_steps, lines[2].message) == (total, "bytes read")
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train-00000.bin", b"abc", "ends inside a number"),
        ("train-00000.bin", b"abcd", "holds 2 tokens"),
        ("train-00000.bin", b"", "cannot be mapped"),
        ("train-00000.len", b"\1\0\0\0", "in 1 documents"),
        ("train-00000.mask", b"\1\1", "do not fit"),
        ("index.json", b"{}", "holds no readable index"),
    ],
)
def test_damaged_token_sets_are_noticed(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    run(folders_in(tmp_path, DIALOGUES), validation_fraction=0.2)
    (tmp_path / "tokens" / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=reason):
        TokenSplit(tmp_path / "tokens", "train")


def test_roles_and_borders_count_in_a_dialogues_identity() -> None:
    def digest(*turns: tuple[str, str]) -> bytes:
        messages: list[Message] = [{"role": role, "content": text} for role, text in turns]  # type: ignore[typeddict-item]
        return digest_of({"messages": messages})

    assert digest(("user", "a"), ("assistant", "bc")) != digest(("user", "ab"), ("assistant", "c"))
    assert digest(("user", "a")) != digest(("assistant", "a"))


def test_weights_repeat_and_thin_out_training_rows_only(tmp_path: Path) -> None:
    """Passes over all datasets one after the other; shared rows belong to the first dataset."""
    first, second = DOCUMENTS[:20], DOCUMENTS[15:] + [{"text": f"extra {n}"} for n in range(60)]
    folders = replace(
        folders_in(tmp_path, first),
        datasets=(
            write_dataset(tmp_path / "first", first),
            write_dataset(tmp_path / "second", second),
        ),
    )
    run(
        folders,
        more_datasets=[DATASET],
        weights=[2.0, 0.25],
        validation_fraction=0.2,
    )
    tokenizer = small_tokenizer()

    def texts(split: str) -> list[str]:
        documents = documents_in(TokenSplit(tmp_path / "tokens", split))  # type: ignore[arg-type]
        return [tokenizer.decode(ids) for ids in documents]

    def is_held(row: Row) -> bool:
        return is_held_out(digest_of(row), 0.2)

    own = second[5:]
    once = [row["text"] for row in first if not is_held(row)]
    thinned = [row["text"] for row in own if not is_held(row) and lot_of(digest_of(row)) < 0.25]
    assert texts("train") == [*once, *thinned, *once]
    assert texts("validation") == [row["text"] for row in [*first, *own] if is_held(row)]
    assert 5 < len(thinned) < 35


def test_datasets_of_different_kinds_are_no_mixture(tmp_path: Path) -> None:
    folders = folders_in(tmp_path, DOCUMENTS)
    mixed = replace(
        folders, datasets=(*folders.datasets, write_dataset(tmp_path / "other", DIALOGUES))
    )
    with pytest.raises(JobFailedError, match="holds documents, but another one holds dialogues"):
        run(mixed, more_datasets=[DATASET])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 weights for 2 datasets: give one for each"),
        ([1.0, 0.0], "a weight must lie in"),
        ([1.0, 101.0], "a weight must lie in"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenizeSpec.model_validate(
            {"dataset": DATASET, "more_datasets": [DATASET], "weights": weights}
        )
