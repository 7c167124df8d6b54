"""How many threads torch computes with in one thread of a process. Knows no model.

torch splits an operator over a pool of threads, one pool for each thread that asks. With a second
pool there are more threads than cores, and OpenMP lets all of them sleep after each operator, for
as long as the thread that asked lives: a step of a small model takes a fifth longer in training,
and twice as long in generation. So only one thread of a process may compute with several.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute without a pool, beside a thread that has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
