"""Well-formedness: the rules that every graph and every placed graph obeys, checked on the nodes.

Each rule raises IllFormedGraph, whose ``where`` names the operator and whose ``what`` names the
axis. The checks trust nothing that a builder does: a graph may come from a file or a mutation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from superopt.mugraph.axes import Axis, Size, Sym, sort_axes
from superopt.mugraph.dtypes import DTYPES, is_float, promote
from superopt.mugraph.graph import (
    Const,
    Dims,
    Gather,
    Graph,
    Input,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
    dims_text,
)
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.placement_rules import check_kernels
from superopt.mugraph.rules import check_index, describe, fail, no_twice
from superopt.mugraph.scalars import REDUCTIONS, SCALARS, Term

_LOGICAL = ("not", "and", "or")
_ANALYTIC = ("recip", "sqrt", "exp", "log", "erf", "sin", "cos")


def check_graph(graph: Graph) -> None:
    """Raises IllFormedGraph when the graph breaks a rule; returns nothing when it breaks none."""
    if not isinstance(graph, Graph):
        fail("not a graph", type(graph).__name__, "pass a superopt.mugraph.graph.Graph")
    for i, node in enumerate(graph.nodes):
        where = describe(graph, i)
        if not isinstance(node, Node) or type(node) is Node:
            fail(f"{type(node).__name__} is no kind of node", where, "use the kinds of graph.py")
        for a in node.args:
            if type(a) is not int or not 0 <= a < i:
                fail(
                    f"argument %{a} does not precede its user",
                    where,
                    "list nodes in topological order; a cycle has none",
                )
        if node.dtype not in DTYPES:
            fail(f"no dtype {node.dtype!r}", where, "use one of " + ", ".join(DTYPES))
    _check_sizes(graph)
    for i, node in enumerate(graph.nodes):
        _check_node(graph, node, describe(graph, i))
    _check_inputs(graph)
    _check_outputs(graph)


def check_mugraph(mugraph: MuGraph) -> None:
    """Checks the term graph, then its kernels: what they store and read, and their placement."""
    check_graph(mugraph.graph)
    check_kernels(mugraph)


# -- sizes ---------------------------------------------------------------------------------------


def _check_sizes(graph: Graph) -> None:
    """One name never has two sizes, one symbol never two ranges, and sizes are possible."""
    sizes: dict[str, tuple[Size, str]] = {}
    ranges: dict[str, tuple[Sym, str]] = {}

    def see_size(size: Size, what: str, where: str) -> None:
        if isinstance(size, Sym):
            if not size.name or not 0 <= size.lo <= size.hi:
                fail(
                    f"symbol {size.name!r} of {what} has the range {size.lo}..{size.hi}",
                    where,
                    "give it a name and 0 <= lo <= hi",
                )
            first, at = ranges.setdefault(size.name, (size, where))
            if first != size:
                fail(
                    f"symbol {size.name!r} of {what} has two ranges, {first} and {size}",
                    f"{where}; first at {at}",
                    "give each symbol one range",
                )
        elif type(size) is not int or size < 0:
            fail(f"{what} has the size {size!r}", where, "a size is an int >= 0 or a symbol")

    def see(axis: Axis, where: str) -> None:
        if not isinstance(axis, Axis) or not isinstance(axis.name, str) or not axis.name:
            fail(f"an axis without a name: {axis!r}", where, "name every axis")
        see_size(axis.size, f"axis {axis.name!r}", where)
        first, at = sizes.setdefault(axis.name, (axis.size, where))
        if first != axis.size:
            fail(
                f"axis {axis.name!r} has two sizes, {first} and {axis.size}",
                f"{where}; first at {at}",
                "rename one of the axes",
            )

    for i, node in enumerate(graph.nodes):
        where = describe(graph, i)
        for a in node.axes:
            see(a, where)
        match node:
            case Reduce():
                extra: Sequence[Axis] = node.over
            case SizeOf():
                extra = (node.axis,)
            case Input():
                extra = [a for dim in node.dims for a in dim]
                for stride in node.strides:
                    for sym in stride.syms:
                        see_size(sym, f"a stride of input {node.name!r}", where)
            case View():
                extra = [x for a, ix in node.index for x in (a, *(t for t, _ in ix.terms))]
            case Gather():
                extra = (node.along,)
            case _:
                extra = ()
        for a in extra:
            see(a, where)
    for out in graph.outputs:
        for dim in out.dims:
            for a in dim:
                see(a, f"output {out.name!r}")


# -- nodes ---------------------------------------------------------------------------------------


def _check_node(graph: Graph, node: Node, where: str) -> None:
    args = [graph.nodes[a] for a in node.args]
    match node:
        case Input():
            flat = [a for dim in node.dims for a in dim]
            _want_axes(node, set(flat), where)
            no_twice(flat, f"input {node.name!r} dims {dims_text(node.dims)}")
            if len(node.strides) != len(node.dims):
                fail(
                    f"{len(node.strides)} strides for {len(node.dims)} dims",
                    where,
                    "give one stride per torch dim",
                )
            if any(type(s.coef) is not int or s.coef < 0 for s in node.strides):
                fail("a negative stride", where, "strides are ints >= 0, in elements")
        case Const():
            _want_axes(node, set(), where)
            _check_const(node, where)
        case SizeOf():
            _want_axes(node, set(), where)
            if node.dtype == "bool":
                fail(f"the size of axis {node.axis.name!r} as a bool", where, "use a number")
        case Iota():
            if len(node.axes) != 1 or node.dtype != "i64":
                fail(
                    f"an iota over {len(node.axes)} axes, of dtype {node.dtype}",
                    where,
                    "an iota has one axis and dtype i64",
                )
        case Map():
            _check_map(node, args, where)
        case Reduce():
            _check_reduce(node, args[0], where)
        case View():
            _check_view(node, args[0], where)
        case Gather():
            _check_gather(node, args[0], args[1], where)
        case _:
            fail(f"{type(node).__name__} is no kind of node", where, "use the kinds of graph.py")


def _want_axes(node: Node, axes: set[Axis], where: str) -> None:
    if node.axes != sort_axes(axes):
        wrong = sorted({a.name for a in axes.symmetric_difference(node.axes)})
        fail(
            f"the value has axes [{','.join(a.name for a in node.axes)}], its kind gives "
            f"[{','.join(a.name for a in sort_axes(axes))}] (differing in {', '.join(wrong)})"
            if wrong
            else f"axes [{','.join(a.name for a in node.axes)}] are not in name order",
            where,
            "make nodes with Builder, which derives the axes",
        )


def _check_const(node: Const, where: str) -> None:
    value, kind = node.value, DTYPES[node.dtype].kind
    if isinstance(value, float) and math.isnan(value):
        fail("a NaN literal", where, "a program with NaN constants is left to PyTorch")
    if type(value) is not {"float": float, "int": int, "bool": bool}[kind]:
        fail(
            f"the literal {value!r} of type {type(value).__name__} as {node.dtype}",
            where,
            f"give a Python {kind}",
        )
    if kind == "int":
        low = 0 if node.dtype[0] == "u" else -(1 << (8 * DTYPES[node.dtype].bytes - 1))
        if not low <= value < low + (1 << (8 * DTYPES[node.dtype].bytes)):
            fail(f"the literal {value} does not fit {node.dtype}", where, "use a wider dtype")


def _check_map(node: Map, args: list[Node], where: str) -> None:
    row = SCALARS.get(node.op)
    if row is None or row.arity != len(args):
        fail(
            f"no scalar function {node.op!r} of {len(args)} arguments",
            where,
            "see mugraph/scalars.py for the table",
        )
    _want_axes(node, {a for x in args for a in x.axes}, where)
    first = args[0].dtype
    if row.name == "where" and first != "bool":
        fail(f"the condition has dtype {first}", where, "compare first: a condition is bool")
    if row.name in _LOGICAL and any(x.dtype != "bool" for x in args):
        fail(
            f"{row.name!r} of dtype {', '.join(x.dtype for x in args)}",
            where,
            "compare with 0 first: logical rows take bool",
        )
    values = args[1:] if row.name == "where" else args
    if row.result == "bool":
        allowed = {"bool"}
    elif row.name == "cast":
        allowed = set(DTYPES)
    elif row.name == "round":
        allowed = {d for d in DTYPES if is_float(d)} if is_float(first) else set()
    else:
        allowed = _promoted(values)
        if _analytic(row.name):
            allowed = {d for d in allowed if is_float(d)}
    if node.dtype not in allowed:
        fail(
            f"dtype {node.dtype} from arguments of dtype {', '.join(x.dtype for x in args)}",
            where,
            f"the row gives {', '.join(sorted(allowed)) or 'none'}; add a cast",
        )


def _promoted(args: Sequence[Node]) -> set[str]:
    """As torch promotes: all alike, or scalars (no axes) giving way to tensors of their kind."""
    out = {promote(*(x.dtype for x in args))}
    order = ("bool", "int", "float")
    tensors = [x.dtype for x in args if x.axes]
    scalars = [x.dtype for x in args if not x.axes]
    if tensors and scalars:
        rank = [max(order.index(DTYPES[d].kind) for d in part) for part in (tensors, scalars)]
        if rank[1] <= rank[0]:
            out.add(promote(*tensors))
    return out


def _analytic(name: str) -> bool:
    """Whether a row has a meaning on real numbers only, read off its body."""
    row = SCALARS[name]

    def inside(term: Term) -> bool:
        if not isinstance(term, tuple):
            return False
        return _analytic(term[0]) or any(inside(t) for t in term[1:])

    return name in _ANALYTIC if row.body is None else inside(row.body)


def _check_reduce(node: Reduce, arg: Node, where: str) -> None:
    row = REDUCTIONS.get(node.op)
    if row is None:
        fail(
            f"{node.op!r} has no identity, so it cannot reduce",
            where,
            "reduce by one of " + ", ".join(REDUCTIONS),
        )
    missing = [a.name for a in node.over if a not in arg.axes]
    if missing or not node.over:
        fail(
            f"cannot reduce axis {missing[0]!r}, which the operand lacks"
            if missing
            else "a reduction over no axis",
            where,
            "reduce axes that the operand has",
        )
    no_twice(node.over, where)
    if node.over != sort_axes(set(node.over)):
        fail(
            f"reduced axes {[a.name for a in node.over]} are not in name order",
            where,
            "make nodes with Builder, which sorts them",
        )
    _want_axes(node, set(arg.axes) - set(node.over), where)
    if node.dtype != arg.dtype:
        fail(
            f"dtype {node.dtype} from an operand of dtype {arg.dtype}",
            where,
            "a reduction keeps the dtype; add a cast",
        )
    if isinstance(row.identity, bool) != (arg.dtype == "bool"):
        fail(
            f"{node.op!r} over axis {node.over[0].name!r} of dtype {arg.dtype}",
            where,
            "bool is reduced by and/or, numbers by the other rows; add a cast",
        )


def _check_gather(node: Gather, arg: Node, at: Node, where: str) -> None:
    if node.along not in arg.axes:
        fail(
            f"the operand has no axis {node.along.name!r} to gather along",
            where,
            "gather along an axis of the operand",
        )
    if DTYPES[at.dtype].kind != "int":
        fail(
            f"the index along axis {node.along.name!r} has dtype {at.dtype}",
            where,
            "an index is an integer; add a cast",
        )
    _want_axes(node, (set(arg.axes) - {node.along}) | set(at.axes), where)
    _same_dtype(node, arg, where)


def _same_dtype(node: Node, arg: Node, where: str) -> None:
    if node.dtype != arg.dtype:
        fail(
            f"dtype {node.dtype} from an operand of dtype {arg.dtype}",
            where,
            "a layout operator keeps the dtype; add a cast",
        )


def _check_view(node: View, arg: Node, where: str) -> None:
    keys = [a for a, _ in node.index]
    if tuple(keys) != arg.axes:
        wrong = sorted({a.name for a in set(keys).symmetric_difference(arg.axes)}) or ["order"]
        fail(
            f"the index gives [{','.join(a.name for a in keys)}] for an operand with axes "
            f"[{','.join(a.name for a in arg.axes)}] (differing in {', '.join(wrong)})",
            where,
            "index each axis of the operand once, in name order",
        )
    _want_axes(node, {a for _, ix in node.index for a, _ in ix.terms}, where)
    _same_dtype(node, arg, where)
    empty = any(a.size == 0 for a in node.axes)  # no coordinates, so nothing is read
    for axis, index in node.index:
        check_index(axis, index, where, empty)


# -- the boundary --------------------------------------------------------------------------------


def _check_inputs(graph: Graph) -> None:
    names = [n.name for n in graph.inputs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        fail(f"two inputs are named {twice[0]!r}", f"graph {graph.name!r}", "rename one of them")


def _check_outputs(graph: Graph) -> None:
    if not graph.outputs:
        fail("a graph without outputs", f"graph {graph.name!r}", "return at least one value")
    names = [o.name for o in graph.outputs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        fail(f"two outputs are named {twice[0]!r}", f"graph {graph.name!r}", "rename one of them")
    for out in graph.outputs:
        where = f"output {out.name!r} {dims_text(out.dims)}"
        if type(out.node) is not int or not 0 <= out.node < len(graph.nodes):
            fail(f"there is no node %{out.node}", where, "return the id of a node of the graph")
        flat: Dims = tuple((a,) for dim in out.dims for a in dim)
        no_twice([a for (a,) in flat], where)
        rank = list(range(len(out.dims)))
        if out.order and (sorted(out.order) != rank or list(out.order) == rank):
            fail(
                f"the order of dims {out.order}",
                where,
                f"order all {len(rank)} dims, or leave it out for row-major",
            )
        missing = [a.name for a in graph.nodes[out.node].axes if (a,) not in flat]
        if missing:
            fail(
                f"axis {missing[0]!r} of the value is in no dim",
                f"{where}, returning {describe(graph, out.node)}",
                "the dims cover the value's axes (others broadcast); reduce the axis otherwise",
            )
