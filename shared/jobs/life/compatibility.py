"""Whether bound inputs fit a spec and each other. Pure: knows manifests, no database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from shared.base.errors import InvalidInputError
from shared.contracts.checkpoint_specs import EvaluateSpec
from shared.contracts.data_specs import TokenizeSpec
from shared.contracts.manifest import ArtifactMeta, CheckpointMeta, DatasetMeta, TokensMeta
from shared.contracts.model_config import ModelConfig
from shared.contracts.specs import Spec, input_field, pointer_to
from shared.contracts.training_specs import FinetuneSpec, TrainingOptions, TrainSpec

Meta = TypeVar("Meta", DatasetMeta, TokensMeta, CheckpointMeta)


def check_inputs(spec: Spec, metas: Mapping[str, ArtifactMeta], *, pointer: str = "/spec") -> None:
    """Raise InvalidInputError when `spec` cannot work on inputs of which `metas` tell.

    An input that is not there yet is not looked at, so a part can be checked early.
    """
    if isinstance(spec, TokenizeSpec):
        _check_tokenize(spec, metas, pointer)
    elif isinstance(spec, TrainSpec):
        _check_train(spec, metas, pointer)
    elif isinstance(spec, FinetuneSpec):
        _check_finetune(spec, metas, pointer)
    elif isinstance(spec, EvaluateSpec):
        _check_evaluate(spec, metas, pointer)


def _check_tokenize(spec: TokenizeSpec, metas: Mapping[str, ArtifactMeta], pointer: str) -> None:
    dataset = _meta(metas, "dataset", DatasetMeta)
    held_out = _meta(metas, "validation_dataset", DatasetMeta)
    if spec.validation_dataset is None and spec.validation_fraction == 0:
        raise InvalidInputError(
            "The validation split would be empty.",
            hint="Give a validation_fraction above 0, or a validation_dataset.",
            pointer=f"{pointer}/validation_fraction",
        )
    for name, meta in metas.items():
        if isinstance(meta, DatasetMeta) and meta.documents == 0:
            raise InvalidInputError("The dataset is empty.", pointer=f"{pointer}{pointer_to(name)}")
    if dataset is not None and held_out is not None and dataset.format != held_out.format:
        raise InvalidInputError(
            f"The dataset holds {dataset.format}, the validation dataset {held_out.format}.",
            pointer=f"{pointer}/validation_dataset",
        )
    for name, meta in metas.items():
        if not isinstance(meta, DatasetMeta) or input_field(name) != "more_datasets":
            continue
        if dataset is not None and meta.format != dataset.format:
            raise InvalidInputError(
                f"The dataset holds {dataset.format}, this one {meta.format}.",
                pointer=f"{pointer}{pointer_to(name)}",
            )


def _check_train(spec: TrainSpec, metas: Mapping[str, ArtifactMeta], pointer: str) -> None:
    tokens = _meta(metas, "tokens", TokensMeta)
    if tokens is None:
        return
    _check_tokens(tokens, "documents", spec.context_length, pointer)
    if spec.vocab_size != "auto" and spec.vocab_size < tokens.vocab_size:
        raise InvalidInputError(
            f"vocab_size {spec.vocab_size} is below the {tokens.vocab_size} of the tokens.",
            hint='Leave it at "auto" to take the tokenizer\'s.',
            pointer=f"{pointer}/vocab_size",
        )
    vocab_size = tokens.vocab_size if spec.vocab_size == "auto" else spec.vocab_size
    resumed = _meta(metas, "resume_from", CheckpointMeta)
    if resumed is not None:
        _check_resume(spec, resumed, spec.model_config_for(vocab_size), "pretrain", pointer)
        _check_tokenizer(tokens, resumed, "the checkpoint to resume", pointer)


def _check_finetune(spec: FinetuneSpec, metas: Mapping[str, ArtifactMeta], pointer: str) -> None:
    tokens = _meta(metas, "tokens", TokensMeta)
    base = _meta(metas, "checkpoint", CheckpointMeta)
    if tokens is not None:
        _check_tokens(tokens, "dialogues", 1, pointer)
    if tokens is None or base is None:
        return
    _check_tokenizer(tokens, base, "the base model", pointer)
    resumed = _meta(metas, "resume_from", CheckpointMeta)
    if resumed is not None:
        _check_resume(spec, resumed, base.model, "finetune", pointer)
        _check_tokenizer(tokens, resumed, "the checkpoint to resume", pointer)


def _check_evaluate(spec: EvaluateSpec, metas: Mapping[str, ArtifactMeta], pointer: str) -> None:
    checkpoint = _meta(metas, "checkpoint", CheckpointMeta)
    for name, tokens in metas.items():
        if not isinstance(tokens, TokensMeta):
            continue
        if getattr(tokens, spec.split).learned_tokens < 2:
            raise InvalidInputError(
                f"The {spec.split} split of {name} is empty.",
                hint="Measure the other split, or tokenize again with a validation_dataset.",
                pointer=f"{pointer}/split",
            )
        if checkpoint is not None:
            _check_tokenizer(tokens, checkpoint, "the checkpoint", pointer, name=name)


def _check_tokens(tokens: TokensMeta, wanted: str, context_length: int, pointer: str) -> None:
    where = f"{pointer}/tokens"
    if tokens.format != wanted:
        other = "finetune" if tokens.format == "dialogues" else "train"
        raise InvalidInputError(
            f"The token set holds {tokens.format}, where {wanted} are needed.",
            hint=f"A {other} job takes {tokens.format}.",
            pointer=where,
        )
    if tokens.validation.learned_tokens == 0:
        raise InvalidInputError(
            "The token set's validation split is empty.",
            hint="Tokenize again with a larger validation_fraction or a validation_dataset.",
            pointer=where,
        )
    if tokens.train.tokens <= context_length:
        raise InvalidInputError(
            f"The token set has {tokens.train.tokens} training tokens: too few for one sequence "
            f"of {context_length} and its next token.",
            hint="Use more text, or a shorter context_length.",
            pointer=where,
        )


def _check_tokenizer(
    tokens: TokensMeta,
    checkpoint: CheckpointMeta,
    whose: str,
    pointer: str,
    *,
    name: str = "tokens",
) -> None:
    if tokens.tokenizer_sha256 != checkpoint.tokenizer_sha256:
        raise InvalidInputError(
            f"The tokens were made with another tokenizer ({tokens.tokenizer_sha256[:12]}) "
            f"than {whose} ({checkpoint.tokenizer_sha256[:12]}).",
            hint="Tokenize the dataset again with `tokenizer` set to the base model's.",
            pointer=f"{pointer}{pointer_to(name)}",
        )


def _check_resume(
    spec: TrainingOptions,
    resumed: CheckpointMeta,
    model: ModelConfig,
    stage: str,
    pointer: str,
) -> None:
    where = f"{pointer}/resume_from"
    if resumed.stage != stage:
        raise InvalidInputError(
            f"The checkpoint is of stage {resumed.stage}; this job can only resume {stage}.",
            pointer=where,
        )
    if resumed.model != model:
        theirs, ours = resumed.model.model_dump(), model.model_dump()
        differing = ", ".join(
            f"{name} {theirs[name]} (here {ours[name]})"
            for name in ours
            if theirs[name] != ours[name]
        )
        raise InvalidInputError(
            f"The checkpoint is of a model of another shape: {differing}.", pointer=where
        )
    if isinstance(spec.max_steps, int) and resumed.step > spec.max_steps:
        raise InvalidInputError(
            f"The checkpoint is at step {resumed.step}, beyond max_steps {spec.max_steps}.",
            pointer=f"{pointer}/max_steps",
        )


def _meta(metas: Mapping[str, ArtifactMeta], field: str, kind: type[Meta]) -> Meta | None:
    meta = metas.get(field)
    return meta if isinstance(meta, kind) else None
