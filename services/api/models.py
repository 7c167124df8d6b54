"""Models by name, their published versions, and the checkpoints behind them."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.context import ApiContext
from services.api.parameters import CheckpointId, ModelNamePath
from shared.contracts.views import CheckpointView, ModelView, Page, PinRequest, PublishRequest
from shared.jobs.life.publication import pin, publish
from shared.jobs.reading import listings

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
def list_models(context: ApiContext) -> Page[ModelView]:
    """All models by name, each with its versions."""
    with context.database.reading() as session:
        return Page(data=listings.list_model_views(session), has_more=False)


@router.get("/models/{name}")
def read_model(context: ApiContext, name: ModelNamePath) -> ModelView:
    """One model with its versions, newest first."""
    with context.database.reading() as session:
        return listings.read_model(session, name)


@router.post("/models/{name}/publish")
def publish_checkpoint(context: ApiContext, name: ModelNamePath, body: PublishRequest) -> ModelView:
    """Serve a checkpoint under this name; a new name makes a new model."""
    with context.database.transaction() as session:
        publish(session, name, body.checkpoint_id)
        return listings.read_model(session, name)


@router.post("/models/{name}/pin")
def pin_version(context: ApiContext, name: ModelNamePath, body: PinRequest) -> ModelView:
    """Serve one version whatever is published later; null lifts the pin."""
    with context.database.transaction() as session:
        pin(session, name, body.version)
        return listings.read_model(session, name)


@router.get("/checkpoints/{checkpoint_id}")
def read_checkpoint(context: ApiContext, checkpoint_id: CheckpointId) -> CheckpointView:
    """One checkpoint that retention has kept."""
    with context.database.reading() as session:
        return listings.read_checkpoint(session, checkpoint_id)
