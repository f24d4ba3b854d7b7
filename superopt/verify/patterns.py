"""Whether each cell of a selection compares values of its own, found by probing.

Then the winners of its cells are independent of one another. Two values that agree at several random
points are taken for one value, which can make the answer no, never yes: values that are equal agree
at all points.
"""

from __future__ import annotations

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import Chain
from superopt.mugraph.algebras.levels import ORDERED, information, lowest
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.mugraph.scalars import SCALARS
from superopt.verify.probe import Probe, selects, unfolded
from superopt.verify.sizes import Sizing

POINTS = 6
"""Random points at which values are told apart."""


def apart(a: Graph, b: Graph, sizing: Sizing, chain: Chain, seed: int) -> bool:
    """Whether no value is compared in two cells of a selection, in either program.

    No where one selection looks at the result of another.
    """
    try:
        return all(_apart(unfolded(g), sizing, chain, seed) for g in (a, b))
    except VerificationFailed:
        return False


def _apart(graph: Graph, sizing: Sizing, chain: Chain, seed: int) -> bool:
    for i in graph.reachable([o.node for o in graph.outputs]):
        node = graph.nodes[i]
        if not isinstance(node, Map | Reduce) or SCALARS[node.op].field not in ORDERED:
            continue
        sides = [j for j in node.args if is_float(graph.nodes[j].dtype)]
        if not sides:
            continue
        axes = {frozenset(graph.nodes[j].axes) for j in sides}
        whole = isinstance(node, Reduce) or axes == {frozenset(node.axes)}
        if len(sides) != len(node.args) or not whole or selects(graph, sides):
            return False
        info = information(graph, chain.full)
        mask = chain.full
        for j in sides:
            mask &= info[j].mask
        level = lowest(mask).bit_length() - 1
        probe = Probe(graph, sides, level, chain, sizing.sizes, sizing.ranges, seed)
        values, status = probe.points(range(POINTS))
        values = np.where(status == 0, values, np.uint64(0))
        if len(np.unique(values, axis=1).T) != values.shape[1]:
            return False
    return True
