"""Turns nodes of a kernel into tile-IR expressions: what is inlined, and what needs a tile buffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from superopt.codegen.tileir import Apply, Buffer, Coord, Expr, Extent, Lit, Load, index_expr
from superopt.errors import SuperoptError
from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
)
from superopt.mugraph.scalars import SCALARS

Coords = dict[Axis, Expr]


class NotLowerable(SuperoptError):
    """This placement cannot be expressed in the tile IR; the search drops the candidate."""


@dataclass(frozen=True)
class Reader:
    """Who reads a value: its iteration space, and the reduction row if it is one."""

    space: frozenset[Axis]
    reduce: str | None


def _unrounded(graph: Graph) -> frozenset[int]:
    """The nodes that an output depends on with no rounding to 16 bits in between."""
    todo, seen = [o.node for o in graph.outputs], set[int]()
    while todo:
        i = todo.pop()
        dtype = graph.nodes[i].dtype
        if i not in seen and not (is_float(dtype) and DTYPES[dtype].bytes == 2):
            seen.add(i)
            todo.extend(graph.nodes[i].args)
    return frozenset(seen)


class Expressions:
    """Expressions over the body of one kernel; ``stored`` nodes are read from global buffers."""

    def __init__(self, graph: Graph, body: set[int], stored: dict[int, Buffer]) -> None:
        self.graph, self.body, self.stored = graph, body, stored
        self.sums: frozenset[int] = frozenset()  # maps whose terms share one accumulator
        self.exact = _unrounded(graph)
        self.users: dict[int, set[int]] = {i: set() for i in body}
        for i in body:
            for a in graph.nodes[i].args:
                if a in body:
                    self.users[a].add(i)
        self._cost: dict[int, int] = {}

    def cost(self, i: int) -> int:
        """Flops to compute one element of a node from buffers, everything pure inlined."""
        if i not in self._cost:
            node, total = self.graph.nodes[i], 0
            if i not in self.stored and not isinstance(node, Reduce):
                total = sum(self.cost(a) for a in node.args)
                total += SCALARS[node.op].flops if isinstance(node, Map) else 0
            self._cost[i] = total
        return self._cost[i]

    def buffered(
        self, i: int, reader: Reader, have: Callable[[int], bool], top: bool = True
    ) -> list[tuple[int, str]]:
        """The nodes, with their buffer dtype, that must have a tile before ``i`` is written out.

        ``top``: node ``i`` itself is to be inlined even where a buffer would pay.
        """
        out: dict[int, str] = {}
        seen: set[tuple[int, bool]] = set()

        def visit(j: int, here: bool, inline: bool, dtype: str | None) -> None:
            if j in self.stored or have(j) or (j, here) in seen:
                return
            seen.add((j, here))
            node = self.graph.nodes[j]
            if isinstance(node, Reduce) or j in self.sums:
                if not here:
                    raise NotLowerable(
                        f"%{j} is a reduction that is read through a layout operator",
                        "kernel body",
                        "store it in an earlier kernel",
                    )
                out.setdefault(j, node.dtype)
                return
            if isinstance(node, Map):
                if here and not inline and self._pays(j, node, reader):
                    out[j] = dtype or node.dtype
                    return
                narrow = None if j in self.exact else self._narrow(node, reader)
                for a in node.operands:
                    # A product's factors stay apart: each is a candidate for its own buffer.
                    visit(a, here, False, narrow)
            elif isinstance(node, View):
                visit(node.operand, False, False, None)
            elif isinstance(node, Gather):
                visit(node.operand, False, False, None)
                visit(node.at, here, False, None)

        visit(i, True, top, None)
        return list(out.items())

    def _pays(self, j: int, node: Node, reader: Reader) -> bool:
        """Whether a tile buffer for a pure node beats computing it at every reading."""
        cost = self.cost(j)
        if not cost or not node.axes:
            return False
        repeats = 1
        for axis in reader.space - set(node.axes):
            repeats *= min(hint(axis.size), 64)
        if repeats > 1 and self.shallow(j):
            return False
        if repeats >= 2 and (reader.reduce is not None or cost >= 4):
            return True
        return len(self.users[j]) >= 2 and cost >= 2

    def shallow(self, j: int) -> bool:
        """Whether a node reads no buffer (coordinates and literals alone): never worth a tile."""
        node = self.graph.nodes[j]
        if j in self.stored or isinstance(node, Reduce | View | Gather):
            return False
        return all(self.shallow(a) for a in node.args)

    def _narrow(self, node: Map, reader: Reader) -> str | None:
        """The 16-bit dtype for a contraction's computed factor, if the other is stored in it.

        Eager rounds that factor to 16 bits as well where the result is rounded to them; doing so
        lets the product run on the unit that multiplies 16-bit pairs exactly and accumulates in
        f32. The numeric gate judges it.
        """
        if reader.reduce != "add" or node.op != "mul":
            return None
        for a in node.operands:
            dtype = self.source_dtype(a)
            if dtype is not None and is_float(dtype) and DTYPES[dtype].bytes == 2:
                return dtype
        return None

    def source_dtype(self, i: int) -> str | None:
        """The stored dtype of a value that is read straight from a buffer (through casts, views)."""
        node = self.graph.nodes[i]
        if i in self.stored:
            return self.stored[i].dtype
        if isinstance(node, Map) and node.op == "cast":
            return self.source_dtype(node.operands[0])
        return self.source_dtype(node.operand) if isinstance(node, View) else None

    def expr(self, i: int, load: Callable[[int], Load | None]) -> Expr:
        """Node ``i`` at its own coordinates; ``load`` gives the tile of a node that has one."""
        return self._at(i, {a: Coord(a) for a in self.graph.nodes[i].axes}, load, True)

    def _at(self, i: int, at: Coords, load: Callable[[int], Load | None], here: bool) -> Expr:
        node = self.graph.nodes[i]
        if i in self.stored:
            buffer = self.stored[i]
            return Load(buffer, tuple(at[a] for a in buffer.axes), node.dtype)
        found = load(i)
        if found is not None:
            if not here:
                raise NotLowerable(
                    f"%{i} has a tile but is read at other coordinates", "kernel body"
                )
            return found
        match node:
            case Const():
                return Lit(node.value, node.dtype)
            case SizeOf():
                return Extent(node.axis, node.dtype)
            case Iota():
                return at[node.axes[0]]
            case Map():
                args = tuple(self._at(a, at, load, here) for a in node.operands)
                return _apply(node, args)
            case View():
                inner = {a: index_expr(ix, lambda b: at[b]) for a, ix in node.index}
                return self._at(node.operand, inner, load, False)
            case Gather():
                pick = self._at(node.at, at, load, here)
                if node.operand not in self.stored:
                    raise NotLowerable(
                        f"%{i} gathers from a value that is not stored",
                        "kernel body",
                        "store it in an earlier kernel",
                    )
                buffer = self.stored[node.operand]
                index = tuple(
                    Apply("cast", (pick,), "i64") if a == node.along else at[a] for a in buffer.axes
                )
                return Load(buffer, index, node.dtype, (buffer.axes.index(node.along),))
        raise NotLowerable(f"%{i} is a reduction without an accumulator", "kernel body")


def _apply(node: Map, args: tuple[Expr, ...]) -> Expr:
    if node.op == "cast":
        arg = args[0]
        if isinstance(arg, Load) and is_float(arg.dtype) and is_float(node.dtype):
            return Load(arg.buffer, arg.index, node.dtype, arg.clamp)
        return Apply("cast", args, node.dtype)
    if node.op == "round":
        # The value keeps its accuracy class in registers, but has been through the narrow dtype.
        return Apply(
            "round", args, "f32" if DTYPES[node.dtype].bytes == 2 else node.dtype, node.dtype
        )
    return Apply(node.op, args, node.dtype)
