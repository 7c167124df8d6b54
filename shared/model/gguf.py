"""Checkpoint folder in, one GGUF file out: what llama.cpp and the programs around it load.

llama.cpp's own converter refuses a vocabulary it has not seen; this names the pre-tokenization
itself. Knows the format through the `gguf` package only.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from shared.base.files import fsync_file
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import SPECIAL_TOKENS
from shared.model.huggingface import END_ID
from shared.model.weights import load_model
from shared.text.chat import CHAT_TEMPLATE
from shared.text.tokenizer import Tokenizer, written_bytes

FILE_NAME = "model.gguf"
ARCHITECTURES = {"arcee": gguf.MODEL_ARCH.ARCEE, "llama": gguf.MODEL_ARCH.LLAMA}
TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
PRE_TOKENIZATION = "gpt-2"
"""llama.cpp's name for `shared.text.tokenizer.PRE_TOKENIZER`."""
ROTATED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")


def export_gguf(checkpoint: Path, target: Path, *, dtype: str = "float32") -> ModelConfig:
    """Write the checkpoint's model and tokenizer as `target`/model.gguf.

    `dtype` is float32 or bfloat16 (norms stay float32, as llama.cpp wants them). Returns the
    model's shape. Raises IntegrityError or NotFoundError when the checkpoint is incomplete.
    """
    model = load_model(checkpoint)
    tokenizer = Tokenizer.load(checkpoint)
    config, path = model.config, target / FILE_NAME
    architecture = ARCHITECTURES[config.family]
    tensor_type, file_type = TYPES[dtype]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_file_type(file_type)
    _describe_model(writer, config)
    _describe_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(architecture, config.num_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name.endswith(ROTATED):
            values = _interleaved(values, config.num_heads)
        kind = tensor_type if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            str(names.get_name(name, try_suffixes=(".weight",))),
            gguf.quants.quantize(np.ascontiguousarray(values), kind),
            raw_dtype=kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fsync_file(path)
    return config


def _describe_model(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_name("Ryan-GPT")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _describe_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    document = json.loads(tokenizer.json_text)
    tokens = [*SPECIAL_TOKENS, *map(written_bytes, tokenizer.token_contents[len(SPECIAL_TOKENS) :])]
    special, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(PRE_TOKENIZATION)
    writer.add_token_list(tokens)
    writer.add_token_types([special if token in SPECIAL_TOKENS else normal for token in tokens])
    merges = document["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_bos_token_id(END_ID)
    writer.add_eos_token_id(END_ID)
    writer.add_pad_token_id(END_ID)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _interleaved(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of a query or key projection (D, D) in the order of llama.cpp's rotary embedding.

    It turns neighbours (0, 1), (2, 3), ...; Hugging Face's format, and ours, turns a head's first
    half with its second.
    """
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
