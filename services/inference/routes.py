"""OpenAI's routes: /v1/models, /v1/completions, /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from services.inference.answers import (
    AnswerHead,
    AnswerShape,
    ChatShape,
    CompletionShape,
    answer_events,
    to_json,
    whole_answer,
)
from services.inference.loaded_model import LoadedModel
from services.inference.mailbox import Generation
from services.inference.responses import (
    ChatCompletion,
    Completion,
    ModelCard,
    ModelList,
)
from services.inference.sampling import (
    DEFAULT_COMPLETION_TOKENS,
    chat_prompt,
    completion_prompt,
    resolve_sampling,
)
from services.inference.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    SamplingRequest,
)
from services.inference.service import InferenceService
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
        return ModelList(data=[_card(model) for model in service.models.models()])

    @router.get("/models/{name}", operation_id="getModel", tags=["models"])
    async def get_model(name: str) -> ModelCard:
        """One served model."""
        return _card(service.models.resolve(name))

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
        prompt = completion_prompt(body, model)
        sampling = resolve_sampling(
            body,
            model,
            num_prompt_tokens=len(prompt),
            max_tokens=body.max_tokens or max(DEFAULT_COMPLETION_TOKENS, body.min_tokens or 0),
            end_ids=frozenset({model.tokenizer.end_id}),
        )
        shape = CompletionShape(_head(body, model, "cmpl"))
        return await _answer(request, body, service.generate(model, prompt, sampling), shape)

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
        prompt, tokenizer = chat_prompt(body, model), model.tokenizer
        sampling = resolve_sampling(
            body,
            model,
            num_prompt_tokens=len(prompt),
            max_tokens=body.max_completion_tokens or body.max_tokens,
            end_ids=frozenset({tokenizer.end_id, tokenizer.user_id, tokenizer.assistant_id}),
        )
        shape = ChatShape(_head(body, model, "chatcmpl"))
        return await _answer(request, body, service.generate(model, prompt, sampling), shape)

    return router


async def _answer(
    request: Request, body: SamplingRequest, generation: Generation, shape: AnswerShape
) -> Response:
    model = generation.sequence.model
    headers = {
        "x-model-version": str(model.version),
        "x-model-sha256": model.pointer.manifest_sha256,
    }
    if body.stream:
        events = answer_events(generation, shape, include_usage=_includes_usage(body))
        return EventStream(events, headers=headers, on_end=generation.close)
    try:
        answer = await collect(request, whole_answer(generation, shape))
    finally:
        generation.close()
    if answer is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(to_json(answer), media_type="application/json", headers=headers)


def _head(body: SamplingRequest, model: LoadedModel, prefix: str) -> AnswerHead:
    if body.stream_options is not None and not body.stream:
        raise InvalidInputError(
            "stream_options is only allowed with stream.",
            code="invalid_value",
            pointer="/stream_options",
        )
    return AnswerHead(
        prefix=prefix,
        model=body.model or model.name,
        system_fingerprint=model.fingerprint,
        null_usage=_includes_usage(body),
    )


def _includes_usage(body: SamplingRequest) -> bool:
    return bool(body.stream and body.stream_options and body.stream_options.include_usage)


def _card(model: LoadedModel) -> ModelCard:
    pointer = model.pointer
    return ModelCard(
        id=model.name,
        created=int(pointer.published_at.timestamp()),
        version=model.version,
        checkpoint_id=pointer.checkpoint_id,
        sha256=pointer.manifest_sha256,
        stage=model.stage,
        max_model_len=model.context_length,
    )
