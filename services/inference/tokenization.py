"""/tokenize, /detokenize and /tokenizer_info, as vLLM has them: token ids without generating."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services.inference.loaded_model import LoadedModel
from services.inference.logprobs import token_text
from services.inference.prompts import chat_prompt, check_ids
from services.inference.responses import DetokenizeAnswer, TokenizeAnswer
from services.inference.schemas import DetokenizeRequest, TokenizeRequest
from services.inference.service import InferenceService
from shared.text.tokenizer_files import tokenizer_config


def tokenization_router(service: InferenceService) -> APIRouter:
    """The routes over one service."""
    router = APIRouter(tags=["tokenization"])

    @router.post("/tokenize", operation_id="tokenize")
    async def tokenize(body: TokenizeRequest) -> TokenizeAnswer:
        """Token ids of a text, or of a conversation as the model would read it."""
        chat = body.messages is not None
        model = service.models.resolve(body.model, prefer="finetune" if chat else None)
        if body.messages is not None:
            ids = chat_prompt(body.messages, model)
        else:
            ids = model.tokenizer.encode(body.prompt or "")
        return TokenizeAnswer(
            count=len(ids),
            max_model_len=model.context_length,
            tokens=ids,
            token_strs=_texts(model, ids) if body.return_token_strs else None,
        )

    @router.post("/detokenize", operation_id="detokenize")
    async def detokenize(body: DetokenizeRequest) -> DetokenizeAnswer:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        model = service.models.resolve(body.model)
        ids = check_ids(body.tokens, model, pointer="/tokens")
        return DetokenizeAnswer(prompt=model.tokenizer.decode(ids))

    @router.get("/tokenizer_info", operation_id="tokenizerInfo")
    async def tokenizer_info(model: str | None = None) -> dict[str, Any]:
        """The model's `tokenizer_config.json`: special tokens, chat template."""
        loaded = service.models.resolve(model)
        return tokenizer_config(context_length=loaded.context_length)

    return router


def _texts(model: LoadedModel, ids: list[int]) -> list[str]:
    return [token_text(model.tokenizer.token_contents, token) for token in ids]
