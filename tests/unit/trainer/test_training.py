"""Whole small runs: learning, accumulation, divergence, stops, what is reported and refused."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.trainer import training
from services.trainer.checkpoint import read_state
from services.trainer.loop import Outcome
from shared.base.errors import JobFailedError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.manifest import MODEL_WEIGHTS
from shared.contracts.progress import PhaseLine, SampleLine
from shared.contracts.training_specs import FinetuneSpec
from shared.model.canary import canary_loss
from shared.model.transformer import Transformer
from shared.model.weights import load_model, load_state
from shared.text.tokenizer import Tokenizer
from tests.support.models import small_tokenizer, write_dialogues, write_documents
from tests.support.training import (
    TINY,
    Interruption,
    Recording,
    make_run,
    patterned_documents,
    run_training,
    tiny_spec,
    tiny_tokens,
)

GOLDEN_LOSSES = {
    "zero_residual": [5.7567, 5.2811, 4.9213, 4.7806],
    "xavier": [5.7121, 5.4644, 5.2398, 5.1193],
}
"""By first weights, at steps 1, 4, 7 and 10 of `tiny_spec(max_steps=10)`; another CPU may differ in
the 4th digit."""


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tiny_tokens(tmp_path / "tokens")


def trained(folder: Path, tokens: Path, **changes: Any) -> Recording:
    return run_training(make_run(folder, tiny_spec(**changes), {"tokens": tokens}))


def final_weights(recording: Recording) -> dict[str, torch.Tensor]:
    return load_state(Path(recording.checkpoints()[-1].path) / MODEL_WEIGHTS)


def test_it_overfits_one_batch(tmp_path: Path) -> None:
    documents = patterned_documents(2, seed=1)
    tokens = write_documents(tmp_path / "tokens", documents, documents)
    changes = {"max_steps": 150, "batch_size": 2, "gradient_accumulation_steps": 1, "lr": 1e-2}
    assert trained(tmp_path / "run", tokens, **changes).losses()[-1] < 0.1


@pytest.mark.parametrize("init", GOLDEN_LOSSES)
def test_golden_losses(tmp_path: Path, tokens: Path, init: str) -> None:
    losses = trained(tmp_path / "run", tokens, max_steps=10, init=init).losses()
    assert abs(losses[0] - math.log(300)) < 0.1
    assert losses[0::3] == pytest.approx(GOLDEN_LOSSES[init], abs=2e-3)


def test_micro_batches_add_up_to_one_large_batch(tmp_path: Path, tokens: Path) -> None:
    changes = {"max_steps": 6, "adam_eps": 1e-3}  # a large epsilon, as Adam magnifies rounding
    small = trained(tmp_path / "a", tokens, batch_size=2, gradient_accumulation_steps=4, **changes)
    large = trained(tmp_path / "b", tokens, batch_size=8, gradient_accumulation_steps=1, **changes)
    assert small.losses() == pytest.approx(large.losses(), abs=1e-5)
    one, other = final_weights(small), final_weights(large)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_micro_batches_of_unequal_counts_add_up_too(tmp_path: Path) -> None:
    """Finetuning rows hold different numbers of learned tokens; each must weigh the same."""
    base = pretrained(tmp_path)
    tokens = dialogue_tokens(tmp_path / "dialogues")
    runs = []
    for name, batch, accumulation in (("a", 1, 4), ("b", 4, 1)):
        spec = finetune_spec(batch_size=batch, gradient_accumulation_steps=accumulation)
        run = make_run(tmp_path / name, spec, {"checkpoint": base, "tokens": tokens})
        runs.append(run_training(run))
    assert runs[0].losses() == pytest.approx(runs[1].losses(), abs=1e-4)


def test_evaluation_does_not_change_training(tmp_path: Path, tokens: Path) -> None:
    often = trained(tmp_path / "a", tokens, eval_interval=1)
    rarely = trained(tmp_path / "b", tokens, eval_interval=1000)
    assert often.losses() == rarely.losses()
    assert len(often.metrics("validation")) == 20
    assert len(rarely.metrics("validation")) == 1


def test_metrics_and_samples(tmp_path: Path, tokens: Path) -> None:
    recording = trained(tmp_path / "run", tokens, log_interval=5)
    train = recording.metrics("train")
    assert [line.step for line in train] == [5, 10, 15, 20]
    assert [line.tokens for line in train] == [640, 1280, 1920, 2560]
    assert set(train[0].values) == {
        *("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "flops"),
        *("data_wait_seconds", "checkpoint_stall_seconds", "peak_memory_bytes"),
    }
    assert train[0].values["mfu"] > 0
    validation = recording.metrics("validation")
    assert [line.step for line in validation] == [10, 20]
    assert set(validation[0].values) == {"validation_loss", "bits_per_byte", "validation_bytes"}
    samples = [line for line in recording.lines if isinstance(line, SampleLine)]
    assert [(line.step, line.prompt) for line in samples] == [(10, "learn"), (20, "learn")]
    phases = [line.phase for line in recording.lines if isinstance(line, PhaseLine)]
    assert phases[:3] == ["loading", "training", "evaluating"]


def test_the_checkpoint_with_the_lowest_validation_loss_is_best(
    tmp_path: Path, tokens: Path
) -> None:
    recording = trained(tmp_path / "run", tokens, eval_interval=5, save_interval=5)
    losses = [line.values["validation_loss"] for line in recording.metrics("validation")]
    lowest = math.inf
    for line, loss in zip(recording.checkpoints(), losses, strict=True):
        assert line.best == (loss < lowest)
        assert line.meta.metrics["validation_loss"] == loss
        lowest = min(lowest, loss)
    assert [line.meta.final for line in recording.checkpoints()] == [False, False, False, True]


def test_a_checkpoint_is_written_without_a_second_pool_of_threads(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would make every later step slower."""
    threads: list[tuple[bool, int]] = []

    def count(*what: Any) -> float:
        is_main = threading.current_thread() is threading.main_thread()
        threads.append((is_main, torch.get_num_threads()))
        return canary_loss(*what)

    monkeypatch.setattr(training, "canary_loss", count)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trained(tmp_path / "run", tokens, max_steps=2)
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {(False, 1)}


def test_a_checkpoint_is_self_contained(tmp_path: Path, tokens: Path) -> None:
    recording = trained(tmp_path / "run", tokens, max_steps=2)
    line = recording.checkpoints()[-1]
    folder = Path(line.path)
    assert line.meta.canary_loss == canary_loss(
        line.meta.model, load_state(folder / MODEL_WEIGHTS), Tokenizer.load(folder)
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors",
        "model_config.json",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert load_model(folder).config == recording.checkpoints()[-1].meta.model
    assert Tokenizer.load(folder).sha256 == small_tokenizer().sha256
    state = read_state(folder)
    assert (state.step, state.sequences, state.tokens) == (2, 16, 256)
    assert state.environment.device == "cpu"
    assert state.spec["lr"] == 3e-3


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NaN weight poisons the loss; the optimizer must not spread it."""
    seen: list[Transformer] = []
    poison = Transformer.to

    def poisoned(model: Transformer, *args: Any) -> Transformer:
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[0, 0] = math.nan
        seen.append(model)
        return poison(model, *args)

    monkeypatch.setattr(Transformer, "to", poisoned)
    with pytest.raises(JobFailedError, match="not finite at step 1") as caught:
        trained(tmp_path / "run", tokens)
    assert caught.value.code == "diverged"
    nans = {name: int(p.isnan().sum()) for name, p in seen[0].named_parameters()}
    assert {name: count for name, count in nans.items() if count} == {
        "model.layers.1.mlp.up_proj.weight": 1
    }
    assert not (tmp_path / "run" / "spool").exists() or not any(
        (tmp_path / "run" / "spool").iterdir()
    )


def test_cancel_drops_the_step_between_micro_batches(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path / "run", tiny_spec(), {"tokens": tokens})
    # Two looks a step: the fourth is before the second step's second micro-batch.
    recording = run_training(run, interruption=Interruption(cancel_after_looks=3))
    assert recording.outcome is Outcome.CANCELLED
    assert [line.step for line in recording.metrics("train")] == [1]
    assert recording.checkpoints() == []


def test_a_stop_finishes_the_step_and_writes_a_checkpoint(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path / "run", tiny_spec(save_interval=5), {"tokens": tokens})
    recording = run_training(run, interruption=Interruption(stop_after_steps=7))
    assert recording.outcome is Outcome.STOPPED
    assert [line.meta.step for line in recording.checkpoints()] == [5, 7]
    assert [line.meta.final for line in recording.checkpoints()] == [False, False]


def test_a_run_stopped_at_its_last_step_is_finished_by_the_next_attempt(
    tmp_path: Path, tokens: Path
) -> None:
    spec = tiny_spec()
    run = make_run(tmp_path / "a", spec, {"tokens": tokens})
    stopped = run_training(run, interruption=Interruption(stop_after_steps=20))
    assert stopped.outcome is Outcome.STOPPED
    last = Path(stopped.checkpoints()[-1].path)
    resumed = run_training(make_run(tmp_path / "b", spec, {"tokens": tokens}, resume=last))
    assert resumed.outcome is Outcome.FINISHED
    assert resumed.losses() == []
    assert [line.meta.final for line in resumed.checkpoints()] == [True]


def test_data_must_hold_a_validation_split(tmp_path: Path) -> None:
    tokens = write_documents(tmp_path / "tokens", patterned_documents(20, seed=1), [])
    with pytest.raises(JobFailedError, match="no validation split") as caught:
        trained(tmp_path / "run", tokens)
    assert caught.value.code == "bad_data"


def test_dialogues_are_no_pretraining_data(tmp_path: Path) -> None:
    tokens = dialogue_tokens(tmp_path / "tokens")
    with pytest.raises(JobFailedError, match="holds dialogues; this job needs documents"):
        trained(tmp_path / "run", tokens)


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path: Path, tokens: Path) -> None:
    with pytest.raises(JobFailedError, match="vocab_size 299 is smaller") as caught:
        trained(tmp_path / "run", tokens, vocab_size=299)
    assert caught.value.code == "bad_spec"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this box has a GPU")
def test_a_gpu_that_is_not_there_is_said(tmp_path: Path, tokens: Path) -> None:
    with pytest.raises(JobFailedError, match="sees no CUDA device"):
        trained(tmp_path / "run", tokens, device="cuda")


def test_resuming_another_shape_is_refused(tmp_path: Path, tokens: Path) -> None:
    last = Path(trained(tmp_path / "a", tokens, max_steps=1).checkpoints()[-1].path)
    run = make_run(tmp_path / "b", tiny_spec(d_ff=128), {"tokens": tokens}, resume=last)
    with pytest.raises(JobFailedError, match="has another shape"):
        run_training(run)


def pretrained(folder: Path) -> Path:
    tokens = tiny_tokens(folder / "base-tokens")
    recording = trained(folder / "base", tokens, max_steps=5)
    return Path(recording.checkpoints()[-1].path)


def dialogue_tokens(folder: Path) -> Path:
    """Answers repeat the question's token, so that there is something to learn."""
    generator = np.random.default_rng(3)
    dialogues = []
    for _ in range(40):
        word, length = int(generator.integers(3, 20)), int(generator.integers(1, 5))
        ids = [1, word, word + 1, 2, *[word] * length, 0]
        dialogues.append((ids, [0, 0, 0, 0, *[1] * length, 1]))
    return write_dialogues(folder, dialogues[:32], dialogues[32:])


def finetune_spec(**changes: Any) -> FinetuneSpec:
    shape = ("context_length", "num_layers", "d_model", "num_heads", "d_ff")
    common = {name: value for name, value in TINY.items() if name not in shape}
    return FinetuneSpec(
        checkpoint=new_id(IdPrefix.CHECKPOINT),
        tokens=new_id(IdPrefix.DATASET),
        **{**common, "batch_size": 2, **changes},
    )


def finetuned(folder: Path, inputs: dict[str, Path], **changes: Any) -> Recording:
    spec = finetune_spec(max_steps=60, lr=5e-3, **changes)
    return run_training(make_run(folder, spec, inputs))


def test_finetuning_learns_the_assistants_part(tmp_path: Path) -> None:
    inputs = {"checkpoint": pretrained(tmp_path), "tokens": dialogue_tokens(tmp_path / "dialogues")}
    recording = finetuned(tmp_path / "run", inputs)
    first, last = recording.losses()[0], recording.losses()[-1]
    assert last < first / 3
    values = recording.metrics("validation")[-1].values
    assert values["validation_loss"] == values["assistant_loss"]
    # The question's words cannot be foreseen, the answer's can.
    assert values["assistant_loss"] < 0.7 * values["all_token_loss"]
    assert recording.checkpoints()[-1].meta.stage == "finetune"
    on_all = finetuned(tmp_path / "all", inputs, loss_on="all").metrics("validation")[-1].values
    assert on_all["all_token_loss"] < 0.8 * values["all_token_loss"]
    assert on_all["validation_loss"] == on_all["assistant_loss"]
    assert on_all["validation_bytes"] == values["validation_bytes"]


def test_dialogues_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    base = pretrained(tmp_path)
    tokens = write_dialogues(
        tmp_path / "other",
        [([1, 5, 2, 6, 0], [0, 0, 0, 1, 1])] * 2,
        [([1, 5, 2, 6, 0], [0, 0, 0, 1, 1])],
        tokenizer=small_tokenizer(290),
    )
    run = make_run(tmp_path / "run", finetune_spec(), {"checkpoint": base, "tokens": tokens})
    with pytest.raises(JobFailedError, match="another tokenizer than the base model's"):
        run_training(run)


def test_finetuning_resumes_bit_identically(tmp_path: Path) -> None:
    inputs = {"checkpoint": pretrained(tmp_path), "tokens": dialogue_tokens(tmp_path / "dialogues")}
    spec = finetune_spec(save_interval=9)
    whole = run_training(make_run(tmp_path / "whole", spec, inputs))
    middle = tmp_path / "whole" / "spool" / "step-9"
    resumed = run_training(make_run(tmp_path / "resumed", spec, inputs, resume=middle))
    assert resumed.losses() == whole.losses()[9:]
    one, other = final_weights(resumed), final_weights(whole)
    assert all(torch.equal(one[name], other[name]) for name in one)
