"""What a fault did to the platform: counts, worst figures beside their bounds, and failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Figure:
    """The worst of some measurements."""

    bound: float | None = None
    """What it must not exceed; None where it is only shown."""
    worst: float = 0.0
    count: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether the bound holds."""
        return self.bound is None or self.worst <= self.bound


@dataclass(slots=True, kw_only=True)
class Ledger:
    """One class of faults."""

    code: str
    title: str
    faults: Counter[str] = field(default_factory=Counter)
    """How often each kind was injected."""
    jobs: int = 0
    """Submitted."""
    ended: int = 0
    """Of those, seen in the terminal state that they must reach, with a sound history."""
    compared: int = 0
    equal: int = 0
    """Results compared with an undisturbed run, and those equal in every bit."""
    served: int = 0
    torn: int = 0
    """Published versions read back whole, and those that were not."""
    figures: dict[str, Figure] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """What went wrong, each in a sentence or a traceback."""
    seconds: float = 0.0
    at: str = ""
    """When it was over."""
    code_version: str = ""
    load: float = 0.0
    """The machine's load average of the last quarter of an hour by then."""

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.code} {self.title}"

    def measure(self, name: str, value: float, bound: float | None = None) -> None:
        """Note one measurement of a figure."""
        figure = self.figures.setdefault(name, Figure(bound=bound))
        figure.worst = max(figure.worst, value)
        figure.count += 1

    @property
    def is_good(self) -> bool:
        """Whether everything held that must."""
        bounds = all(figure.is_kept for figure in self.figures.values())
        whole = self.jobs == self.ended and self.compared == self.equal and not self.torn
        return bounds and whole and not self.failures

    def as_dict(self) -> dict[str, Any]:
        """As plain data. (`asdict` rebuilds a Counter from pairs, which it then counts.)"""
        return asdict(self) | {"faults": dict(self.faults)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Ledger:
        """From `as_dict`."""
        figures = {name: Figure(**values) for name, values in data["figures"].items()}
        return cls(**data | {"figures": figures, "faults": Counter(data["faults"])})
