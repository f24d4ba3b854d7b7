"""Programs written so that they can be compared where a divisor is zero (``poles.py``)."""

from __future__ import annotations

from dataclasses import replace

from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Builder, Const, Graph, Input, Map, Node, remap
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.cuts import with_inputs
from superopt.verify.probe import unfolded
from superopt.verify.ties import comparisons


def prepared(a: Graph, b: Graph) -> tuple[Graph, Graph]:
    """Both programs with composite rows unfolded, divisors without a sign, and shared roots as inputs."""
    first, second = (_signs_out(unfolded(g)) for g in (a, b))
    return _without_roots(first, second)


def divides(node: Node) -> bool:
    """Whether a node is infinite where its argument is zero."""
    return isinstance(node, Map) and SCALARS[node.op].field in ("recip", "log")


def compares(graph: Graph) -> list[int]:
    """The comparisons of numbers that depend on inputs: of floats that may tie, and of integers."""
    depends: list[bool] = []
    whole = []
    for i, node in enumerate(graph.nodes):
        depends.append(isinstance(node, Input) or any(depends[k] for k in node.args))
        compared = isinstance(node, Map) and SCALARS[node.op].field in ("eq", "lt", "le")
        if compared and depends[i] and DTYPES[graph.nodes[node.args[0]].dtype].kind == "int":
            whole.append(i)
    return [*comparisons(graph), *whole]


def _signs_out(graph: Graph) -> Graph:
    """The same program with the negative literals that divisors are multiplied by outside of the quotient.

    -1 times the 0 that x - x is is -0, of which 1/-0 is the infinity below.
    """
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        if getattr(node, "op", "") == "recip" and _negatives(graph, node.args[0]) % 2:
            minus = b.const(-1.0, node.dtype)
            at[i] = b.map("mul", minus, b.map("recip", b.map("mul", minus, at[node.args[0]])))
        else:
            at[i] = b.add(remap(node, at))
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _negatives(graph: Graph, i: int) -> int:
    """How many of a product's factors are negative literals."""
    node = graph.nodes[i]
    if isinstance(node, Map) and node.op == "mul":
        return sum(_negatives(graph, k) for k in node.operands)
    return int(isinstance(node, Const) and node.value < 0)


def _without_roots(a: Graph, b: Graph) -> tuple[Graph, Graph]:
    """Both programs with fresh inputs for roots that both have beside their poles.

    Half of all values have no root in the field, and a cell with several is hardly ever compared.
    """
    congruence = Congruence()
    roots: list[dict[int, int]] = []
    for graph in (a, b):
        asked = [i for i, n in enumerate(graph.nodes) if divides(n)] + compares(graph)
        below = set(graph.reachable(asked))
        numbers = congruence.numbers(graph)
        found = [i for i, n in enumerate(graph.nodes) if getattr(n, "op", "") == "sqrt"]
        roots.append({numbers[i]: i for i in found if i not in below})
    shared = sorted(set(roots[0]) & set(roots[1]))
    first, second = (
        with_inputs(g, {mine[n]: k for k, n in enumerate(shared)}, "root")
        for g, mine in zip((a, b), roots, strict=True)
    )
    return first, second
