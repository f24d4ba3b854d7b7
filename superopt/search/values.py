"""Values: what a term is at random points of several prime fields, over reduced sizes.

A value holds, for each *point* and each *level*, residues over the cells of its axes. A point has
its own inputs and a chain of safe primes p0 = 2 p1 + 1, p1 = 2 p2 + 1 (all 3 mod 4), one per level;
an exponential takes the residue modulo the next prime of the chain to omega^x, so it has one level
less (design: Probabilistic equivalence). Level 0 of all points, 153 bits a cell, is the fingerprint.

* A sum over an axis is a *weighted* sum with random weights, and the size of the axis is the sum of
  the weights. Linearity, exchange of sums and factoring hold as before, an element of weight w
  stands for w equal elements, and no size is a small number by accident of the reduced shape.
* A reduced axis has two cells and an axis that is never summed has one: equality at a generic index
  is equality everywhere, and the axes of a value are part of its identity.
* The root of a square is x^((p+1)/4); the root of a non-residue is a keyed random value. At a point
  sqrt(x^2) is x or -x, at random, so a region with roots has more points, and the two differ.
  Inputs are drawn again until the source's roots are taken of residues.
* A function known by name alone is a keyed random function of the residue.

``csrc/core/value.cpp`` computes the same residues, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superopt.search.problem import Chain, Problem

LONG = (2305843009213542959, 1152921504606771479, 576460752303385739)
SHORT = (2147438927, 1073719463, 536859731)
POINTS: tuple[tuple[int, ...], ...] = (LONG, LONG, SHORT)
"""The prime chain of each point: 61 + 61 + 31 bits a cell."""
SIGN_POINTS: tuple[tuple[int, ...], ...] = (SHORT,) * 21
"""Further points of a region with roots: at each cell of each point sqrt(x^2) is x half of the time."""

ATTEMPTS = 4096
"""How often the inputs of a point are drawn anew for the sake of its roots."""

_MASK = (1 << 64) - 1
Residues = np.ndarray  # of Python ints, one dimension per axis number, ascending


def mix(*words: int) -> int:
    """A 64-bit hash of 64-bit words (the finalizer of splitmix64, chained)."""
    h = 0
    for w in words:
        h = ((h ^ (w & _MASK)) + 0x9E3779B97F4A7C15) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        h ^= h >> 31
    return h


def points_of(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """The points of a region, each chain as long as the exponentials of the source are deep."""
    levels = min(max(_needed_levels(problem), default=1), len(LONG))
    roots = any(law == "sqrt" for chain in problem.functions for law, _ in chain)
    return tuple(p[:levels] for p in (*POINTS, *(SIGN_POINTS if roots else ())))


@dataclass(frozen=True)
class Value:
    """A term at all points: residues[point][level]; all points have the same number of levels."""

    axes: tuple[int, ...]
    residues: tuple[tuple[Residues, ...], ...]

    @property
    def levels(self) -> int:
        """How many residues of each point are defined."""
        return len(self.residues[0])

    def fingerprint(self) -> tuple[int, ...]:
        """Level 0 at all points."""
        return tuple(int(x) for point in self.residues for x in point[0].ravel())


class Field:
    """Computes values; all random choices follow from the seed."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = seed
        self.points = points_of(problem)
        self._all = range(len(self.points))
        self.cells = [2 if a in problem.reducible else 1 for a in range(len(problem.axes))]
        self.draws: list[dict[tuple[str, int], int]] = [{} for _ in self.points]
        self.keyed_roots = 0
        self._needed = _needed_levels(problem)
        self._omega = [
            [self._generator(i, level) for level in range(len(p) - 1)]
            for i, p in enumerate(self.points)
        ]
        for i in self._all:
            self._settle(i)

    # -- random choices --------------------------------------------------------------------------

    def _generator(self, i: int, level: int) -> int:
        p = self.points[i][level]
        return pow(mix(self.seed, 1, i, level) % (p - 3) + 2, 2, p)  # a square: of order (p-1)/2

    def _drawn(self, kind: str, index: int, i: int, level: int, count: int) -> list[int]:
        draw = self.draws[i].get((kind, index), 0)
        word = 2 if kind == "leaf" else 3
        p = self.points[i][level]
        return [mix(self.seed, word, index, i, level, draw, c) % p for c in range(count)]

    def _settle(self, i: int) -> None:
        """Draws the inputs of a point until every root of the source is taken of a residue.

        The inputs of roots that are settled are kept while others are drawn again, so roots of
        unrelated values do not have to come right at once.
        """
        supports = _supports(self.problem)
        steps = self.problem.steps
        roots = [
            n
            for n, s in enumerate(steps)
            if s.kind == "fn"
            and any(law == "sqrt" for law, _ in self.problem.functions[s.index])
            and supports[n]
        ]
        for _ in range(ATTEMPTS if roots else 0):
            bad = self._first_bad(i, roots)
            if bad is None:
                return
            settled: set[tuple[str, int]] = set()
            for n in roots[: roots.index(bad)]:
                settled |= supports[n]
            for leaf in (supports[bad] - settled) or supports[bad]:
                self.draws[i][leaf] = self.draws[i].get(leaf, 0) + 1
        self.keyed_roots += bool(roots)

    def _first_bad(self, i: int, roots: list[int]) -> int | None:
        values: list[Value | None] = []
        for n, step in enumerate(self.problem.steps[: roots[-1] + 1]):
            args = [values[a] for a in step.args]
            values.append(None if None in args else self._step(n, [a for a in args if a], (i,)))
            if n in roots and args[0] is not None:
                p = self.points[i]
                inner: Value | None = args[0]
                for law, key in self.problem.functions[step.index]:
                    if inner is None:
                        break
                    if law == "sqrt":
                        for level in range(min(self._needed[n], inner.levels)):
                            m = p[level]
                            if any(
                                pow(int(x), (m - 1) // 2, m) == m - 1
                                for x in inner.residues[0][level].ravel()
                            ):
                                return n
                    inner = self._law(law, key, inner, (i,))
        return None

    # -- operations --------------------------------------------------------------------------------

    def source(self) -> list[Value | None]:
        """The values of all source terms; None where one is not defined."""
        values: list[Value | None] = []
        for n, step in enumerate(self.problem.steps):
            args = [values[a] for a in step.args]
            values.append(
                None if None in args else self._step(n, [a for a in args if a], self._all)
            )
        return values

    def _step(self, n: int, args: list[Value], points: Sequence[int]) -> Value | None:
        step = self.problem.steps[n]
        if step.kind == "mul":
            return self.mul(args[0], args[1], points)
        if step.kind == "add":
            return self.add(args[0], args[1], points)
        if step.kind == "fn":
            return self.apply(self.problem.functions[step.index], args[0], points)
        if step.kind == "reduce":
            return self.reduce(args[0], step.index, points)
        axes: tuple[int, ...] = ()
        out = []
        for i in points:
            levels = []
            for level, p in enumerate(self.points[i]):
                if step.kind == "leaf":
                    axes = tuple(sorted(self.problem.leaves[step.index]))
                    shape = [self.cells[a] for a in axes]
                    cells = self._drawn(
                        "leaf", step.index, i, level, int(np.prod(shape, dtype=int))
                    )
                elif step.kind == "size":
                    shape = []
                    cells = [sum(self._weights(step.index, i, level)) % p]
                else:
                    shape = []
                    cells = [step.value.numerator * pow(step.value.denominator, -1, p) % p]
                levels.append(np.array(cells, dtype=object).reshape(shape))
            out.append(tuple(levels))
        return Value(axes, tuple(out))

    def _weights(self, axis: int, i: int, level: int) -> list[int]:
        return self._drawn("axis", axis, i, level, self.cells[axis])

    def mul(self, x: Value, y: Value, points: Sequence[int] | None = None) -> Value:
        """The product, broadcast over both values' axes."""
        return self._both(x, y, self._all if points is None else points, product=True)

    def add(self, x: Value, y: Value, points: Sequence[int] | None = None) -> Value:
        """The sum, broadcast over both values' axes."""
        return self._both(x, y, self._all if points is None else points, product=False)

    def _both(self, x: Value, y: Value, points: Sequence[int], product: bool) -> Value:
        axes = tuple(sorted({*x.axes, *y.axes}))
        out = []
        for n, i in enumerate(points):
            levels = []
            for level in range(min(x.levels, y.levels)):
                a = self._spread(x.residues[n][level], x.axes, axes)
                b = self._spread(y.residues[n][level], y.axes, axes)
                total = (a * b if product else a + b) % self.points[i][level]
                levels.append(np.asarray(total, dtype=object))
            out.append(tuple(levels))
        return Value(axes, tuple(out))

    def _spread(self, a: Residues, axes: tuple[int, ...], to: tuple[int, ...]) -> Residues:
        return a.reshape([self.cells[k] if k in axes else 1 for k in to])

    def reduce(self, x: Value, axis: int, points: Sequence[int] | None = None) -> Value:
        """The weighted sum over an axis; an axis that x lacks multiplies by the size."""
        at = x.axes.index(axis) if axis in x.axes else None
        out = []
        for n, i in enumerate(self._all if points is None else points):
            levels = []
            for level in range(x.levels):
                p = self.points[i][level]
                w = self._weights(axis, i, level)
                a = x.residues[n][level]
                if at is None:
                    levels.append(np.asarray(a * (sum(w) % p) % p, dtype=object))
                else:
                    shape = [len(w) if k == at else 1 for k in range(len(x.axes))]
                    total = (a * np.array(w, dtype=object).reshape(shape)).sum(axis=at) % p
                    levels.append(np.asarray(total, dtype=object))
            out.append(tuple(levels))
        return Value(tuple(k for k in x.axes if k != axis), tuple(out))

    def apply(self, chain: Chain, x: Value, points: Sequence[int] | None = None) -> Value | None:
        """A unary row; None where a reciprocal meets zero."""
        for law, key in chain:
            value = self._law(law, key, x, self._all if points is None else points)
            if value is None:
                return None
            x = value
        return x

    def _law(self, law: str, key: int, x: Value, points: Sequence[int]) -> Value | None:
        out = []
        for n, i in enumerate(points):
            levels: list[Residues] = []
            if law == "exp" and x.levels > 1:
                for level in range(x.levels - 1):
                    w, p = self._omega[i][level], self.points[i][level]
                    levels.append(_each(lambda u, w=w, p=p: pow(w, u, p), x.residues[n][level + 1]))
            else:
                for level in range(x.levels):
                    a, p = x.residues[n][level], self.points[i][level]
                    if law == "recip":
                        if any(u == 0 for u in a.ravel()):
                            return None
                        levels.append(_each(lambda u, p=p: pow(u, p - 2, p), a))
                    elif law == "sqrt":
                        levels.append(_each(lambda u, p=p, j=level, i=i: self._root(u, p, i, j), a))
                    else:
                        word = key if law == "fn" else 4
                        levels.append(
                            _each(
                                lambda u, p=p, j=level, i=i, word=word: (
                                    mix(self.seed, 5, word, i, j, u) % p
                                ),
                                a,
                            )
                        )
            out.append(tuple(levels))
        return Value(x.axes, tuple(out))

    def _root(self, u: int, p: int, i: int, level: int) -> int:
        root = pow(u, (p + 1) // 4, p)
        return root if root * root % p == u else mix(self.seed, 6, i, level, u) % p


def _each(f: object, a: Residues) -> Residues:
    flat = [f(int(u)) for u in a.ravel()]  # type: ignore[operator]
    return np.array(flat, dtype=object).reshape(a.shape)


def _needed_levels(problem: Problem) -> list[int]:
    """How many levels of each source term the source itself uses (its roots must exist there)."""
    need = [1] * len(problem.steps)
    for n in reversed(range(len(problem.steps))):
        step = problem.steps[n]
        more = (
            sum(law == "exp" for law, _ in problem.functions[step.index])
            if step.kind == "fn"
            else 0
        )
        for a in step.args:
            need[a] = max(need[a], need[n] + more)
    return need


def _supports(problem: Problem) -> list[set[tuple[str, int]]]:
    """The leaves and axis weights that each source term depends on."""
    out: list[set[tuple[str, int]]] = []
    for step in problem.steps:
        here: set[tuple[str, int]] = set().union(*(out[a] for a in step.args))
        if step.kind == "leaf":
            here.add(("leaf", step.index))
        if step.kind in ("size", "reduce"):
            here.add(("axis", step.index))
        out.append(here)
    return out
