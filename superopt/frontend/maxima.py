"""Maxima in exponents, written so that a softmax has one: max(s - c) = max(s) - c, and bounds inside.

A softmax of scores from which their maximum was taken already would have two maxima, and a sink is
compared with the maximum of the scores: max(max_k s[k], t) = max_k max(s[k], t). Either way what is
left is one running maximum, which the sums of the same pass can follow (``search/carry.py``). It is
done for what an exponential reads: elsewhere it saves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Graph, Map, Node, Reduce
from superopt.mugraph.rewrite import rewritten
from superopt.mugraph.scalars import SCALARS


def one_maximum(graph: Graph) -> Graph:
    """The same program with maxima of differences outside, and bounds inside, where exponents are."""
    for rule in (_difference_outside, _bound_inside):
        exponents = _exponents(graph)
        graph = rewritten(graph, partial(rule, graph, exponents))
    return graph


def _exponents(graph: Graph) -> set[int]:
    """What exponentials read."""
    exps = [n for n in graph.nodes if isinstance(n, Map) and SCALARS[n.op].field == "exp"]
    return set(graph.reachable(n.args[0] for n in exps))


def _bound_inside(
    graph: Graph, exponents: set[int], b: Builder, at: Mapping[int, int], i: int
) -> int | None:
    """max(max_k s[k], t) as max_k max(s[k], t), where nothing else reads the maximum of s."""
    node = graph.nodes[i]
    if i not in exponents or not _is_max(node, Map):
        return None
    for peak, bound in (node.args, node.args[::-1]):
        inner = graph.nodes[peak]
        if not isinstance(inner, Reduce) or not _is_max(inner, Reduce):
            continue
        alone = sum(n.args.count(peak) for n in graph.nodes) == 1
        if not alone or any(o.node == peak for o in graph.outputs):
            continue
        if {*graph.nodes[bound].axes} <= {*inner.axes}:
            return b.reduce("max", b.map("max", at[inner.operand], at[bound]), inner.over)
    return None


def _difference_outside(
    graph: Graph, exponents: set[int], b: Builder, at: Mapping[int, int], i: int
) -> int | None:
    """max(s - c) as max(s) - c, which rounds alike, and (s - c) - (m - c) as s - m, of a maximum c."""
    node = graph.nodes[i]
    if i not in exponents or not is_float(node.dtype):
        return None
    parts = [n.args for a in node.args if isinstance(n := b.nodes[at[a]], Map) and n.op == "sub"]
    if not parts or len(parts) < len(node.args):
        return None
    (s, c), (m, other) = parts[0], parts[-1]
    if c != other or not (_is_max(b.nodes[c], Map) or _is_max(b.nodes[c], Reduce)):
        return None  # an infinite c would no longer make NaN what it is subtracted from
    if _is_max(node, Map):
        return b.map("sub", b.map("max", s, m), c)
    if isinstance(node, Reduce) and _is_max(node, Reduce):
        if {*b.axes(c)} != {*node.axes} or not {*node.over} <= {*b.axes(s)}:
            return None  # not the row's own maximum
        return b.map("sub", b.reduce("max", s, node.over), c)
    return b.map("sub", s, m) if isinstance(node, Map) and node.op == "sub" else None


def _is_max(node: Node, kind: type[Map] | type[Reduce]) -> bool:
    return isinstance(node, kind) and SCALARS[node.op].field == "max"
