"""Questions that a model has never seen, and how its answers to them end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ryangpt.client import Client
from shared.contracts.split_rule import digest_of, is_held_out

MAX_ANSWER_TOKENS = 160
GRAM_WORDS = 4
REPETITIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutAnswers:
    """What came back for a set of held-out questions."""

    exchanges: tuple[tuple[str, str], ...]
    """Question and answer."""
    stopped: int
    """Answers that the model ended by itself."""
    repetitive: int
    """Answers in which some four words in a row occur three times."""

    @property
    def count(self) -> int:
        """Number of questions."""
        return len(self.exchanges)


def held_out_questions(
    client: Client, dataset_id: str, *, validation_fraction: float, count: int
) -> list[str]:
    """The first user turns of `count` held-out dialogues, always the same ones.

    A question that any other dialogue asks too is left out. The order is that of the rows' hashes,
    so that neighbours in the dataset do not stand together.
    """
    dataset = client.artifact("datasets", dataset_id)
    asked: Counter[str] = Counter()
    held_out = []
    with TemporaryDirectory() as folder:
        for path in client.download(dataset, Path(folder)):
            for line in path.read_text("utf-8").split("\n")[:-1]:
                row = json.loads(line)
                question, digest = row["messages"][0]["content"], digest_of(row)
                asked[question] += 1
                if is_held_out(digest, validation_fraction):
                    held_out.append((digest, question))
    return [question for _, question in sorted(held_out) if asked[question] == 1][:count]


def ask_all(
    client: Client, model: str, questions: Sequence[str], *, on_answer: Callable[[str, str], None]
) -> HeldOutAnswers:
    """Ask every question by itself and greedily, so that the outcome is repeatable."""
    exchanges, stopped, repetitive = [], 0, 0
    for question in questions:
        answer = client.chat_completion(
            model, question, temperature=0, max_tokens=MAX_ANSWER_TOKENS
        )
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        exchanges.append((question, text))
        stopped += choice["finish_reason"] == "stop"
        repetitive += repeats_itself(text)
        on_answer(question, text)
    return HeldOutAnswers(exchanges=tuple(exchanges), stopped=stopped, repetitive=repetitive)


def repeats_itself(text: str) -> bool:
    """Whether some four words in a row occur at least three times."""
    words = text.split()
    grams = Counter(zip(*(words[start:] for start in range(GRAM_WORDS)), strict=False))
    return max(grams.values(), default=0) >= REPETITIONS
