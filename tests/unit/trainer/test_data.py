"""What is seen, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.data import DataOrder, WindowData, numbers, token_stream
from shared.base.errors import JobFailedError
from shared.text.token_set import TokenSplit
from tests.support.models import write_documents

CPU = torch.device("cpu")


@given(seed=st.integers(0, 2**63 - 1), size=st.integers(1, 200), epoch=st.integers(0, 50))
def test_every_epoch_is_a_permutation(seed: int, size: int, epoch: int) -> None:
    epochs, rows = DataOrder(seed=seed, num_sequences=size).locate(epoch * size, size)
    assert set(epochs.tolist()) == {epoch}
    assert sorted(rows.tolist()) == list(range(size))


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 300), st.integers(1, 90))
def test_the_order_does_not_depend_on_where_one_begins(
    seed: int, size: int, first: int, count: int
) -> None:
    whole = DataOrder(seed=seed, num_sequences=size).locate(0, first + count)
    part = DataOrder(seed=seed, num_sequences=size).locate(first, count)
    for expected, found in zip(whole, part, strict=True):
        assert expected[first:].tolist() == found.tolist()


def test_seeds_and_epochs_differ() -> None:
    order = DataOrder(seed=1, num_sequences=50)
    _, rows = order.locate(0, 100)
    _, other = DataOrder(seed=2, num_sequences=50).locate(0, 50)
    assert rows[:50].tolist() != rows[50:].tolist()
    assert rows[:50].tolist() != other.tolist()


def windows(data: WindowData, epoch: int) -> list[list[int]]:
    count = data.num_sequences
    batch = data.batch(np.full(count, epoch), np.arange(count))
    assert torch.equal(batch.ids[:, 1:], batch.targets[:, :-1])
    return torch.cat([batch.ids, batch.targets[:, -1:]], dim=1).tolist()


def test_first_epoch_cuts_the_stream_at_its_beginning() -> None:
    data = WindowData(np.arange(11, dtype=np.uint16), context=3, seed=0, device=CPU)
    assert windows(data, 0) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_later_epochs_cut_elsewhere_and_wrap_around() -> None:
    data = WindowData(np.arange(11, dtype=np.uint16), context=3, seed=0, device=CPU)
    starts = set()
    for epoch in range(1, 20):
        cut = windows(data, epoch)
        starts.add(cut[0][0])
        flat = [token for window in cut for token in window[:3]]
        assert flat == [(cut[0][0] + i) % 11 for i in range(9)]
    assert starts == {0, 1, 2}


def test_large_ids_survive_their_way_as_signed_numbers() -> None:
    data = WindowData(np.array([65_535, 32_768, 1], np.uint16), context=2, seed=0, device=CPU)
    assert windows(data, 0) == [[65_535, 32_768, 1]]


def test_fewer_tokens_than_one_window_is_an_error() -> None:
    with pytest.raises(JobFailedError, match="has 3 tokens, fewer than one window of 4") as caught:
        WindowData(np.arange(3, dtype=np.uint16), context=3, seed=0, device=CPU)
    assert caught.value.code == "bad_data"


def test_an_id_outside_the_vocabulary_is_an_error(tmp_path: Path) -> None:
    split = TokenSplit(write_documents(tmp_path / "t", [[5, 300, 0]], [[5, 0]]), "train")
    with pytest.raises(JobFailedError, match="holds id 300, but its vocabulary ends at 299"):
        token_stream(split)


def test_a_window_names_its_documents() -> None:
    lengths = np.array([5, 3, 10, 2, 7], np.uint32)  # ends: 5, 8, 18, 20, 27
    data = WindowData(
        np.arange(27, dtype=np.uint16), context=4, seed=1, device=CPU,
        document_lengths=lengths,
    )  # fmt: skip
    epochs = np.zeros(1, np.int64)

    def documents(row: int) -> str:
        return data.describe(epochs, np.array([row])).split(" of the")[0]

    # A window of row r holds tokens 4r to 4r + 4, the last one as a target only.
    assert [documents(row) for row in (0, 1, 2, 4)] == [
        "documents 0", "documents 0-2", "documents 2", "documents 2-4"
    ]  # fmt: skip


def test_numbers_for_people() -> None:
    assert numbers(np.array([7, 3, 4, 5, 3, 9])) == "3-5, 7, 9"
    assert numbers(np.arange(0, 200, 2)).endswith("60, 62 and 68 more places")
