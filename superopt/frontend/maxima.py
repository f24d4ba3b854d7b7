"""Maxima in exponents, written so that a softmax has one: max(s - c) = max(s) - c, and bounds inside.

A softmax of scores from which their maximum was taken already would have two maxima, and a sink is
compared with the maximum of the scores: max(max_k s[k], t) = max_k max(s[k], t). Either way what is
left is one running maximum, which the sums of the same pass can follow (``search/carry.py``). It is
done for what an exponential reads: elsewhere it saves nothing.
"""

from __future__ import annotations

from dataclasses import replace

from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Graph, Map, Node, Reduce, remap
from superopt.mugraph.scalars import SCALARS


def one_maximum(graph: Graph) -> Graph:
    """The same program with maxima of differences outside, and bounds inside, where exponents are."""
    return _rebuilt(_rebuilt(graph, _Differences), _Bounds)


class _Bounds:
    """max(max_k s[k], t) as max_k max(s[k], t), where nothing else reads the maximum of s."""

    def __init__(self, graph: Graph, b: Builder, at: dict[int, int]) -> None:
        self.graph, self.b, self.at = graph, b, at
        self.users = graph.users()
        self.read = {o.node for o in graph.outputs}

    def __call__(self, i: int, node: Node) -> int | None:
        if not _is_max(node, Map):
            return None
        for peak, bound in (node.args, node.args[::-1]):
            inner = self.graph.nodes[peak]
            if not _is_max(inner, Reduce) or self.users[peak] != [i] or peak in self.read:
                continue
            if {*self.graph.nodes[bound].axes} <= {*inner.axes}:
                each = self.b.map("max", self.at[inner.args[0]], self.at[bound])
                return self.b.reduce("max", each, inner.over if isinstance(inner, Reduce) else ())
        return None


class _Differences:
    """max(s - c) as max(s) - c, which rounds alike, and (s - c) - (m - c) as s - m, of a maximum c."""

    def __init__(self, graph: Graph, b: Builder, at: dict[int, int]) -> None:
        self.b, self.at = b, at

    def __call__(self, i: int, node: Node) -> int | None:
        parts = [p for a in node.args if (p := self._difference(self.at[a])) is not None]
        if not parts or len(parts) < len(node.args) or not is_float(node.dtype):
            return None
        (s, c), (m, other) = parts[0], parts[-1]
        b = self.b
        if c != other or not (_is_max(b.nodes[c], Map) or _is_max(b.nodes[c], Reduce)):
            return None  # an infinite c would no longer make NaN what it is subtracted from
        if _is_max(node, Map):
            return b.map("sub", b.map("max", s, m), c)
        if isinstance(node, Reduce) and _is_max(node, Reduce):
            if {*b.axes(c)} != {*node.axes} or not {*node.over} <= {*b.axes(s)}:
                return None  # not the row's own maximum
            return b.map("sub", b.reduce("max", s, node.over), c)
        return b.map("sub", s, m) if isinstance(node, Map) and node.op == "sub" else None

    def _difference(self, i: int) -> tuple[int, int] | None:
        node = self.b.nodes[i]
        return (node.args[0], node.args[1]) if isinstance(node, Map) and node.op == "sub" else None


def _rebuilt(graph: Graph, rule: type[_Bounds] | type[_Differences]) -> Graph:
    """The program in which a rule was tried at every node that an exponential reads."""
    exps = [n for n in graph.nodes if isinstance(n, Map) and SCALARS[n.op].field == "exp"]
    exponents = set(graph.reachable(n.args[0] for n in exps))
    b = Builder(graph.name)
    at: dict[int, int] = {}
    work, moved = rule(graph, b, at), False
    for i, node in enumerate(graph.nodes):
        new = work(i, node) if i in exponents else None
        at[i] = b.add(remap(node, at)) if new is None else new
        moved |= new is not None
    if not moved:
        return graph
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _is_max(node: Node, kind: type[Map] | type[Reduce]) -> bool:
    return isinstance(node, kind) and SCALARS[node.op].field == "max"
