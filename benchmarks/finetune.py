"""Finetuning on DailyDialog: the reference's recipe beside others, over several seeds.

    python -m benchmarks.finetune --text TRAIN.txt.gz --text-validation VALIDATION.txt.gz \\
        --dialogues train.zip --dialogues-validation validation.zip

For each seed a small base model is pretrained, then finetuned by each recipe on the same dialogues.
A recipe is the `chat` job of a preset as it stands, with changes after a `+`; only the batch is
the benchmark's own, chosen so that an epoch has about as many steps (49) as the reference's whole
run on all of DailyDialog. The first recipe is the reference's: its code learns every token of a
dialogue for 1,000 steps, some 20 epochs, and keeps the last weights. Both losses on the validation
split are those of the checkpoint that would be published. The JSON file is written anew after each
run; a later call with the same --output makes only the runs that are missing from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.quality import VOCAB_SIZE, Uninterrupted, interval, make_tokens, spec_of
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
REFERENCE = "ryan-gpt+loss_on=all,publish=final"
RECIPES = [REFERENCE, "ryan-gpt-fast"]
SHAPES = {
    "small": "context_length=256,num_layers=3,d_model=96,num_heads=3,d_ff=384",
    "medium": "context_length=256,num_layers=4,d_model=192,num_heads=6,d_ff=768",
}
"""725,664 and 2,557,632 parameters."""
LOSSES = ("all_token_loss", "assistant_loss")


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
) -> tuple[dict[int, dict[str, float]], dict[int, Path]]:
    """Train; returns metrics and checkpoint folders by step."""
    metrics: dict[int, dict[str, float]] = {}
    saved: dict[int, Path] = {}

    def report(line: ProgressMessage) -> None:
        if isinstance(line, MetricsLine) and line.series == "validation":
            metrics[line.step] = line.values
        if isinstance(line, CheckpointLine):
            saved[line.meta.step] = Path(line.path)

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
    return metrics, saved


def finetune_spec(recipe: str, options: argparse.Namespace, seed: int) -> FinetuneSpec:
    """The `chat` job of a preset, with the changes after `+`, in this benchmark's batch."""
    label, _, changes = recipe.partition("+")
    path = Path(__file__).parents[1] / "ryangpt" / "recipes" / f"{label}.yaml"
    given = yaml.safe_load(path.read_text("utf-8"))["jobs"]["chat"]["spec"]
    given |= {
        "checkpoint": new_id(IdPrefix.CHECKPOINT),
        "tokens": new_id(IdPrefix.DATASET),
        "batch_size": options.batch,
        "gradient_accumulation_steps": 1,
        "save_interval": 1_000_000,
        "eval_tokens": options.eval_tokens,
        "sample_prompts": [],
        "device": options.device,
        "seed": seed,
    }
    given |= {
        key: yaml.safe_load(value)
        for key, _, value in (change.partition("=") for change in changes.split(",") if change)
    }
    return FinetuneSpec.model_validate_json(json.dumps(given))


def published_step(metrics: dict[int, dict[str, float]], spec: FinetuneSpec) -> int:
    """The last step, or the one with the lowest validation loss: the assistant's."""
    if spec.publish == "final":
        return max(metrics)
    return min(metrics, key=lambda step: metrics[step]["validation_loss"])


def measure(
    recipe: str, seed: int, inputs: dict[str, Path], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Finetune once."""
    spec = finetune_spec(recipe, options, seed)
    began = time.perf_counter()
    metrics, _ = run_job(spec, inputs, folder, options.threads)
    step = published_step(metrics, spec)
    return {
        "recipe": recipe,
        "seed": seed,
        "step": step,
        "steps": max(metrics),
        **{loss: metrics[step][loss] for loss in LOSSES},
        **{f"lowest_{loss}": min(row[loss] for row in metrics.values()) for loss in LOSSES},
        "seconds": time.perf_counter() - began,
        "curve": {at: [row[loss] for loss in LOSSES] for at, row in metrics.items()},
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By recipe: both losses, and their difference from the first recipe's seed by seed.

    Each with half of its 95 % interval over the seeds (Student's t).
    """
    by_recipe: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        by_recipe[run["recipe"]][run["seed"]] = run
    reference = next(iter(by_recipe.values()))
    rows: dict[str, Any] = {}
    for recipe, of_seed in by_recipe.items():
        row: dict[str, Any] = {"seeds": len(of_seed)}
        for loss in LOSSES:
            pairs = [(run, reference[seed]) for seed, run in of_seed.items() if seed in reference]
            row[loss] = interval([run[loss] for run in of_seed.values()])
            row[f"{loss}_difference"] = interval([run[loss] - other[loss] for run, other in pairs])
        row["steps"] = statistics.mean(run["steps"] for run in of_seed.values())
        rows[recipe] = row
    return rows


def show(rows: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'':60} seeds {'all tokens':>17} {'difference':>18} {'assistant':>17} steps")
    for recipe, row in rows.items():
        cells = [row[key] for key in (LOSSES[0], f"{LOSSES[0]}_difference", LOSSES[1])]
        shown = " ".join(f"{mean:8.4f} +- {half:.4f}" for mean, half in cells)
        print(f"{recipe:60} {row['seeds']:5} {shown} {row['steps']:5.0f}", flush=True)


def pretrained(folder: Path, tokens: Path, seed: int, options: argparse.Namespace) -> Path:
    """The checkpoint folder of a base model, kept in `folder` between calls."""
    done = folder / f"base-{seed}.json"
    if not done.exists():
        settings = argparse.Namespace(
            steps=options.pretrain_steps, batch=16, evaluations=1, eval_tokens=16_384,
            device=options.device,
        )  # fmt: skip
        spec = spec_of(f"ryan-gpt-fast+{SHAPES[options.shape]}", settings, seed)
        metrics, saved = run_job(spec, {"tokens": tokens}, folder / f"base-{seed}", options.threads)
        found = {
            "path": str(saved[max(saved)]),
            "bits_per_byte": metrics[max(metrics)]["bits_per_byte"],
        }
        write_bytes(done, json.dumps(found).encode())
    found = json.loads(done.read_text())
    print(f"base model of seed {seed}: {found['bits_per_byte']:.4f} bits per byte", flush=True)
    return Path(found["path"])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("text", "text-validation", "dialogues", "dialogues-validation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--max-dialogues", type=int, default=300)
    parser.add_argument("--pretrain-steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--eval-tokens", type=int, default=32_768)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--work", type=Path, help="keeps the base models for a later call")
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


def prepare(folder: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """The base models' tokens and the dialogues, kept in `folder` between calls."""
    text, dialogues = folder / "text", folder / "chat"
    if not (dialogues / "ready").exists():
        text.mkdir(parents=True)
        dialogues.mkdir()
        make_tokens(text, options.text, options.text_validation)
        make_dialogues(
            dialogues, options.dialogues, options.dialogues_validation, options.max_dialogues,
            text / "tokenizer",
        )  # fmt: skip
        write_bytes(dialogues / "ready", b"")
    return text / "tokens", dialogues / "dialogues"


def main(folder: Path, options: argparse.Namespace) -> None:
    """Measure, print, write."""
    torch.set_num_threads(options.threads)
    settings = {
        "shape": SHAPES[options.shape],
        "vocab_size": VOCAB_SIZE,
        "dialogues": options.max_dialogues,
        "batch": options.batch,
        "eval_tokens": options.eval_tokens,
        "pretrain_steps": options.pretrain_steps,
        "torch": torch.__version__,
    }
    runs: list[dict[str, Any]] = []
    if options.output.exists():
        before = json.loads(options.output.read_text())
        runs = before["runs"] if before.get("settings") == settings else []
    tokens, dialogues = prepare(folder, options)
    made = {(run["recipe"], run["seed"]) for run in runs}
    for seed in options.seeds:
        missing = [recipe for recipe in options.recipes if (recipe, seed) not in made]
        for recipe in missing:
            base = pretrained(folder, tokens, seed, options)
            with tempfile.TemporaryDirectory() as place:
                inputs = {"checkpoint": base, "tokens": dialogues}
                runs.append(measure(recipe, seed, inputs, Path(place) / "run", options))
            result = {"settings": settings, "code": code_version(), "rows": summary(runs)}
            text = json.dumps(result | {"runs": runs}, indent=2, allow_nan=True)
            write_bytes(options.output, (text + "\n").encode())
            show(summary(runs))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        main(arguments.work or Path(name), arguments)
