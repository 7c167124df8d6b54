"""Recipes: pipelines with a name, files to bring along, and flags that change them.

A recipe is a YAML file (`ryangpt/recipes/*.yaml`, or a user's own). Its jobs are those of a
pipeline, and three things more:

- `when: data` (or `when: not data`) keeps a job only if the file parameter `data` was (not) given;
- an input may name several jobs, `{job: [a, b], output: dataset}`: the first one kept is meant;
- an input from jobs of which none is kept is left out, from a list too;
- the texts `$data` and `$data.source` stand for the id of the uploaded file and for the ingest
  source that its name calls for (`wikipedia`, `dailydialog`, `jsonl` or `text`; for a parameter
  `dialogues`, JSON lines hold dialogues).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from shared.base.errors import InvalidInputError, NotFoundError
from shared.contracts.base import Contract
from shared.contracts.jobs import SPEC_OF_KIND, JobKey, PipelineCreate
from shared.contracts.names import JobKind
from shared.contracts.specs import Label

NOT_FOR_ALL_JOBS = frozenset({"name", "model"})
"""Fields that must differ between jobs: only `--set job.field=value` changes them."""
SOURCE_OF_ENDING = {
    (".jsonl", ".ndjson"): "jsonl",
    (".xml",): "wikipedia",
    (".zip",): "dailydialog",
}
"""Which ingest source a file's name calls for."""
REPLACES = {"max_steps": "epochs", "epochs": "max_steps"}
"""Giving the one takes the recipe's other away."""


class FileParameter(Contract):
    """A file that the user may or must give."""

    description: str
    """What it is for."""
    required: bool = False
    """Whether the recipe cannot run without it."""


class RecipeJob(Contract):
    """One job of a recipe; its spec is checked once references are filled in."""

    kind: JobKind
    """What it does."""
    spec: dict[str, Any]
    """The job's spec, with `$parameter` where an uploaded file's id belongs."""
    when: str | None = None
    """Condition on a file parameter."""
    name: Label | None = None
    """Name shown in lists; by default the key."""


class Recipe(Contract):
    """A pipeline to be filled in."""

    name: Label
    """How it is called on the command line."""
    description: str
    """What it makes, from what, in about how long."""
    parameters: dict[str, FileParameter] = Field(default_factory=dict)
    """Files to bring along."""
    jobs: dict[JobKey, RecipeJob] = Field(min_length=1)
    """By key, parents before children."""

    def flags(self) -> list[str]:
        """Spec fields that a flag such as `--max_steps` changes in every job that has them."""
        specs = [SPEC_OF_KIND[job.kind] for job in self.jobs.values()]
        inputs = {name for spec in specs for name in spec.INPUTS}
        fields = {name for spec in specs for name in spec.model_fields}
        return sorted(fields - inputs - NOT_FOR_ALL_JOBS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What the command line adds to a recipe."""

    files: dict[str, Path] = field(default_factory=dict)
    """By file parameter."""
    fields: dict[str, Any] = field(default_factory=dict)
    """New values for every job that has the field."""
    job_fields: dict[tuple[str, str], Any] = field(default_factory=dict)
    """New values by job key and field."""


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = files("ryangpt").joinpath("recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from the user's own YAML file.

    Raises NotFoundError listing what there is, InvalidInputError for a malformed file.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise NotFoundError(f"There is no recipe file {name}.")
        return _parse(name, path.read_text("utf-8"))
    if name not in recipe_names():
        raise NotFoundError(
            f"There is no recipe {name!r}.",
            hint=f"There are: {', '.join(recipe_names())}; or give the path of a YAML file.",
        )
    text = files("ryangpt").joinpath("recipes", f"{name}.yaml").read_text("utf-8")
    return _parse(name, text)


def _parse(name: str, text: str) -> Recipe:
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidInputError(f"Recipe {name} is not YAML: {error}.") from error
    except ValidationError as error:
        raise InvalidInputError(f"Recipe {name}: {_first_error(error)}") from error


def read_changes(recipe: Recipe, arguments: Sequence[str], sets: Sequence[str]) -> Changes:
    """Sort `--flag value` arguments into files and fields, and read `--set job.field=value`.

    Raises InvalidInputError for a flag that the recipe does not have, listing those it has.
    """
    changes = Changes()
    for flag, text in _pairs(arguments):
        name = flag.removeprefix("--").replace("-", "_")
        if name in recipe.parameters:
            changes.files[name] = _existing_file(flag, text)
        elif name in recipe.flags():
            changes.fields[name] = _value(text)
        else:
            raise InvalidInputError(
                f"Recipe {recipe.name} has no flag {flag}.", hint=_offer(recipe)
            )
    for assignment in sets:
        target, separator, text = assignment.partition("=")
        key, _, name = target.partition(".")
        if not separator or key not in recipe.jobs or not name:
            jobs = ", ".join(recipe.jobs)
            raise InvalidInputError(
                f"--set {assignment}: expected job.field=value.", hint=f"Jobs: {jobs}."
            )
        changes.job_fields[key, name] = _value(text)
    _check_required(recipe, changes)
    return changes


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    pairs, rest = [], list(arguments)
    while rest:
        flag, separator, text = rest.pop(0).partition("=")
        if not flag.startswith("--"):
            raise InvalidInputError(f"Unexpected argument {flag!r}: flags look like --name value.")
        if not separator:
            if not rest:
                raise InvalidInputError(f"{flag} needs a value.")
            text = rest.pop(0)
        pairs.append((flag, text))
    return pairs


def _value(text: str) -> Any:
    """Numbers, true, false, null and lists as JSON; everything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _existing_file(flag: str, text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise InvalidInputError(f"{flag}: there is no file {text}.")
    return path


def _offer(recipe: Recipe) -> str:
    offered = [*recipe.parameters, *recipe.flags()]
    return f"It has: {', '.join(f'--{name}' for name in offered)}; one job: --set job.field=value."


def _check_required(recipe: Recipe, changes: Changes) -> None:
    for name, parameter in recipe.parameters.items():
        if parameter.required and name not in changes.files:
            raise InvalidInputError(
                f"Recipe {recipe.name} needs --{name} FILE.", hint=parameter.description
            )


def build_pipeline(recipe: Recipe, changes: Changes, uploads: Mapping[str, str]) -> PipelineCreate:
    """The pipeline to submit. `uploads` gives the id of each uploaded file by parameter.

    Raises InvalidInputError naming job and field when a value does not fit.
    """
    kept = {key: job for key, job in recipe.jobs.items() if _is_kept(recipe, job, changes)}
    texts = {f"${name}": upload for name, upload in uploads.items()}
    texts |= {f"${name}.source": _source(name, path) for name, path in changes.files.items()}
    jobs = {
        key: {
            "kind": job.kind,
            "name": job.name or key,
            "spec": _filled_spec(_changed_spec(key, job, changes), texts, recipe, kept),
        }
        for key, job in kept.items()
    }
    try:
        return PipelineCreate.model_validate({"name": recipe.name, "jobs": jobs})
    except ValidationError as error:
        raise InvalidInputError(f"Recipe {recipe.name}: {_first_error(error)}") from error


def _is_kept(recipe: Recipe, job: RecipeJob, changes: Changes) -> bool:
    if job.when is None:
        return True
    negated = job.when.startswith("not ")
    name = job.when.removeprefix("not ").strip()
    if name not in recipe.parameters:
        raise InvalidInputError(f"Recipe {recipe.name}: `when: {job.when}` names no parameter.")
    return (name in changes.files) != negated


def _changed_spec(key: str, job: RecipeJob, changes: Changes) -> dict[str, Any]:
    known = SPEC_OF_KIND[job.kind].model_fields
    new = {name: value for name, value in changes.fields.items() if name in known}
    new |= {name: value for (owner, name), value in changes.job_fields.items() if owner == key}
    replaced = {REPLACES[name] for name in new if name in REPLACES}
    return {name: value for name, value in job.spec.items() if name not in replaced} | new


def _source(parameter: str, path: Path) -> str:
    """The ingest source for a file, by its name and by what it is given for."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".bz2")
    lines_hold_dialogues = parameter == "dialogues"
    for endings, source in SOURCE_OF_ENDING.items():
        if name.endswith(endings):
            return "dialogues" if source == "jsonl" and lines_hold_dialogues else source
    return "dialogues" if lines_hold_dialogues else "text"


def _filled_spec(
    spec: Mapping[str, Any], texts: Mapping[str, str], recipe: Recipe, kept: Mapping[str, RecipeJob]
) -> dict[str, Any]:
    """The spec with ids for parameters, and without inputs from jobs that are not kept."""
    filled: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, list):
            items = [_filled(item, texts, kept) for item in value]
            filled[name] = [item for item in items if not _is_left_out(item, recipe, kept)]
        elif not _is_left_out(found := _filled(value, texts, kept), recipe, kept):
            filled[name] = found
    return filled


def _filled(value: Any, texts: Mapping[str, str], kept: Mapping[str, RecipeJob]) -> Any:
    if isinstance(value, str):
        return texts.get(value, value)
    if isinstance(value, dict) and isinstance(value.get("job"), list):
        names = value["job"]
        return {**value, "job": next((key for key in names if key in kept), names[0])}
    return value


def _is_left_out(value: Any, recipe: Recipe, kept: Mapping[str, RecipeJob]) -> bool:
    """Whether a value names a job of the recipe that is not kept."""
    job = value.get("job") if isinstance(value, dict) else None
    return job in recipe.jobs and job not in kept


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}." if where else f"{reason}."
