"""Generation without values: on torch's meta device whatever looks at one, or is on another
device, fails. What comes back to the host is replaced by zeros."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from services.inference.attention import SdpaBackend
from services.inference.resident import runner
from services.inference.resident.decode_step import recompute
from services.inference.runtime import Runtime, resident_runtime
from services.inference.sequence import FinishReason
from shared.base.settings import Settings
from tests.support.generation import ResidentBench, answer_ids
from tests.support.serving import SMALL_MODELS, random_model

META = torch.device("meta")
WISHES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "repetition_penalty": 2.0, "logit_bias": ((5, 1.0),)},
    {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 0.0, "min_tokens": 2, "end_ids": frozenset({1, 2})},
    {"temperature": 0.0, "logprobs": 2, "prompt_logprobs": 1},
]


class Nowhere(ResidentBench):
    """An engine whose device holds no numbers."""

    @staticmethod
    def open_runtime(settings: Settings) -> Runtime:
        attention = SdpaBackend()
        return resident_runtime(
            settings,
            device=META,
            dtype=torch.bfloat16,
            attention=attention,
            new_capture=lambda: recompute,
        )


class Zeros:
    """Arrives with the right shape."""

    def __init__(self, *tensors: Tensor) -> None:
        assert {tensor.device for tensor in tensors} == {META}
        self._tensors = tensors

    def wait(self) -> list[Tensor]:
        return [torch.zeros(one.shape, dtype=one.dtype) for one in self._tensors]


@pytest.mark.parametrize("wishes", WISHES)
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


class HostTensors(TorchDispatchMode):
    """Notes where in the engine tensors are made of the host's numbers: on CUDA each is a copy that
    waits for all that was launched, and refused within a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            own = [frame for frame in traceback.extract_stack() if "services/inference" in frame[0]]
            place = own[-1]
            if not place.filename.endswith("inference/transfer.py"):
                self.found.append(f"{place.filename}:{place.lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("wishes", WISHES)
def test_only_transfers_bring_numbers_from_the_host(wishes: dict[str, Any]) -> None:
    bench = ResidentBench(num_slots=4, token_budget=8)
    loaded = bench.load(random_model(SMALL_MODELS["arcee"]))
    bench.add_choices(loaded, [[5, 6, 7], [5, 6, 7], [8]], max_tokens=4, **wishes)
    bench.engine.step()
    bench.add(loaded, list(range(20)), max_tokens=6, **wishes)
    with HostTensors() as host:
        bench.finish()
    assert host.found == []


def test_the_mode_does_find_a_number_from_the_host() -> None:
    bench = ResidentBench(num_slots=1)
    loaded = bench.load(random_model(SMALL_MODELS["arcee"]))
    bench.add(loaded, [5])

    def assign(*_: Any) -> Any:
        torch.zeros(3)[torch.tensor([1])] = True
        raise RuntimeError

    loaded.network.forward = assign  # type: ignore[method-assign]
    with HostTensors() as host:
        bench.finish()
    assert host.found


def test_the_meta_device_does_find_out_who_looks() -> None:
    numbers = torch.zeros(3, device=META)
    with pytest.raises(RuntimeError, match="meta"):
        numbers.sum().item()
    with pytest.raises(NotImplementedError, match="meta"):
        numbers[numbers > 0]
    with pytest.raises(RuntimeError, match="device"):
        numbers + torch.zeros(3)
