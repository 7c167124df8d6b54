"""The files a tokenizer travels as, so that transformers, vLLM and llama.cpp read the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.base.files import write_bytes
from shared.contracts.manifest import TOKENIZER_CONFIG_JSON, TOKENIZER_JSON
from shared.contracts.names import ASSISTANT_TOKEN, END_TOKEN, SPECIAL_TOKENS, USER_TOKEN
from shared.text.chat import CHAT_TEMPLATE
from shared.text.tokenizer import Tokenizer


def tokenizer_config(*, context_length: int | None = None) -> dict[str, Any]:
    """Return `tokenizer_config.json` for transformers' fast tokenizer.

    `context_length` becomes `model_max_length` where a model's is known (in an export).
    """
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_TOKEN,
        "pad_token": END_TOKEN,
        "additional_special_tokens": [USER_TOKEN, ASSISTANT_TOKEN],
        "added_tokens_decoder": {
            str(index): {"content": token, "special": True, **flags}
            for index, token in enumerate(SPECIAL_TOKENS)
        },
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    if context_length is not None:
        config["model_max_length"] = context_length
    return config


def write_tokenizer_files(
    folder: Path, tokenizer: Tokenizer, *, context_length: int | None = None
) -> None:
    """Write `tokenizer.json` (the very bytes that were read) and `tokenizer_config.json`."""
    write_bytes(folder / TOKENIZER_JSON, tokenizer.json_text.encode("utf-8"))
    config = json.dumps(tokenizer_config(context_length=context_length), indent=2)
    write_bytes(folder / TOKENIZER_CONFIG_JSON, config.encode("utf-8") + b"\n")
