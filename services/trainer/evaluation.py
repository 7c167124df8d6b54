"""The evaluate job: a checkpoint and token sets in, a folder with numbers and a report out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from services.trainer.device import choose_device, choose_dtype
from services.trainer.document_scores import (
    DocumentWindows,
    PackedDialogues,
    score_documents,
    summarise,
)
from services.trainer.evaluate import complete
from services.trainer.evaluation_report import render_evaluation
from services.trainer.probes import Chance, distinct_share, learned_by_heart, repeated_share
from shared.base.errors import JobFailedError
from shared.contracts.checkpoint_specs import EvaluateSpec
from shared.contracts.evaluation import Evaluation, EvaluationSample, Memorisation, SourceScore
from shared.contracts.manifest import EVALUATION_JSON, REPORT_MD, EvaluationMeta
from shared.contracts.names import ArtifactType, FailureCode
from shared.contracts.progress import (
    OutputLine,
    PhaseLine,
    ProgressLine,
    ProgressMessage,
    SampleLine,
)
from shared.contracts.run_file import RunFile, RunInput
from shared.model.transformer import Transformer
from shared.model.weights import load_model
from shared.text.chat import encode_prompt
from shared.text.token_set import Split, TokenSplit
from shared.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is measured."""

    run: RunFile
    spec: EvaluateSpec
    sources: tuple[RunInput, ...]
    """The token sets, `tokens` first."""
    model: Transformer
    tokenizer: Tokenizer
    device: torch.device
    report: Callable[[ProgressMessage], None]
    stopping: Callable[[], bool]

    def split(self, name: Split) -> TokenSplit:
        """Of `tokens`."""
        return TokenSplit(self.run.inputs["tokens"].path, name)


def evaluate(
    run: RunFile,
    spec: EvaluateSpec,
    *,
    report: Callable[[ProgressMessage], None],
    publish: Callable[[Path, Path], None],
    stopping: Callable[[], bool],
) -> bool:
    """Measure, write the folder and announce it; False when `stopping` ended it before.

    Raises JobFailedError for tokens of another tokenizer or with ids that it does not have.
    """
    torch.set_num_threads(run.num_threads)
    subject = _open(run, spec, report, stopping)
    report(PhaseLine(phase="evaluating"))
    scores = _scores(subject)
    if scores is None:
        return False
    report(PhaseLine(phase="sampling"))
    result = Evaluation(
        sources=scores, samples=_samples(subject), memorisation=_memorisation(subject)
    )
    if stopping():
        return False
    checkpoint, (tokens, *others) = run.inputs["checkpoint"], subject.sources
    meta = EvaluationMeta(
        checkpoint_id=checkpoint.id,
        tokens_id=tokens.id,
        more_tokens_ids=tuple(source.id for source in others),
        result=result,
    )
    temporary, final = run.outputs / ".evaluation.tmp", run.outputs / "evaluation"
    temporary.mkdir(parents=True)
    (temporary / EVALUATION_JSON).write_text(meta.model_dump_json(indent=2), "utf-8")
    text = render_evaluation(meta, subject.model.config, checkpoint=checkpoint.name)
    (temporary / REPORT_MD).write_text(text, "utf-8")
    publish(temporary, final)
    name = f"{checkpoint.name} on {' and '.join(source.name for source in subject.sources)}"[:200]
    report(OutputLine(output=ArtifactType.EVALUATION, path=str(final), name=name, meta=meta))
    return True


def _open(
    run: RunFile,
    spec: EvaluateSpec,
    report: Callable[[ProgressMessage], None],
    stopping: Callable[[], bool],
) -> _Subject:
    report(PhaseLine(phase="loading"))
    folder, device = run.inputs["checkpoint"].path, choose_device(spec.device)
    tokenizer = Tokenizer.load(folder)
    more = (f"more_tokens.{index}" for index in range(len(spec.more_tokens)))
    sources = tuple(run.inputs[name] for name in ("tokens", *more))
    for source in sources:
        _check_tokenizer(source, spec.split, tokenizer)
    model = load_model(folder).to(device)
    model.compute_dtype = choose_dtype("auto", device)
    return _Subject(
        run=run,
        spec=spec,
        sources=sources,
        model=model,
        tokenizer=tokenizer,
        device=device,
        report=report,
        stopping=stopping,
    )


def _check_tokenizer(source: RunInput, split: Split, tokenizer: Tokenizer) -> None:
    if TokenSplit(source.path, split).meta.tokenizer_sha256 != tokenizer.sha256:
        raise JobFailedError(
            f"{source.name!r} was encoded with another tokenizer than the checkpoint's.",
            code=FailureCode.BAD_DATA,
            hint="Tokenize the dataset again with `tokenizer` set to the checkpoint's.",
        )


def _scores(subject: _Subject) -> tuple[SourceScore, ...] | None:
    """Of each source; None when interrupted."""
    scores: list[SourceScore] = []
    for step, source in enumerate(subject.sources, start=1):
        score = _score(subject, source)
        if score is None:
            return None
        scores.append(score)
        total = len(subject.sources)
        subject.report(ProgressLine(step=step, total_steps=total, message="sources measured"))
    return tuple(scores)


def _score(subject: _Subject, source: RunInput) -> SourceScore | None:
    spec, split = subject.spec, TokenSplit(source.path, subject.spec.split)
    kind = PackedDialogues if split.meta.format == "dialogues" else DocumentWindows
    batches = kind(
        split,
        context=subject.model.config.context_length,
        limit=spec.max_tokens,
        device=subject.device,
    )
    token_bytes = torch.tensor(subject.tokenizer.token_bytes(), device=subject.device)
    sums = score_documents(subject.model, batches, token_bytes, interrupted=subject.stopping)
    if sums is None:
        return None
    return summarise(sums, source.name, samples=spec.bootstrap_samples, seed=spec.seed % 2**32)


def _samples(subject: _Subject) -> tuple[EvaluationSample, ...]:
    spec, tokenizer = subject.spec, subject.tokenizer
    is_chat = subject.split(spec.split).meta.format == "dialogues"
    prompts = [
        encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
        if is_chat
        else tokenizer.encode(prompt)
        for prompt in spec.prompts
    ]
    found = []
    for temperature in (0.0, spec.temperature):
        texts = complete(
            subject.model,
            prompts,
            max_tokens=spec.sample_tokens,
            end_id=tokenizer.end_id,
            **({"choose": Chance(temperature, seed=spec.seed)} if temperature else {}),
        )
        for prompt, ids in zip(spec.prompts, texts, strict=True):
            text = tokenizer.decode(ids)
            subject.report(SampleLine(step=0, prompt=prompt, text=text))
            found.append(
                EvaluationSample(
                    prompt=prompt,
                    temperature=temperature,
                    text=text,
                    repeated_share=repeated_share(ids),
                    distinct_share=distinct_share(ids),
                )
            )
    return tuple(found)


def _memorisation(subject: _Subject) -> tuple[Memorisation, ...]:
    count, end_id = subject.spec.memorisation_documents, subject.tokenizer.end_id
    if not count:
        return ()
    splits: tuple[Split, ...] = ("train", "validation")
    found = [
        learned_by_heart(subject.model, subject.split(split), documents=count, end_id=end_id)
        for split in splits
    ]
    return tuple(item for item in found if item is not None)
