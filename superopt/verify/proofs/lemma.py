"""What a proof says: one lemma with its verdict, and all the lemmas of the programs of one graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

PROVED, SAMPLED, REFUTED = "proved", "sampled", "refuted"

KINDS = {
    "declared": "what a program uses is declared, once and alike, and fits the graph",
    "in bounds": "a load from a global buffer stays within its axes",
    "linear": "coordinates within the axes have addresses within the buffer, each its own",
    "tile in bounds": "a tile is read at its own coordinates, within the extent that it has there",
    "stored once": "each element of an output or scratch buffer is stored in one step of one task, or "
    "the same by all tasks along an axis that it lacks",
    "initialised": "what is read or added to was stored before, over the region that is read",
    "complete": "an accumulator is read when all was added to it, unless it is a running one",
    "reduced once": "each element of a reduced axis is in one step of one part",
    "copied": "a packed buffer is its input, element by element, and is read where that would be",
    "index map": "a view of the graph reads inside its argument",
}
"""Every kind of lemma, and what it says; the modules beside this one give the formulas."""


@dataclass(frozen=True, slots=True)
class Lemma:
    """One lemma: its kind, what it is about, and whether it holds for all sizes in their ranges.

    verdict: "proved", "sampled" (no answer in time: believed because kernels are run and compared)
    or "refuted", with ``words`` saying where it fails. solver: whether Z3 was asked; seconds: that
    took. A lemma that Z3 was not asked about follows from the structure of the program.
    """

    kind: str
    subject: str
    verdict: str
    words: str = ""
    seconds: float = 0.0
    solver: bool = False

    def __str__(self) -> str:
        return f"{self.verdict}: {self.kind}, {self.subject}" + (
            f": {self.words}" if self.words else ""
        )


@dataclass(frozen=True, slots=True)
class Proofs:
    """The lemmas of the tile programs of one placed graph."""

    lemmas: tuple[Lemma, ...]
    solver: str = ""

    @property
    def verdict(self) -> str:
        """The least that is claimed of any: "refuted", "sampled" or "proved"."""
        verdicts = {x.verdict for x in self.lemmas}
        return next((v for v in (REFUTED, SAMPLED) if v in verdicts), PROVED)

    @property
    def seconds(self) -> float:
        """What Z3 took."""
        return sum(x.seconds for x in self.lemmas)

    def of(self, verdict: str) -> tuple[Lemma, ...]:
        """The lemmas of one verdict."""
        return tuple(x for x in self.lemmas if x.verdict == verdict)

    def count(self) -> dict[str, int]:
        """How many lemmas there are of each kind."""
        return dict(sorted(Counter(x.kind for x in self.lemmas).items()))


def joined_proofs(some: Iterable[Proofs]) -> Proofs:
    """The lemmas of several placed graphs, as one."""
    every = list(some)
    solver = next((p.solver for p in every if p.solver), "")
    return Proofs(tuple(x for p in every for x in p.lemmas), solver)
