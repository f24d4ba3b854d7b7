"""Finds where two programs may be cut: at the roots that a reduction would gather.

A cell of the result that depends on many square roots is undefined in nearly every trial, since
each root has a residue with probability one half. Where both programs compute the same roots (the
normalization of every key in an attention, say), they are shown equal on their own, and the rest is
compared with fresh inputs in their place.
"""

from __future__ import annotations

from superopt.mugraph.graph import Graph, Map, Output
from superopt.mugraph.scalars import SCALARS, Arg
from superopt.verify.equal import check_equal
from superopt.verify.equivalence import Equivalence


def check_with_cuts(a: Graph, b: Graph, *, seed: int) -> Equivalence:
    """``check_equal``, cut at shared roots where a reduction gathers roots."""
    cuts = root_cuts(a, b, seed) if gathers_roots(a) or gathers_roots(b) else []
    if not cuts:
        return check_equal(a, b, seed=seed)
    return check_equal(a, b, seed=seed, cuts=cuts)


def gathers_roots(graph: Graph) -> bool:
    """Whether some root has an axis that no output has: one result then needs many of them."""
    kept = {a for o in graph.outputs for a in graph.nodes[o.node].axes}
    return any(set(graph.nodes[i].axes) - kept for i in roots(graph))


def roots(graph: Graph) -> list[int]:
    """The nodes that take a square root, in order."""
    return [i for i, n in enumerate(graph.nodes) if isinstance(n, Map) and _takes_root(n.op)]


def root_cuts(a: Graph, b: Graph, seed: int) -> list[tuple[int, int]]:
    """Pairs of roots of ``a`` and ``b`` that are shown equal, each root in one pair at most."""
    pairs: list[tuple[int, int]] = []
    left = roots(b)
    for i in roots(a):
        for j in left:
            x, y = a.nodes[i], b.nodes[j]
            if x.axes == y.axes and x.dtype == y.dtype and _same(a, i, b, j, seed):
                pairs.append((i, j))
                left.remove(j)
                break
    return pairs


def _same(a: Graph, i: int, b: Graph, j: int, seed: int) -> bool:
    return check_equal(_only(a, i), _only(b, j), seed=seed).verdict == "equal"


def _only(graph: Graph, i: int) -> Graph:
    dims = tuple((x,) for x in graph.nodes[i].axes)
    return Graph(graph.name, graph.nodes, (Output("root", i, dims),)).pruned()


def _takes_root(op: str) -> bool:
    def inside(term: object) -> bool:
        if isinstance(term, Arg) or not isinstance(term, tuple):
            return False
        return _takes_root(term[0]) or any(inside(t) for t in term[1:])

    row = SCALARS[op]
    return row.field == "sqrt" or (row.body is not None and inside(row.body))
