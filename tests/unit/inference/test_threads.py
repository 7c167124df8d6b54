"""Who computes with how many threads while a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from services.inference.threads import Cores, ThreadCount


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_loading_takes_one_of_the_engines_threads_until_it_ends() -> None:
    cores = Cores(3)
    assert cores.for_engine() == 3
    with cores.loading():
        assert cores.for_engine() == 2
        with cores.loading():
            assert cores.for_engine() == 1
    assert cores.for_engine() == 3
    with pytest.raises(ValueError, match="torn"), cores.loading():
        raise ValueError("torn")
    assert cores.for_engine() == 3


def test_the_engine_always_has_a_thread() -> None:
    cores = Cores(1)
    with cores.loading():
        assert cores.for_engine() == 1


def test_loading_computes_with_one_thread_and_leaves_the_number_as_it_was() -> None:
    torch.set_num_threads(4)
    with Cores(4).loading():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4


def test_what_one_thread_sets_is_not_taken_over_by_another() -> None:
    """torch gives a thread its process's number when it first asks: not after it has been set."""
    torch.set_num_threads(1)
    engine = ThreadPoolExecutor(1)

    def ask(question: Callable[[], object]) -> object:
        return engine.submit(question).result()

    count = engine.submit(ThreadCount).result()
    ask(lambda: count.set(3))
    torch.set_num_threads(2)
    assert ask(torch.get_num_threads) == 3
    ask(lambda: torch.ones(1000, 1000).sum())
    assert ask(torch.get_num_threads) == 3
    assert torch.get_num_threads() == 2
    engine.shutdown()
