"""Command-line flags from the pydantic specs: the field's name, type, default and docstring.

Knows the shapes of field types that the specs use, and nothing of any single field.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from shared.base.errors import InvalidInputError
from shared.contracts.jobs import SPEC_OF_KIND, JobCreate
from shared.contracts.names import ArtifactType, JobKind
from shared.contracts.specs import Spec

JOB_CREATE: TypeAdapter[JobCreate] = TypeAdapter(JobCreate)
_UNIONS = (Union, types.UnionType)


def option_parameters(spec: type[Spec]) -> list[inspect.Parameter]:
    """One keyword-only parameter a field, annotated for typer; unset ones are None."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=_annotation(name, field, is_input=name in spec.INPUTS),
            default=inspect.Parameter.empty if field.is_required() else None,
        )
        for name, field in spec.model_fields.items()
    ]


def _annotation(name: str, field: FieldInfo, *, is_input: bool) -> Any:
    kind, metavar = _command_line_type(field.annotation)
    if is_input:
        kind, metavar = (list[str] if get_origin(kind) is list else str), "<id>"
    flag = f"--{name}/--no_{name}" if kind is bool else f"--{name}"
    option = typer.Option(
        flag,
        help=" ".join((field.description or "").split()),
        metavar=metavar,
        show_default=_shown_default(field),
    )
    return Annotated[kind if field.is_required() else kind | None, option]


def _shown_default(field: FieldInfo) -> str | bool:
    default = field.get_default()
    if field.is_required() or default is None:
        return False
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _command_line_type(annotation: Any) -> tuple[Any, str | None]:
    """The type typer shall parse, and the placeholder shown in the help.

    A value such as `int | "auto"` is read as text and judged by the spec.
    """
    members = [member for member in _members(annotation) if member is not type(None)]
    if len(members) == 1:
        return _single_type(members[0]), None
    return str, f"<{'|'.join(_member_name(member) for member in members)}>"


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in _UNIONS else (annotation,)


def _single_type(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _single_type(arguments[0])
    if origin is tuple and arguments[-1] is Ellipsis:
        member = arguments[0]
        # A list of inputs: each is an id.
        item = str if get_origin(member) in _UNIONS else _single_type(member)
        return types.GenericAlias(list, (item,))
    return annotation


def _member_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return {int: "int", float: "float", bool: "true|false"}.get(annotation, "text")


def build_job(kind: JobKind, values: Mapping[str, Any], **request: Any) -> JobCreate:
    """A submission from flag values; those that are None were not given.

    An input given as a job's id means the matching output of that job. Raises InvalidInputError
    that names the flag.
    """
    spec = SPEC_OF_KIND[kind]
    given = {name: value for name, value in values.items() if value is not None}
    for name, output in spec.INPUTS.items():
        value = given.get(name)
        if isinstance(value, list | tuple):
            given[name] = tuple(_reference(item, output) for item in value)
        elif value is not None:
            given[name] = _reference(value, output)
    asked = {name: value for name, value in request.items() if value is not None}
    try:
        return JOB_CREATE.validate_python({"kind": kind, "spec": given, **asked})
    except ValidationError as error:
        raise InvalidInputError(_describe_invalid(error, spec, given)) from error


def _reference(value: Any, output: ArtifactType) -> Any:
    """An input as the spec has it: a job's id means that job's matching output."""
    return {"job": value, "output": output} if str(value).startswith("job_") else value


def _describe_invalid(error: ValidationError, spec: type[Spec], values: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    # Such as ("train", "spec", "num_heads"); a rule about several fields ends at "spec".
    field = next((str(part) for part in first["loc"][1:] if part in spec.model_fields), "")
    reason = first["msg"].removeprefix("Value error, ")
    if not field:
        return f"{reason}."
    if field in spec.INPUTS:
        wanted = f"id of {spec.INPUTS[field]} nor the id of a job that makes it"
        return f"--{field}: {values[field]!r} is neither an {wanted}."
    return f"--{field}: {reason} (given: {values.get(field)})."
