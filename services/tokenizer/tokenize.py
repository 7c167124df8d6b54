"""A dataset folder in, a tokenizer folder and a token set out. Knows no queue and no store."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from services.tokenizer.bulk import BulkEncoder
from services.tokenizer.encode import encode_lines
from services.tokenizer.learn import learn_bpe
from services.tokenizer.mixture import HeldOut, Pass, passes
from services.tokenizer.rows import Format, format_of, parse_row, part_files, read_lines, texts_of
from services.tokenizer.shard_writer import ShardWriter
from services.tokenizer.watch import Watch
from shared.base.errors import JobFailedError
from shared.base.files import write_bytes
from shared.contracts.data_specs import TokenizeSpec
from shared.contracts.manifest import INDEX_NAME, SplitIndex, TokenizerMeta, TokensMeta
from shared.contracts.names import FailureCode
from shared.contracts.split_rule import digest_of, is_held_out, share_of
from shared.text.tokenizer import Tokenizer
from shared.text.tokenizer_files import write_tokenizer_files

MAX_VALIDATION_FRACTION = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeFolders:
    """Folders on this machine's disk."""

    datasets: tuple[Path, ...]
    """In: what to encode, one or more."""
    tokenizer: Path | None = None
    """In: the tokenizer to use; None learns one."""
    validation_dataset: Path | None = None
    """In: what to hold out; None holds out a share of `datasets`."""
    tokenizer_output: Path
    """Out: the tokenizer used."""
    tokens_output: Path
    """Out: the token set, which carries the tokenizer too."""


def tokenize(
    spec: TokenizeSpec, folders: TokenizeFolders, *, num_threads: int, watch: Watch
) -> tuple[TokenizerMeta, TokensMeta]:
    """Learn or load a tokenizer, encode the dataset with it, and write both output folders.

    A tokenizer is learned from the training split alone. Raises JobFailedError when either split
    would be empty, when the two datasets differ in format, or when the text does not suffice.
    """
    row_format = _common_format(folders)
    held_out = _placing(spec, folders)
    weights = spec.weights or (1.0,) * len(folders.datasets)
    mixture = list(passes(folders.datasets, weights, held_out))
    tokenizer = _tokenizer(spec, folders, mixture, watch)
    watch.phase("encoding")
    train, validation = _encode(
        spec, folders, BulkEncoder(tokenizer), mixture, row_format, num_threads, watch
    )
    tokens = TokensMeta(
        format=row_format,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        train=train,
        validation=validation,
    )
    index = tokens.model_dump_json(indent=2).encode() + b"\n"
    write_bytes(folders.tokens_output / INDEX_NAME, index)
    write_tokenizer_files(folders.tokens_output, tokenizer)
    write_tokenizer_files(folders.tokenizer_output, tokenizer)
    meta = TokenizerMeta(
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        bytes_per_token=train.text_bytes / train.tokens,
    )
    return meta, tokens


def _common_format(folders: TokenizeFolders) -> Format:
    """Return what the rows are; JobFailedError when another dataset holds others."""
    row_format, *others = [_format_of_dataset(folder) for folder in folders.datasets]
    for other in others:
        if other != row_format:
            raise JobFailedError(
                f"The first dataset holds {row_format}, but another one holds {other}.",
                code=FailureCode.BAD_SPEC,
            )
    if folders.validation_dataset is not None:
        held_out = _format_of_dataset(folders.validation_dataset)
        if held_out != row_format:
            raise JobFailedError(
                f"The dataset holds {row_format}, but the validation dataset holds {held_out}.",
                code=FailureCode.BAD_SPEC,
            )
    return row_format


def _format_of_dataset(folder: Path) -> Format:
    line = next(read_lines(folder), None)
    if line is None:
        raise JobFailedError("The dataset is empty.", hint="Ingest some text first.")
    return format_of(parse_row(line))


def _placing(spec: TokenizeSpec, folders: TokenizeFolders) -> HeldOut:
    """Return how the dataset's rows are placed, having seen that neither split will be empty.

    Reads only as far as the first row of each split.
    """
    if folders.validation_dataset is not None:
        return lambda digest: False
    fraction = spec.validation_fraction
    lowest, highest, count = 1.0, 0.0, 0
    for line in chain.from_iterable(map(read_lines, folders.datasets)):
        share = share_of(digest_of(parse_row(line)))
        lowest, highest, count = min(lowest, share), max(highest, share), count + 1
        if lowest < fraction <= highest:
            return partial(is_held_out, fraction=fraction)
    raise _empty_split(fraction, lowest, count)


def _empty_split(fraction: float, lowest: float, count: int) -> JobFailedError:
    """Say which split is empty; `lowest` is the share above which the validation split is not."""
    split = "training" if lowest < fraction else "validation"
    enough = math.ceil(lowest * 1000 + 1) / 1000
    advice = "Ingest more documents, or give a validation_dataset."
    if split == "validation" and count > 1 and enough <= MAX_VALIDATION_FRACTION:
        advice = f"Set validation_fraction to {enough} or more, or give a validation_dataset."
    return JobFailedError(
        f"The {split} split would be empty: of {count} rows in the dataset none falls into it at "
        f"validation_fraction {fraction}.",
        code=FailureCode.BAD_SPEC,
        hint=advice,
    )


def _tokenizer(
    spec: TokenizeSpec, folders: TokenizeFolders, mixture: Sequence[Pass], watch: Watch
) -> Tokenizer:
    if folders.tokenizer is not None:
        watch.phase("loading")
        return Tokenizer.load(folders.tokenizer)
    watch.phase("learning")
    texts = (
        text
        for reading in mixture
        for row in map(parse_row, _watched(reading.folder, watch))
        if reading.place(digest_of(row)) is False
        for text in texts_of(row)
    )
    return learn_bpe(texts, vocab_size=spec.vocab_size, min_frequency=spec.min_frequency)


def _encode(
    spec: TokenizeSpec,
    folders: TokenizeFolders,
    encoder: BulkEncoder,
    mixture: Sequence[Pass],
    row_format: Format,
    num_threads: int,
    watch: Watch,
) -> tuple[SplitIndex, SplitIndex]:
    """Write the shards of both splits and return what was written."""
    open_split = partial(
        ShardWriter,
        folders.tokens_output,
        shard_tokens=spec.shard_tokens,
        masked=row_format == "dialogues",
    )
    readings = list(mixture)
    if folders.validation_dataset is not None:
        readings.append(Pass(folder=folders.validation_dataset, place=lambda digest: True))
    with open_split("train") as train, open_split("validation") as validation:
        for reading in readings:
            lines = _watched(reading.folder, watch)
            for rows in encode_lines(lines, encoder, num_threads, reading.place):
                for row in rows:
                    split = validation if row.held_out else train
                    split.add(row.ids, row.mask, text_bytes=row.text_bytes)
    return train.index(), validation.index()


def _watched(folder: Path, watch: Watch) -> Iterator[bytes]:
    """Yield a dataset's lines, saying how many of its bytes have been read."""
    total = sum(part.stat().st_size for part in part_files(folder))
    done = 0
    for line in read_lines(folder):
        done += len(line)
        watch.step(done, total, "bytes read")
        yield line
