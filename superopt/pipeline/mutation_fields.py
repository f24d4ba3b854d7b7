"""How often fields that are small enough to fail accept a wrong program, beside what the theory says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from superopt.mugraph.algebras.chain import Chain
from superopt.mugraph.graph import Builder, Graph
from superopt.verify.equal import check_equal

Make = Callable[[Builder, int, int], int]
"""A value of the two scalars c and d."""


@dataclass(frozen=True)
class Case:
    """Two programs of the scalars c and d that differ, and how often a check accepts them.

    theory: for one trial of a chain with these primes; trials: of each of two assignments, so that a
    check is wrong with that probability to the power of twice the trials.
    """

    name: str
    a: Make
    b: Make
    primes: tuple[int, ...]
    trials: int
    theory: float

    @property
    def rate(self) -> float:
        """The rate of false accepts by the theory."""
        return self.theory ** (2 * self.trials)


@dataclass(frozen=True)
class Rate:
    """So many of ``runs`` checks accepted, beside the theory; interval: of three deviations about it."""

    case: Case
    runs: int
    accepted: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where the measured rate lies in 997 of 1000 cases, if the theory holds."""
        p = self.case.rate
        off = 3 * math.sqrt(p * (1 - p) / self.runs)
        return max(p - off, 0.0), min(p + off, 1.0)

    @property
    def agrees(self) -> bool:
        """Whether the measured rate lies there."""
        low, high = self.interval
        return low - 1e-9 <= self.accepted / self.runs <= high + 1e-9


def _square(b: Builder, c: int, _: int) -> int:
    return b.map("mul", c, c)


def _first(b: Builder, c: int, _: int) -> int:
    return b.map("mul", c, b.const(1.0))


def _product(b: Builder, c: int, d: int) -> int:
    return b.map("mul", c, d)


def _zero(b: Builder, c: int, _: int) -> int:
    return b.map("mul", c, b.const(0.0))


def cases() -> list[Case]:
    """Polynomials over two fields, a root of a square, exponentials, and a winner."""
    out = []
    for primes in ((7, 3), (47, 23, 11)):
        p = primes[0]
        for trials in (1, 2):
            out.append(Case("c^2 = c", _square, _first, primes, trials, 2 / p))
            zeros = (2 * p - 1) / p**2
            out.append(Case("c d = 0", _product, _zero, primes, trials, zeros))
    wide = (4079, 2039, 1019)
    for trials in (1, 3):
        out.append(
            Case("sqrt(c^2) = c", lambda b, c, d: b.map("sqrt", _square(b, c, d)), _first, wide,
                 trials, 0.5)
        )  # fmt: skip
    out.append(
        Case("exp c = exp d", lambda b, c, _: b.map("exp", c), lambda b, _, d: b.map("exp", d),
             (23, 11), 1, 1 / 11)
    )  # fmt: skip
    tie = 1 / 3  # of the draws from a small pool: the two are equal, or the winner decides as well
    winner = 0.5 * (tie + (1 - tie) * 0.5)
    out.append(Case("max(c, d) = c", lambda b, c, d: b.map("max", c, d), _first, wide, 1, winner))
    return out


def program(make: Make) -> Graph:
    """The graph of a value of c and d."""
    b = Builder("tiny")
    c, d = b.input("c", (), "f32"), b.input("d", (), "f32")
    return b.build([("o", make(b, c, d), ())])


def measured(case: Case, runs: int) -> Rate:
    """How many of so many checks, each with a seed of its own, accept the two programs."""
    a, b = program(case.a), program(case.b)
    chain = Chain("tiny", case.primes)
    found = (
        check_equal(a, b, seed=s, chains=(chain,), trials=case.trials, using="python")
        for s in range(runs)
    )
    return Rate(case, runs, sum(map(bool, found)))
