"""Ties by solving: points at which one comparison ties, and everything else is as random as ever.

What two programs give where compared values are equal shows nowhere else: ``x == y`` is true there
alone, and ``<`` differs from ``<=``. Where the difference of the two sides is affine in some input
element (which is measured: the element is moved by 1 and by 2), the field has a step that makes it
zero, exactly. Both programs are evaluated at that point. Ties of inputs from small pools come in
rows of equal numbers, at which two results may agree by accident; these do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import U64, Chain, trial_keys
from superopt.mugraph.algebras.field import FieldAlgebra
from superopt.mugraph.algebras.field_values import Draw, Value, levels_of
from superopt.mugraph.algebras.levels import Levels, information
from superopt.mugraph.axes import Axis
from superopt.mugraph.evaluate import evaluate, spread_shape
from superopt.mugraph.graph import Builder, Graph, Input, Map, remap
from superopt.mugraph.rules import describe
from superopt.verify.bound import Congruence
from superopt.verify.evaluators import Cells, output_cells
from superopt.verify.probe import Probe, moved, unfolded
from superopt.verify.sizes import Sizing
from superopt.verify.ties import comparisons, literals
from superopt.verify.trials import Tally, planned, tallied

POINTS = 6
"""Points at which each comparison is made to tie."""

ELEMENTS = 48
"""Input elements that are tried to solve for, at most."""

OFFERS = 8
"""Elements and cells that are tried at one point."""

MOST_COMPARISONS = 24
"""Comparisons of both programs, beyond which ties are left to the pools."""

SEED = 0x71E5


@dataclass(frozen=True)
class Tie:
    """Steps of one input element, by level, that make a comparison tie in one trial."""

    name: str
    element: int
    steps: Mapping[int, int]


def at_ties(
    a: Graph,
    b: Graph,
    levels: Sequence[int],
    chain: Chain,
    seed: int,
    sizing: Sizing,
    tally: Tally,
) -> tuple[str, ...]:
    """Compares both programs where each comparison of floats ties; what could not be made to.

    A difference is noted in the tally.
    """
    graphs = unfolded(a), unfolded(b)
    plans = [planned(g, levels, chain) for g in (a, b)]
    congruence, seen = Congruence(), set[int]()
    missing: list[str] = []
    for graph in graphs:
        numbers = congruence.numbers(graph)
        for i in comparisons(graph):
            if numbers[i] in seen:
                continue
            seen.add(numbers[i])
            if len(seen) > MOST_COMPARISONS:
                return (*missing, "more comparisons than are solved for")
            try:
                ties = solved(
                    graph, graph.nodes[i].args, chain, seed ^ SEED, sizing, literals(a, b)
                )
            except VerificationFailed:
                ties = {}
            if not ties:
                missing.append(f"{describe(graph, i)} was not made to tie")
                continue
            keys = trial_keys(seed ^ SEED, range(POINTS))
            found = [
                outputs_at(g, p, levels, chain, sizing, keys, ties, literals(a, b))
                for g, p in zip((a, b), plans, strict=True)
            ]
            tallied(a, found[0], found[1], list(range(POINTS)), tally)
            if tally.differs:
                tally.differs += f", where {describe(graph, i)} ties"
                return ()
    return tuple(missing)


def solved(
    graph: Graph,
    nodes: Sequence[int],
    chain: Chain,
    seed: int,
    sizing: Sizing,
    given_literals: tuple[float, ...],
) -> dict[int, Tie]:
    """For each point, by its number, a step that makes two nodes equal in some cell; one node, zero."""
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for k, node in enumerate(graph.nodes):
        at[k] = b.add(remap(node, at))
    sides = [at[k] for k in nodes]
    if len(sides) == 1:
        sides.append(b.const(0.0, b.dtype(sides[0])))
    whole = Graph(graph.name, tuple(b.nodes), ())
    info = information(whole, chain.full)
    mask = chain.full
    for k in sides:
        mask &= info[k].mask if info[k].real else chain.full
    if not mask:
        return {}
    # Values that are equal are so at every level: exponentials look at the one above.
    probes = {
        i: Probe(whole, sides, i, chain, sizing.sizes, sizing.ranges, seed, given_literals)
        for i in levels_of(mask)
    }
    random = np.random.default_rng(seed & 0xFFFFFFFF)
    known = [set(probe.inputs()) for probe in probes.values()]
    elements = [(name, c) for name, count in sorted(set.intersection(*known)) for c in range(count)]
    if len(elements) > ELEMENTS:
        elements = [elements[k] for k in random.choice(len(elements), ELEMENTS, replace=False)]
    out: dict[int, Tie] = {}
    axes = sorted({x for k in sides for x in whole.nodes[k].axes}, key=lambda x: x.name)
    for point in range(POINTS if elements else 0):
        moves = [(name, c, s) for name, c in elements for s in (1, 2)]
        slopes, now, good = {}, {}, np.ones(1, dtype=bool)
        for level, probe in probes.items():
            p = chain.primes[level]
            values, status = probe.around(point, moves)
            d, bad = _difference(whole, sides, axes, values, status, sizing.sizes, p)
            once = (d[1::2] + U64(p) - d[:1]) % U64(p)
            twice = (d[2::2] + U64(p) - d[:1]) % U64(p)
            affine = (once != 0) & (twice == once * U64(2) % U64(p))
            good = good & affine & ~np.asarray(bad).any(0)
            slopes[level], now[level] = once, d[0]
        offers = np.argwhere(good)
        if len(offers) > OFFERS:
            offers = offers[random.choice(len(offers), OFFERS, replace=False)]
        for e, cell in random.permutation(offers):
            steps = {}
            for level in probes:
                p = chain.primes[level]
                slope = int(slopes[level][e, cell])
                steps[level] = -int(now[level][cell]) * pow(slope, -1, p) % p
            name, element = elements[e]
            tie = Tie(name, element, steps)
            # A selection below the sides may choose otherwise there, and then they do not tie.
            if all(
                _ties(whole, sides, axes, probe, point, tie, cell, sizing, chain)
                for probe in probes.values()
            ):
                out[point] = tie
                break
    return out


def _ties(
    graph: Graph,
    sides: Sequence[int],
    axes: Sequence[Axis],
    probe: Probe,
    point: int,
    tie: Tie,
    cell: int,
    sizing: Sizing,
    chain: Chain,
) -> bool:
    """Whether the two sides are one value in a cell once the step is taken."""
    moves = [(tie.name, tie.element, tie.steps[probe.level])]
    values, status = probe.around(point, moves)
    p = chain.primes[probe.level]
    d, bad = _difference(graph, sides, axes, values, status, sizing.sizes, p)
    return not d[1][cell] and not bad[1][cell]


def _difference(
    graph: Graph,
    sides: Sequence[int],
    axes: Sequence[Axis],
    values: np.ndarray,
    status: np.ndarray,
    sizes: Mapping[Axis, int],
    p: int,
) -> tuple[np.ndarray, np.ndarray]:
    """[points, cells of the comparison]: one side less the other, and where that is not defined."""
    shape = [sizes[x] for x in axes]
    parts, start = [], 0
    for k in sides:
        mine = graph.nodes[k].axes
        count = int(np.prod([sizes[x] for x in mine]))
        both = []
        for source in (values, status):
            cells = source[:, start : start + count].reshape(-1, *(sizes[x] for x in mine))
            order, to = spread_shape(mine, tuple(axes), cells.shape[1:])
            cells = cells.transpose([0, *(o + 1 for o in order)]).reshape(len(cells), *to)
            both.append(np.broadcast_to(cells, (len(cells), *shape)).reshape(len(cells), -1))
        parts.append(both)
        start += count
    (x, u), (y, v) = parts
    return (x + U64(p) - y) % U64(p), (u != 0) | (v != 0)


def outputs_at(
    graph: Graph,
    plan: Levels,
    levels: Sequence[int],
    chain: Chain,
    sizing: Sizing,
    keys: np.ndarray,
    ties: Mapping[int, Tie],
    given_literals: tuple[float, ...],
    kind: type[FieldAlgebra] = FieldAlgebra,
) -> list[Cells]:
    """The outputs at the points, with the steps taken."""
    draw = Draw(keys, np.zeros(len(keys), dtype=bool), sizing.ranges, given_literals)
    algebra = kind(graph, chain, draw, sizing.sizes, plan)
    given: dict[int, Value] = {}
    for i, node in enumerate(graph.nodes):
        if not isinstance(node, Input):
            continue
        for trial, tie in ties.items():
            for level, step in tie.steps.items() if tie.name == node.name else ():
                value = given[i] if i in given else algebra.input(node)
                given[i] = moved(value, [(trial, tie.element, step)], level, chain.primes[level])
    env = evaluate(graph, algebra, given)
    return output_cells(graph, env, levels, len(keys), sizing.sizes)


def equalities(graph: Graph) -> int:
    """How many comparisons of floats are true at ties alone, or false there alone."""
    g = unfolded(graph)
    found = (g.nodes[i] for i in comparisons(g))
    return sum(isinstance(n, Map) and n.op in ("eq", "cast") for n in found)
