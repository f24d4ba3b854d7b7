"""How programs use their integer inputs: as indices alone, or as numbers.

An input that only picks elements, or is compared with positions or literals, treats all positions alike:
it is tried on a shorter axis, with every index of that, and at the literals. Where its value matters
otherwise (in arithmetic), the axis keeps its size. And only what is given to an axis as it is, is known to
lie within it: what is clamped or computed before may be any number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Const, Gather, Graph, Input, Iota, Map, Node, SizeOf, View
from superopt.mugraph.scalars import SCALARS


@dataclass(frozen=True)
class Index:
    """An input that is an index along an axis, as it is; wraps: or counted from the end, below 0."""

    name: str
    along: Axis
    wraps: bool = False


def index_source(graph: Graph, i: int) -> str | None:
    """The integer input that a gather index is read from unchanged, or None."""
    found = _unchanged(graph, i)
    node = graph.nodes[found]
    return node.name if isinstance(node, Input) else None


def indices(graph: Graph) -> Iterator[Index]:
    """The inputs that must lie within an axis, since the program has no value elsewhere."""
    for node in graph.nodes:
        if not isinstance(node, Gather):
            continue
        name = index_source(graph, node.at)
        if name is not None:
            yield Index(name, node.along)
            continue
        chosen = graph.nodes[_unchanged(graph, node.at)]
        if not isinstance(chosen, Map) or chosen.op != "where":
            continue
        test, yes, no = chosen.operands
        for mine, other, holds in ((yes, no, True), (no, yes, False)):
            name = index_source(graph, mine)
            if name is None:
                continue
            if _from_the_end(graph, other, name, node.along):
                if _compares(graph, test, name, ("lt", "le")) is not None:
                    yield Index(name, node.along, wraps=True)
            elif _compares(graph, test, name, ("eq",)) is not holds:
                continue  # what is read is the input at one literal alone, or not at all known
            elif isinstance(graph.nodes[other], Const):
                yield Index(name, node.along)


def alone(graphs: Sequence[Graph], name: str) -> bool:
    """Whether an input is nothing but an index, or compared with positions or literals, in all programs."""
    return all(
        _indexes(graph, i, graph.users())
        for graph in graphs
        for i, node in enumerate(graph.nodes)
        if isinstance(node, Input) and node.name == name
    )


def _indexes(graph: Graph, i: int, users: list[list[int]]) -> bool:
    for u in set(users[i]):
        node = graph.nodes[u]
        if isinstance(node, Gather) and node.at == i and node.operand != i:
            # An element of a row of positions is the index itself.
            if is_float(node.dtype) or node.dtype == "bool" or _indexes(graph, u, users):
                continue
            return False
        if _keeps(graph, node):
            if not _indexes(graph, u, users):
                return False
        elif not (
            (_field(node) == "eq" and all(k == i or _position(graph, k) for k in node.args))
            or _compared(graph, i, node)
        ):
            return False
    return True


def _unchanged(graph: Graph, i: int) -> int:
    """The node that a value is read from as it is."""
    while _keeps(graph, graph.nodes[i]):
        i = graph.nodes[i].args[0]
    return i


def _keeps(graph: Graph, node: Node) -> bool:
    """Whether a node has the integers of its argument: moved, or in a type that holds them."""
    if isinstance(node, View):
        return True
    if not isinstance(node, Map) or node.op != "cast" or is_float(node.dtype):
        return False
    source = graph.nodes[node.operands[0]].dtype
    if is_float(source) or "bool" in (source, node.dtype):
        return False
    wider = DTYPES[source].bytes < DTYPES[node.dtype].bytes
    return source == node.dtype or (wider and node.dtype != "u8")


def _field(node: Node) -> str:
    """What a comparison computes; of ``ne``, that is the opposite of equality."""
    if not isinstance(node, Map):
        return ""
    return "eq" if node.op == "ne" else SCALARS[node.op].field or ""


def _compared(graph: Graph, i: int, node: Node) -> bool:
    """Whether a node compares another one with a literal."""
    fits = _field(node) in ("eq", "lt", "le") or (isinstance(node, Map) and node.op in ("gt", "ge"))
    return fits and all(k == i or isinstance(graph.nodes[k], Const) for k in node.args)


def _position(graph: Graph, i: int) -> bool:
    """Whether a value depends on positions alone, and has each of them."""
    return isinstance(graph.nodes[_unchanged(graph, i)], Iota)


def _from_the_end(graph: Graph, i: int, name: str, along: Axis) -> bool:
    """Whether a value is an input plus the size of an axis."""
    node = graph.nodes[_unchanged(graph, i)]
    if not isinstance(node, Map) or node.op != "add":
        return False
    sources = [index_source(graph, k) for k in node.operands]
    rest = [graph.nodes[k] for k, source in zip(node.operands, sources, strict=True) if not source]
    if name not in sources or len(rest) != 1:
        return False
    (size,) = rest
    return (isinstance(size, Const) and size.value == along.size) or (
        isinstance(size, SizeOf) and size.axis.size == along.size
    )


def _compares(graph: Graph, test: int, name: str, fields: tuple[str, ...]) -> bool | None:
    """Whether a condition holds where an input is unlike a literal; None for another condition.

    fields: the comparisons that are meant; those of order are with zero.
    """
    node, unlike = graph.nodes[test], False
    if _field(node) == "not":
        node, unlike = graph.nodes[node.args[0]], True
    unlike ^= isinstance(node, Map) and node.op == "ne"
    if _field(node) not in fields:
        return None
    literals = [graph.nodes[k] for k in node.args if index_source(graph, k) is None]
    named = [index_source(graph, k) for k in node.args]
    if name not in named or len(literals) != 1 or not isinstance(literals[0], Const):
        return None
    return unlike if "eq" in fields or literals[0].value == 0 else None
