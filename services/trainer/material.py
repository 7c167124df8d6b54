"""What differs between pretraining and finetuning: model, data, held-out data, prompts.

Everything a user can get wrong is found here, before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from services.trainer.data import TrainingData, WindowData, document_lengths, token_stream
from services.trainer.evaluate import ValidationData, ValidationDialogues, ValidationWindows
from services.trainer.packing import Dropped, PackedData, read_dialogues
from shared.base.errors import JobFailedError
from shared.contracts.manifest import TokensMeta
from shared.contracts.names import FailureCode
from shared.contracts.run_file import RunFile
from shared.contracts.training_specs import FinetuneSpec, TrainSpec
from shared.model.transformer import Transformer, initialize
from shared.model.weights import load_model
from shared.text.chat import encode_prompt
from shared.text.token_set import TokenSplit
from shared.text.tokenizer import Tokenizer

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that a training run works on. The model is on the CPU with its first weights."""

    stage: Literal["pretrain", "finetune"]
    model: Transformer
    tokenizer: Tokenizer
    data: TrainingData
    validation: ValidationData
    encode_prompt: Callable[[str], list[int]]


def pretraining(run: RunFile, spec: TrainSpec, device: torch.device) -> Material:
    """Fresh weights from the seed, and windows over documents."""
    folder = run.inputs["tokens"].path
    train, validation = TokenSplit(folder, "train"), TokenSplit(folder, "validation")
    _check_format(train.meta, "documents")
    model = Transformer(spec.model_config_for(_vocab_size(spec, train.meta)))
    context = model.config.context_length
    initialize(model, seed=spec.seed, scheme=spec.init)
    tokenizer = Tokenizer.load(folder)
    held_out = token_stream(validation, limit=spec.eval_tokens + 1)
    return Material(
        stage="pretrain",
        model=model,
        tokenizer=tokenizer,
        data=WindowData(
            token_stream(train),
            context=context,
            seed=spec.seed,
            device=device,
            document_lengths=document_lengths(train),
        ),
        validation=ValidationWindows(held_out, context=context, device=device),
        encode_prompt=tokenizer.encode,
    )


def finetuning(run: RunFile, spec: FinetuneSpec, device: torch.device, notify: Notify) -> Material:
    """The base model's weights, and packed dialogues made with its tokenizer."""
    folder, base = run.inputs["tokens"].path, run.inputs["checkpoint"].path
    train, validation = TokenSplit(folder, "train"), TokenSplit(folder, "validation")
    _check_format(train.meta, "dialogues")
    tokenizer = Tokenizer.load(base)
    if tokenizer.sha256 != train.meta.tokenizer_sha256:
        raise JobFailedError(
            "The dialogues were encoded with another tokenizer than the base model's.",
            code=FailureCode.BAD_DATA,
            hint="Tokenize the dialogues again, giving the base model's tokenizer.",
        )
    model = load_model(base)
    context = model.config.context_length
    packed = {}
    for split in (train, validation):
        dialogues, dropped = read_dialogues(split, context=context)
        _report_dropped(dropped, split.split, context, notify)
        packed[split.split] = PackedData(
            dialogues,
            split=split.split,
            context=context,
            seed=spec.seed,
            device=device,
            loss_on=spec.loss_on,
        )
    held_out = ValidationDialogues(packed["validation"], context=context, limit=spec.eval_tokens)
    return Material(
        stage="finetune",
        model=model,
        tokenizer=tokenizer,
        data=packed["train"],
        validation=held_out,
        encode_prompt=lambda text: encode_prompt(tokenizer, [{"role": "user", "content": text}]),
    )


def _check_format(meta: TokensMeta, wanted: Literal["documents", "dialogues"]) -> None:
    if meta.format != wanted:
        raise JobFailedError(
            f"This token set holds {meta.format}; this job needs {wanted}.",
            code=FailureCode.BAD_DATA,
            hint="Pretraining reads documents, finetuning reads dialogues.",
        )
    # One token alone predicts nothing.
    if meta.validation.tokens < 2:
        raise JobFailedError(
            "The token set has no validation split.",
            code=FailureCode.BAD_DATA,
            hint="Tokenize with a larger validation_fraction, or with a validation_dataset.",
        )


def _vocab_size(spec: TrainSpec, meta: TokensMeta) -> int:
    if spec.vocab_size == "auto":
        return meta.vocab_size
    if spec.vocab_size < meta.vocab_size:
        raise JobFailedError(
            f"vocab_size {spec.vocab_size} is smaller than the tokenizer's {meta.vocab_size}.",
            code=FailureCode.BAD_SPEC,
            hint="Use auto, or a number that is at least the tokenizer's.",
        )
    return spec.vocab_size


def _report_dropped(dropped: Dropped, split: str, context: int, notify: Notify) -> None:
    if dropped.cut:
        notify(
            f"{dropped.cut} {split} dialogues are longer than {context + 1} tokens and were cut."
        )
    if dropped.empty:
        notify(f"{dropped.empty} {split} dialogues have no assistant token and were left out.")
