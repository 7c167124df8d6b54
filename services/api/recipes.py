"""Recipes for the submit page: what there is, and one filled in, ready to be changed and sent."""

from __future__ import annotations

import pathlib
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from ryangpt.recipes import Changes, Recipe, build_pipeline, load_recipe, recipe_names
from services.api.context import ApiContext
from shared.base.errors import InvalidInputError, NotFoundError
from shared.contracts.base import Contract
from shared.contracts.jobs import PipelineCreate
from shared.contracts.specs import Id
from shared.contracts.views import Page
from shared.db.repositories.artifacts import get_upload

router = APIRouter(prefix="/v1/recipes", tags=["pipelines"])


class RecipeFill(Contract):
    """What a recipe needs to become a pipeline."""

    uploads: dict[str, Id] = Field(default_factory=dict)
    """Id of the upload by file parameter."""


@router.get("")
def list_recipes() -> Page[Recipe]:
    """The recipes that come with the platform, by name."""
    return Page(data=[load_recipe(name) for name in recipe_names()], has_more=False)


@router.post("/{name}/pipeline", response_model_exclude_unset=True)
def fill_recipe(
    context: ApiContext, name: Annotated[str, Path(max_length=100)], body: RecipeFill
) -> PipelineCreate:
    """The pipeline that the recipe makes of these files. Nothing is written: send it to
    `POST /v1/pipelines`, changed or not."""
    if name not in recipe_names():
        raise NotFoundError(f"There is no recipe {name!r}.")
    recipe = load_recipe(name)
    for unknown in sorted(set(body.uploads) - set(recipe.parameters)):
        raise InvalidInputError(f"Recipe {name} takes no file {unknown!r}.", pointer="/uploads")
    for key, parameter in recipe.parameters.items():
        if parameter.required and key not in body.uploads:
            raise InvalidInputError(
                f"Recipe {name} needs the file {key!r}.",
                pointer=f"/uploads/{key}",
                hint=parameter.description,
            )
    with context.database.reading() as session:
        names = {key: get_upload(session, id_).filename for key, id_ in body.uploads.items()}
    changes = Changes(files={key: pathlib.Path(filename) for key, filename in names.items()})
    return build_pipeline(recipe, changes, body.uploads)
