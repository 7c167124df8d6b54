"""Generation without values: on torch's meta device whatever looks at one, or is on another
device, fails. What comes back to the host is replaced by zeros."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from services.inference.attention import SdpaBackend
from services.inference.resident import runner
from services.inference.resident.decode_step import recompute
from services.inference.runtime import Runtime, resident_runtime
from services.inference.sequence import FinishReason
from shared.base.settings import Settings
from tests.support.generation import ResidentBench, answer_ids
from tests.support.serving import SMALL_MODELS, random_model

META = torch.device("meta")


class Nowhere(ResidentBench):
    """An engine whose device holds no numbers."""

    @staticmethod
    def open_runtime(settings: Settings) -> Runtime:
        attention = SdpaBackend()
        return resident_runtime(
            settings, device=META, dtype=torch.bfloat16, attention=attention, capture=recompute
        )


class Zeros:
    """Arrives with the right shape."""

    def __init__(self, *tensors: Tensor) -> None:
        assert {tensor.device for tensor in tensors} == {META}
        self._tensors = tensors

    def wait(self) -> list[Tensor]:
        return [torch.zeros(one.shape, dtype=one.dtype) for one in self._tensors]


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "repetition_penalty": 2.0, "logit_bias": ((5, 1.0),)},
        {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 0.0, "min_tokens": 2, "end_ids": frozenset({1, 2})},
        {"temperature": 0.0, "logprobs": 2, "prompt_logprobs": 1},
    ],
)
@pytest.mark.parametrize("family", sorted(SMALL_MODELS))
def test_no_step_looks_at_a_value_or_at_another_device(
    family: str, wishes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "Arrival", Zeros)
    bench = Nowhere(num_slots=4, token_budget=8)
    loaded = bench.load(random_model(SMALL_MODELS[family]))
    sequences = bench.add_choices(loaded, [[5, 6, 7], [5, 6, 7], [8]], max_tokens=4, **wishes)
    bench.engine.step()
    sequences.append(bench.add(loaded, list(range(20)), max_tokens=6, **wishes))
    bench.finish()
    assert [one.finish_reason for one in sequences] == [FinishReason.LENGTH] * 4
    assert [answer_ids(one) for one in sequences] == [[0] * 4] * 3 + [[0] * 6]


def test_the_meta_device_does_find_out_who_looks() -> None:
    numbers = torch.zeros(3, device=META)
    with pytest.raises(RuntimeError, match="meta"):
        numbers.sum().item()
    with pytest.raises(NotImplementedError, match="meta"):
        numbers[numbers > 0]
    with pytest.raises(RuntimeError, match="device"):
        numbers + torch.zeros(3)
