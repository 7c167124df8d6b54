"""Carries what the engine's thread puts out to readers on the event loop: one hop a step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Items

from services.inference.engine import Engine
from services.inference.loaded_model import LoadedModel
from services.inference.sequence import Delta, Sequence


class Dispatcher:
    """The engine's `deliver`. Mailboxes are opened and closed on the event loop's thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailboxes: dict[int, asyncio.Queue[Delta]] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop on which readers wait; before the engine starts."""
        self._loop = loop

    def deliver(self, deltas: list[tuple[Sequence, Delta]]) -> None:
        """Hand on one step's deltas; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._spread, deltas)

    def open(self, sequence: Sequence) -> asyncio.Queue[Delta]:
        """Begin to collect what a sequence puts out."""
        mailbox: asyncio.Queue[Delta] = asyncio.Queue()
        self._mailboxes[sequence.number] = mailbox
        return mailbox

    def close(self, sequence: Sequence) -> None:
        """Collect no longer."""
        self._mailboxes.pop(sequence.number, None)

    def _spread(self, deltas: list[tuple[Sequence, Delta]]) -> None:
        for sequence, delta in deltas:
            mailbox = self._mailboxes.get(sequence.number)
            if mailbox is not None:
                mailbox.put_nowait(delta)


class Generation:
    """One submitted sequence, seen from the event loop. Always `close` it."""

    def __init__(self, engine: Engine, dispatcher: Dispatcher, sequence: Sequence) -> None:
        self.sequence = sequence
        self.num_tokens = 0
        """Tokens generated so far."""
        self._engine = engine
        self._dispatcher = dispatcher
        self._mailbox = dispatcher.open(sequence)
        self._first: Delta | None = None

    async def started(self) -> LoadedModel:
        """Wait for the first result; return the model, which no longer changes.

        While a sequence waits for its slot it may be given to a newer version of its model. What
        ends it before it begins is in the first delta, which `next` still returns.
        """
        if self._first is None:
            self._first = await self._mailbox.get()
        return self.sequence.model

    async def next(self) -> Delta:
        """Wait for more and return all there is, as one delta.

        A reader that is slower than the engine thereby gets fewer, larger pieces.
        """
        first, self._first = self._first, None
        delta = await self._mailbox.get() if first is None else first
        while not self._mailbox.empty():
            delta += self._mailbox.get_nowait()
        self.num_tokens += delta.num_tokens
        return delta

    def close(self) -> None:
        """Free what the sequence holds, if it has not ended yet."""
        self._dispatcher.close(self.sequence)
        self._engine.abort(self.sequence)


def submit(engine: Engine, dispatcher: Dispatcher, sequences: Items[Sequence]) -> list[Generation]:
    """Submit sequences, all or none. Raises what `Engine.submit` does."""
    generations = [Generation(engine, dispatcher, sequence) for sequence in sequences]
    try:
        engine.submit(*sequences)
    except Exception:
        for sequence in sequences:
            dispatcher.close(sequence)
        raise
    return generations
