"""What a checkpoint of the reference model costs the training that goes on beside it."""

from __future__ import annotations

from itertools import islice, product
from statistics import median, quantiles
from typing import Any

from shared.contracts.names import JobState
from shared.db.repositories import checkpoints, stream
from shared.text.tokenizer import BYTE_OF_CHARACTER
from tests.faults.history import EVERYTHING
from tests.faults.report import SAVE_MEDIAN, SAVE_WORST, STEP_RATIO
from tests.faults.tokens import add_tokens
from tests.faults.trial import Trial
from tests.support.models import write_documents
from tests.support.tokenizers import tokenizer_of
from tests.support.training import patterned_documents

VOCABULARY = 16_000
MERGES = VOCABULARY - 259
"""The rest are 256 bytes and three special tokens."""
NUM_PARAMETERS = 12_496_960
TOKENS_A_STEP = 512
STEPS = 48
SPEC: dict[str, Any] = {
    "model": "reference", "batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": STEPS,
    "warmup_steps": 2, "log_interval": 1, "save_interval": 6, "eval_interval": STEPS,
    "eval_tokens": 1024, "sample_prompts": ["a"], "sample_tokens": 4, "keep_checkpoints": 1,
    "device": "cpu",
}  # fmt: skip
BOUND_SECONDS = 0.020


def reference_saved(trial: Trial) -> None:
    """The reference recipe's model, in small batches: how long does a save keep it waiting?"""
    job_id = trial.cluster.submit_spec({**SPEC, "tokens": _reference_tokens(trial)})
    trial.ledger.jobs += 1
    trial.cluster.wait_for(job_id, JobState.SUCCEEDED)
    trial.judge(job_id)
    with trial.cluster.database.reading() as session:
        points = stream.read_metrics(session, job_id, after=0, limit=EVERYTHING)
        kept = checkpoints.list_checkpoints(session, job_id)
    assert kept[-1].manifest["meta"]["model"]["vocab_size"] == VOCABULARY
    train = [point.values for point in points if point.series == "train"]
    stalls = [v["checkpoint_stall_seconds"] for v in train if v["checkpoint_stall_seconds"] > 0]
    steps = [TOKENS_A_STEP / values["tokens_per_second"] for values in train]
    assert len(stalls) >= STEPS // SPEC["save_interval"] - 1
    ledger = trial.ledger
    ledger.faults["checkpoint of the 12.5M model beside training"] += len(stalls)
    ledger.measure(SAVE_MEDIAN, median(stalls), BOUND_SECONDS)
    ledger.measure(SAVE_WORST, max(stalls))
    ledger.measure(STEP_RATIO, _p99(steps) / median(steps))


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[-1]


def _reference_tokens(trial: Trial) -> str:
    """A token set of the reference's vocabulary; what its merges are does not matter here."""
    pairs = islice(product(sorted(BYTE_OF_CHARACTER), repeat=2), MERGES)
    folder = write_documents(
        trial.cluster.folder / "reference-tokens",
        patterned_documents(400, seed=1),
        patterned_documents(40, seed=2),
        tokenizer=tokenizer_of(list(pairs)),
    )
    return add_tokens(trial.cluster.database, trial.cluster.store, folder)
