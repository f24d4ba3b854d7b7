"""Ties between compared values: whether a comparison is strict shows at a tie, and nowhere else.

``x < y`` and ``x <= y`` agree unless x = y, which has no chance to happen at random points. In the
trials whose inputs come from small pools, which hold 0, 1 and the literals of both programs, it
happens, mostly. A comparison that both programs make of the same values needs no tie: it has one
result in both. Of any other, enough ties must have been met, or the programs are not shown equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from superopt.mugraph.algebras.chain import Chain, trial_keys
from superopt.mugraph.algebras.field_values import OK, Draw
from superopt.mugraph.algebras.levels import EXACT, analyse
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Const, Graph, Map, Output, remap
from superopt.mugraph.rules import describe
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.evaluators import Evaluator
from superopt.verify.infinite import infinities
from superopt.verify.probe import unfolded
from superopt.verify.sizes import Sizing

POOLS = 0x5EED
"""Added to the seed of the trials whose inputs come from small pools."""

ENOUGH = 4
"""Ties that must be met of one comparison."""

MOST_TRIALS = 1 << 10
"""Trials in which ties are looked for, at most."""

MOST_LITERALS = 16
"""Literals that inputs take in some trials, at most."""


def literals(a: Graph, b: Graph) -> tuple[float, ...]:
    """0, 1 and the finite float literals of both programs, ascending, up to a few."""
    found = [0.0, 1.0]
    for graph in (a, b):
        for node in graph.nodes:
            if isinstance(node, Const) and is_float(node.dtype) and np.isfinite(node.value):
                found.append(float(node.value))
    return tuple(sorted(tuple(dict.fromkeys(x + 0.0 for x in found))[:MOST_LITERALS]))


def alone(a: Graph, b: Graph) -> tuple[list[int], list[int]]:
    """The comparisons of floats that only one of two unfolded programs makes; node ids of each."""
    congruence = Congruence()
    numbers = congruence.numbers(a), congruence.numbers(b)
    common = set(numbers[0]) & set(numbers[1])
    first, second = (
        [i for i in _comparisons(graph) if mine[i] not in common]
        for graph, mine in zip((a, b), numbers, strict=True)
    )
    return first, second


def _comparisons(graph: Graph) -> Iterator[int]:
    """The comparisons that may tie: a value that is finite for finite inputs equals no infinity."""
    signs = infinities(graph)
    for i in graph.reachable([o.node for o in graph.outputs]):
        node = graph.nodes[i]
        sides = [graph.nodes[j] for j in node.args]
        beyond = [x.value for x in sides if isinstance(x, Const) and math.isinf(x.value)]
        if any(all(x not in signs[j] for j in node.args if graph.nodes[j].args) for x in beyond):
            continue
        if isinstance(node, Map) and any(is_float(graph.nodes[j].dtype) for j in node.operands):
            field = SCALARS[node.op].field
            compares = field in EXACT - {"not", "and", "or"}
            if compares or (field == "cast" and node.dtype == "bool"):
                yield i


def compares_alone(a: Graph, b: Graph) -> bool:
    """Whether one of two programs compares floats that the other does not compare in this way."""
    return any(alone(unfolded(a), unfolded(b)))


def never_tied(a: Graph, b: Graph, chain: Chain, seed: int, sizing: Sizing, run: Evaluator) -> str:
    """Which comparison, of one program only, met too few ties; the empty string for none."""
    graphs = unfolded(a), unfolded(b)
    given = literals(a, b)
    for graph, nodes in zip(graphs, alone(*graphs), strict=True):
        todo, done = list(nodes), 0
        met = dict.fromkeys(nodes, 0)
        while todo and done < MOST_TRIALS:
            step = max(16, min(256, (1 << 22) // sizing.cells))
            trials = range(done, done + step)
            found = _ties(graph, todo, chain, seed, trials, given, sizing, run)
            for i, ties in zip(todo, found, strict=True):
                met[i] += ties
            todo = [i for i in todo if met[i] < ENOUGH]
            done += step
            if sizing.cells * done > 1 << 28:
                break
        if todo:
            what = describe(graph, todo[0])
            return f"whether {what} is strict was not tested: what it compares was never equal"
    return ""


def _ties(
    graph: Graph,
    nodes: list[int],
    chain: Chain,
    seed: int,
    trials: range,
    given: tuple[float, ...],
    sizing: Sizing,
    run: Evaluator,
) -> list[int]:
    """In how many of these trials the two sides of each comparison were equal, in some cell."""
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        at[i] = b.add(remap(node, at))
    outputs = []
    for k, i in enumerate(nodes):
        sides = [at[j] for j in graph.nodes[i].args]
        if len(sides) == 1:  # a cast to a truth value compares with zero
            sides.append(b.const(0.0, b.dtype(sides[0])))
        tie = b.map("eq", *sides)
        outputs.append(Output(f"tie{k}", tie, tuple((x,) for x in b.axes(tie))))
    built = Graph(graph.name, tuple(b.nodes), tuple(outputs)).pruned()
    keys = trial_keys(seed ^ POOLS, trials)
    draw = Draw(keys, np.ones(len(keys), dtype=bool), sizing.ranges, given)
    plan = analyse(built, chain.full, {o.node: 1 for o in built.outputs})
    sizes = sizing.sizes
    found = run.outputs(built, plan, [1] * len(nodes), chain, draw, sizes)
    return [
        int(((c.data != 0) & (c.status == OK)).reshape(len(keys), -1).any(1).sum()) for c in found
    ]
