"""Held-out quality at fixed windows, and greedy samples. Uses no random numbers at all.

So an evaluation never changes the training run around it, and two runs are comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer.data import WORD_MASK, Batch, ids_to_device
from services.trainer.packing import PackedData
from shared.model.loss import IGNORED, token_losses
from shared.model.transformer import Transformer

EVAL_BATCH_TOKENS = 16_384


class ValidationData(Protocol):
    """Batches of held-out text, the same ones every time."""

    def batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield batches whose targets are all tokens, and which of them are learned (B, T)."""


class ValidationWindows:
    """The stream cut into windows of `context` from its start; each token is predicted once."""

    def __init__(
        self, stream: npt.NDArray[np.uint16], *, context: int, device: torch.device
    ) -> None:
        predicted = len(stream) - 1
        rows = math.ceil(predicted / context)
        padded = np.zeros(rows * context + 1, np.uint16)
        padded[: len(stream)] = stream
        self._tokens = ids_to_device(padded, device)
        self._rows, self._context, self._predicted = rows, context, predicted

    def batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (B, context) batches; the last row's padding is IGNORED."""
        size = max(1, EVAL_BATCH_TOKENS // self._context)
        places = torch.arange(self._rows * self._context, device=self._tokens.device)
        places = places.view(self._rows, self._context)
        for start in range(0, self._rows, size):
            here = places[start : start + size]
            targets = self._tokens[here + 1].long() & WORD_MASK
            targets = targets.masked_fill(here >= self._predicted, IGNORED)
            batch = Batch(ids=self._tokens[here].long() & WORD_MASK, targets=targets)
            yield batch, targets != IGNORED


class ValidationDialogues:
    """Held-out dialogues, packed as in training, at most `limit` tokens of them."""

    def __init__(self, data: PackedData, *, context: int, limit: int) -> None:
        self._data, self._context = data, context
        self._rows = min(data.num_sequences, max(1, limit // context))

    def batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (B, context) batches in the order of packing."""
        size = max(1, EVAL_BATCH_TOKENS // self._context)
        for start in range(0, self._rows, size):
            yield self._data.whole_batch(np.arange(start, min(start + size, self._rows)))


@dataclass(slots=True)
class _Sums:
    """What an evaluation adds up, on the device until the end (float64)."""

    nats: Tensor
    """Of all tokens, learned tokens, and learned tokens that stand for bytes."""
    counts: Tensor
    """All tokens, learned tokens, bytes of learned tokens."""


class Evaluator:
    """Measures a model on fixed held-out text.

    Bits per byte = nats of the learned tokens that stand for text / (ln 2 * their UTF-8 bytes).
    Special tokens stand for no text, so they count in neither (as nanochat measures it).
    """

    def __init__(
        self,
        data: ValidationData,
        *,
        token_bytes: Sequence[int],
        device: torch.device,
        assistant: bool = False,
    ) -> None:
        """`assistant`: what is learned is the assistant's part only; both losses are reported."""
        self._data, self._assistant = data, assistant
        self._token_bytes = torch.tensor(token_bytes, dtype=torch.int64, device=device)

    @torch.no_grad()
    def __call__(
        self, model: Transformer, *, interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        """Return validation_loss, bits_per_byte, validation_bytes; None when interrupted.

        For an assistant validation_loss is assistant_loss, and all_token_loss is there too.
        """
        device = self._token_bytes.device
        sums = _Sums(
            nats=torch.zeros(3, dtype=torch.float64, device=device),
            counts=torch.zeros(3, dtype=torch.int64, device=device),
        )
        for batch, learned in self._data.batches():
            if interrupted():
                return None
            self._add(sums, model, batch, learned)
        every, learned_nats, text_nats = sums.nats.tolist()
        tokens, learned_tokens, text_bytes = sums.counts.tolist()
        learned_loss = learned_nats / max(1, learned_tokens)
        metrics = {
            "validation_loss": learned_loss,
            "bits_per_byte": text_nats / (math.log(2) * max(1, text_bytes)),
            "validation_bytes": float(text_bytes),
        }
        if self._assistant:
            metrics["assistant_loss"] = learned_loss
            metrics["all_token_loss"] = every / max(1, tokens)
        return metrics

    def _add(self, sums: _Sums, model: Transformer, batch: Batch, learned: Tensor) -> None:
        hidden = model.hidden(batch.ids, batch.positions, batch.mask)
        losses = token_losses(hidden, model.head_weight, batch.targets).double()
        in_bytes = self._token_bytes[batch.targets.clamp_min(0)] * learned
        sums.nats += torch.stack(
            [losses.sum(), (losses * learned).sum(), (losses * (in_bytes > 0)).sum()]
        )
        sums.counts += torch.stack(
            [(batch.targets != IGNORED).sum(), learned.sum(), in_bytes.sum()]
        )


def likeliest(logits: Tensor) -> Tensor:
    """Logits (B, V) -> ids (B,)."""
    return logits.argmax(-1)


@torch.no_grad()
def complete(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    end_id: int,
    choose: Callable[[Tensor], Tensor] = likeliest,
) -> list[list[int]]:
    """Continue each prompt by the tokens that `choose` takes, to the end token or `max_tokens`.

    All prompts run as one batch, padded on the right, where a causal model does not look. A prompt
    that leaves no room keeps its end. Returns the new ids without the end token.
    """
    context = model.config.context_length
    room = max(1, context - max_tokens)
    rows = [list(prompt)[-room:] or [end_id] for prompt in prompts]
    begins = [len(row) for row in rows]
    device = model.head_weight.device
    running = set(range(len(rows)))
    while running:
        width = max(len(row) for row in rows)
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        hidden = model.hidden(padded)[torch.arange(len(rows), device=device), last]
        chosen = choose(hidden @ model.head_weight.to(hidden.dtype).T).tolist()
        for index in list(running):
            row, ended = rows[index], chosen[index] == end_id
            if not ended:
                row.append(chosen[index])
            if ended or len(row) - begins[index] == max_tokens or len(row) == context:
                running.discard(index)
    return [row[begin:] for row, begin in zip(rows, begins, strict=True)]
