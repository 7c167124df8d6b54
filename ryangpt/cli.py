"""The `ryangpt` command: every subcommand, gathered."""

from __future__ import annotations

import typer

from ryangpt.commands import bench, data, demo, embedded, jobs, models, pull, recipes, stages
from ryangpt.terminal import OneLineErrors

app = typer.Typer(
    cls=OneLineErrors,
    help="Raw text in, a small language model of your own that answers over HTTP out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (embedded, demo, recipes, stages, jobs, data, models, pull, bench):
    module.register(app)

if __name__ == "__main__":
    app()
