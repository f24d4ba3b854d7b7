"""The assumptions that a check rests on, named."""

from __future__ import annotations

from collections.abc import Sequence

from superopt.mugraph.algebras.levels import Levels
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Gather, Graph
from superopt.verify.bound import SELECT, Counter
from superopt.verify.sizes import Sizing


def marks_of(graph: Graph, sizing: Sizing) -> list:
    counted = Counter(sizing.sizes, sizing.ranges).count(graph)
    return [m for o in graph.outputs for m in counted[o.node][1].values()]


def assumed(
    a: Graph, b: Graph, plans: Sequence[Levels], sizings: Sequence[Sizing]
) -> tuple[str, ...]:
    marks = {m.kind for g in (a, b) for m in marks_of(g, sizings[0])}
    names = {"generic-literals", "finite-inputs"}
    if any(n != x.size for s in sizings for x, n in s.sizes.items()):
        names.add("reduced-sizes")
    names |= {name for p in plans for name in p.named}
    names |= (
        {"where-defined"} if marks & {"root", "log"} or is_partial(a) or is_partial(b) else set()
    )
    names |= {"ties"} if SELECT in marks else set()
    names |= {"exponential"} if "exp" in marks else set()
    for graph in (a, b):
        for node in graph.nodes:
            if (
                getattr(node, "op", "") == "cast"
                and is_float(node.dtype)
                and is_float(graph.nodes[node.args[0]].dtype)
            ):
                names.add("casts")
    if any(
        n < x.size
        for s in sizings
        for x, n in s.sizes.items()
        if x.name in s.shrunk and isinstance(x.size, int)
    ):
        names.add("shrunk-comparisons")
    return tuple(sorted(names))


def is_partial(graph: Graph) -> bool:
    """Whether some operator has no value for some arguments (beside roots and logarithms of rows)."""
    return any(
        isinstance(n, Gather)
        or getattr(n, "op", "") in ("div", "recip", "sqrt", "log", "rsqrt", "sigmoid", "silu")
        for n in graph.nodes
    )
