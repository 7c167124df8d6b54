"""OpenAI's routes: /v1/models, /v1/completions, /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

from fastapi import APIRouter, Request, Response

from services.inference.answers import (
    AnswerPlan,
    answer_events,
    error_events,
    to_json,
    whole_answer,
)
from services.inference.loaded_model import LoadedModel
from services.inference.mailbox import Generation
from services.inference.prompts import chat_prompt, completion_prompts
from services.inference.responses import ChatCompletion, Completion, ModelCard, ModelList
from services.inference.sampling import chat_sampling, completion_sampling, for_each_answer
from services.inference.schemas import (
    MAX_CHOICES,
    ChatCompletionRequest,
    CompletionRequest,
    SamplingRequest,
)
from services.inference.service import Choice, InferenceService
from services.inference.shapes import AnswerShape, ChatShape, CompletionShape
from services.inference.streaming import EventStream, collect
from shared.base.errors import InvalidInputError

CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it: the client is gone."""
STREAM: dict[str, Any] = {
    "description": "The answer; with `stream`, events `data: <JSON chunk>`, then `data: [DONE]`.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


def openai_router(service: InferenceService) -> APIRouter:
    """The routes over one service."""
    router = APIRouter(prefix="/v1")

    @router.get("/models", operation_id="listModels", tags=["models"])
    async def list_models() -> ModelList:
        """Every model that is served, newest publication first."""
        return ModelList(data=[_card(service, model) for model in service.models.models()])

    @router.get("/models/{name}", operation_id="getModel", tags=["models"])
    async def get_model(name: str) -> ModelCard:
        """One served model."""
        return _card(service, service.models.resolve(name))

    @router.post(
        "/completions",
        operation_id="createCompletion",
        tags=["generation"],
        response_model=Completion,
        responses={200: STREAM},
    )
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        model = service.models.resolve(body.model)
        plan = _completion_plan(body)
        choices = [
            (prompt, sampling)
            for prompt in completion_prompts(body.prompt, model)
            for sampling in for_each_answer(
                completion_sampling(body, model, num_prompt_tokens=len(prompt)), plan.candidates
            )
        ]
        return await _answer(service, request, body, model, choices, plan)

    @router.post(
        "/chat/completions",
        operation_id="createChatCompletion",
        tags=["generation"],
        response_model=ChatCompletion,
        responses={200: STREAM},
    )
    async def chat(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer the last message of a conversation."""
        model = service.models.resolve(body.model, prefer="finetune")
        prompt, n = chat_prompt(body.messages, model), body.n or 1
        sampling = chat_sampling(body, model, num_prompt_tokens=len(prompt))
        shape = ChatShape(
            show_logprobs=bool(body.logprobs), show_stop=bool(body.include_stop_str_in_output)
        )
        choices = [(prompt, one) for one in for_each_answer(sampling, n)]
        return await _answer(service, request, body, model, choices, _plan(body, shape, n, n))

    return router


async def _answer(
    service: InferenceService,
    request: Request,
    body: SamplingRequest,
    model: LoadedModel,
    choices: Items[Choice],
    plan: AnswerPlan,
) -> Response:
    if len(choices) > MAX_CHOICES:
        raise InvalidInputError(
            f"{len(choices)} answers are asked for; a request may have {MAX_CHOICES}.",
            code="invalid_value",
            pointer="/n",
        )
    generation = service.generate(model, choices, stream=bool(body.stream))
    if body.stream:
        return EventStream(
            answer_events(generation, plan),
            headers=lambda: _headers(generation),
            late_error=error_events,
            on_end=generation.close,
            seconds=service.longest_stream_seconds,
            keepalive_seconds=service.keepalive_seconds,
        )
    try:
        answer = await collect(request, whole_answer(generation, plan))
    finally:
        generation.close()
    if answer is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    headers = _headers(generation)
    return Response(to_json(answer), media_type="application/json", headers=headers)


def _headers(generation: Generation) -> dict[str, str]:
    """Who answers: settled by now, or from now on."""
    model = generation.fix_version()
    return {
        "x-model-version": str(model.version),
        "x-model-sha256": model.pointer.manifest_sha256,
    }


def _completion_plan(body: CompletionRequest) -> AnswerPlan:
    n = body.n or 1
    candidates = n if body.best_of is None else body.best_of
    if candidates < n or (body.stream and candidates > n):
        reason = "is not possible with stream" if body.stream else f"is below n, which is {n}"
        raise InvalidInputError(
            f"best_of {candidates} {reason}.", code="invalid_value", pointer="/best_of"
        )
    shape = CompletionShape(
        echo=bool(body.echo),
        show_logprobs=body.logprobs is not None,
        show_stop=bool(body.include_stop_str_in_output),
    )
    return _plan(body, shape, n, candidates)


def _plan(body: SamplingRequest, shape: AnswerShape, n: int, candidates: int) -> AnswerPlan:
    options = body.stream_options
    if options is not None and not body.stream:
        raise InvalidInputError(
            "stream_options is only allowed with stream.",
            code="invalid_value",
            pointer="/stream_options",
        )
    return AnswerPlan(
        shape=shape,
        model=body.model,
        n=n,
        candidates=candidates,
        include_usage=bool(options and options.include_usage),
    )


def _card(service: InferenceService, model: LoadedModel) -> ModelCard:
    pointer = service.models.pointer(model.name) or model.pointer
    return ModelCard(
        id=model.name,
        created=int(pointer.published_at.timestamp()),
        version=model.version,
        pinned=pointer.pinned,
        checkpoint_id=pointer.checkpoint_id,
        sha256=pointer.manifest_sha256,
        stage=model.stage,
        max_model_len=model.context_length,
    )
