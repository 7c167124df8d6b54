"""Evaluation: the same numbers as training's, document by document, with honest intervals."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from services.trainer.data import token_stream
from services.trainer.document_scores import (
    DocumentWindows,
    PackedDialogues,
    bootstrap_interval,
    score_documents,
)
from services.trainer.evaluate import Evaluator, ValidationDialogues, ValidationWindows
from services.trainer.evaluation import evaluate
from services.trainer.packing import PackedData, read_dialogues
from services.trainer.probes import Chance, distinct_share, learned_by_heart, repeated_share
from shared.base.errors import InvalidInputError, JobFailedError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.checkpoint_specs import EvaluateSpec
from shared.contracts.manifest import EVALUATION_JSON, REPORT_MD, CheckpointMeta, EvaluationMeta
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import JobKind
from shared.contracts.progress import OutputLine, ProgressMessage, SampleLine
from shared.contracts.run_file import RunInput
from shared.jobs.life.compatibility import check_inputs
from shared.jobs.program import publish_folder
from shared.model.loss import token_losses
from shared.model.transformer import Transformer, initialize
from shared.text.token_set import TokenSplit
from tests.support.models import (
    small_tokenizer,
    write_checkpoint,
    write_dialogues,
    write_documents,
)
from tests.support.training import make_run, patterned_documents, tiny_spec, tiny_tokens

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    vocab_size=300, context_length=16, num_layers=1, d_model=64, num_heads=2, d_ff=96
)


def model(context: int = 16) -> Transformer:
    made = Transformer(CONFIG.model_copy(update={"context_length": context}))
    initialize(made, seed=5, scheme="xavier")
    return made


def never() -> bool:
    return False


def spec(**changes: object) -> EvaluateSpec:
    ids = {"checkpoint": new_id(IdPrefix.CHECKPOINT), "tokens": new_id(IdPrefix.DATASET)}
    given = {**ids, "prompts": ["learn"], "sample_tokens": 4, "bootstrap_samples": 50, **changes}
    return EvaluateSpec.model_validate_json(json.dumps(given))


def test_the_sums_of_documents_are_training_s_own_figures(tmp_path: Path) -> None:
    split = TokenSplit(tiny_tokens(tmp_path / "tokens"), "validation")
    token_bytes = small_tokenizer().token_bytes()
    batches = DocumentWindows(split, context=16, limit=None, device=CPU)
    sums = score_documents(model(), batches, torch.tensor(token_bytes), interrupted=never)
    assert sums is not None
    windows = ValidationWindows(token_stream(split), context=16, device=CPU)
    whole = Evaluator(windows, token_bytes=token_bytes, device=CPU)(model())
    assert whole is not None
    assert sums.nats.sum() / sums.tokens.sum() == pytest.approx(whole["validation_loss"], rel=1e-12)
    bits = sums.text_nats.sum() / math.log(2) / sums.text_bytes.sum()
    assert bits == pytest.approx(whole["bits_per_byte"], rel=1e-12)
    lengths = [len(d) for d in patterned_documents(8, seed=2)]
    lengths[0] -= 1  # the very first token is predicted by nothing
    assert sums.tokens.tolist() == lengths


def test_one_document_s_sum_is_its_own_tokens_loss(tmp_path: Path) -> None:
    first, second = [5, 6, 7, 0], [9, 8, 0]
    tokens = write_documents(tmp_path / "tokens", [first], [first, second])
    batches = DocumentWindows(TokenSplit(tokens, "validation"), context=16, limit=None, device=CPU)
    ones = torch.ones(300, dtype=torch.int64)
    sums = score_documents(model(), batches, ones, interrupted=never)
    ids = torch.tensor([[*first, *second]])
    network = model()
    losses = token_losses(network.hidden(ids[:, :-1]), network.head_weight, ids[:, 1:])[0]
    assert sums is not None
    assert sums.nats.tolist() == pytest.approx([losses[:3].sum().item(), losses[3:].sum().item()])
    assert sums.text_bytes.tolist() == [3, 3]


def test_dialogues_are_scored_each_for_itself(tmp_path: Path) -> None:
    dialogues = [([1, 5, 6, 2, 7, 8, 0], [0, 0, 0, 0, 1, 1, 1]), ([1, 9, 2, 4, 0], [0, 0, 0, 1, 1])]
    tokens = write_dialogues(tmp_path / "tokens", dialogues, dialogues)
    split = TokenSplit(tokens, "validation")
    batches = PackedDialogues(split, context=16, limit=None, device=CPU)
    ones = torch.ones(300, dtype=torch.int64)
    sums = score_documents(model(), batches, ones, interrupted=never)
    assert sums is not None
    assert sums.tokens.tolist() == [6, 4]
    assert sums.learned_tokens.tolist() == [3, 2]
    network = model()
    for index, (ids, _) in enumerate(dialogues):
        row = torch.tensor([ids])
        losses = token_losses(network.hidden(row[:, :-1]), network.head_weight, row[:, 1:])
        assert sums.nats[index] == pytest.approx(losses.sum().item(), rel=1e-5)
    read, _ = read_dialogues(split, context=16)
    packed = PackedData(read, split="validation", context=16, seed=0, device=CPU)
    rows = ValidationDialogues(packed, context=16, limit=1000)
    whole = Evaluator(rows, token_bytes=[1] * 300, device=CPU, assistant=True)(model())
    assert whole is not None
    assert sums.learned_nats.sum() / 5 == pytest.approx(whole["assistant_loss"], rel=1e-9)


def test_the_interval_has_the_width_of_theory() -> None:
    """Of a mean of n equal documents: 1.96 deviations / sqrt(n) to each side."""
    values = np.random.default_rng(1).normal(10.0, 2.0, 400)
    low, high = bootstrap_interval(values, np.ones(400), samples=2000, seed=0)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_interval(values, np.ones(400), samples=2000, seed=0) == (low, high)


def test_an_interruption_leaves_no_figure(tmp_path: Path) -> None:
    split = TokenSplit(tiny_tokens(tmp_path / "tokens"), "validation")
    batches = DocumentWindows(split, context=16, limit=None, device=CPU)
    ones = torch.ones(300, dtype=torch.int64)
    assert score_documents(model(), batches, ones, interrupted=lambda: True) is None


def test_repetition() -> None:
    assert repeated_share([1, 2, 3, 4, 5, 6, 7]) == 0.0
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 - 4 / 5)
    assert repeated_share([1, 2]) == 0.0
    assert distinct_share([1, 1, 1, 1]) == pytest.approx(1 / 3)
    assert distinct_share([1]) == 1.0


def test_chance_is_seeded_and_follows_the_shares() -> None:
    logits = torch.log(torch.tensor([[0.9, 0.1, 0.0]])).expand(4000, 3)
    drawn = Chance(1.0, seed=1)(logits)
    assert torch.equal(drawn, Chance(1.0, seed=1)(logits))
    assert drawn.bincount(minlength=3).tolist()[2] == 0
    assert (drawn == 0).float().mean().item() == pytest.approx(0.9, abs=0.02)


class Parrot(Transformer):
    """Knows one text by heart: says the number after the last one."""

    def hidden(self, ids, positions=None, mask=None):  # type: ignore[no-untyped-def]
        return torch.nn.functional.one_hot((ids + 1) % 300, 300).float()

    @property
    def head_weight(self) -> torch.Tensor:
        return torch.eye(300)


def test_what_is_known_by_heart_is_found(tmp_path: Path) -> None:
    counting = [*range(10, 90), 0]
    jumping = [*range(10, 50), *range(60, 100), 0]
    tokens = write_documents(tmp_path / "tokens", [counting] * 3, [jumping, [5, 0]])
    parrot = Parrot(CONFIG.model_copy(update={"context_length": 64}))
    found = learned_by_heart(parrot, TokenSplit(tokens, "train"), documents=8, end_id=0)
    control = learned_by_heart(parrot, TokenSplit(tokens, "validation"), documents=8, end_id=0)
    assert found is not None
    assert control is not None
    assert (found.beginnings, found.exact_share, found.matching_tokens) == (3, 1.0, 32.0)
    assert (control.beginnings, control.exact_share, control.matching_tokens) == (1, 0.0, 8.0)
    short = write_documents(tmp_path / "short", [[5, 0]], [[5, 0]])
    assert learned_by_heart(parrot, TokenSplit(short, "train"), documents=8, end_id=0) is None


def test_the_job_writes_numbers_and_a_report(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", model(64))
    tokens = tiny_tokens(tmp_path / "tokens")
    asked = spec()
    inputs = {
        "checkpoint": RunInput(id=str(asked.checkpoint), path=folder, name="a <b>model</b>"),
        "tokens": RunInput(id=str(asked.tokens), path=tokens, name="text"),
    }
    run = make_run(tmp_path / "run", tiny_spec(), {}).model_copy(
        update={"kind": JobKind.EVALUATE, "spec": asked, "inputs": inputs}
    )
    lines: list[ProgressMessage] = []
    assert evaluate(run, asked, report=lines.append, publish=publish_folder, stopping=never)
    (output,) = [line for line in lines if isinstance(line, OutputLine)]
    written = Path(output.path)
    assert sorted(path.name for path in written.iterdir()) == [EVALUATION_JSON, REPORT_MD]
    meta = EvaluationMeta.model_validate_json((written / EVALUATION_JSON).read_bytes())
    assert meta == output.meta
    (score,) = meta.result.sources
    assert (score.source, score.documents) == ("text", 8)
    assert score.bits_per_byte_low < score.bits_per_byte < score.bits_per_byte_high
    assert score.loss_low < score.loss < score.loss_high
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    assert score.assistant_loss is None
    found = [(s.prompt, s.temperature) for s in meta.result.samples]
    assert found == [("learn", 0.0), ("learn", 0.8)]
    assert len([line for line in lines if isinstance(line, SampleLine)]) == 2
    report = (written / REPORT_MD).read_text()
    assert r"# Evaluation: a \<b\>model" in report
    assert f"{score.bits_per_byte:.4f}" in report


def test_several_sources_are_measured_each_for_itself(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", model())
    dialogue = ([1, 5, 6, 2, 7, 8, 0], [0, 0, 0, 0, 1, 1, 1])
    tokens = {
        "tokens": tiny_tokens(tmp_path / "text"),
        "more_tokens.0": write_documents(tmp_path / "other", [[5, 0]], [[5, 6, 7, 0], [9, 0]]),
        "more_tokens.1": write_dialogues(tmp_path / "chat", [dialogue], [dialogue]),
    }

    def measured(asked: EvaluateSpec, names: dict[str, str]) -> EvaluationMeta:
        inputs = {"checkpoint": RunInput(id=str(asked.checkpoint), path=folder, name="model")}
        for (name, (_, given)), source in zip(
            list(asked.input_references().items())[1:], names, strict=True
        ):
            inputs[name] = RunInput(id=str(given), path=tokens[source], name=names[source])
        run = make_run(tmp_path / f"run-{len(names)}-{min(names)}", tiny_spec(), {}).model_copy(
            update={"kind": JobKind.EVALUATE, "spec": asked, "inputs": inputs}
        )
        lines: list[ProgressMessage] = []
        assert evaluate(run, asked, report=lines.append, publish=publish_folder, stopping=never)
        (output,) = [line for line in lines if isinstance(line, OutputLine)]
        assert isinstance(output.meta, EvaluationMeta)
        report = (Path(output.path) / REPORT_MD).read_text()
        assert re.findall(r"^\| (\w+) \| \d", report, re.MULTILINE) == list(names.values())
        return output.meta

    more = [new_id(IdPrefix.DATASET), new_id(IdPrefix.DATASET)]
    names = {"tokens": "text", "more_tokens.0": "other", "more_tokens.1": "chat"}
    together = measured(spec(more_tokens=more), names)
    assert together.more_tokens_ids == tuple(more)
    alone = [measured(spec(), {key: name}).result.sources[0] for key, name in names.items()]
    assert together.result.sources == tuple(alone)
    assert [(s.source, s.documents) for s in alone] == [("text", 8), ("other", 2), ("chat", 1)]


def test_tokens_of_another_tokenizer_are_refused_in_the_job_too(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", model())
    tokens = write_documents(
        tmp_path / "tokens", [[5, 0]], [[5, 6, 0]], tokenizer=small_tokenizer(280)
    )
    run = make_run(tmp_path / "run", tiny_spec(), {"checkpoint": folder, "tokens": tokens})
    with pytest.raises(JobFailedError, match="another tokenizer"):
        evaluate(run, spec(), report=lambda x: None, publish=publish_folder, stopping=never)


def test_what_cannot_be_measured_is_refused_at_submission(tmp_path: Path) -> None:
    tokens = TokenSplit(tiny_tokens(tmp_path / "tokens"), "validation").meta
    checkpoint = CheckpointMeta(
        step=1, stage="pretrain", model=CONFIG, tokenizer_sha256=tokens.tokenizer_sha256
    )
    check_inputs(spec(), {"tokens": tokens, "checkpoint": checkpoint})
    other = checkpoint.model_copy(update={"tokenizer_sha256": "0" * 64})
    with pytest.raises(InvalidInputError, match="another tokenizer"):
        check_inputs(spec(), {"tokens": tokens, "checkpoint": other})
    train = tokens.train.model_copy(update={"learned_tokens": 0})
    empty = tokens.model_copy(update={"train": train})
    with pytest.raises(InvalidInputError, match="train split of tokens is empty") as caught:
        check_inputs(spec(split="train"), {"tokens": empty, "checkpoint": checkpoint})
    assert caught.value.pointer == "/spec/split"
    two = spec(more_tokens=[new_id(IdPrefix.DATASET)])
    foreign = tokens.model_copy(update={"tokenizer_sha256": "0" * 64})
    metas = {"tokens": tokens, "more_tokens.0": foreign, "checkpoint": checkpoint}
    with pytest.raises(InvalidInputError, match="another tokenizer") as caught:
        check_inputs(two, metas)
    assert caught.value.pointer == "/spec/more_tokens/0"
    nothing = tokens.model_copy(
        update={"validation": tokens.validation.model_copy(update={"learned_tokens": 0})}
    )
    with pytest.raises(InvalidInputError, match=r"split of more_tokens\.0 is empty"):
        check_inputs(two, metas | {"more_tokens.0": nothing})
