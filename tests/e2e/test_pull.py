"""`ryangpt pull`: a checkpoint of the reference implementation, taken in, served and asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shared.contracts.names import END_TOKEN
from shared.text.foreign_vocabulary import read_reference_vocabulary
from tests.support.journey import wait_until_served
from tests.support.platforms import running_platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_a_reference_checkpoint_is_pulled_and_answers(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "reference"
    expected = json.loads((source / "expected.json").read_text())["cases"][0]
    vocabulary = read_reference_vocabulary(source / "vocab.json", source / "merges.txt")
    contents = vocabulary.tokenizer.token_contents
    greedy = b"".join(contents[vocabulary.rows.index(old)] for old in expected["greedy_16"])
    assert END_TOKEN.encode() not in greedy
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(source / "ckpt_final.pt", alone)
    with running_platform(tmp_path / "data") as platform, platform.client() as client:
        refused = platform.ryangpt("pull", str(alone), "--model", "reference", succeeds=False)
        assert refused.returncode == 1
        assert "ckpt_final.pt comes without its tokenizer" in refused.stderr
        assert client.models() == []
        platform.result("pull", str(alone), "--model", "reference", "--tokenizer", str(source))
        wait_until_served(platform, "reference")
        answer = platform.result(
            *("complete", expected["prompt"], "--model", "reference"),
            *("--max_tokens", "16", "--temperature", "0"),
        )
        assert answer["choices"][0]["text"].encode() == greedy
        (model,) = client.models()
        assert (model.name, model.served_version, model.versions[0].step) == ("reference", 1, 60)
        assert platform.interrupt() == 0
