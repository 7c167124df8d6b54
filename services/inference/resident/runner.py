"""Steps whose tokens stay on the device: the next one is launched before the last has landed.

Pure generation runs a captured step. A step with prompts in it is launched operator by operator;
rows in it that generate take their last token from the slot table, as nobody else knows it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from services.inference.loaded_model import BatchRow, LoadedModel
from services.inference.resident.sampling import effort_of, sample_slots
from services.inference.resident.scores import Scores, read_scores, score_drawn, score_prompts
from services.inference.resident.slot_table import Admission
from services.inference.resident.weight_sets import Resident
from services.inference.runner import Drawn, Outcome, last_logits
from services.inference.scheduler import Row
from services.inference.transfer import Arrival, to_device


class ResidentRunner:
    """See the module. Called by one thread."""

    stays_behind = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def is_usable(self) -> bool:
        """See Runner."""
        try:
            return int(torch.ones(1, device=self._device).sum()) == 1
        except RuntimeError:
            return False

    @torch.inference_mode()
    def launch(self, model: LoadedModel, rows: Sequence[Row]) -> _ResidentFlight:
        """See Runner."""
        resident = model.resident
        if resident is None:
            raise RuntimeError(f"{model.name}:{model.version} is in no weight set")
        _admit(resident, rows)
        if all(row.generates for row in rows):
            effort = effort_of(row.sequence.sampling for row in rows)
            step = resident.step(len(rows), effort)
            chosen, logits = step.run([row.slot for row in rows])
            return _ResidentFlight(rows, chosen, score_drawn(rows, logits, chosen))
        return _launch_mixed(model, resident, rows)


class _ResidentFlight:
    """Rows on the device, and what comes back of them."""

    def __init__(self, rows: Sequence[Row], chosen: Tensor, scores: list[Scores]) -> None:
        self._rows = rows
        self._scores = scores
        self._arrival = Arrival(chosen, *(one for score in scores for one in score.found))

    def land(self) -> list[Outcome]:
        """See Flight."""
        chosen, *found = self._arrival.wait()
        tokens = iter(chosen.tolist())
        drawn = [next(tokens) if row.samples else None for row in self._rows]
        logprobs, prompts = read_scores(self._scores, found, drawn)
        return [
            Outcome(
                None if token is None else Drawn(token, logprobs.get(row)), prompts.get(row, ())
            )
            for row, token in enumerate(drawn)
        ]


def _admit(resident: Resident, rows: Sequence[Row]) -> None:
    """Tell the device of sequences that draw for the first time."""
    table = resident.table
    table.admit(
        [
            Admission(one.number, row.slot, one.sampling, one.prompt)
            for row in rows
            if row.samples and not table.holds(row.slot, (one := row.sequence).number)
        ]
    )


def _launch_mixed(model: LoadedModel, resident: Resident, rows: Sequence[Row]) -> _ResidentFlight:
    """A step that has prompts in it."""
    table, device = resident.table, model.device
    for row in rows:
        if row.copies is not None:
            model.cache.copy(row.copies, row.slot, row.start)
    batch = model.pack([_batch_row(row) for row in rows], model.cache)
    starts = accumulate((row.num_tokens for row in rows), initial=0)
    generating = [
        (start, row.slot) for start, row in zip(starts, rows, strict=False) if row.generates
    ]
    if generating:
        places, slots = zip(*generating, strict=True)
        batch.ids[to_device(places, device)] = table.token[to_device(slots, device)]
    logits = model.network.forward(batch, model.cache)
    sampling = [row for row in rows if row.samples]
    last = logits[to_device(last_logits(rows), device)]
    slots_of = to_device([row.slot for row in sampling], device)
    table.length[slots_of] = to_device([row.end for row in sampling], device)
    effort = effort_of(row.sequence.sampling for row in sampling)
    chosen = sample_slots(last, slots_of, table, effort)
    scores = score_prompts(rows, logits)
    return _ResidentFlight(rows, chosen, [*scores, *score_drawn(rows, last, chosen)])


def _batch_row(row: Row) -> BatchRow:
    ids = (0,) if row.generates else row.ids  # the table knows better
    return BatchRow(ids=ids, start=row.start, slot=row.slot, num_logits=row.num_logits)
