"""`ryangpt run RECIPE` and the list of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ryangpt.commands.data import upload_file
from ryangpt.commands.watching import watch_jobs
from ryangpt.following import Jobs
from ryangpt.recipes import (
    Changes,
    Recipe,
    build_pipeline,
    load_recipe,
    read_changes,
    recipe_names,
)
from ryangpt.terminal import Session, command
from shared.base.files import write_bytes
from shared.contracts.jobs import PipelineView
from shared.contracts.names import ArtifactType, JobState

NOT_YET_UPLOADED = "upl_" + "0" * 26
"""Stands for an upload while a recipe is checked, before a large file is sent."""


def register(app: typer.Typer) -> None:
    """Add `run` and `recipes`."""
    flags = {"allow_extra_args": True, "ignore_unknown_options": True}
    command(app, "run", rich_help_panel="Stages", context_settings=flags)(run)
    command(app, "recipes", rich_help_panel="Stages")(list_recipes)


def run(
    session: Session,
    context: typer.Context,
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a YAML file of your own.")
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="JOB.FIELD=VALUE", help="Change one job; may be repeated."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once instead of showing progress.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Folder for each run's report.md and loss.svg."),
    ] = None,
) -> None:
    """Run a whole recipe: from text to a model that answers.

    Any field of its jobs is a flag, such as --max_steps 20 --vocab_size 4096, and changes every job
    that has the field; a recipe's files are flags too (--data FILE). `ryangpt recipes` lists both.
    Ctrl-C leaves the run going on.
    """
    recipe = load_recipe(recipe_name)
    changes = read_changes(recipe, context.args, sets or ())
    pipeline = submit_recipe(session, recipe, changes)
    session.notes.print(f"Submitted {recipe.name} as {pipeline.id}.", markup=False)
    if detach:
        session.show(pipeline, f"Watch it with: ryangpt watch {pipeline.id}")
        return
    jobs = watch_jobs(session, pipeline.id, lambda: session.client.pipeline(pipeline.id).jobs)
    _tell_where_reports_are(session, jobs, report)


def submit_recipe(session: Session, recipe: Recipe, changes: Changes) -> PipelineView:
    """Check the recipe, send its files, submit its jobs."""
    build_pipeline(recipe, changes, dict.fromkeys(changes.files, NOT_YET_UPLOADED))
    uploads = {name: upload_file(session, path).id for name, path in changes.files.items()}
    return session.client.submit_pipeline(build_pipeline(recipe, changes, uploads))


def _tell_where_reports_are(session: Session, jobs: Jobs, folder: Path | None) -> None:
    for key, job in jobs.items():
        if job.state is not JobState.SUCCEEDED or ArtifactType.CHECKPOINT not in job.outputs:
            continue
        model = job.spec["model"]
        session.notes.print(f"{key}: model {model}, report: ryangpt report {job.id}", markup=False)
        if folder is not None:
            target = folder / key
            write_bytes(target / "report.md", session.client.report(job.id).encode())
            write_bytes(target / "loss.svg", session.client.plot(job.id).encode())
            session.notes.print(f"  saved in {target}", markup=False)


def list_recipes(session: Session) -> None:
    """List the recipes with their files and flags."""
    recipes = [load_recipe(name) for name in recipe_names()]
    if session.as_json:
        flags = [{**recipe.model_dump(mode="json"), "flags": recipe.flags()} for recipe in recipes]
        session.emit(flags)
        return
    for recipe in recipes:
        session.out.print(f"[bold]{recipe.name}[/]")
        session.out.print(f"  {recipe.description}", markup=False)
        for name, parameter in recipe.parameters.items():
            need = "required" if parameter.required else "optional"
            session.out.print(f"  --{name} FILE ({need}): {parameter.description}", markup=False)
        session.out.print(f"  jobs: {', '.join(recipe.jobs)}", markup=False)
        session.out.print(f"  flags: {', '.join(recipe.flags())}\n", markup=False)
