"""The recipe `ryan-gpt` at its full size on real text and dialogues, for two steps a stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.journey import wait_until_served
from tests.support.platforms import running_platform
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

SHORT = ("--max_steps", "2", "--eval_tokens", "2048", "--sample_tokens", "4", "--detach")


def test_the_whole_reference_recipe_runs_on_a_cpu_and_is_served(
    shared_data: Path, tmp_path: Path
) -> None:
    data = shared_data / "text" / "mixed-train.txt.gz"
    dialogues = shared_data / "dailydialog" / "train.zip"
    with running_platform(tmp_path / "data") as platform, platform.client() as client:
        files = ("--data", str(data), "--dialogues", str(dialogues))
        pipeline_id = platform.result("run", "ryan-gpt", *SHORT, *files)["id"]

        def all_succeeded() -> bool:
            jobs = client.pipeline(pipeline_id).jobs
            broken = {key: job.error for key, job in jobs.items() if job.error}
            assert broken == {}, platform.last_log_lines()
            return {job.state for job in jobs.values()} == {"succeeded"}

        wait_until(all_succeeded, "the recipe has succeeded", seconds=1000, poll=1.0)
        jobs = client.pipeline(pipeline_id).jobs
        checkpoints = client.checkpoints(jobs["train"].id)
        assert [(c.step, c.num_parameters) for c in checkpoints] == [(2, 12_496_960)]
        point = client.metrics(jobs["chat"].id).series["validation"][-1]
        assert (point.step, point.values.keys() >= {"bits_per_byte", "all_token_loss"}) == (2, True)
        wait_until_served(platform, "ryan-gpt-chat")
        answer = platform.result("chat", "Hello", "--max_tokens", "8", "--temperature", "0")
        assert (answer["model"], answer["usage"]["completion_tokens"]) == ("ryan-gpt-chat", 8)
        assert platform.interrupt() == 0
