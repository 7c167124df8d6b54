"""Computing without a pool of threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from shared.model.threads import one_thread

TASKS = Path("/proc/self/task")


def test_the_number_of_threads_is_one_and_afterwards_as_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with one_thread():
            assert torch.get_num_threads() == 1
        with pytest.raises(ValueError, match="torn"), one_thread():
            raise ValueError("torn")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts the threads that Linux lists")
@pytest.mark.parametrize(("alone", "pools"), [(True, 0), (False, 1)])
def test_no_pool_is_left_behind(alone: bool, pools: int) -> None:
    """Two threads: whoever splits an operator gets one more, for as long as it lives."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = []

    def compute() -> None:
        torch.get_num_threads()
        start = len(list(TASKS.iterdir()))
        if alone:
            with one_thread():
                torch.ones(1000, 1000).exp()
        else:
            torch.ones(1000, 1000).exp()
        found.append(len(list(TASKS.iterdir())) - start)

    try:
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert found == [pools]
