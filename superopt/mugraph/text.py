"""The textual form of graphs and placed graphs: printing here, reading in ``text_reader.py``.

Printing, reading and printing again gives the same text, and reading gives an equal object. Names
that are no plain identifiers are quoted as JSON strings; floats are written in hexadecimal, so
that they are exact, with the decimal in a comment.
"""

from __future__ import annotations

import json
import re

from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.graph import (
    Const,
    Dims,
    Gather,
    Graph,
    Index,
    Input,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
)
from superopt.mugraph.placement import Kernel, MuGraph, Split
from superopt.mugraph.placement_rules import check_kernels
from superopt.mugraph.scalars import Arg
from superopt.mugraph.text_reader import Reader
from superopt.mugraph.text_tokens import RESERVED
from superopt.mugraph.wellformed import check_graph

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def parse_graph(text: str) -> Graph:
    """The graph that ``text`` denotes, checked; raises ParseError or IllFormedGraph."""
    reader = Reader(text)
    graph = reader.graph()
    reader.end()
    check_graph(graph)
    return graph


def parse_mugraph(text: str) -> MuGraph:
    """The placed graph that ``text`` denotes, checked; raises ParseError or IllFormedGraph."""
    reader = Reader(text)
    graph = reader.graph()
    kernels = reader.kernels()
    reader.end()
    check_graph(graph)
    mugraph = MuGraph(graph, kernels)
    check_kernels(mugraph)
    return mugraph


def print_graph(graph: Graph) -> str:
    """The text of a graph; it ends in a newline."""
    axes = sorted(_axes(graph), key=lambda a: (a.name, str(a.size)))
    lines = [f"graph {_name(graph.name)}"]
    lines += [f"  axis {_name(a.name)} = {_size(a)}" for a in axes]
    lines += [f"  symbol {_name(s.name)} = {s.lo}..{s.hi}" for s in _loose_symbols(graph, axes)]
    lines += [f"  %{i} = {_node(node)}" for i, node in enumerate(graph.nodes)]
    for o in graph.outputs:
        order = f" order {' '.join(map(str, o.order))}" if o.order else ""
        lines.append(f"  return {json.dumps(o.name)} {_dims(o.dims)}{order} = %{o.node}")
    return "\n".join(lines) + "\n"


def print_mugraph(mugraph: MuGraph) -> str:
    """The text of a placed graph: the graph, then its kernels in execution order."""
    return print_graph(mugraph.graph) + print_kernels(mugraph)


def print_kernels(mugraph: MuGraph) -> str:
    """The text of the kernels of a placed graph alone."""
    return "".join(_kernel(k) for k in mugraph.kernels)


def _axes(graph: Graph) -> set[Axis]:
    """Every axis that the text mentions, also where a rule is broken."""
    out = set(graph.axes)
    for node in graph.nodes:
        if isinstance(node, View):
            out |= {a for a, _ in node.index} | {t for _, ix in node.index for t, _ in ix.terms}
        if isinstance(node, Gather):
            out.add(node.along)
    return out


def _loose_symbols(graph: Graph, axes: list[Axis]) -> list[Sym]:
    """The symbols that occur in strides alone, so that no axis declares their range."""
    known = {a.size for a in axes if isinstance(a.size, Sym)}
    return sorted({s for n in graph.inputs for st in n.strides for s in st.syms} - known)


def _name(name: str) -> str:
    return name if _PLAIN.match(name) and name not in RESERVED else json.dumps(name)


def _size(axis: Axis) -> str:
    if isinstance(axis.size, Sym):
        return f"{_name(axis.size.name)}:{axis.size.lo}..{axis.size.hi}"
    return str(axis.size)


def _dims(dims: Dims) -> str:
    """``[b,(h d)]``: merged axes in parentheses; ``()`` is a dim of size one."""
    parts = [
        _name(d[0].name) if len(d) == 1 else "(" + " ".join(_name(a.name) for a in d) + ")"
        for d in dims
    ]
    return "[" + ",".join(parts) + "]"


def _node(node: Node) -> str:
    kind = f": [{','.join(_name(a.name) for a in node.axes)}] {node.dtype}"
    match node:
        case Input():
            strides = ",".join(_stride(s) for s in node.strides)
            return (
                f"input {json.dumps(node.name)} {_dims(node.dims)} {node.dtype} strides({strides})"
            )
        case Const():
            value = literal(node.value)
            note = f"  # {node.value!r}" if value.lstrip("-").startswith("0x") else ""
            return f"const {value} {node.dtype}{note}"
        case SizeOf():
            return f"size_of {_name(node.axis.name)} {kind}"
        case Iota():
            return f"iota {kind}"
        case Map():
            return " ".join([node.op, *(f"%{i}" for i in node.operands), kind])
        case Reduce():
            over = ",".join(_name(a.name) for a in node.over)
            return f"reduce {node.op}({over}) %{node.operand} {kind}"
        case View():
            index = ", ".join(f"{_name(a.name)} := {_index(ix)}" for a, ix in node.index)
            return f"view %{node.operand} {{ {index} }} {kind}"
        case Gather():
            return f"gather %{node.operand} along {_name(node.along.name)} at %{node.at} {kind}"
    raise TypeError(f"unknown node {node!r}")


def literal(value: float | int | bool) -> str:
    """A literal, exactly: floats in hexadecimal without idle zeros, ints, ``true``, ``inf``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return re.sub(r"(\.[0-9a-f]+?)0+p", r"\1p", float(value).hex())


def _stride(stride: Stride) -> str:
    return "*".join([str(stride.coef), *(_name(s.name) for s in stride.syms)])


def _index(index: Index) -> str:
    parts = [(coef, _name(a.name)) for a, coef in index.terms]
    if index.offset or not parts:
        parts.append((index.offset, ""))
    text = ""
    for coef, name in parts:
        size = str(abs(coef)) if not name else name if abs(coef) == 1 else f"{abs(coef)}*{name}"
        sign = "-" if coef < 0 else "+"
        text += f" {sign} {size}" if text else size if sign == "+" else f"-{size}"
    if len(parts) > 1 and (index.div != 1 or index.mod is not None):
        text = f"({text})"
    if index.div != 1:
        text += f" // {index.div}"
    if index.mod is not None:
        text += f" % {index.mod}"
    if index.lo is not None or index.hi is not None:
        low = "" if index.lo is None else str(index.lo)
        high = "" if index.hi is None else str(index.hi)
        text += f" clamp {low}..{high}"
    return text


def _kernel(kernel: Kernel) -> str:
    place = kernel.placement
    lane = place.lane
    lines = [" ".join([f"kernel {_name(kernel.name)} ->", *(f"%{i}" for i in kernel.outputs)])]
    for level, splits in (("grid", place.grid), ("loop", place.loop)):
        if splits:
            lines.append(f"  {level} " + " ".join(_split(s) for s in splits))
    lines.append(
        f"  lane vector {lane.vector} rows {lane.rows} cols {lane.cols} unroll {lane.unroll}"
    )
    lines += [
        f"  carry %{c.reduce} with %{c.stat} by {_term(c.factor)}"
        + (f" rank {c.rank}" if c.rank else "")
        for c in kernel.carries
    ]
    return "\n".join(lines) + "\n"


def _split(split: Split) -> str:
    return f"{_name(split.axis.name)}:{split.tile}"


def _term(term: object) -> str:
    """A factor: rows as calls, ``$0`` the old statistic, ``$1`` the new one."""
    if isinstance(term, Arg):
        return f"${term.index}"
    if isinstance(term, tuple):
        return f"{term[0]}({','.join(_term(t) for t in term[1:])})"
    return repr(term)
