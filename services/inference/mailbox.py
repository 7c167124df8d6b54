"""Carries what the engine's thread puts out to readers on the event loop.

At most one hop a step, whatever the number of requests. When many requests are answered at once,
hops are at least `COALESCE_SECONDS` apart: each reader then gets several tokens as one piece, and
the loop has time for all of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence as Items

from services.inference.engine import Engine
from services.inference.loaded_model import LoadedModel
from services.inference.sequence import Delta, Sequence

COALESCE_FROM = 16
"""Requests at once from which on pieces are put together."""
COALESCE_SECONDS = 0.02

Deltas = list[tuple[Sequence, Delta]]


class Mailbox:
    """What the choices of one request have put out and nobody has taken yet: a delta for each."""

    def __init__(self, *, only_ends: bool = False) -> None:
        """With `only_ends`, the reader sleeps until a choice has ended."""
        self._only_ends = only_ends
        self._pending: dict[int, Delta] = {}
        self._is_ready = False
        self._reader: asyncio.Future[None] | None = None

    def put(self, choice: int, delta: Delta) -> None:
        """Add to what is pending; wakes the reader."""
        before = self._pending.get(choice)
        self._pending[choice] = delta if before is None else before + delta
        if self._only_ends and delta.finish_reason is None:
            return
        self._is_ready = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def take(self) -> dict[int, Delta]:
        """Wait until there is something, and take all of it."""
        if not self._is_ready:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self._is_ready = False
        pending, self._pending = self._pending, {}
        return pending


class Dispatcher:
    """The engine's `deliver`. Mailboxes are opened and closed on the event loop's thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places: dict[int, tuple[Mailbox, int]] = {}
        self._lock = threading.Lock()
        self._arrived: list[Deltas] = []
        self._hop_is_due = False
        self._last_hop = 0.0

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop on which readers wait; before the engine starts."""
        self._loop = loop

    def deliver(self, deltas: Deltas) -> None:
        """Hand on one step's deltas; from any thread."""
        if self._loop is None:
            return
        with self._lock:
            self._arrived.append(deltas)
            if self._hop_is_due:
                return
            self._hop_is_due = True
        self._loop.call_soon_threadsafe(self._hop)

    def open(self, sequence: Sequence, mailbox: Mailbox, choice: int) -> None:
        """Begin to collect what a sequence puts out."""
        self._places[sequence.number] = (mailbox, choice)

    def close(self, sequence: Sequence) -> None:
        """Collect no longer."""
        self._places.pop(sequence.number, None)

    def _hop(self) -> None:
        """Spread what has arrived, now or, with many readers, when the last time is past enough."""
        loop = asyncio.get_running_loop()
        rest = self._last_hop + COALESCE_SECONDS - loop.time()
        if rest > 0 and len(self._places) >= COALESCE_FROM:
            loop.call_later(rest, self._spread, loop)
        else:
            self._spread(loop)

    def _spread(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
            self._hop_is_due = False
        self._last_hop = loop.time()
        for deltas in arrived:
            for sequence, delta in deltas:
                place = self._places.get(sequence.number)
                if place is not None:
                    place[0].put(place[1], delta)


class Generation:
    """The choices of one request being generated, seen from the event loop. Always `close` it."""

    def __init__(
        self, engine: Engine, dispatcher: Dispatcher, sequences: Items[Sequence], *, stream: bool
    ) -> None:
        """Submit all sequences, or none. Raises what `Engine.submit` does."""
        self.sequences = tuple(sequences)
        self._engine = engine
        self._dispatcher = dispatcher
        self._mailbox = Mailbox(only_ends=not stream)
        for choice, sequence in enumerate(self.sequences):
            dispatcher.open(sequence, self._mailbox, choice)
        try:
            engine.submit(*self.sequences)
        except Exception:
            self._leave()
            raise

    async def next(self) -> dict[int, Delta]:
        """Wait for more and return all there is: a delta for each choice that has any.

        A reader that is slower than the engine thereby gets fewer, larger pieces.
        """
        return await self._mailbox.take()

    def fix_version(self) -> LoadedModel:
        """The version that answers, which does not change from now on."""
        self._engine.fix_version(self.sequences[0])
        return self.sequences[0].model

    def close(self) -> None:
        """Free what the sequences hold, if they have not ended yet."""
        self._leave()
        for sequence in self.sequences:
            self._engine.abort(sequence)

    def _leave(self) -> None:
        for sequence in self.sequences:
            self._dispatcher.close(sequence)
