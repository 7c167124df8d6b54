"""What only a CUDA device can show: captured steps, and copies that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from services.inference.attention import SdpaBackend
from services.inference.resident.decode_step import Capture, CudaGraphs, recompute
from services.inference.runtime import Runtime, resident_runtime
from services.inference.transfer import Arrival
from shared.base.settings import Settings
from tests.support.generation import ResidentBench, answer_ids
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
ONE, TWO = (random_model(SMALL_MODELS["arcee"], seed) for seed in range(2))
WISHES = [
    {}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.8, "seed": 6, "top_p": 0.9},
    {"repetition_penalty": 1.3, "logprobs": 2},
]  # fmt: skip


def bench_with(new_capture: Callable[[], Capture]) -> ResidentBench:
    """An engine on the device in float32, so that its tokens are those of the CPU."""

    class OnDevice(ResidentBench):
        @staticmethod
        def open_runtime(settings: Settings) -> Runtime:
            return resident_runtime(
                settings,
                device=CUDA,
                dtype=torch.float32,
                attention=SdpaBackend(),
                new_capture=new_capture,
            )

    return OnDevice(num_slots=5)


def answers(new_capture: Callable[[], Capture]) -> list[list[int]]:
    bench = bench_with(new_capture)
    loaded = bench.load(ONE)
    sequences = []
    for number, wishes in enumerate(WISHES * 2):
        sequences.append(bench.add(loaded, [5 + number, 6], **{"max_tokens": 15, **wishes}))
        bench.engine.step()
    bench.finish()
    return [answer_ids(one) for one in sequences]


def test_captured_steps_draw_what_their_operators_draw() -> None:
    found = answers(CudaGraphs)
    assert found == answers(lambda: recompute)
    assert found[0] == greedy_without_cache(ONE, [5, 6], 15)


def test_captured_steps_compute_with_the_weights_that_were_copied_in_afterwards() -> None:
    bench = bench_with(CudaGraphs)
    old = bench.load(ONE)
    begun = bench.add(old, [5, 6])
    for _ in range(4):
        bench.engine.step()
    after = bench.add(bench.load(TWO, version=2), [5, 6])
    bench.finish()
    assert answer_ids(begun) == greedy_without_cache(ONE, [5, 6], 20)
    assert answer_ids(after) == greedy_without_cache(TWO, [5, 6], 20)


def test_an_arrival_holds_what_was_there_when_it_began() -> None:
    tensor = torch.zeros(1000, device=CUDA)
    arrivals = []
    for number in range(50):
        tensor.fill_(number)
        arrivals.append(Arrival(tensor))
    for number, arrival in enumerate(arrivals):
        (arrived,) = arrival.wait()
        assert arrived.is_pinned()
        assert set(arrived.tolist()) == {number}
