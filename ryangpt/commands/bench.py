"""`ryangpt bench serve`: repeat the claims about serving against a platform that runs."""

from __future__ import annotations

import asyncio
import statistics
from typing import Annotated, Any

import typer

from ryangpt.commands.models import newest_model
from ryangpt.load_generator import Load, Target, measure
from ryangpt.terminal import Session, command
from shared.base.errors import InvalidInputError

COLUMNS = {
    "tokens_per_second": "tokens/s",
    "first_text_ms_p50": "first text p50",
    "first_text_ms_p99": "p99",
    "token_ms_p50": "ms/token p50",
    "token_ms_p99": "p99",
    "gap_ms_p50": "gap p50",
    "gap_ms_p99": "p99",
}
"""Figures of a row; all but the first in milliseconds."""


def register(app: typer.Typer) -> None:
    """Add `bench` and what is below it."""
    group = typer.Typer(no_args_is_help=True, help="Measure the platform that runs.")
    app.add_typer(group, name="bench", rich_help_panel="Models")
    command(group, "serve")(serve)


def serve(
    session: Session,
    model: Annotated[
        str | None, typer.Option("--model", "-m", show_default="the newest base model")
    ] = None,
    concurrency: Annotated[
        str, typer.Option("--concurrency", help="Requests at once, row by row.")
    ] = "1,8,32",
    requests: Annotated[
        int, typer.Option("--requests", min=1, help="Requests of a row for each one at once.")
    ] = 3,
    prompt_words: Annotated[int, typer.Option("--prompt_words", min=1)] = 24,
    max_tokens: Annotated[int, typer.Option("--max_tokens", min=2)] = 128,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Medians of so many.")] = 3,
    peer: Annotated[
        str | None,
        typer.Option(
            "--peer",
            help="Another OpenAI-compatible server (`transformers serve`, vLLM, llama.cpp), up to "
            "and with /v1, measured in turns.",
        ),
    ] = None,
    peer_model: Annotated[
        str | None, typer.Option("--peer_model", show_default="the same name")
    ] = None,
) -> None:
    """Measure tokens a second and waiting times of completions, streamed, at several loads."""
    name = model or newest_model(session.client, "pretrain")
    http = session.client.http
    url = f"{http.url}/inference/v1"
    ours = Target(name="ryan-gpt", url=url, model=name, headers=http.headers)
    targets = [ours]
    if peer:
        targets.append(Target(name="peer", url=peer.rstrip("/"), model=peer_model or name))
    rows = []
    for level in _levels(concurrency):
        load = Load(
            concurrency=level,
            requests=level * requests,
            prompt_words=prompt_words,
            max_tokens=max_tokens,
        )
        rows += _medians(targets, load, runs)
    session.show_table(
        rows,
        ("server", "at once", *COLUMNS.values()),
        lambda row: (
            row["server"],
            str(row["concurrency"]),
            *(f"{row[key]:.{0 if key == 'tokens_per_second' else 1}f}" for key in COLUMNS),
        ),
    )


def _medians(targets: list[Target], load: Load, runs: int) -> list[dict[str, Any]]:
    """One row for each server: the median of each figure over runs that took turns."""
    found: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
    for target in targets:  # warm up
        asyncio.run(measure(target, Load(
            concurrency=1, requests=1, prompt_words=load.prompt_words, max_tokens=2,
        )))  # fmt: skip
    for _ in range(runs):
        for target in targets:
            found[target.name].append(asyncio.run(measure(target, load)))
    return [
        {
            "server": name,
            "concurrency": load.concurrency,
            **{key: statistics.median(one[key] for one in figures) for key in COLUMNS},
        }
        for name, figures in found.items()
    ]


def _levels(text: str) -> list[int]:
    levels = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not levels or min(levels) < 1:
        raise InvalidInputError(
            f"--concurrency {text} is no list of numbers.", hint="Such as 1,8,32."
        )
    return levels
