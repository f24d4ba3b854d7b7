"""Where sums are kept: long sums of single precision in double (``mugraph/sums.py`` says which)."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Sequence

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.mugraph.sums import WIDE, fixed, follows, sum_dtype
from superopt.mugraph.tile_analysis import parts
from superopt.mugraph.tileir import Apply, Buffer, Coord, Expr, Load

SHORT = 1024
"""Elements up to which a sum that is made at once is rounded at once: little is lost by it."""


def kept_in(graph: Graph, sums: Sequence[int]) -> str:
    """The dtype of an accumulator that these reductions share."""
    dtypes = {sum_dtype(graph, i) for i in sums}
    return dtypes.pop() if len(dtypes) == 1 else graph.nodes[sums[0]].dtype


def made_in(graph: Graph, i: int) -> str:
    """The dtype in which a reduction is kept that one statement makes."""
    node = graph.nodes[i]
    return node.dtype if isinstance(node, Reduce) and _short(node) else sum_dtype(graph, i)


def _short(node: Reduce) -> bool:
    return math.prod(a.size.hi if isinstance(a.size, Sym) else a.size for a in node.over) <= SHORT


def read_as(buffer: Buffer, dtype: str) -> str:
    """The dtype in which a value of this dtype is read where it is kept in a buffer."""
    return WIDE if buffer.dtype == WIDE else dtype


def wide_nodes(
    graph: Graph, body: set[int], stored: Container[int], looped: Collection[Axis]
) -> frozenset[int]:
    """The values of a kernel body that are kept, or follow by field operations alone, in double."""
    out: set[int] = set()
    for i in sorted(body):
        node = graph.nodes[i]
        if i in stored:
            continue
        if isinstance(node, Reduce):
            steps = any(a in looped for a in node.over)
            if (sum_dtype(graph, i) if steps else made_in(graph, i)) == WIDE:
                out.add(i)
        elif isinstance(node, Map) and follows(node):
            inputs = set(node.operands)
            if inputs & out and all(a in out or fixed(graph, a) for a in inputs):
                out.add(i)
    return frozenset(out)


def applied(graph: Graph, node: Map, args: Sequence[Expr]) -> tuple[tuple[Expr, ...], str]:
    """The arguments and the dtype of a map some of whose arguments may be kept in double.

    It stays in double where all of them are or are fixed; elsewhere they are rounded first.
    """
    wider = [
        a.dtype == WIDE and graph.nodes[x].dtype != WIDE
        for a, x in zip(args, node.operands, strict=True)
    ]
    if not any(wider) or node.op == "cast":
        return tuple(args), node.dtype
    if follows(node) and all(w or _settled(a) for a, w in zip(args, wider, strict=True)):
        return tuple(args), WIDE
    return tuple(narrow(a) if w else a for a, w in zip(args, wider, strict=True)), node.dtype


def narrow(expr: Expr) -> Expr:
    """A value in double rounded to single precision; others as they are."""
    if expr.dtype != WIDE:
        return expr
    if isinstance(expr, Load):
        return Load(expr.buffer, expr.index, "f32", expr.clamp)
    return Apply("cast", (expr,), "f32")


def _settled(expr: Expr) -> bool:
    return not any(isinstance(e, Load | Coord) for e in parts(expr))


def read_again(space: frozenset[Axis], axes: Sequence[Axis]) -> bool:
    """Whether a value with these axes is read more than once over a space."""
    return any(a.size != 1 for a in space - set(axes))
