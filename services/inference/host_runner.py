"""Steps whose tokens the host has at once: the CPU's way. Knows no thread and no text.

A step is computed while it is launched, so landing it only hands over the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.inference.loaded_model import LoadedModel, batch_row
from services.inference.runner import Outcome, last_logits, scored_parts
from services.inference.sampler import SampleRow, prompt_logprobs, sample
from services.inference.scheduler import Row
from services.inference.sequence import TokenLogprobs
from services.inference.threads import Cores, ThreadCount


class _Landed(NamedTuple):
    outcomes: list[Outcome]

    def land(self) -> list[Outcome]:
        return self.outcomes


class HostRunner:
    """See the module."""

    stays_behind = False

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._threads: ThreadCount | None = None

    def is_usable(self) -> bool:
        """See Runner."""
        return True

    @torch.inference_mode()
    def launch(self, model: LoadedModel, rows: Sequence[Row]) -> _Landed:
        """See Runner."""
        self._threads = self._threads or ThreadCount()
        self._threads.set(self._cores.for_engine())
        for row in rows:
            if row.copies is not None:
                model.cache.copy(row.copies, row.slot, row.start)
        logits = model.compute([batch_row(row) for row in rows])
        scores: dict[int, list[TokenLogprobs]] = {}
        if any(row.scores_prompt for row in rows):
            for part in scored_parts(rows):
                of_part = logits[part.first : part.first + len(part.tokens)]
                scores[part.row] = prompt_logprobs(of_part, part.tokens, part.top)
            logits = logits[last_logits(rows)]
        wanted = [
            SampleRow(
                params=row.sequence.sampling,
                tokens=row.sequence.tokens,
                num_prompt=len(row.sequence.prompt),
            )
            for row in rows
            if row.samples
        ]
        drawn = iter(sample(logits, wanted))
        return _Landed(
            [
                Outcome(next(drawn) if row.samples else None, scores.get(number, ()))
                for number, row in enumerate(rows)
            ]
        )
