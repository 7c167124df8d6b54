"""Learning and using a 16,000-entry vocabulary: this platform beside Hugging Face's tokenizers.

    python -m benchmarks.bpe [FILE] [--runs 3] [--vocab-size 16000]

FILE is text (plain or gzip), documents ended by `<|endoftext|>` lines. Each measurement is a fresh
process, the two sides in turn; medians are shown. Ours goes all the way: ingest (clean, drop
repetitions), split, learn, encode, shards on disk. Theirs reads, learns, encodes and writes ids.
A last pair of measurements encodes the file and one ten times longer, for the memory it takes.
Writes benchmarks/results/bpe.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from services.tokenizer.ingest import ingest
from services.tokenizer.input_file import InputFile
from services.tokenizer.tokenize import TokenizeFolders, tokenize
from services.tokenizer.watch import Watch
from shared.base.files import write_bytes
from shared.contracts.data_specs import IngestSpec, TokenizeSpec
from shared.contracts.names import END_TOKEN, SPECIAL_TOKENS
from shared.contracts.progress import PhaseLine, ProgressMessage

ROOT = Path(__file__).parents[1]
DEFAULT_FILE = ROOT.parent / "shared" / "data" / "text" / "mixed-train.txt.gz"
RESULT = ROOT / "benchmarks" / "results" / "bpe.json"
LONGER = 10
Result = dict[str, float]


def measure_ours(file: Path, folder: Path, vocab_size: int) -> Result:
    """Ingest, learn and encode as the two jobs do it; seconds of each part."""
    began: dict[str, float] = {}

    def note(line: ProgressMessage) -> None:
        if isinstance(line, PhaseLine):
            began[line.phase] = time.perf_counter()

    watch = Watch(note, lambda: False)
    spec = IngestSpec(source="text", upload="upl_" + "0" * 26)
    dataset = ingest(spec, InputFile(file, file.name), folder / "dataset", watch)
    given = folder.parent / "tokenizer"
    folders = TokenizeFolders(
        datasets=(folder / "dataset",),
        tokenizer=given if given.is_dir() else None,
        tokenizer_output=folder / "tokenizer",
        tokens_output=folder / "tokens",
    )
    tokenize_spec = TokenizeSpec(dataset="ds_" + "0" * 26, vocab_size=vocab_size)
    meta, _ = tokenize(tokenize_spec, folders, num_threads=os.cpu_count() or 1, watch=watch)
    ended = time.perf_counter()
    learning = began.get("learning", began.get("loading", 0.0))
    return {
        "ingest_s": learning - began["reading"],
        "learn_s": began["encoding"] - learning,
        "encode_s": ended - began["encoding"],
        "text_mb": dataset.text_bytes / 1e6,
        "bytes_per_token": meta.bytes_per_token,
    }


def measure_theirs(file: Path, folder: Path, vocab_size: int) -> Result:
    """The same with the library alone: read, train, encode in batches, write ids."""
    start = time.perf_counter()
    documents = list(_documents(file))
    read = time.perf_counter()
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    trained = time.perf_counter()
    tokens = 0
    with (folder / "ids.bin").open("wb") as output:
        for first in range(0, len(documents), 1000):
            for encoding in tokenizer.encode_batch_fast(documents[first : first + 1000]):
                tokens += len(encoding.ids)
                output.write(np.array(encoding.ids, np.uint16).tobytes())
    ended = time.perf_counter()
    text_bytes = sum(len(document.encode()) for document in documents)
    return {
        "ingest_s": read - start,
        "learn_s": trained - read,
        "encode_s": ended - trained,
        "text_mb": text_bytes / 1e6,
        "bytes_per_token": text_bytes / tokens,
    }


SIDES: dict[str, Callable[[Path, Path, int], Result]] = {
    "ours": measure_ours,
    "theirs": measure_theirs,
}


def _documents(file: Path) -> Iterator[str]:
    content = file.read_bytes()
    text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8")
    yield from (part for part in text.split(f"\n{END_TOKEN}\n") if part)


def run_side(side: str, file: Path, folder: Path, vocab_size: int) -> Result:
    """Measure one side in a fresh process, in an empty folder below `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "benchmarks.bpe", str(file), "--side", side]
        command += ["--vocab-size", str(vocab_size), "--scratch", scratch]
        finished = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    result: Result = json.loads(finished.stdout)
    return result


def write_longer(file: Path, path: Path) -> None:
    """Write the file's documents `LONGER` times, each copy different from the others."""
    documents = list(_documents(file))
    with path.open("w", encoding="utf-8") as output:
        for copy in range(LONGER):
            for document in documents:
                output.write(f"Copy {copy}. {document}\n{END_TOKEN}\n")


def measure_memory(file: Path, folder: Path, vocab_size: int) -> dict[str, Result]:
    """Encode with a given tokenizer: the file, and one ten times longer."""
    longer = folder / "longer.txt"
    write_longer(file, longer)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        measure_ours(file, Path(scratch), vocab_size)
        (Path(scratch) / "tokenizer").rename(folder / "tokenizer")
    return {
        "once": run_side("ours", file, folder, vocab_size),
        "longer": run_side("ours", longer, folder, vocab_size),
    }


def summarise(results: list[Result]) -> Result:
    """Return the median of every figure, and of the sum of learning and encoding."""
    for result in results:
        result["learn_and_encode_s"] = result["learn_s"] + result["encode_s"]
        result["encode_mb_per_s"] = result["text_mb"] / result["encode_s"]
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def print_table(ours: Result, theirs: Result, memory: dict[str, Result]) -> None:
    """Print one line a figure: both sides, and theirs / ours where less is better."""
    print(f"{'':22}{'ours':>10}{'HF alone':>10}{'HF/ours':>10}")
    for name in ours:
        less_is_better = name.endswith("_s") and not name.endswith("_per_s")
        ratio = f"{theirs[name] / ours[name]:10.2f}" if less_is_better else ""
        print(f"{name:22}{ours[name]:10.2f}{theirs[name]:10.2f}{ratio}")
    for length, result in memory.items():
        print(f"encoding alone, {length:6}{result['text_mb']:10.1f} MB of text", end="")
        print(f"{result['peak_rss_mb']:10.0f} MB peak")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("tokenizers", "tiktoken", "numpy")},
    }


def main() -> None:
    """Measure both sides in turn, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=16_000)
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.file.is_file():
        sys.exit(f"{options.file} is not there; name a text file.")
    if options.side:
        result = SIDES[options.side](options.file, options.scratch, options.vocab_size)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        result |= {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_mb": usage.ru_maxrss / 1024}
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as name:
        compare(options.file, Path(name), options.runs, options.vocab_size)


def compare(file: Path, folder: Path, runs: int, vocab_size: int) -> None:
    """Run everything and report it."""
    results: dict[str, list[Result]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side, collected in results.items():
            collected.append(run_side(side, file, folder, vocab_size))
    ours, theirs = summarise(results["ours"]), summarise(results["theirs"])
    memory = measure_memory(file, folder, vocab_size)
    print_table(ours, theirs, memory)
    document = {
        "input": {"name": file.name, "bytes": file.stat().st_size},
        "vocab_size": vocab_size,
        "runs": runs,
        "machine": machine(),
        "ours": ours,
        "theirs": theirs,
        "memory": memory,
    }
    write_bytes(RESULT, json.dumps(document, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
