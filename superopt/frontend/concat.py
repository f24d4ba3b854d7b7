"""A concatenation that is read part by part need not be made.

A concatenated value is a choice by position: ``where(j < n, a[j], b[j - n])``. Where the position is
known to lie in one part, the choice is that part. A sum along ``j`` is the sum over each part, so
that ``linear(cat(x, y), w)`` is two contractions in one accumulator, and an attention with a sink
appended to its scores is a loop over the keys alone. Both hold in any arithmetic, up to the order of
the terms of a sum.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
    Builder,
    Const,
    Graph,
    Index,
    Iota,
    Map,
    Reduce,
    View,
    remap,
)
from superopt.mugraph.rewrite import read_at, reduced

MOST_PARTS = 4
"""Into how many sums a sum is split at most."""

_DECIDED = {
    "lt": lambda a, b: True if a[1] < b[0] else False if a[0] >= b[1] else None,
    "le": lambda a, b: True if a[1] <= b[0] else False if a[0] > b[1] else None,
    "gt": lambda a, b: True if a[0] > b[1] else False if a[1] <= b[0] else None,
    "ge": lambda a, b: True if a[0] >= b[1] else False if a[1] < b[0] else None,
}
"""A comparison of two ranges: its value where that is the same for all of them."""

Range = tuple[int, int]
"""The least and the largest value of an integer."""


def in_parts(graph: Graph) -> Graph:
    """The same program with concatenations read in parts, where that makes fewer choices."""
    work = _InParts(_Positions(graph.name), _nested(graph))
    b, at = work.b, dict[int, int]()
    for i, node in enumerate(graph.nodes):
        match node:
            case Map():
                at[i] = b.map(node.op, *(at[a] for a in node.operands), dtype=node.dtype)
            case View():
                at[i] = b.view(at[node.operand], node.index)
            case Reduce():
                at[i] = work.reduced(node, at[node.operand], node.over)
            case _:
                at[i] = b.add(remap(node, at))
    pairs = [(o, replace(o, node=at[o.node])) for o in graph.outputs]
    if any(b.axes(new.node) != graph.nodes[old.node].axes for old, new in pairs):
        return graph
    return b.build([new for _, new in pairs])


def _nested(graph: Graph) -> frozenset[Axis]:
    """The axes along which a reduction reads another reduction."""
    below: list[frozenset[Axis]] = []
    found = set[Axis]()
    for node in graph.nodes:
        axes = frozenset[Axis]().union(*(below[a] for a in node.args))
        if isinstance(node, Reduce):
            found |= axes & {*node.over}
            axes |= {*node.over}
        below.append(axes)
    return frozenset(found)


class _Positions(Builder):
    """A builder that decides comparisons of positions, and the choices and clamps that follow them."""

    def map(self, op: str, *args: int, dtype: str | None = None) -> int:
        if op in _DECIDED and (known := self._decided(op, *args)) is not None:
            return self.const(known, "bool")
        if op == "where":
            condition = self.nodes[args[0]]
            chosen = args[1 if isinstance(condition, Const) and condition.value else 2]
            if isinstance(condition, Const) and self.dtype(chosen) == (dtype or self.dtype(chosen)):
                return chosen
        return super().map(op, *args, dtype=dtype)

    def view(self, arg: int, index: Iterable[tuple[Axis, Index]]) -> int:
        return super().view(arg, [(a, _unclamped(ix)) for a, ix in index])

    def _decided(self, op: str, left: int, right: int) -> bool | None:
        ranges = self.range_of(left), self.range_of(right)
        if ranges[0] is None or ranges[1] is None:
            return None
        return _DECIDED[op](*ranges)

    def range_of(self, i: int) -> Range | None:
        """The values of a position; None where the node is none, or depends on a symbolic size."""
        node = self.nodes[i]
        if node.dtype != "i64":
            return None
        match node:
            case Const():
                return int(node.value), int(node.value)
            case Iota():
                size = node.axes[0].size
                return (0, size - 1) if isinstance(size, int) and size else None
            case Map() if node.op in ("add", "sub", "mul"):
                ranges = [self.range_of(a) for a in node.operands]
                if ranges[0] is None or ranges[1] is None:
                    return None
                (a, c), (d, e) = ranges[0], ranges[1]
                if node.op == "mul":
                    ends = [x * y for x in (a, c) for y in (d, e)]
                    return min(ends), max(ends)
                return (a + d, c + e) if node.op == "add" else (a - e, c - d)
        return None


def _unclamped(ix: Index) -> Index:
    """An index without its bounds, where it never meets them."""
    if (ix.lo is None and ix.hi is None) or ix.mod is not None:
        return ix
    ends = list[Range]()
    for axis, coef in ix.terms:
        if not isinstance(axis.size, int) or not axis.size:
            return ix
        last = coef * (axis.size - 1)
        ends.append((min(last, 0), max(last, 0)))
    low, high = ((ix.offset + sum(e[k] for e in ends)) // ix.div for k in (0, 1))
    met = (ix.lo is not None and low < ix.lo) or (ix.hi is not None and high > ix.hi)
    return ix if met else replace(ix, lo=None, hi=None)


@dataclass
class _InParts:
    """The program that is built; nested: axes along which one reduction reads another."""

    b: _Positions
    nested: frozenset[Axis]
    own: dict[tuple[Axis, int, int], Axis] = field(default_factory=dict)
    shapes: dict[int, int] = field(default_factory=dict)
    numbers: dict[Hashable, int] = field(default_factory=dict)

    def reduced(self, node: Reduce, operand: int, over: Sequence[Axis]) -> int:
        """The reduction ``node`` of another operand, part by part along concatenated axes."""
        if is_float(node.dtype) and node.op in ("add", "max", "min"):
            for axis in over:
                if (parts := self._parts(operand, axis)) is None:
                    continue
                rest = [a for a in over if a != axis]
                values = [self.reduced(node, x, [*rest, *own]) for x, own in parts]
                total = values[0]
                for value in values[1:]:
                    total = self.b.map(node.op, total, value)
                return total
        return reduced(self.b, node.op, operand, over)

    def _parts(self, operand: int, axis: Axis) -> list[tuple[int, list[Axis]]] | None:
        """The parts of a value along one axis, each with its own; None where it is to be whole."""
        if not isinstance(axis.size, int):
            return None
        choices = [c for c in self._choices(operand, axis) if 0 < c[0] < axis.size]
        ends = sorted({end for end, _ in choices})
        starts, whole = [0, *ends], axis.size
        sizes = [end - start for start, end in zip(starts, [*ends, whole], strict=True)]
        if not ends or len(sizes) > MOST_PARTS:
            return None
        if axis in self.nested:  # what follows a statistic of the whole is one pass as a whole
            if sum(n > 1 for n in sizes) > 1:
                return None
            # So it is where an element beside it has to be made, as the key of a new token.
            beside = [a for _, node in choices for a in node.args[1:] if axis not in self.b.axes(a)]
            made = Graph("", tuple(self.b.nodes), ()).reachable(beside)
            if any(isinstance(self.b.nodes[i], Reduce) for i in made):
                return None
        return [self._part(operand, axis, *p) for p in zip(starts, sizes, strict=True)]

    def _part(self, operand: int, axis: Axis, start: int, n: int) -> tuple[int, list[Axis]]:
        own: list[Axis] = []
        if n > 1:  # a part is read under one name by all its readers
            key = (axis, start, n)
            if key not in self.own:
                self.own[key] = self.b.fresh_axis(n, axis.name)
            own = [self.own[key]]
        place = Index(tuple((a, 1) for a in own), start)
        return read_at(self.b, operand, {axis: place}), own

    def _choices(self, operand: int, axis: Axis) -> Iterator[tuple[int, Map]]:
        """The choices by position along an axis that a value reads: where one part ends."""
        b = self.b
        todo, seen = [operand], set[int]()
        while todo:
            i = todo.pop()
            if i in seen or axis not in b.axes(i):
                continue
            seen.add(i)
            todo.extend(b.nodes[i].args)
            node = b.nodes[i]
            if isinstance(node, Map) and node.op == "where":
                end = self._end(node.args[0], axis)
                # What lacks the axis is no part of one that is read there: two halves of one byte.
                whole = all(axis not in b.axes(a) for a in node.args[1:])
                if end is not None and (whole or self._apart(*node.args[1:])):
                    yield end, node

    def _end(self, condition: int, axis: Axis) -> int | None:
        """The number ``n`` of a condition ``position + offset < n``, without the offset."""
        node = self.b.nodes[condition]
        if not isinstance(node, Map) or node.op != "lt":
            return None
        end = self.b.nodes[node.args[1]]
        if not isinstance(end, Const):
            return None
        place = self._place(node.args[0])
        if place is None or axis not in place[0]:
            return None
        coefs, offset = place
        step = coefs.pop(axis)
        # Of several digits, this one decides alone where the part ends at a full turn of the others.
        rest = sum(c * (a.size - 1) if isinstance(a.size, int) else step for a, c in coefs.items())
        left = int(end.value) - offset
        alone = all(c > 0 for c in coefs.values()) and rest < step and left % step == 0
        return left // step if step > 0 and alone else None

    def _place(self, i: int) -> tuple[dict[Axis, int], int] | None:
        """A position as (the coefficient of each axis, the rest), None where it is no such sum."""
        node = self.b.nodes[i]
        match node:
            case Const() if node.dtype == "i64":
                return {}, int(node.value)
            case Iota():
                return {node.axes[0]: 1}, 0
            case Map() if node.op in ("add", "mul"):
                x, y = (self._place(a) for a in node.operands)
                if x is None or y is None:
                    return None
                if node.op == "add":
                    both = {a: x[0].get(a, 0) + y[0].get(a, 0) for a in (*x[0], *y[0])}
                    return both, x[1] + y[1]
                if x[0] and y[0]:
                    return None
                (coefs, c), n = (x, y[1]) if x[0] else (y, x[1])
                return {a: k * n for a, k in coefs.items()}, c * n
        return None

    def _apart(self, left: int, right: int) -> bool:
        """Whether two values are made of different ones: not halves of one that change places.

        A rotary embedding is such an exchange: its reader would need the halves stored apart.
        """
        return self._bases(left).isdisjoint(self._bases(right))

    def _bases(self, i: int) -> set[int]:
        """What a value, or a choice of several, is up to signs, constant factors and positions."""
        node = self.b.nodes[i]
        if isinstance(node, Map) and node.op == "where":
            return self._bases(node.args[1]) | self._bases(node.args[2])
        return {self._shape_of(i)}

    def _shape_of(self, i: int) -> int:
        """A number for what a value computes, whatever the positions are that it reads."""
        todo = [i]
        while todo:
            node = self.b.nodes[todo[-1]]
            args = [a for a in node.args if not isinstance(self.b.nodes[a], Const)]
            new = [a for a in args if a not in self.shapes]
            todo += new
            if new:
                continue
            below = tuple(sorted(self.shapes[a] for a in args))
            moved = isinstance(node, View) or getattr(node, "op", "") in ("neg", "cast", "mul")
            if moved and len(below) == 1:
                self.shapes[todo.pop()] = below[0]
                continue
            what = node if not args else (type(node), getattr(node, "op", ""), below)
            self.shapes[todo.pop()] = self.numbers.setdefault(what, len(self.numbers))
        return self.shapes[i]
