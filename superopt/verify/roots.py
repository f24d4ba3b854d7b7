"""Independence of square roots, found by probing: no product of their arguments is a square.

In the field a root of g^2 is g or -g, as g is a square or not, so a cell whose roots hide a square
is a coin toss, and no degree bounds it. If f_1..f_k have no subset whose product is a constant
times a square, adjoining their roots makes an extension of degree 2^k (Kummer theory; Lang,
Algebra, VI.8), and the bound's conjugates are what they should be. A product that is a constant
times a square has one quadratic character at every point. So: when the characters of the f_i over
random points, with the all-one vector, are independent over GF(2), no such product exists.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import U64, Chain, power
from superopt.mugraph.algebras.levels import analyse, information, lowest
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Map
from superopt.verify.probe import Probe, one_cell, selects, unfolded
from superopt.verify.sizes import Sizing

_POINTS = (192, 1024, 4096)
"""Random points that are tried until enough are left at which all roots are defined."""


def independent_roots(a: Graph, b: Graph, sizing: Sizing, chain: Chain, seed: int) -> bool:
    """Whether the roots below an output cell, in both graphs, were shown to be independent."""
    sizes = one_cell(a, b, sizing)
    graphs = [unfolded(g) for g in (a, b)]
    try:
        return all(
            _level(graphs, level, sizes, sizing, chain, seed) for level in range(chain.depth)
        )
    except VerificationFailed:
        return False


def _level(
    graphs: list[Graph],
    level: int,
    sizes: Mapping[Axis, int],
    sizing: Sizing,
    chain: Chain,
    seed: int,
) -> bool:
    probes = []
    for graph in graphs:
        info = information(graph, chain.full)
        wanted = {o.node: lowest(info[o.node].mask) for o in graph.outputs}
        plan = analyse(graph, chain.full, wanted)
        nodes = sorted(
            {
                n.operands[0]
                for i, n in enumerate(graph.nodes)
                if isinstance(n, Map) and n.op == "sqrt" and plan.want[i] >> level & 1
            }
        )
        if selects(graph, nodes):
            return False  # another pattern of winners may hide a square
        if nodes:
            probes.append(Probe(graph, nodes, level, chain, sizes, sizing.ranges, seed))
    for points in _POINTS if probes else ():
        found = [probe.points(range(points)) for probe in probes]
        f = np.concatenate([v for v, _ in found], 1)
        status = np.concatenate([s for _, s in found], 1)
        f = f[((status == 0) & (f != 0)).all(1)]
        if len(f) < 64:
            continue  # nested roots leave few points at which all are defined
        return _independent(f, chain.primes[level])
    return not probes


def _independent(f: np.ndarray, p: int) -> bool:
    """Whether the columns of f [points, roots] have independent quadratic characters."""
    # Equal arguments, and constant multiples of one another, have one root up to a constant.
    shape = f * power(f[:1], p - 2, p) % U64(p)
    _, first = np.unique(shape, axis=1, return_index=True)
    f = f[:, first]
    f = f[:, (f != f[0]).any(0)]
    if len(f) < f.shape[1] + 32:
        return False
    squares = power(f, (p - 1) // 2, p) == 1
    bits = np.concatenate([squares, np.ones((len(f), 1), dtype=bool)], 1)
    return _rank(bits) == bits.shape[1]


def _rank(bits: np.ndarray) -> int:
    """The rank over GF(2)."""
    rows = [int("".join("1" if x else "0" for x in r), 2) for r in bits]
    rank = 0
    while rows:
        pivot = rows.pop()
        if pivot:
            rank += 1
            low = pivot & -pivot
            rows = [r ^ pivot if r & low else r for r in rows]
    return rank
