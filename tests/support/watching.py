"""A watch for work that is called directly, and the lines it has sent."""

from __future__ import annotations

from services.tokenizer.watch import Watch
from shared.contracts.progress import ProgressMessage


def quiet_watch() -> Watch:
    """A watch whose lines nobody reads and that never stops the work."""
    return Watch(lambda line: None, lambda: False)


def recording_watch(stop_after: int | None = None) -> tuple[Watch, list[ProgressMessage]]:
    """A watch and the list its lines go to; it stops the work at step `stop_after` + 1."""
    lines: list[ProgressMessage] = []
    steps = 0

    def should_stop() -> bool:
        nonlocal steps
        steps += 1
        return stop_after is not None and steps > stop_after

    return Watch(lines.append, should_stop), lines
