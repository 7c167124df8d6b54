"""What every command shares: the connection flags, JSON or readable output, one-line errors."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from ryangpt.client import Client
from ryangpt.transport import ApiError
from shared.base.errors import PlatformError
from shared.base.settings import get_settings

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="RYANGPT_URL",
        help="Address of the API.",
        show_default="this machine's API port",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="RYANGPT_TOKEN", help="Bearer token of the API.", show_default=False
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.")
]


PIPE_WIDTH = 500
"""Columns of a table that is not read on a terminal."""


class OneLineErrors(TyperGroup):
    """A command group that tells a failure in one line on standard error, without a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command; exit 1 for an error of ours, 2 for a wrong command line."""
        options["standalone_mode"] = False  # so that the exceptions come here
        try:
            code = super().main(*args, **options)
        except PlatformError as error:
            sys.exit(_complain(describe(error), 1))
        except typer.Abort:
            sys.exit(_complain("Aborted.", 1))
        except BrokenPipeError:
            sys.stdout = None  # the reader of our output is gone; so must be the flush at exit
            sys.exit(1)
        except Exception as error:  # typer's usage errors share no public base class
            if not hasattr(error, "format_message"):
                raise
            hint = getattr(getattr(error, "ctx", None), "command_path", "ryangpt")
            message = error.format_message().rstrip(".")
            sys.exit(_complain(f"{message}. Try `{hint} --help`.", 2))
        sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, code: int) -> int:
    print(f"Error: {message}", file=sys.stderr)  # noqa: T201 - this is the terminal
    return code


def describe(error: PlatformError) -> str:
    """An error as one line: what is wrong, where, and what to do."""
    parts = [error.message.rstrip()]
    details = error.errors if isinstance(error, ApiError) else ()
    listed = "; ".join(f"{item.pointer}: {item.detail}" for item in details)
    if listed and listed not in error.message:
        parts.append(f"({listed})")
    elif error.pointer and error.pointer not in error.message:
        parts.append(f"({error.pointer})")
    if error.hint:
        parts.append(error.hint)
    return " ".join(" ".join(parts).split())


class Session:
    """A command's connection and its two outputs."""

    def __init__(self, *, url: str | None, token: str | None, as_json: bool) -> None:
        settings = get_settings()
        if url is None:  # our own server's token belongs to our own server only
            token = token or settings.api_token.get_secret_value()
        self.client = Client(url or f"http://127.0.0.1:{settings.api_port}", token=token)
        self.as_json = as_json
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        self.out = Console(highlight=False, soft_wrap=True, width=width)
        """Standard output: results."""
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        """Standard error: what is going on."""

    @property
    def notes(self) -> Console:
        """Where readable remarks go: never to standard output when that carries JSON."""
        return self.err if self.as_json else self.out

    def emit(self, document: Any) -> None:
        """Write one JSON document to standard output."""
        print(json.dumps(plain(document), ensure_ascii=False, indent=2))  # noqa: T201

    def emit_line(self, document: Any) -> None:
        """Write one JSON document as one line, for streams."""
        print(json.dumps(plain(document), ensure_ascii=False), flush=True)  # noqa: T201

    def show(self, document: Any, *lines: str) -> None:
        """Write the document as JSON, or the readable lines instead."""
        if self.as_json:
            self.emit(document)
        else:
            for line in lines:
                self.out.print(escape(line))

    def show_table(
        self, documents: Iterable[Any], columns: Sequence[str], row: Callable[[Any], Sequence[str]]
    ) -> None:
        """Write the documents as a JSON array, or as a table with one row each."""
        documents = list(documents)
        if self.as_json:
            self.emit(documents)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:  # what is copied from here, ids above all, must be whole
            table.add_column(column, no_wrap=True, overflow="fold")
        for document in documents:
            table.add_row(*(escape(cell) for cell in row(document)))
        self.out.print(table, soft_wrap=False)


def plain(document: Any) -> Any:
    """A document, or containers of documents, as JSON values."""
    if isinstance(document, BaseModel):
        return document.model_dump(mode="json")
    if isinstance(document, dict):
        return {key: plain(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [plain(value) for value in document]
    return document


def command(
    app: typer.Typer, name: str, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function whose first parameter is a Session as the command `name`.

    The command gets `--url`, `--token` and `--json` beside the function's own parameters.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def run(**values: Any) -> None:
            connection = {key: values.pop(key) for key in ("url", "token", "as_json")}
            session = Session(**connection)
            with session.client:
                function(session, **values)

        run.__signature__ = inspect.Signature([*own, *_CONNECTION])  # type: ignore[attr-defined]
        run.__annotations__ = {}  # typer would resolve these names in this module
        run.__doc__ = function.__doc__
        app.command(name, **settings)(run)
        return function

    return register


_CONNECTION = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("url", None, UrlOption),
        ("token", None, TokenOption),
        ("as_json", False, JsonOption),
    )
)
