"""Finetuning on DailyDialog: the reference's recipe beside others, from one small base model.

    python -m benchmarks.finetune --text TRAIN.txt.gz --text-validation VALIDATION.txt.gz \\
        --dialogues train.zip --dialogues-validation validation.zip [--max-dialogues 1000]

Pretrains the small model of benchmarks.quality once, then finetunes it by each recipe on the same
dialogues. The reference learns every token of a dialogue, for as many epochs as its own run had
(20), at its rate; ours learn every token or the assistant's, for a few epochs, with early stopping.
Both losses of each run's published checkpoint (the best by its own validation loss; for
the reference the last one, as it kept no other) on the whole validation split. Writes the JSON
file anew after each run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.quality import Uninterrupted, make_tokens, spec_of
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
from shared.contracts.progress import CheckpointLine, MetricsLine, ProgressMessage
from shared.contracts.run_file import RunFile, RunInput
from shared.contracts.training_specs import FinetuneSpec, TrainSpec
from shared.jobs.program import publish_folder

RESULT = Path(__file__).parent / "results" / "finetune.json"
REFERENCE_STEPS, REFERENCE_EPOCHS = 1000, 20
"""32.8 million tokens over 1.61 million."""
REFERENCE: dict[str, Any] = {"lr": 3e-5, "min_lr": 3e-6, "warmup_steps": 50}
OURS: dict[str, Any] = {
    "epochs": 4,
    "warmup_steps": 50,
    "early_stop_evaluations": 3,
    "publish": "best",
}
RECIPES: dict[str, dict[str, Any]] = {
    "reference, loss on all tokens": {**REFERENCE, "loss_on": "all", "epochs": REFERENCE_EPOCHS},
    "ours, all tokens, lr 3e-4": {**OURS, "loss_on": "all", "lr": 3e-4, "min_lr": 3e-5},
    "ours, all tokens, lr 1.5e-4": {**OURS, "loss_on": "all", "lr": 1.5e-4, "min_lr": 1.5e-5},
    "ours, assistant's tokens, lr 3e-4": {**OURS, "lr": 3e-4, "min_lr": 3e-5},
    "ours, assistant's tokens, lr 1e-3": {**OURS, "lr": 1e-3, "min_lr": 1e-4},
    "reference, assistant's tokens": {**REFERENCE, "epochs": REFERENCE_EPOCHS},
}


def make_dialogues(
    folder: Path, train_zip: Path, validation_zip: Path, limit: int, base: Path
) -> Path:
    """Encode DailyDialog's archives with the base model's tokenizer; returns the token set."""
    watch = Watch(lambda line: None, lambda: False)
    for name, file, most in (("d-train", train_zip, limit), ("d-validation", validation_zip, None)):
        (folder / name).mkdir()
        spec = IngestSpec(source="dailydialog", upload=new_id(IdPrefix.UPLOAD), max_documents=most)
        ingest(spec, InputFile(file, file.name), folder / name, watch)
    for name in ("d-tokenizer", "dialogues"):
        (folder / name).mkdir()
    folders = TokenizeFolders(
        datasets=(folder / "d-train",),
        validation_dataset=folder / "d-validation",
        tokenizer=base,
        tokenizer_output=folder / "d-tokenizer",
        tokens_output=folder / "dialogues",
    )
    tokenize(
        TokenizeSpec(dataset=new_id(IdPrefix.DATASET)),
        folders,
        num_threads=torch.get_num_threads(),
        watch=watch,
    )
    return folders.tokens_output


def run_job(
    spec: TrainSpec | FinetuneSpec, inputs: dict[str, Path], folder: Path, threads: int
) -> tuple[dict[int, dict[str, float]], dict[int, Path], int | None]:
    """Train; returns metrics and checkpoint folders by step, and the best checkpoint's step."""
    metrics: dict[int, dict[str, float]] = {}
    saved: dict[int, Path] = {}
    best: list[int] = []

    def report(line: ProgressMessage) -> None:
        if isinstance(line, MetricsLine) and line.series == "validation":
            metrics[line.step] = line.values
        if isinstance(line, CheckpointLine):
            saved[line.meta.step] = Path(line.path)
            best.extend([line.meta.step] if line.best else [])

    folder.mkdir()
    run = RunFile(
        job_id=new_id(IdPrefix.JOB),
        kind=JobKind.TRAIN if isinstance(spec, TrainSpec) else JobKind.FINETUNE,
        attempt=1,
        token=1,
        spec=spec,
        inputs={key: RunInput(id=f"ds_{key}", path=path, name=key) for key, path in inputs.items()},
        spool=folder,
        outputs=folder,
        events=folder / "events.jsonl",
        slot_locks=folder,
        num_threads=threads,
        code_version=code_version(),
    )
    train(run, spec, Outside(report=report, publish=publish_folder, interruption=Uninterrupted()))
    return metrics, saved, best[-1] if best else None


def finetune_spec(
    changes: dict[str, Any], options: argparse.Namespace, interval: int
) -> FinetuneSpec:
    """A recipe's spec; `interval` steps between evaluations."""
    return FinetuneSpec.model_validate(
        {
            "model": "benchmark",
            "checkpoint": new_id(IdPrefix.CHECKPOINT),
            "tokens": new_id(IdPrefix.DATASET),
            "batch_size": options.batch,
            "gradient_accumulation_steps": 1,
            "eval_interval": interval,
            "save_interval": 1_000_000,
            "eval_tokens": options.eval_tokens,
            "sample_prompts": (),
            "device": options.device,
            "seed": options.seed,
            **changes,
        }
    )


def measure(
    name: str, base: Path, dialogues: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Finetune by one recipe."""
    changes = RECIPES[name]
    is_reference = changes["epochs"] == REFERENCE_EPOCHS
    interval = options.interval * (5 if is_reference else 1)
    spec = finetune_spec(changes, options, interval)
    inputs = {"checkpoint": base, "tokens": dialogues}
    began = time.perf_counter()
    metrics, _, best = run_job(spec, inputs, folder, options.threads)
    last = max(metrics)
    chosen = last if is_reference or best is None else best
    return {
        "step": chosen,
        "steps": last,
        "all_token_loss": metrics[chosen]["all_token_loss"],
        "assistant_loss": metrics[chosen]["assistant_loss"],
        "lowest_all_token_loss": min(values["all_token_loss"] for values in metrics.values()),
        "lowest_assistant_loss": min(values["assistant_loss"] for values in metrics.values()),
        "seconds": time.perf_counter() - began,
        "curve": {step: [v["all_token_loss"], v["assistant_loss"]] for step, v in metrics.items()},
    }


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'':34} {'all tokens':>10} {'assistant':>10} {'at step':>9}  s")
    for name, row in rows.items():
        print(f"{name:34} {row['all_token_loss']:10.4f} {row['assistant_loss']:10.4f} "
              f"{row['step']:4}/{row['steps']:4}  {row['seconds']:.0f}", flush=True)  # fmt: skip


def pretrained(folder: Path, options: argparse.Namespace) -> Path:
    """The base model's checkpoint folder."""
    (folder / "text").mkdir()
    tokens = make_tokens(folder / "text", options.text, options.text_validation)
    settings = argparse.Namespace(
        steps=options.pretrain_steps, batch=16, evaluations=1, eval_tokens=16_384,
        device=options.device,
    )  # fmt: skip
    spec = spec_of("ryan-gpt-fast", settings, options.seed)
    metrics, saved, _ = run_job(spec, {"tokens": tokens}, folder / "base", options.threads)
    print(f"base model: {metrics[max(metrics)]['bits_per_byte']:.4f} bits per byte", flush=True)
    return saved[max(saved)]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("dialogues", "dialogues-validation"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("text", "text-validation", "base"):
        parser.add_argument(f"--{name}", type=Path, help="text to pretrain on, or a checkpoint")
    parser.add_argument("--max-dialogues", type=int, default=1000)
    parser.add_argument("--pretrain-steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--interval", type=int, default=20)
    parser.add_argument("--eval-tokens", type=int, default=65_536)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--recipes", type=yaml.safe_load, default=list(RECIPES))
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


def in_folder(work: Callable[[Path, argparse.Namespace], None]) -> None:
    """Run `work` in a folder that is removed afterwards."""
    options = parse_arguments()
    if options.dialogues is None or options.dialogues_validation is None:
        print("Needs DailyDialog's train.zip and validation.zip; see --help.")
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        work(Path(name), options)


def main(folder: Path, options: argparse.Namespace) -> None:
    """Measure, print, write."""
    base = options.base or pretrained(folder, options)
    dialogues = make_dialogues(
        folder, options.dialogues, options.dialogues_validation, options.max_dialogues, base
    )
    rows: dict[str, dict[str, Any]] = {}
    for index, recipe in enumerate(options.recipes):
        rows[recipe] = measure(recipe, base, dialogues, folder / f"run-{index}", options)
        show(rows)
        result = {
            "rows": rows,
            "recipes": RECIPES,
            "dialogues": options.max_dialogues,
            "eval_tokens": options.eval_tokens,
            "pretrain_steps": options.pretrain_steps,
            "batch": options.batch,
            "torch": torch.__version__,
            "code": code_version(),
        }
        write_bytes(options.output, (json.dumps(result, indent=2) + "\n").encode())
    print(f"wrote {options.output}")


if __name__ == "__main__":
    in_folder(main)
