"""An evaluate job through the real supervisor: numbers and a report come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.contracts.manifest import EvaluationMeta, Manifest
from shared.contracts.names import ArtifactType, JobState, Queue
from shared.db.repositories.artifacts import get_artifact
from shared.storage.keys import report_key
from tests.support.job_bench import JobBench
from tests.support.programs import Script

pytestmark = pytest.mark.integration


def test_it_leaves_an_artifact_and_the_report_of_its_program(tmp_path: Path) -> None:
    bench = JobBench.create(tmp_path / "data")
    trained = bench.row(bench.add_train_job(Script(steps=1)))
    checkpoint = bench.supervise().outputs["checkpoint"]
    job_id = bench.add_evaluate_job(checkpoint)
    row = bench.supervise(Queue.TRAINER_LIGHT)
    assert (row.id, row.state) == (job_id, JobState.SUCCEEDED)
    evaluation = row.outputs["evaluation"]
    assert evaluation.startswith("eval_")
    assert bench.store.get_bytes(report_key(job_id)) == b"# Evaluation\n"
    with bench.database.reading() as session:
        artifact = get_artifact(session, evaluation, (ArtifactType.EVALUATION,))
    meta = Manifest.model_validate(artifact.manifest).meta
    assert isinstance(meta, EvaluationMeta)
    assert meta.checkpoint_id == checkpoint
    assert meta.tokens_id == trained.resolved_inputs["tokens"]
    again = bench.row(bench.add_evaluate_job(checkpoint))
    assert (again.state, again.reused_job_id) == (JobState.SUCCEEDED, job_id)
