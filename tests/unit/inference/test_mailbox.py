"""What the engine's thread puts out reaches each reader, whole and in order, with few hops."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.inference import mailbox as module
from services.inference.mailbox import Dispatcher, Mailbox
from services.inference.sequence import Delta, FinishReason, Sequence
from tests.unit.inference.builders import make_sequence


def piece(text: str, *, last: bool = False) -> Delta:
    return Delta(text=text, tokens=(1,), finish_reason=FinishReason.LENGTH if last else None)


def test_a_slow_reader_gets_fewer_and_larger_pieces() -> None:
    async def read() -> list[dict[int, Delta]]:
        mailbox = Mailbox()
        for choice, text in ((0, "a"), (1, "x"), (0, "b")):
            mailbox.put(choice, piece(text))
        first = await mailbox.take()
        waiting = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        mailbox.put(1, piece("y"))
        return [first, await waiting]

    first, second = asyncio.run(read())
    assert {choice: delta.text for choice, delta in first.items()} == {0: "ab", 1: "x"}
    assert {choice: delta.text for choice, delta in second.items()} == {1: "y"}


def test_a_reader_of_whole_answers_wakes_for_ends_only() -> None:
    async def read() -> dict[int, Delta]:
        mailbox = Mailbox(only_ends=True)
        waiting = asyncio.create_task(mailbox.take())
        for text in "ab":
            mailbox.put(0, piece(text))
            await asyncio.sleep(0)
            assert not waiting.done()
        mailbox.put(0, piece("c", last=True))
        return await waiting

    assert asyncio.run(read())[0].text == "abc"


def test_an_end_that_came_before_the_reader_is_not_waited_for() -> None:
    async def read() -> dict[int, Delta]:
        mailbox = Mailbox(only_ends=True)
        mailbox.put(0, piece("a", last=True))
        return await mailbox.take()

    assert asyncio.run(read())[0].text == "a"


@pytest.mark.parametrize(("readers", "most_hops"), [(1, 400), (module.COALESCE_FROM, 20)])
def test_nothing_is_lost_between_threads(
    monkeypatch: pytest.MonkeyPatch, readers: int, most_hops: int
) -> None:
    """Many readers share hops that are a window apart; here the window outlasts the test."""
    monkeypatch.setattr(module, "COALESCE_SECONDS", 0.5)
    sequences = [make_sequence() for _ in range(readers)]
    hops = []

    async def run() -> list[str]:
        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher()
        dispatcher.attach(loop)
        boxes = [Mailbox() for _ in sequences]
        for sequence, box in zip(sequences, boxes, strict=True):
            dispatcher.open(sequence, box, 0)

        async def read(box: Mailbox) -> str:
            text = ""
            while True:
                delta = (await box.take())[0]
                hops.append(1)
                text += delta.text
                if delta.finish_reason:
                    return text

        tasks = [asyncio.create_task(read(box)) for box in boxes]
        engine = threading.Thread(target=put_out, args=(dispatcher, sequences))
        engine.start()
        texts = await asyncio.gather(*tasks)
        engine.join()
        return texts

    expected = "".join(str(number % 10) for number in range(400))
    assert asyncio.run(run()) == [expected] * readers
    assert len(hops) <= most_hops * readers


def put_out(dispatcher: Dispatcher, sequences: list[Sequence]) -> None:
    for number in range(400):
        delta = piece(str(number % 10), last=number == 399)
        dispatcher.deliver([(sequence, delta) for sequence in sequences])


def test_a_closed_sequence_is_forgotten() -> None:
    async def run() -> list[dict[int, Delta]]:
        dispatcher = Dispatcher()
        dispatcher.attach(asyncio.get_running_loop())
        kept, gone = make_sequence(), make_sequence()
        box = Mailbox()
        dispatcher.open(kept, box, 0)
        dispatcher.open(gone, box, 1)
        dispatcher.close(gone)
        dispatcher.deliver([(gone, piece("x")), (kept, piece("a"))])
        return [await box.take()]

    (pending,) = asyncio.run(run())
    assert {choice: delta.text for choice, delta in pending.items()} == {0: "a"}
