"""Verdicts of single layers, which of them counts, and the seeds that were drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from superopt.verify.alone import Difference

EQUAL, DIFFERENT, UNDECIDED, BAD = "equal", "different", "undecided", "bad artefact"

_GRAVITY = (EQUAL, UNDECIDED, BAD, DIFFERENT)
"""A concrete difference is graver than any fault of form: there the answer is wrong."""


def gravest(verdicts: Iterable[str]) -> str:
    """The one of several verdicts that counts for all; "equal" where there is none."""
    return max(verdicts, key=_GRAVITY.index, default=EQUAL)


@dataclass(frozen=True)
class Layer:
    """What was found of one layer: its verdict, and a line about it."""

    name: str
    status: str
    text: str
    difference: Difference | None = None


@dataclass
class Seeds:
    """Gives a new seed whenever one is needed, and keeps what it was for."""

    first: int
    drawn: dict[str, list[int]] = field(default_factory=dict)
    count: int = 0

    STEP = 1000
    """Between seeds: the gate uses some that follow the one it is given."""

    def draw(self, what: str) -> int:
        """The next seed."""
        seed = (self.first + self.STEP * self.count) % (1 << 63)
        self.count += 1
        self.drawn.setdefault(what, []).append(seed)
        return seed
