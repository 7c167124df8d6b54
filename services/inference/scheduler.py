"""Decides which tokens of which requests go through the network next. Knows no torch, no HTTP.

Continuous batching: a request joins and leaves at any step. Each step has a token budget. Running
requests that generate come first, one token each, so that nobody's stream stalls behind another's
long prompt; what is left of the budget goes to prompts, in chunks, oldest first. A request keeps
its slot of the key/value cache from its first chunk to its end: a slot holds a whole context, so
nothing is ever preempted. Of several choices that go on from one prompt, the first computes it and
the others copy its slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from services.inference.sequence import Sequence
from shared.base.errors import InvalidInputError, UnavailableError


class QueueFullError(UnavailableError):
    """As many requests wait as may."""

    status_code = 429
    code = "queue_full"


class NeverFitsError(InvalidInputError):
    """A request that no slot could ever hold."""

    code = "context_length_exceeded"


class Row(NamedTuple):
    """Tokens `start` to `start + num_tokens` of one sequence, to be computed in the next step."""

    sequence: Sequence
    slot: int
    start: int
    num_tokens: int
    samples: bool
    """Whether the last token is among them, so that the next one can be drawn."""
    scores_prompt: bool = False
    """Whether the logprobs of the prompt's tokens are wanted."""
    copies: int | None = None
    """A slot from which what is cached before `start` is to be copied first."""

    @property
    def end(self) -> int:
        """Tokens of the sequence that are cached after the step."""
        return self.start + self.num_tokens

    @property
    def generates(self) -> bool:
        """Whether its one token was drawn by a step before, and is no part of the prompt."""
        return self.start >= len(self.sequence.prompt)

    @property
    def ids(self) -> list[int]:
        """Its tokens, without one that nobody has told the host yet."""
        return self.sequence.tokens[self.start : self.end]

    @property
    def num_logits(self) -> int:
        """Of how many of its last tokens logits are wanted."""
        return self.num_tokens if self.scores_prompt else int(self.samples)

    @property
    def following(self) -> list[int]:
        """The tokens of the prompt that follow its own: those whose logprobs it finds."""
        return self.sequence.tokens[self.start + 1 : self.end + 1]


class Scheduler:
    """Waiting queue, slots and token budget. Not thread-safe: its engine holds a lock."""

    def __init__(
        self,
        *,
        num_slots: int,
        token_budget: int,
        max_waiting: int,
        max_waiting_tokens: int | None = None,
    ) -> None:
        """Needs `token_budget > num_slots`: prompts must progress beside full slots.

        At most `max_waiting` sequences, with prompts of at most `max_waiting_tokens` together, wait
        beyond those for which a slot is free.
        """
        if not 0 < num_slots < token_budget:
            raise ValueError(f"token_budget {token_budget} must exceed num_slots {num_slots} > 0")
        self.num_slots = num_slots
        self.token_budget = token_budget
        self.max_waiting = max_waiting
        self.max_waiting_tokens = max_waiting_tokens
        self._free_slots = list(range(num_slots))
        heapify(self._free_slots)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that hold none yet."""
        return len(self._waiting)

    def add(self, *sequences: Sequence) -> None:
        """Queue sequences: all of them, or none.

        Raises QueueFullError when not all may wait, NeverFitsError when prompt and answer of one
        together are longer than a slot.
        """
        for sequence in sequences:
            needed = len(sequence.prompt) + sequence.sampling.max_tokens
            if needed > sequence.capacity:
                raise NeverFitsError(
                    f"Prompt and answer need {needed} tokens; there is room for "
                    f"{sequence.capacity}."
                )
        self._refuse_beyond_queue(sequences)
        self._waiting.extend(sequences)

    def _refuse_beyond_queue(self, sequences: Collection[Sequence]) -> None:
        waiting = self.num_waiting + len(sequences)
        if waiting > self.max_waiting + len(self._free_slots):
            raise QueueFullError(
                f"{self.num_waiting} requests are waiting already; try again shortly.",
                retry_after=1,
            )
        if self.max_waiting_tokens is None or waiting <= len(self._free_slots):
            return
        tokens = sum(len(one.prompt) for one in self._waiting)
        if tokens + sum(len(one.prompt) for one in sequences) > self.max_waiting_tokens:
            raise QueueFullError(
                f"Prompts of {tokens} tokens are waiting already; try again shortly.",
                retry_after=1,
            )

    def plan(self) -> list[Row]:
        """Choose the next step's rows: generating sequences, then prompts in order of arrival."""
        rows = [_row(seq, 1) for seq in self._running.values() if _goes_on(seq)]
        budget = self.token_budget - len(rows)
        for sequence in self._prompts():
            if budget == 0:
                break
            row = self._prompt_row(sequence, budget)
            if row is not None:
                rows.append(row)
                budget -= row.num_tokens
        return rows

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free its slot; unknown ones are no error."""
        if self._running.pop(sequence.number, None) is not None:
            heappush(self._free_slots, _slot(sequence))
            sequence.slot = None
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def sequences(self) -> list[Sequence]:
        """Every sequence, running ones first."""
        return [*self._running.values(), *self._waiting]

    def _prompts(self) -> Iterator[Sequence]:
        """Unfinished prompts: those that run, then those that wait, each given its slot."""
        yield from [seq for seq in self._running.values() if _remaining(seq) > 1]
        while self._waiting and self._free_slots:
            sequence = self._waiting.popleft()
            # The lowest slot, so that the slots in use stay together at the cache's beginning.
            sequence.slot = heappop(self._free_slots)
            self._running[sequence.number] = sequence
            sequence.binding.is_fixed = True
            yield sequence

    def _prompt_row(self, sequence: Sequence, budget: int) -> Row | None:
        """The next piece of a prompt; None while another choice computes the same one.

        Each choice computes the prompt's last token itself, for its logits. The first one waits
        with it for the others: it might end with the next token and free what they copy.
        """
        others = [one for one in self._running.values() if _shares_prompt(one, sequence)]
        if others and others[0] is not sequence:
            is_computed = others[0].num_cached >= len(sequence.prompt) - 1
            return _row(sequence, 1, copied=others[0]) if is_computed else None
        remaining = _remaining(sequence)
        follows = len(others) > 1 or bool(
            self._waiting and self._free_slots and _shares_prompt(self._waiting[0], sequence)
        )
        return _row(sequence, min(budget, remaining - 1 if follows else remaining))


def _remaining(sequence: Sequence) -> int:
    """Tokens that are not cached yet: one while generating."""
    return sequence.num_tokens - sequence.num_cached


def _goes_on(sequence: Sequence) -> bool:
    """Whether exactly one token is left to compute, and it is not known to be the last one."""
    if _remaining(sequence) != 1:
        return False
    pending = sequence.num_pending
    return not pending or sequence.num_generated + pending < sequence.sampling.max_tokens


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise RuntimeError(f"sequence {sequence.number} runs without a slot")
    return sequence.slot


def _shares_prompt(one: Sequence, other: Sequence) -> bool:
    """Whether two sequences are choices of one request that begin alike and score no prompt."""
    return (
        one.binding is other.binding
        and len(one.prompt) > 1
        and one.prompt == other.prompt
        and one.sampling.prompt_logprobs is None
        and other.sampling.prompt_logprobs is None
    )


def _row(sequence: Sequence, count: int, *, copied: Sequence | None = None) -> Row:
    """The next `count` tokens, after those cached or, first, to be copied from another choice."""
    start = sequence.num_cached if copied is None else len(sequence.prompt) - count
    sampling = sequence.sampling
    return Row(
        sequence=sequence,
        slot=_slot(sequence),
        start=start,
        num_tokens=count,
        samples=start + count == sequence.num_tokens and sampling.max_tokens > 0,
        scores_prompt=start < len(sequence.prompt) and sampling.prompt_logprobs is not None,
        copies=None if copied is None else _slot(copied),
    )
