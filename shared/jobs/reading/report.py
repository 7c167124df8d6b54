"""`report.md` of a training run: its measured values beside the reference run's, and its pedigree.

Everything in it comes from database rows. A value that was not measured is shown as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from shared.base.version import code_version
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import JobKind
from shared.contracts.views import EventType
from shared.db.session import Database
from shared.db.tables import ArtifactRow
from shared.jobs.reading.run_facts import RunFacts, gather_run_facts

UNKNOWN = "-"
NOT_REPORTED = "not reported"
MAX_SAMPLE_CHARS = 1000
MAX_NOTICES = 20
Row = tuple[str, ...]

REFERENCE = {
    JobKind.TRAIN: {
        "Data": "Simple Wikipedia and C4, 347 MB (297M tokens as reported)",
        "Tokenizer": "byte-level BPE, 16,000 entries",
        "Model": "arcee: 6 layers, d_model 320, 5 heads of 64, d_ff 1,280, context 512",
        "Parameters": "12,496,960",
        "Steps": "80,000",
        "Tokens a step": "32,768",
        "Tokens seen": "2,621,440,000",
        "Learning rate": "cosine 0.0006 to 6e-05, warm-up 2,000",
        "Time": "12 h on one RTX 3060",
        "Peak memory": "6 to 8 GB",
        "Final training loss": "3.44",
    },
    JobKind.FINETUNE: {
        "Data": "DailyDialog, 6.5 MB (1.61M tokens as reported)",
        "Tokenizer": "byte-level BPE, 16,000 entries",
        "Model": "arcee: 6 layers, d_model 320, 5 heads of 64, d_ff 1,280, context 512",
        "Parameters": "12,496,960",
        "Steps": "1,000",
        "Tokens a step": "32,768",
        "Tokens seen": "32,768,000",
        "Learning rate": "cosine 3e-05 to 3e-06, warm-up 50",
        "Final training loss": "2.31",
        "Validation loss": "2.49",
    },
}
"""What the reference run reports of itself, by kind of job."""


def render_report(database: Database, job_id: str) -> str:
    """The report of a train or finetune job as things stand.

    Raises NotFoundError for an unknown job and ConflictError for one that does not train.
    """
    with database.reading() as session:
        facts = gather_run_facts(session, job_id)
    sections = (
        _head(facts),
        _results(facts),
        ["## Loss", "", "![Training and validation loss over steps](plot.svg)"],
        _samples(facts),
        _lineage(facts),
        _data_card(facts),
        _model_card(facts),
        _environment(facts),
    )
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _head(facts: RunFacts) -> list[str]:
    job = facts.job
    what = "Pretraining" if job.kind is JobKind.TRAIN else "Finetuning"
    return [
        f"# {what}: {_inline(job.name)}",
        "",
        f"Job `{job.id}`, model `{facts.spec.model}`, step {job.step:,} of {job.total_steps:,}.",
    ]


def _results(facts: RunFacts) -> list[str]:
    measured = {
        "Data": _data(facts),
        "Tokenizer": _tokenizer(facts),
        "Model": _shape(facts.model),
        "Parameters": UNKNOWN if facts.model is None else f"{facts.model.num_parameters:,}",
        "Steps": f"{facts.job.step:,}",
        "Tokens a step": _tokens_a_step(facts),
        "Tokens seen": f"{facts.tokens_seen:,}",
        "Learning rate": _learning_rate(facts),
        "Time": _time(facts),
        **_costs(facts),
        "Final training loss": _number(facts.newest("train", "loss")),
        "Validation loss": _number(facts.newest("validation", "validation_loss")),
        "Lowest validation loss": _number(facts.lowest("validation", "validation_loss")),
        "All-token validation loss": _number(facts.newest("validation", "all_token_loss")),
        "Bits per byte": _number(facts.newest("validation", "bits_per_byte")),
        "Validation text": _bytes(facts.newest("validation", "validation_bytes")),
    }
    reference = REFERENCE[facts.job.kind]
    rows = [(name, value, reference.get(name, NOT_REPORTED)) for name, value in measured.items()]
    return ["## Results", "", *_table(("", "this run", "reference run"), rows)]


def _data(facts: RunFacts) -> str:
    meta = facts.lineage.tokens_meta
    if meta is None:
        return UNKNOWN
    train = meta.train
    return (
        f"{train.documents:,} {meta.format}, {_bytes(train.text_bytes)} ({train.tokens:,} tokens)"
    )


def _tokenizer(facts: RunFacts) -> str:
    meta, tokens = facts.lineage.tokenizer_meta, facts.lineage.tokens_meta
    if meta is not None:
        rate = f", {meta.bytes_per_token:.2f} bytes a token"
        return f"byte-level BPE, {meta.vocab_size:,} entries{rate}"
    return UNKNOWN if tokens is None else f"byte-level BPE, {tokens.vocab_size:,} entries"


def _shape(model: ModelConfig | None) -> str:
    if model is None:
        return UNKNOWN
    return (
        f"{model.family}: {model.num_layers} layers, d_model {model.d_model:,}, "
        f"{model.num_heads} heads of {model.head_dim}, d_ff {model.d_ff:,}, "
        f"context {model.context_length:,}"
    )


def _tokens_a_step(facts: RunFacts) -> str:
    return f"{round(facts.tokens_seen / facts.job.step):,}" if facts.job.step else UNKNOWN


def _learning_rate(facts: RunFacts) -> str:
    spec = facts.spec
    lr = "auto" if spec.lr == "auto" else f"{float(spec.lr):g}"
    return f"{spec.schedule} {lr} to {spec.min_lr:g}, warm-up {spec.warmup_steps:,}"


def _time(facts: RunFacts) -> str:
    job, end = facts.job, facts.last_moment
    if job.started_at is None or end is None:
        return UNKNOWN
    seconds = max(0, round((end - job.started_at).total_seconds()))
    speed = f", {job.tokens_per_second:,.0f} tokens/s" if job.tokens_per_second else ""
    attempts = f", {job.attempt} attempts" if job.attempt > 1 else ""
    return f"{timedelta(seconds=seconds)}{speed}{attempts}"


def _costs(facts: RunFacts) -> dict[str, str]:
    """What the run asked of its machine; the speed is the median of all points."""
    speed, mfu = facts.typical("train", "tokens_per_second"), facts.typical("train", "mfu")
    flops, memory = facts.newest("train", "flops"), facts.highest("train", "peak_memory_bytes")
    wait = facts.typical("train", "data_wait_seconds")
    stall = facts.highest("train", "checkpoint_stall_seconds")
    return {
        "Speed": UNKNOWN if speed is None else f"{speed:,.0f} tokens/s",
        "Share of peak FLOP/s (MFU)": UNKNOWN if mfu is None else f"{mfu:.1%}",
        "Training FLOPs": UNKNOWN if flops is None else f"{flops:.3g}",
        "Peak memory": _bytes(memory),
        "Wait for data": UNKNOWN if wait is None else f"{1000 * wait:.1f} ms a step",
        "Longest stop for a checkpoint": UNKNOWN if stall is None else f"{1000 * stall:.0f} ms",
    }


def _samples(facts: RunFacts) -> list[str]:
    newest = {
        event.data["prompt"]: event for event in facts.events if event.type is EventType.SAMPLE
    }
    if not newest:
        return []
    lines = ["## Samples", "", "Greedy, unedited, the last of each prompt."]
    for prompt, event in newest.items():
        lines += ["", f"Step {event.data['step']:,}, prompt:", "", *_quoted(str(prompt))]
        lines += ["", "answer:", "", *_quoted(str(event.data["text"])[:MAX_SAMPLE_CHARS])]
    return lines


def _lineage(facts: RunFacts) -> list[str]:
    lineage = facts.lineage
    rows = [
        _artifact_row("Dataset", lineage.dataset),
        _artifact_row("Tokenizer", lineage.tokenizer),
        _artifact_row("Tokens", lineage.tokens),
    ]
    if lineage.base is not None and lineage.base_job is not None:
        name = f"{_inline(lineage.base_job.name)}, step {lineage.base.step:,}"
        rows.append(("Base model", name, f"`{lineage.base.id}`", f"`{lineage.base_job.id}`"))
    rows += [
        (
            "Checkpoint",
            ", ".join(view.versions) or "unpublished",
            f"`{view.id}`",
            f"step {view.step:,}",
        )
        for view in facts.checkpoints
    ]
    shown = [row for row in rows if row is not None]
    return ["## Lineage", "", *_table(("", "name", "id", "made by"), shown)]


def _artifact_row(label: str, row: ArtifactRow | None) -> Row | None:
    if row is None:
        return None
    return (label, _inline(row.name), f"`{row.id}`", f"`{row.job_id}`")


def _data_card(facts: RunFacts) -> list[str]:
    dataset, tokens = facts.lineage.dataset_meta, facts.lineage.tokens_meta
    rows: list[Row] = []
    if dataset is not None:
        rows += [
            ("Source", _inline(dataset.source)),
            ("Content", f"{dataset.documents:,} {dataset.format}, {_bytes(dataset.text_bytes)}"),
            ("Exact repetitions dropped", f"{dataset.duplicates_dropped:,}"),
        ]
    if tokens is not None:
        held_out = tokens.validation
        rows += [
            ("Learned tokens", f"{tokens.train.learned_tokens:,} of {tokens.train.tokens:,}"),
            (
                "Held out",
                f"{held_out.documents:,} {tokens.format}, {_bytes(held_out.text_bytes)}, "
                f"{held_out.tokens:,} tokens",
            ),
        ]
    return ["## Data card", "", *_table(("", ""), rows)] if rows else []


def _model_card(facts: RunFacts) -> list[str]:
    finetuned = facts.job.kind is JobKind.FINETUNE
    use = (
        "answering short questions in the style of the dialogues it was finetuned on"
        if finetuned
        else "continuing text in the style of its training data; base of a finetuned model"
    )
    return [
        "## Model card",
        "",
        f"- **Use**: {use}.",
        "- **Limits**: a small model. It states falsehoods fluently, knows nothing beyond its "
        "data, and repeats what bias that data holds. Not for decisions about people.",
        "- **Measured**: the values above, on held-out text of the same source only.",
        "- **Licence**: that of the training data applies to what is made from it.",
    ]


def _environment(facts: RunFacts) -> list[str]:
    job = facts.job
    workers = {
        str(event.data["worker"]): None for event in facts.events if event.data.get("worker")
    }
    rows = [
        ("Code that accepted the job", f"`{job.code_version or UNKNOWN}`"),
        ("Code that wrote this report", f"`{code_version()}`"),
        ("Device and number format asked for", f"{facts.spec.device}, {facts.spec.dtype}"),
        ("Seed", str(facts.spec.seed)),
        ("Workers", ", ".join(map(_inline, workers)) or UNKNOWN),
    ]
    notices = [
        f"- {_inline(str(event.data['message']))}"
        for event in facts.events
        if event.type is EventType.NOTICE
    ]
    lines = ["## Environment", "", *_table(("", ""), rows)]
    if facts.first_log_lines:
        lines += ["", "The process at its start:", "", *_quoted("\n".join(facts.first_log_lines))]
    if notices:
        lines += ["", "Notices:", "", *notices[-MAX_NOTICES:]]
    return lines


def _table(header: Sequence[str], rows: Iterable[Row]) -> list[str]:
    lines = [_line(header), _line(["---"] * len(header))]
    return lines + [_line(row) for row in rows]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _inline(text: str) -> str:
    """A user's text inside a line: no markup, no line breaks, no HTML."""
    flat = " ".join(text.split())
    for char in "\\`*_[]<>":
        flat = flat.replace(char, f"\\{char}")
    return flat


def _quoted(text: str) -> list[str]:
    """A user's or a model's text as a code block, whatever it contains."""
    return [f"    {line}" for line in text.splitlines()] or ["    "]


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value >= 1e9:
        return f"{value / 1e9:.2f} GB"
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value:,.0f} bytes"
