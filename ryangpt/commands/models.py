"""Models: what is published, publishing, and talking to them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ryangpt.client import Client
from ryangpt.terminal import Session, command
from shared.base.errors import NotFoundError
from shared.contracts.views import ModelView

PANEL = "Models"
MAX_TOKENS = 200
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model to ask.", show_default="the newest that fits"),
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", "-t", help="0 always takes the likeliest token.")
]
MaxTokens = Annotated[int, typer.Option("--max_tokens", min=1, help="Longest answer.")]
MinTokens = Annotated[int | None, typer.Option("--min_tokens", help="Shortest answer.")]
TopP = Annotated[float | None, typer.Option("--top_p", help="Share of probability kept.")]
TopK = Annotated[int | None, typer.Option("--top_k", help="Number of tokens kept.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")]


def register(app: typer.Typer) -> None:
    """Add the commands about models."""
    for name, function in (
        ("models", list_models),
        ("publish", publish),
        ("pin", pin),
        ("chat", chat),
        ("complete", complete),
    ):
        command(app, name, rich_help_panel=PANEL)(function)


def list_models(session: Session) -> None:
    """List models and the version that is served."""
    session.show_table(
        session.client.models(),
        ("name", "served", "versions", "stage", "step", "checkpoint"),
        lambda model: (
            model.name,
            str(model.served_version or "-"),
            str(len(model.versions)),
            *_newest_columns(model),
        ),
    )


def _newest_columns(model: ModelView) -> tuple[str, str, str]:
    if not model.versions:
        return "-", "-", "-"
    newest = model.versions[0]
    return newest.stage, str(newest.step), newest.checkpoint_id


def publish(
    session: Session,
    model: Annotated[str, typer.Argument(help="Model name.")],
    checkpoint_id: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Its id.")],
) -> None:
    """Make a checkpoint the version of a model that is served."""
    published = session.client.publish(model, checkpoint_id)
    session.show(published, f"{model} serves version {published.served_version}")


def pin(
    session: Session,
    model: Annotated[str, typer.Argument(help="Model name.")],
    version: Annotated[
        int | None, typer.Argument(help="Version to keep serving; none lifts the pin.")
    ] = None,
) -> None:
    """Serve one version of a model whatever is published later."""
    pinned = session.client.pin(model, version)
    state = f"pinned to {pinned.pinned_version}" if pinned.pinned_version else "not pinned"
    session.show(pinned, f"{model} is {state}")


def chat(
    session: Session,
    message: Annotated[
        str | None, typer.Argument(help="One question; without it, a dialogue.")
    ] = None,
    model: ModelOption = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = MAX_TOKENS,
    min_tokens: MinTokens = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
) -> None:
    """Talk to a finetuned model: one question, or a dialogue line by line."""
    name = model or newest_model(session.client, "finetune")
    options = _given(
        temperature=temperature, max_tokens=max_tokens, min_tokens=min_tokens,
        top_p=top_p, top_k=top_k, seed=seed,
    )  # fmt: skip
    if message is not None and session.as_json:
        session.emit(session.client.chat_completion(name, message, **options))
        return
    history: list[dict[str, str]] = []
    for line in [message] if message is not None else _typed_lines(session, name):
        history.append({"role": "user", "content": line})
        answer = _print_stream(session, session.client.stream_chat(name, history, **options))
        history.append({"role": "assistant", "content": answer})


def complete(
    session: Session,
    prompt: Annotated[str, typer.Argument(help="Text to go on from.")],
    model: ModelOption = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = MAX_TOKENS,
    min_tokens: MinTokens = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
) -> None:
    """Let a model go on from a text."""
    name = model or newest_model(session.client, "pretrain")
    options = _given(
        temperature=temperature, max_tokens=max_tokens, min_tokens=min_tokens,
        top_p=top_p, top_k=top_k, seed=seed,
    )  # fmt: skip
    if session.as_json:
        session.emit(session.client.complete(name, prompt, **options))
        return
    session.out.print(prompt, end="", markup=False)
    _print_stream(session, session.client.stream_completion(name, prompt, **options))


def newest_model(client: Client, stage: str) -> str:
    """The model of this stage that was published last; NotFoundError when there is none."""
    fitting = [
        (model.versions[0].created_at, model.name)
        for model in client.models()
        if model.versions and model.versions[0].stage == stage
    ]
    if not fitting:
        raise NotFoundError(
            f"No {'chat' if stage == 'finetune' else 'base'} model is published yet.",
            hint="Make one with `ryangpt run quickstart`, or name one with --model.",
        )
    return max(fitting)[1]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _typed_lines(session: Session, model: str) -> Iterator[str]:
    """Lines from the keyboard, or from a pipe, until they end."""
    interactive = sys.stdin.isatty()
    if interactive:
        session.err.print(f"Talking to {model}; Ctrl-D ends.", markup=False)
    while True:
        if interactive:
            session.err.print("> ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _print_stream(session: Session, pieces: Iterator[str]) -> str:
    text = ""
    for piece in pieces:
        text += piece
        if session.as_json:
            session.emit_line({"text": piece})
        else:
            session.out.print(piece, end="", markup=False)
            session.out.file.flush()
    if not session.as_json:
        session.out.print()
    return text
