"""`report.md` of an evaluation: its numbers as tables, its samples as quotations."""

from __future__ import annotations

from collections.abc import Iterable

from shared.contracts.evaluation import Evaluation
from shared.contracts.manifest import EvaluationMeta
from shared.contracts.model_config import ModelConfig

Row = tuple[str, ...]


def render_evaluation(meta: EvaluationMeta, model: ModelConfig, *, checkpoint: str) -> str:
    """All of `meta` for a reader."""
    tokens = ", ".join(f"`{name}`" for name in (meta.tokens_id, *meta.more_tokens_ids))
    head = [
        f"# Evaluation: {plain(checkpoint)}",
        "",
        f"Checkpoint `{meta.checkpoint_id}`, {model.num_parameters:,} parameters, on tokens "
        f"{tokens}.",
    ]
    result = meta.result
    sections = (head, _quality(result), _memory(result), _samples(result))
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _quality(result: Evaluation) -> list[str]:
    rows = [
        (
            plain(s.source),
            f"{s.documents:,}",
            f"{s.text_bytes:,}",
            f"{s.bits_per_byte:.4f} ({s.bits_per_byte_low:.4f} to {s.bits_per_byte_high:.4f})",
            f"{s.loss:.4f} ({s.loss_low:.4f} to {s.loss_high:.4f})",
            f"{s.perplexity:.2f}",
            "-" if s.assistant_loss is None else f"{s.assistant_loss:.4f}",
        )
        for s in result.sources
    ]
    names = (
        *("source", "documents", "bytes", "bits per byte", "loss"),
        *("perplexity", "assistant's loss"),
    )
    return [
        "## Quality",
        "",
        *table(names, rows),
        "",
        "In brackets: 95 % of the averages of resampled documents. Loss and perplexity are per "
        "token, so they compare models of one tokenizer only.",
    ]


def _memory(result: Evaluation) -> list[str]:
    if not result.memorisation:
        return []
    rows = [
        (m.split, f"{m.beginnings}", f"{m.exact_share:.1%}", f"{m.matching_tokens:.2f}")
        for m in result.memorisation
    ]
    first = result.memorisation[0]
    return [
        "## Learned by heart",
        "",
        f"{first.prompt_tokens} tokens of a document's beginning, the next {first.answer_tokens} "
        "completed greedily. The validation split, never trained on, is the control.",
        "",
        *table(("split", "documents", "all right", "right tokens in a row"), rows),
    ]


def _samples(result: Evaluation) -> list[str]:
    lines = ["## Samples"] if result.samples else []
    for sample in result.samples:
        how = f"temperature {sample.temperature:g}" if sample.temperature else "greedy"
        lines += [
            "",
            f"{how}, {sample.repeated_share:.0%} repeated, {sample.distinct_share:.0%} distinct "
            "pairs:",
            "",
            *[f"    {line}" for line in (sample.prompt + " ->" + sample.text).splitlines()],
        ]
    return lines


def table(header: Row, rows: Iterable[Row]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows)]


def plain(text: str) -> str:
    """A user's text inside a line: no markup, no line breaks, no HTML."""
    flat = " ".join(text.split())
    for char in "\\`*_[]<>|":
        flat = flat.replace(char, f"\\{char}")
    return flat
