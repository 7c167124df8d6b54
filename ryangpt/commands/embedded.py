"""`ryangpt up` and `ryangpt reset`: the platform on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ryangpt.children import ChildEndedError
from ryangpt.data_folder import check_deletable, delete_data_folder
from ryangpt.embedded import Platform
from ryangpt.signals import StopRequests
from shared.base.settings import Settings, get_settings

PANEL = "This machine"
STYLES = {"api": "cyan", "inference": "magenta", "tokenizer": "yellow", "trainer": "green"}
NAME_WIDTH = max(map(len, STYLES))
DataDir = Annotated[
    Path | None,
    typer.Option("--data_dir", help="Data folder.", show_default="RYANGPT_DATA_DIR or .ryangpt"),
]


ApiPort = Annotated[
    int | None,
    typer.Option(
        "--api_port",
        min=1,
        max=65535,
        help="Port of the API.",
        show_default="RYANGPT_API_PORT or 8000",
    ),
]
InferencePort = Annotated[
    int | None,
    typer.Option(
        "--inference_port",
        min=1,
        max=65535,
        help="Port of the inference service.",
        show_default="RYANGPT_INFERENCE_PORT or 8001",
    ),
]


def register(app: typer.Typer) -> None:
    """Add `up` and `reset`."""
    app.command("up", rich_help_panel=PANEL)(up)
    app.command("reset", rich_help_panel=PANEL)(reset)


def up(
    data_dir: DataDir = None,
    api_port: ApiPort = None,
    inference_port: InferencePort = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write one JSON document once all is up; logs go to stderr."),
    ] = False,
) -> None:
    """Start Redis, API, inference and both workers; stop them all on Ctrl-C."""
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    settings = changed_settings(data_dir=data_dir, api_port=api_port, inference_port=inference_port)
    printer = LogPrinter(console)
    platform = Platform(settings, on_line=printer.line, on_note=printer.note)
    with StopRequests() as requests:
        run_platform(
            platform, requests, console, lambda: _serve(platform, console, as_json=as_json)
        )


def run_platform(
    platform: Platform, requests: StopRequests, console: Console, use: Callable[[], None]
) -> None:
    """Start the platform, call `use`, and stop everything whatever happens.

    Ctrl-C inside `use` drains, a further one kills. Raises typer.Exit when processes were killed.
    """
    try:
        with requests.interruptible():
            platform.start()
            use()
    except KeyboardInterrupt:
        console.print()
    except ChildEndedError as error:
        for line in error.last_lines:
            console.print(line, markup=False)
        raise
    finally:
        asked = requests.count
        killed = platform.stop(hurry=lambda: requests.count > asked)
    if killed:
        console.print(f"Killed: {', '.join(killed)}.")
        raise typer.Exit(1)
    console.print("Stopped.")


def _serve(platform: Platform, console: Console, *, as_json: bool) -> None:
    if as_json:
        addresses = {"url": platform.url, "inference_url": platform.inference_url}
        print(json.dumps({**addresses, "data_dir": str(platform.data_dir)}), flush=True)  # noqa: T201
    else:
        announce(platform, console)
    platform.watch()


def announce(platform: Platform, console: Console) -> None:
    """Print the addresses and what to do next."""
    where = "" if platform.is_default_url else f" --url {platform.url}"
    console.print(
        f"\nRyan-GPT is up.\n"
        f"  API and pages  {platform.url}\n"
        f"  inference      {platform.inference_url} (also under {platform.url}/inference/v1)\n"
        f"  data folder    {platform.data_dir}\n\n"
        f"In another terminal:\n"
        f"  ryangpt run quickstart{where}\n"
        f"  ryangpt jobs{where}\n"
        f"  ryangpt chat{where}\n\n"
        f"Ctrl-C stops everything; running jobs go on at the next start.\n"
        f"A process that dies is not restarted: then everything stops.\n",
        markup=False,
    )


def changed_settings(**changes: Any) -> Settings:
    """The settings of the environment with the given flags on top."""
    given = {name: value for name, value in changes.items() if value is not None}
    return get_settings().model_copy(update=given)


class LogPrinter:
    """Prints `name | line`, a colour for each process."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, name: str, line: str) -> None:
        """Print a process's line; called from several threads."""
        prefix = Text(f"{name:<{NAME_WIDTH}} | ", style=STYLES.get(name, "dim"))
        self._console.print(prefix.append(Text.from_ansi(line, style="default")))

    def note(self, text: str) -> None:
        """Print a line of our own."""
        self._console.print(text, markup=False)


def reset(
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON; implies --yes.")] = False,
) -> None:
    """Delete the data folder with all jobs, data and models."""
    folder = changed_settings(data_dir=data_dir).data_dir.expanduser().absolute()
    if not folder.exists():
        _tell(as_json, {"deleted": None}, f"There is no data folder {folder}; nothing to do.")
        return
    check_deletable(folder)
    if not (yes or as_json):
        typer.confirm(f"Delete {folder} with all jobs, data and models?", abort=True)
    delete_data_folder(folder)
    _tell(as_json, {"deleted": str(folder)}, f"Deleted {folder}.")


def _tell(as_json: bool, document: dict[str, str | None], text: str) -> None:
    typer.echo(json.dumps(document) if as_json else text)
