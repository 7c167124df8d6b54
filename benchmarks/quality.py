"""Held-out quality of two recipes at equal tokens: the same small model, text and batches.

    python -m benchmarks.quality [--train FILE --validation FILE] [--recipes ryan-gpt ryan-gpt-fast]
                                 [--steps 500] [--seeds 3]

The first recipe is the reference. Of each recipe's `train` job everything but the shape, the batch
and the number of steps is taken as it stands; its warm-up keeps its share of the run. Runs are the
trainer's own, in this process, and take turns over the seeds. Without files, the documentation of
this machine's Python is ingested, as by the quickstart, and a share of it is held out. After each
run the JSON file is written anew, so that what has been measured survives an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml

from services.tokenizer.ingest import ingest
from services.tokenizer.input_file import InputFile
from services.tokenizer.tokenize import TokenizeFolders, tokenize
from services.tokenizer.watch import Watch
from services.trainer.training import Outside, train
from shared.base.files import write_bytes
from shared.base.ids import IdPrefix, new_id
from shared.base.version import code_version
from shared.contracts.data_specs import IngestSpec, TokenizeSpec
from shared.contracts.names import JobKind
from shared.contracts.progress import MetricsLine, ProgressMessage
from shared.contracts.run_file import RunFile, RunInput
from shared.contracts.training_specs import TrainSpec

RESULT = Path(__file__).parent / "results" / "quality.json"
SHAPE = {"context_length": 256, "num_layers": 4, "d_model": 192, "num_heads": 6, "d_ff": 768}
"""With a vocabulary of 4,096: 2,557,632 parameters."""
VOCAB_SIZE = 4096
VALIDATION_FRACTION = 0.05
STUDENT_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Two-sided 95 % points of Student's t, by the number of runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: its recipe, its seed and what it measured."""

    recipe: str
    seed: int
    curve: list[tuple[int, float]]
    """Tokens seen, held-out bits per byte."""
    seconds: float

    @property
    def final(self) -> float:
        """Bits per byte at the end."""
        return self.curve[-1][1]


class Uninterrupted:
    """Nobody stops a benchmark."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def stopping(self) -> bool:
        """Never."""
        return False


def make_tokens(folder: Path, train_file: Path | None, validation_file: Path | None) -> Path:
    """Ingest and tokenize the two files (or this Python's documentation); returns the token set."""
    watch = Watch(lambda line: None, lambda: False)
    upload = new_id(IdPrefix.UPLOAD)

    def dataset(name: str, file: Path | None) -> Path:
        spec = (
            IngestSpec(source="text", upload=upload) if file else IngestSpec(source="python_docs")
        )
        (folder / name).mkdir()
        ingest(spec, InputFile(file, file.name) if file else None, folder / name, watch)
        return folder / name

    (folder / "tokenizer").mkdir()
    (folder / "tokens").mkdir()
    folders = TokenizeFolders(
        datasets=(dataset("train", train_file),),
        validation_dataset=dataset("validation", validation_file) if validation_file else None,
        tokenizer_output=folder / "tokenizer",
        tokens_output=folder / "tokens",
    )
    spec = TokenizeSpec(
        dataset=new_id(IdPrefix.DATASET),
        vocab_size=VOCAB_SIZE,
        validation_fraction=VALIDATION_FRACTION,
    )
    tokenize(spec, folders, num_threads=torch.get_num_threads(), watch=watch)
    return folders.tokens_output


def spec_of(recipe: str, options: argparse.Namespace, seed: int) -> TrainSpec:
    """The recipe's `train` job at this size and length."""
    label, _, changes = recipe.partition("+")
    path = Path(__file__).parents[1] / "ryangpt" / "recipes" / f"{label}.yaml"
    given = yaml.safe_load(path.read_text("utf-8"))["jobs"]["train"]["spec"]
    warmup = given["warmup_steps"] * options.steps / given["max_steps"]
    given |= SHAPE | {
        "tokens": new_id(IdPrefix.DATASET),
        "batch_size": options.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "warmup_steps": max(1, math.ceil(warmup)),
        "seed": seed,
        "log_interval": options.steps,
        "eval_interval": max(1, options.steps // options.evaluations),
        "save_interval": options.steps,
        "eval_tokens": options.eval_tokens,
        "sample_prompts": [],
        "device": options.device,
    }
    given |= {
        key: yaml.safe_load(value)
        for key, _, value in (change.partition("=") for change in changes.split(",") if change)
    }
    return TrainSpec.model_validate_json(json.dumps(given))


def run_once(recipe: str, seed: int, tokens: Path, options: argparse.Namespace) -> Run:
    """Train once."""
    curve: list[tuple[int, float]] = []

    def report(line: ProgressMessage) -> None:
        if isinstance(line, MetricsLine) and line.series == "validation":
            curve.append((line.tokens, line.values["bits_per_byte"]))

    spec = spec_of(recipe, options, seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = RunFile(
            job_id=new_id(IdPrefix.JOB),
            kind=JobKind.TRAIN,
            attempt=1,
            token=1,
            spec=spec,
            inputs={"tokens": RunInput(id="ds_benchmark", path=tokens, name="tokens")},
            spool=folder,
            outputs=folder,
            events=folder / "events.jsonl",
            num_threads=options.threads,
            slot_locks=folder / "slots",
            code_version=code_version(),
        )
        train(run, spec, Outside(
            report=report, publish=lambda source, target: None, interruption=Uninterrupted()
        ))  # fmt: skip
    return Run(recipe=recipe, seed=seed, curve=curve, seconds=time.perf_counter() - started)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student's t); not a number with one value."""
    if len(values) < 2:
        return values[0], math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), STUDENT_95.get(len(values), 2.26) * error


def tokens_to_reach(curve: list[tuple[int, float]], goal: float) -> float | None:
    """Where a falling curve crosses `goal`, linear between its points; None when it never does.

    A curve that begins below the goal gives its first point, which is then too many.
    """
    if curve[0][1] <= goal:
        return curve[0][0]
    for (before, above), (after, below) in pairwise(curve):
        if above > goal >= below:
            return before + (after - before) * (above - goal) / (above - below)
    return None


def summary(runs: list[Run]) -> dict[str, Any]:
    """By recipe: final bits per byte; against the first recipe, seed by seed, ratio and tokens."""
    by_recipe: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        by_recipe[run.recipe][run.seed] = run
    reference = next(iter(by_recipe.values()))
    rows: dict[str, Any] = {}
    for recipe, of_seed in by_recipe.items():
        mean, half = interval([run.final for run in of_seed.values()])
        pairs = [(run, reference[seed]) for seed, run in of_seed.items() if seed in reference]
        ratio, ratio_half = interval([run.final / other.final for run, other in pairs])
        shares = [
            None if reached is None else reached / run.curve[-1][0]
            for run, other in pairs
            for reached in [tokens_to_reach(run.curve, other.final)]
        ]
        rows[recipe] = {
            "bits_per_byte": mean,
            "interval_95": half,
            "ratio": ratio,
            "ratio_interval_95": ratio_half,
            "share_of_tokens_to_the_references_final": shares,
            "seconds": statistics.median(run.seconds for run in of_seed.values()),
            "runs": [
                {"seed": run.seed, "curve": run.curve, "seconds": run.seconds}
                for run in of_seed.values()
            ],
        }
    return rows


def show(rows: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'':36} {'bits per byte':>18} {'ratio':>16} {'tokens to reference':>20}  s/run")
    for recipe, row in rows.items():
        shares = row["share_of_tokens_to_the_references_final"]
        known = [share for share in shares if share is not None]
        reached = f"{statistics.mean(known):.0%}" if len(known) == len(shares) else "not reached"
        print(
            f"{recipe:36} {row['bits_per_byte']:8.4f} +- {row['interval_95']:.4f} "
            f"{row['ratio']:7.4f} +- {row['ratio_interval_95']:.4f} {reached:>20} "
            f"{row['seconds']:6.0f}",
            flush=True,
        )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=Path)
    parser.add_argument("--validation", type=Path)
    parser.add_argument(
        "--recipes", nargs="+", default=["ryan-gpt", "ryan-gpt-fast"],
        help="a recipe's name, or with changes: ryan-gpt+lr=0.003,min_lr=0.0003",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--eval-tokens", type=int, default=65_536)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        tokens = make_tokens(Path(folder), options.train, options.validation)
        for seed in range(options.seeds):
            for recipe in options.recipes:
                runs.append(run_once(recipe, seed, tokens, options))
                rows = summary(runs)
                show(rows)
                result = {
                    "rows": rows,
                    "steps": options.steps,
                    "batch": [options.batch, SHAPE["context_length"]],
                    "shape": SHAPE | {"vocab_size": VOCAB_SIZE},
                    "text": str(options.train.name if options.train else "Python's documentation"),
                    "torch": torch.__version__,
                    "code": code_version(),
                }
                write_bytes(options.output, (json.dumps(result, indent=2) + "\n").encode())
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
