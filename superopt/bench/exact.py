"""Exact values of small graphs: per cell a sum of products over the rational numbers.

It shares nothing with the verifier's fields and draws nothing at random: two graphs with the same
forms compute the same, wherever both are defined. It is the argument that a mutant is none. A cell of
an input is an unknown; a function is an unknown of its argument, apart from the laws written here
(exp of a sum is a product, roots and reciprocals are powers, a maximum is a set). Forms grow, so a sum
of more than ``limit`` terms is an unknown in turn, of which the content has been taken out: then
fewer equations hold, and none that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from superopt.bench.exact_forms import HALF, ONE, Forms, plain
from superopt.mugraph.axes import Axis, extent
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.evaluate import index_values
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Input,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    View,
    remap,
)
from superopt.mugraph.scalars import SCALARS, inline


class Exact(Forms):
    """Forms of the cells of graphs; a value is an array of forms by number.

    given: inputs whose numbers are known, over their axes, as indices must be.
    """

    def __init__(
        self, limit: int, work: int, given: Mapping[str, np.ndarray] | None = None
    ) -> None:
        super().__init__(limit, work)
        self.given = given or {}
        self._nodes: dict[Hashable, int] = {}
        self._values: list[np.ndarray] = []

    def cell(self, name: str, at: tuple[int, ...]) -> int:
        """A cell of an input: an unknown, or the number that is given."""
        known = self.given.get(name)
        return self.unknown("input", name, at) if known is None else self.number(int(known[at]))

    # -- selections, comparisons, integers

    def extreme(self, op: str, forms: Iterable[int]) -> int:
        """max, min, and, or: of a set, flat, with its numbers taken together."""
        keep: set[int] = set()
        numbers: list[Fraction] = []
        weak, strong = (self.low, self.high) if op == "max" else (self.high, self.low)
        if op in ("and", "or"):
            weak, strong = (self.one, self.zero) if op == "and" else (self.zero, self.one)
        todo = list(forms)
        self.spend(len(todo))
        while todo:
            f = todo.pop()
            if f == strong:
                return strong
            if members := self._members(op, f):
                todo += members
            elif f == weak:
                continue
            elif op in ("max", "min") and (c := self.constant(f)) is not None:
                numbers.append(c)
            else:
                keep.add(f)
        if numbers:
            keep.add(self.number(max(numbers) if op == "max" else min(numbers)))
        dual = {"max": "min", "min": "max", "and": "or", "or": "and"}[op]
        for f in [*keep]:  # absorption: min(x, max(x, y)) is x
            if keep & {*self._members(dual, f)}:
                keep.discard(f)
        if len(keep) < 2:
            return keep.pop() if keep else weak
        return self.unknown(op, tuple(sorted(keep)))

    def _members(self, op: str, form: int) -> tuple[int, ...]:
        """What a form is the extreme of; nothing where it is none."""
        poly = self.polys[form]
        key = self.atoms[poly[0][0][0][0]] if plain(poly) else None
        return tuple(key[1]) if isinstance(key, tuple) and key[0] == op else ()

    def less(self, a: int, b: int) -> int:
        """a < b, both finite or one of them infinite."""
        if a == b or a == self.high or b == self.low:
            return self.zero
        if a == self.low or b == self.high:
            return self.one
        c = self.constant(self.sum([b, self.product(a, self.number(-1))]))
        if c is not None:
            return self.one if c > 0 else self.zero
        return self.unknown("lt", a, b)

    def negated(self, a: int) -> int:
        """not a."""
        c = self.constant(a)
        if c is not None:
            return self.zero if c else self.one
        poly = self.polys[a]
        key = self.atoms[poly[0][0][0][0]] if plain(poly) else None
        if isinstance(key, tuple) and key[0] == "not":
            return int(key[1])
        return self.unknown("not", a)

    def apply(self, op: str, args: Sequence[int], dtype: str) -> int:
        """A scalar row applied to forms."""
        row = SCALARS[op]
        kind = row.field or ""
        if row.body is not None:
            return int(
                inline(
                    row.body,
                    args,
                    lambda name, xs: self.apply(name, xs, dtype),
                    lambda v: self.literal(v),
                )
            )
        match kind:
            case "add":
                return self.sum(args)
            case "mul":
                return self.product(*args)
            case "recip":
                return self.power(args[0], -ONE)
            case "sqrt":
                return self.power(args[0], HALF)
            case "exp":
                return self.exp(args[0])
            case "log":
                return self.log(args[0])
            case "max" | "min" | "and" | "or":
                return self.extreme(kind, args)
            case "lt":
                return self.less(*args)
            case "le":
                return self.negated(self.less(args[1], args[0]))
            case "not":
                return self.negated(args[0])
            case "eq":
                a, b = sorted(args)
                if len({a, b} & {self.high, self.low}) == 1:
                    return self.zero  # what is read is finite
                c = self.constant(self.sum([a, self.product(b, self.number(-1))]))
                both = self.constant(a) is not None and self.constant(b) is not None
                if a == b or both:
                    return self.one if a == b or c == 0 else self.zero
                return self.unknown("eq", a, b)
            case "where":
                c = self.constant(args[0])
                if c is not None:
                    return args[1] if c else args[2]
                return self._chosen(*args)
        return self._other(op, kind, args, dtype)

    def _chosen(self, condition: int, yes: int, no: int) -> int:
        if yes == no:
            return yes
        poly = self.polys[condition]
        key = self.atoms[poly[0][0][0][0]] if plain(poly) else None
        if isinstance(key, tuple) and key[0] == "not":
            return self._chosen(int(key[1]), no, yes)
        if isinstance(key, tuple) and key[0] == "eq" and {yes, no} == {*key[1:]}:
            return no  # where they are equal, either
        if yes == self.one and isinstance(key, tuple) and key[0] == "eq":
            a, b = key[1:]
            for x, y in ((a, b), (b, a)):  # where they are equal, exp(a - b) is one in any case
                if no == self.exp(self.sum([x, self.product(y, self.number(-1))])):
                    return no
        return self.unknown("where", condition, yes, no)

    def literal(self, value: float) -> int:
        """The form of a literal, which may be infinite."""
        if math.isinf(value):
            return self.high if value > 0 else self.low
        return self.number(Fraction(value))

    def _other(self, op: str, kind: str, args: Sequence[int], dtype: str) -> int:
        numbers = [self.constant(a) for a in args]
        if kind in ("floordiv", "mod") and None not in numbers and numbers[1]:
            a, b = int(numbers[0] or 0), int(numbers[1])
            return self.number(a // b if kind == "floordiv" else a % b)
        if kind == "cast":
            c = numbers[0]
            if is_float(dtype) or (c is not None and DTYPES[dtype].kind == "int" and 0 <= c < 128):
                return args[0] if is_float(dtype) else self.number(int(c or 0))
            if dtype == "bool":
                return self.negated(self.apply("eq", [args[0], self.zero], "bool"))
            return self.unknown(op, dtype, args[0])
        return self.unknown(op, *([dtype] if op == "round" else []), *args)

    # -- graphs

    def outputs(self, graph: Graph) -> list[np.ndarray]:
        """The forms of every output, in its dims; raises TooMuch. Sizes must be numbers."""
        at: dict[int, int] = {}
        for i in graph.reachable([o.node for o in graph.outputs]):
            at[i] = self._node(graph, graph.nodes[i], at)
        out = []
        for o in graph.outputs:
            axes, value = graph.nodes[o.node].axes, self._values[at[o.node]]
            flat = [a for dim in o.dims for a in dim]
            shape = [extent(a.size) for a in flat]
            order = sorted(range(len(axes)), key=lambda k: flat.index(axes[k]))
            value = value.transpose(order).reshape(
                [extent(a.size) if a in axes else 1 for a in flat]
            )
            out.append(np.broadcast_to(value, shape))
        return out

    def _node(self, graph: Graph, node: Node, at: dict[int, int]) -> int:
        """The number of a node's value; nodes that apply one thing to the same values share it."""
        axes = [graph.nodes[a].axes for a in node.args]
        attributes = remap(node, {a: at[a] for a in node.args})
        if isinstance(attributes, Input):
            attributes = replace(attributes, strides=())
        key = (attributes, repr(getattr(node, "value", "")), tuple(axes))
        if key not in self._nodes:
            value = self._value(node, [self._values[at[a]] for a in node.args], axes)
            self._nodes[key] = len(self._values)
            self._values.append(value)
        return self._nodes[key]

    def _value(self, node: Node, args: list[np.ndarray], axes: list[tuple[Axis, ...]]) -> Any:
        shape = tuple(extent(a.size) for a in node.axes)
        match node:
            case Input():
                flat = [a for dim in node.dims for a in dim]
                cells = np.array(
                    [
                        self.cell(node.name, at)
                        for at in np.ndindex(*(extent(a.size) for a in flat))
                    ],
                    dtype=np.int64,
                ).reshape([extent(a.size) for a in flat])
                return cells.transpose([flat.index(a) for a in node.axes])
            case Const():
                return np.array(self.literal(float(node.value)))
            case SizeOf():
                return np.array(self.number(extent(node.axis.size)))
            case Iota():
                return np.array([self.number(k) for k in range(shape[0])])
            case Map():
                full = [
                    np.broadcast_to(_spread(x, a, node.axes), shape)
                    for x, a in zip(args, axes, strict=True)
                ]
                return self.mapped(node.op, node.dtype, full)
            case Reduce():
                return self._reduced(node, args[0], axes[0], shape)
            case View():
                index = dict(node.index)
                at = tuple(index_values(index[a], node.axes, shape) for a in axes[0])
                return np.broadcast_to(args[0][at], shape) if at else args[0]
            case Gather():
                return self._gathered(node, args, axes, shape)
        raise TypeError(f"unknown node {node!r}")

    def mapped(self, op: str, dtype: str, full: Sequence[np.ndarray]) -> np.ndarray:
        """A scalar row applied to arrays of one shape."""
        shape = full[0].shape
        cells = np.stack([x.reshape(-1) for x in full])
        kinds, where = np.unique(cells, axis=1, return_inverse=True)
        self.spend(kinds.shape[1])
        made = [self.apply(op, [int(x) for x in column], dtype) for column in kinds.T]
        return np.array(made, dtype=np.int64)[where.reshape(-1)].reshape(shape)

    def _reduced(
        self, node: Reduce, value: np.ndarray, axes: tuple[Axis, ...], shape: tuple[int, ...]
    ) -> np.ndarray:
        over = [k for k, a in enumerate(axes) if a in node.over]
        kept = [k for k in range(len(axes)) if k not in over]
        rows = value.transpose(kept + over).reshape(math.prod(shape), -1)
        return np.array([self.fold(node.op, [int(x) for x in row]) for row in rows]).reshape(shape)

    def fold(self, op: str, row: list[int]) -> int:
        """The reduction of some forms."""
        if op == "add":
            return self.sum(row) if row else self.zero
        if op != "mul":
            return self.extreme(op, row)
        out = self.one
        for x in row:
            out = self.product(out, x)
        return out

    def _gathered(
        self,
        node: Gather,
        args: list[np.ndarray],
        axes: list[tuple[Axis, ...]],
        shape: tuple[int, ...],
    ) -> np.ndarray:
        rest = tuple(a for a in axes[0] if a != node.along)
        rows = np.moveaxis(args[0], axes[0].index(node.along), -1)
        at = np.broadcast_to(_spread(args[1], axes[1], node.axes), shape)
        out = np.zeros(shape, dtype=np.int64)
        for place in np.ndindex(*shape):
            spot = dict(zip(node.axes, place, strict=True))
            row = rows[tuple(spot[a] for a in rest)]
            k = self.constant(int(at[place]))
            if k is not None and 0 <= k < len(row):
                out[place] = row[int(k)]
            elif len({int(x) for x in row}) == 1:
                out[place] = row[0]
            else:
                out[place] = self.unknown("pick", tuple(int(x) for x in row), int(at[place]))
        return out


def _spread(x: np.ndarray, axes: tuple[Axis, ...], to: tuple[Axis, ...]) -> np.ndarray:
    order = sorted(range(len(axes)), key=lambda k: to.index(axes[k]))
    sizes = dict(zip(axes, x.shape, strict=True))
    return x.transpose(order).reshape([sizes.get(a, 1) for a in to])
