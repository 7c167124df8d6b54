"""What the device has to know of every running sequence, by slot. Knows no network.

S slots, one more than can run: the last is scratch, for rows that only fill a batch up. V tokens in
the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from services.inference.sequence import SamplingParams
from services.inference.transfer import to_device

NUMBERS = (
    "temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
)  # fmt: skip
"""Wishes that are kept as float32, by their names in SamplingParams."""
COUNTS = ("seed", "top_k", "min_tokens")
"""Wishes that are kept as whole numbers; a top_k of 0 as the size of the vocabulary."""


class Admission(NamedTuple):
    """A sequence that is about to draw its first token."""

    number: int
    """The sequence's own."""
    slot: int
    params: SamplingParams
    prompt: Sequence[int]


class SlotTable:
    """Progress and wishes of all slots."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        """For `num_slots` sequences at once; they are told apart from scratch by their number."""
        self.scratch = num_slots
        self.vocab_size = vocab_size
        self._device = device
        size = num_slots + 1

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.token = zeros(size)
        """(S,) the last token, whose keys and values are not cached yet."""
        self.length = zeros(size)
        """(S,) cached tokens: the place of `token` in its sequence."""
        self.num_generated = zeros(size)
        """(S,) tokens of the answer so far."""
        self._numbers = zeros(len(NUMBERS), size, dtype=torch.float32)
        self._counts = zeros(len(COUNTS), size)
        self.answered = zeros(size, vocab_size, dtype=torch.int16)
        """(S, V) how often a token is in the answer."""
        self.seen = zeros(size, vocab_size, dtype=torch.bool)
        """(S, V) whether a token is in prompt or answer."""
        self.bias = zeros(size, vocab_size, dtype=torch.float32)
        """(S, V) what is added to logits first."""
        self.ends = zeros(size, vocab_size, dtype=torch.bool)
        """(S, V) tokens that may not be drawn before `min_tokens`."""
        self._numbers[NUMBERS.index("repetition_penalty")] = 1.0  # scratch: no division by zero
        self._holders: dict[int, int] = {}

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        tensors = (
            self.token, self.length, self.num_generated, self._numbers, self._counts,
            self.answered, self.seen, self.bias, self.ends,
        )  # fmt: skip
        return sum(tensor.nbytes for tensor in tensors)

    def number(self, name: str, slots: Tensor) -> Tensor:
        """(B, 1) a wish out of NUMBERS, for the rows' slots (B,)."""
        return self._numbers[NUMBERS.index(name)][slots][:, None]

    def count(self, name: str, slots: Tensor) -> Tensor:
        """(B,) a wish out of COUNTS, for the rows' slots (B,)."""
        return self._counts[COUNTS.index(name)][slots]

    def holds(self, slot: int, number: int) -> bool:
        """Whether the sequence of that number was the last to be admitted to the slot."""
        return self._holders.get(slot) == number

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Take sequences in, in the order of the current stream; nothing of the slots' last ones
        is left."""
        if not admissions:
            return
        slots = self._on_device([one.slot for one in admissions])
        params = [one.params for one in admissions]
        numbers = [getattr(one, name) for name in NUMBERS for one in params]
        params = [replace(one, top_k=one.top_k or self.vocab_size) for one in params]
        counts = [getattr(one, name) for name in COUNTS for one in params]
        floats = to_device(numbers, self._device, torch.float32)
        self._numbers[:, slots] = floats.view(len(NUMBERS), -1)
        self._counts[:, slots] = self._on_device(counts).view(len(COUNTS), -1)
        self.num_generated.index_fill_(0, slots, 0)
        for dense in (self.answered, self.seen, self.bias, self.ends):
            dense.index_fill_(0, slots, 0)
        for one in admissions:
            self._fill(one)
            self._holders[one.slot] = one.number

    def _fill(self, admission: Admission) -> None:
        """The entries of (S, V) tensors that a sequence's wishes make use of."""
        _, slot, params, prompt = admission
        if params.penalizes:
            self.seen[slot].index_fill_(0, self._on_device(prompt), True)
        if params.logit_bias:
            ids, values = zip(*params.logit_bias, strict=True)
            added = to_device(values, self._device, torch.float32)
            self.bias[slot].index_add_(0, self._on_device(ids), added)
        if params.min_tokens and params.end_ids:
            self.ends[slot].index_fill_(0, self._on_device(sorted(params.end_ids)), True)

    def _on_device(self, values: Sequence[int]) -> Tensor:
        return to_device(values, self._device)
