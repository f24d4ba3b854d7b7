"""The C++ enumeration engine: the problem of a region as flat data, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

from superopt._core import are_parts as core_are_parts
from superopt._core import enumerate_region
from superopt.search.oracle import MAX_FORMS, Limits, Made, Raw, Unsupported
from superopt.search.problem import Problem
from superopt.search.values import ATTEMPTS, points_of

MAX_AXES = 64
"""Sets of axes are machine words in the engine."""

_COEFFICIENT_PRIME = (1 << 61) - 1
_KINDS = ("leaf", "size", "const", "mul", "add", "fn", "reduce")
_LAWS = {"exp": 0, "recip": 1, "sqrt": 2, "fn": 3}


def enumerate_values(problem: Problem, seed: int, limits: Limits) -> Raw:
    """Enumerates the values of one region; raises Unsupported if the source cannot be searched.

    KeyboardInterrupt passes through: the engine polls for signals every few milliseconds.
    """
    if len(problem.axes) > MAX_AXES:
        raise Unsupported(f"the region has more than {MAX_AXES} axes")
    points = points_of(problem)
    steps = [
        (_KINDS.index(s.kind), list(s.args), s.index, _number(s.value), _residues(s.value, points))
        for s in problem.steps
    ]
    raw: dict[str, Any] = enumerate_region(
        axes=len(problem.axes),
        leaves=[sorted(a) for a in problem.leaves],
        functions=_functions(problem),
        steps=steps,
        reducible=sorted(problem.reducible),
        sums=problem.sums,
        literals=[_number(c) for c in problem.literals],
        rank=problem.rank,
        primes=[list(p) for p in points],
        seed=seed & ((1 << 64) - 1),
        attempts=ATTEMPTS,
        max_forms=MAX_FORMS,
        candidates=-1 if limits.candidates is None else limits.candidates,
        seconds=-1.0 if limits.seconds is None else limits.seconds,
        memory=-1 if limits.memory is None else limits.memory,
        operators=-1 if limits.operators is None else limits.operators,
        stop=_polled(limits),
        prune=limits.prune,
        share=limits.share,
    )
    if raw["unsupported"]:
        raise Unsupported(raw["unsupported"])
    derivations: list[list[Made]] = [
        [(_KINDS[kind], index, tuple(args)) for kind, index, args in ms]
        for ms in raw["derivations"]
    ]
    return Raw(
        [tuple(a) for a in raw["axes"]],
        derivations,
        raw["class_of"],
        raw["closed"],
        raw["states"],
        raw["queries"],
        raw["removed"],
        raw["keyed_roots"],
        raw["held"],
        raw["source_held"],
        raw["full"],
        None if limits.operators is None else raw["operators"],
        raw["due"],
    )


def are_parts(
    problem: Problem,
    questions: Sequence[tuple[Sequence[int], Sequence[int]]],
    literals: Iterable[Fraction] = (),
    negations: int = 0,
) -> list[list[bool]]:
    """What the engine's pruning rule says of single terms (``part.is_part`` in C++).

    A question is (sources, terms), both numbers of steps of ``problem``; the answer says for each of
    its terms whether it can be part of these sources. Raises ValueError if a step has no normal form.
    """
    steps: list[Any] = [
        (_KINDS.index(s.kind), list(s.args), s.index, _number(s.value), []) for s in problem.steps
    ]
    out: list[list[bool]] = core_are_parts(
        leaves=[sorted(a) for a in problem.leaves],
        functions=_functions(problem),
        steps=steps,
        questions=[(list(sources), list(terms)) for sources, terms in questions],
        literals=[_number(c) for c in literals],
        negations=negations,
    )
    return out


def _functions(problem: Problem) -> list[list[tuple[int, int]]]:
    return [[(_LAWS[law], key) for law, key in chain] for chain in problem.functions]


def _polled(limits: Limits) -> Callable[[int, int], bool] | None:
    """What the engine calls every few milliseconds with its states and classes."""
    stop, watch = limits.stop, limits.watch
    if stop is None and watch is None:
        return None

    def polled(states: int, classes: int) -> bool:
        if watch is not None:
            watch(states, classes)
        return stop is not None and stop()

    return polled


def _number(c: Fraction) -> tuple[int, float]:
    p = _COEFFICIENT_PRIME
    return c.numerator * pow(c.denominator, -1, p) % p, float(c)


def _residues(c: Fraction, points: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    return [[c.numerator * pow(c.denominator, -1, p) % p for p in chain] for chain in points]
