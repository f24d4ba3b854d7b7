"""Where sums are kept: long sums of single precision in double, until they meet an element.

A sum of n nearly equal numbers, added one after the other in single precision, is off by up to n/2
units, all in one direction. So a sum that is no contraction has a double accumulator, and so have
its parts; what follows from such sums alone (a mean) is computed in double and rounded once, where
it is used. A contraction is kept in single precision, as BLAS does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Sequence
from functools import cache

from superopt.codegen.analysis import parts
from superopt.codegen.tileir import Apply, Buffer, Coord, Expr, Load
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import compute_dtype
from superopt.mugraph.graph import Const, Graph, Map, Reduce, SizeOf
from superopt.mugraph.scalars import SCALARS

WIDE = "f64"

SHORT = 1024
"""Elements up to which a sum that is made at once is rounded at once: little is lost by it."""


def sum_dtype(graph: Graph, i: int) -> str:
    """The dtype in which a reduction's accumulators and parts are kept, where it is made in steps."""
    node = graph.nodes[i]
    if not isinstance(node, Reduce) or node.op != "add" or compute_dtype(node.dtype) != "f32":
        return node.dtype
    return node.dtype if contracts(graph, node) else WIDE


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


def contracts(graph: Graph, node: Reduce) -> bool:
    """Whether a sum multiplies two factors, each with or without axes of the result of its own."""
    operand = graph.nodes[node.operand]
    if not isinstance(operand, Map) or SCALARS[operand.op].field != "mul":
        return False
    a, b = (set(graph.nodes[x].axes) for x in operand.operands)
    return bool((a ^ b) & set(node.axes)) and bool(a & b & set(node.over))


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
        elif isinstance(node, Map) and _follows(node):
            inputs = set(node.operands)
            if inputs & out and all(a in out or _fixed(graph, a) for a in inputs):
                out.add(i)
    return frozenset(out)


def _fixed(graph: Graph, i: int) -> bool:
    """Whether a value depends on sizes and literals alone."""
    todo = [i]
    while todo:
        node = graph.nodes[todo.pop()]
        if not isinstance(node, Const | SizeOf | Map):
            return False
        todo.extend(node.args)
    return True


def _follows(node: Map) -> bool:
    return compute_dtype(node.dtype) == "f32" and rational(node.op)


@cache
def rational(op: str) -> bool:
    """Whether a row is made of field operations."""
    row = SCALARS[op]
    if row.field in ("add", "mul", "recip"):
        return True
    return row.body is not None and row.field is None and _rational_term(row.body)


def _rational_term(term: object) -> bool:
    if not isinstance(term, tuple):
        return True
    return rational(term[0]) and all(_rational_term(t) for t in term[1:])


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
    if _follows(node) and all(w or _settled(a) for a, w in zip(args, wider, strict=True)):
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
