"""Comparisons of floats, and the trials in which what they compare is equal.

``x < y`` and ``x <= y`` agree unless x = y, which has no chance to happen at random points. In the
trials whose inputs come from small pools, which hold 0, 1 and the literals of both programs, it
happens, mostly; ``superopt.verify.solved`` makes it happen elsewhere as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from superopt.mugraph.algebras.levels import EXACT
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Map
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.infinite import infinities
from superopt.verify.probe import unfolded

POOLS = 0x5EED
"""Added to the seed of the trials whose inputs come from small pools."""

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


def alone(a: Graph, b: Graph) -> bool:
    """Whether one of two programs compares floats that the other does not compare in this way."""
    first, second = unfolded(a), unfolded(b)
    congruence = Congruence()
    numbers = congruence.numbers(first), congruence.numbers(second)
    common = set(numbers[0]) & set(numbers[1])
    return any(
        mine[i] not in common
        for graph, mine in zip((first, second), numbers, strict=True)
        for i in comparisons(graph)
    )


def comparisons(graph: Graph) -> Iterator[int]:
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
