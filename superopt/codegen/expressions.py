"""Turns nodes of a kernel into tile-IR expressions: what is inlined, and what needs a tile buffer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass

from superopt.codegen.sums import applied, read_again, wide_nodes
from superopt.errors import SuperoptError
from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.dtypes import DTYPES, is_float, short_float
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
from superopt.mugraph.narrow import made_anew, steps_of
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.tile_shared import unrolled
from superopt.mugraph.tileir import Apply, Buffer, Coord, Expr, Extent, Lit, Load, index_expr

Coords = dict[Axis, Expr]

MOST_VALUES = 20_000
"""Values in one statement beyond which it is not written out: each is a line of C++ or more."""


class NotLowerable(SuperoptError):
    """This placement cannot be expressed in the tile IR; the search drops the candidate."""


@dataclass(frozen=True)
class Reader:
    """Who reads a value: its iteration space, and the reduction row if it is one."""

    space: frozenset[Axis]
    reduce: str | None


def unrounded(graph: Graph) -> frozenset[int]:
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

    def __init__(
        self,
        graph: Graph,
        body: set[int],
        stored: dict[int, Buffer],
        looped: Collection[Axis] = (),
    ) -> None:
        self.graph, self.body, self.stored = graph, body, stored
        self.sums: frozenset[int] = frozenset()  # maps whose terms share one accumulator
        self.exact = unrounded(graph)
        self.wide = wide_nodes(graph, body, stored, looped)
        self.users: dict[int, set[int]] = {i: set() for i in body}
        for i in body:
            for a in graph.nodes[i].args:
                if a in body:
                    self.users[a].add(i)
        self._unpacked: list[int] = []
        for node in graph.nodes:
            self._unpacked.append(steps_of(node, [self._unpacked[a] for a in node.args]))
        self._cost: list[int] = []
        self._shallow: list[bool] = []

    def cost(self, i: int) -> int:
        """Flops to compute one element of a node from buffers, everything pure inlined."""
        while len(self._cost) <= i:  # arguments come before what they are arguments of
            j = len(self._cost)
            node, total = self.graph.nodes[j], 0
            if j not in self.stored and not isinstance(node, Reduce):
                total = sum(self._cost[a] for a in node.args)
                total += SCALARS[node.op].flops if isinstance(node, Map) else 0
            self._cost.append(total)
        return self._cost[i]

    def buffered(
        self, i: int, reader: Reader, have: Callable[[int], bool], top: bool = True
    ) -> list[tuple[int, str]]:
        """The nodes, with their buffer dtype, that must have a tile before ``i`` is written out.

        ``top``: node ``i`` itself is to be inlined even where a buffer would pay.
        """
        out: dict[int, str] = {}
        seen: set[tuple[int, bool]] = set()

        todo: list[tuple[int, bool, bool, str | None]] = [(i, True, top, None)]
        while todo:
            j, here, inline, dtype = todo.pop()
            if j in self.stored or have(j) or (j, here) in seen:
                continue
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
                continue
            if isinstance(node, Map):
                if here and not inline and self._pays(j, node, reader):
                    out[j] = dtype or node.dtype
                    continue
                narrow = None if j in self.exact else self._narrow(node, reader)
                # A product's factors stay apart: each is a candidate for its own buffer.
                for a in reversed(node.operands):
                    if here and j not in self.wide and self._settles(a, reader) and not have(a):
                        out[a] = narrow or self.graph.nodes[a].dtype
                        continue
                    todo.append((a, here, False, narrow))
            elif isinstance(node, View):
                todo.append((node.operand, False, False, None))
            elif isinstance(node, Gather):
                todo += [(node.at, here, False, None), (node.operand, False, False, None)]
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
        if reader.reduce == "add" and made_anew(self._unpacked[j], node.axes, reader.space):
            return False
        if repeats >= 2 and (reader.reduce is not None or cost >= 4):
            return True
        return len(self.users[j]) >= 2 and cost >= 2

    def _settles(self, j: int, reader: Reader) -> bool:
        """Whether a value in double is read again and again: it is rounded once, in a buffer."""
        node = self.graph.nodes[j]
        if j not in self.wide or not isinstance(node, Map) or not node.axes:
            return False
        return read_again(reader.space, node.axes)

    def shallow(self, j: int) -> bool:
        """Whether a node reads no buffer (coordinates and literals alone): never worth a tile."""
        while len(self._shallow) <= j:
            k = len(self._shallow)
            node = self.graph.nodes[k]
            reads = k in self.stored or isinstance(node, Reduce | View | Gather)
            self._shallow.append(not reads and all(self._shallow[a] for a in node.args))
        return self._shallow[j]

    def _narrow(self, node: Map, reader: Reader) -> str | None:
        """The 16-bit dtype for a contraction's computed factor, if the other is stored in it.

        Eager rounds that factor to 16 bits as well where the result is rounded to them; doing so
        lets the product run on the unit that multiplies 16-bit pairs exactly and accumulates in
        f32. The numeric gate judges it.
        """
        if reader.reduce != "add" or node.op != "mul":
            return None
        return next(filter(None, (short_float(self.source_dtype(a)) for a in node.operands)), None)

    def source_dtype(self, i: int) -> str | None:
        """The stored dtype of a value that is read straight from a buffer (through casts, views)."""
        while i not in self.stored:
            node = self.graph.nodes[i]
            if isinstance(node, Map) and node.op == "cast":
                i = node.operands[0]
            elif isinstance(node, View):
                i = node.operand
            else:
                return None
        return self.stored[i].dtype

    def expr(self, i: int, load: Callable[[int], Load | None]) -> Expr:
        """Node ``i`` at its own coordinates; ``load`` gives the tile of a node that has one."""
        own: Coords = {a: Coord(a) for a in self.graph.nodes[i].axes}
        return unrolled(_Writer(self, load).at, (i, own, True))


Place = tuple[int, Coords, bool]
"""A node, the coordinates it is read at, and whether they are its own."""


class _Writer:
    """Writes out one expression; a node is written once per place that it is read at."""

    def __init__(self, body: Expressions, load: Callable[[int], Load | None]) -> None:
        self.graph, self.stored, self.load = body.graph, body.stored, load
        self.done: dict[tuple[int, bool, tuple[Expr | None, ...]], Expr] = {}

    def at(self, place: Place) -> Generator[Place, Expr, Expr]:
        """The expression of a node at a place; recursive."""
        i, at, here = place
        key = (i, here, tuple(at.get(a) for a in self.graph.nodes[i].axes))
        if key not in self.done:
            self.done[key] = yield from self._fresh(i, at, here)
            if len(self.done) > MOST_VALUES:
                raise NotLowerable(
                    f"a statement of more than {MOST_VALUES} values",
                    "kernel body",
                    "store a value on the way in an earlier kernel",
                )
        return self.done[key]

    def _fresh(self, i: int, at: Coords, here: bool) -> Generator[Place, Expr, Expr]:
        node = self.graph.nodes[i]
        if i in self.stored:
            buffer = self.stored[i]
            return Load(buffer, tuple(at[a] for a in buffer.axes), node.dtype)
        found = self.load(i)
        if found is not None and here:
            return found
        if found is not None and not isinstance(node, Map):  # a map is computed again there
            raise NotLowerable(f"%{i} has a tile but is read at other coordinates", "kernel body")
        match node:
            case Const():
                return Lit(node.value, node.dtype)
            case SizeOf():
                return Extent(node.axis, node.dtype)
            case Iota():
                return at[node.axes[0]]
            case Map():
                args = []
                for a in node.operands:
                    args.append((yield a, at, here))
                return _apply(node, *applied(self.graph, node, args))
            case View():
                inner = {a: index_expr(ix, lambda b: at[b]) for a, ix in node.index}
                return (yield node.operand, inner, False)
            case Gather():
                pick = yield node.at, at, here
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


def _apply(node: Map, args: tuple[Expr, ...], dtype: str) -> Expr:
    if node.op == "cast":
        arg = args[0]
        if isinstance(arg, Load) and is_float(arg.dtype) and is_float(node.dtype):
            return Load(arg.buffer, arg.index, node.dtype, arg.clamp)
        return Apply("cast", args, node.dtype)
    if node.op == "round" and DTYPES[node.dtype].bytes > 2:
        return Apply("cast", args, node.dtype)
    if node.op == "round":
        # The value keeps its accuracy class in registers, but has been through the narrow dtype.
        return Apply("round", args, "f32", node.dtype)
    return Apply(node.op, args, dtype)
