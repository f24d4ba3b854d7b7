"""Scalings that keep a program's products finite: they are not taken apart.

Where the source multiplies values by a scale and then with each other, as in ``(x * s) ** 4`` or
``m * sqrt(sum((x / m) ** 2))``, the products of the values without their scales, or of the scales,
may be too large or too small where the program's own are not. A single scale may still move past a
contraction: that is what a late division by a norm is, and no larger than the squares in that norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.search.enumerate import Derivation, Space, ValueClass

EXTREMES = ("max", "min")

GIVEN = -1
"""The group of all scales that a program is given, which no class has as its number."""

PLAIN = 16.0
"""Binary orders of magnitude up to which a literal is a coefficient and no guard."""


@dataclass
class _Scaled:
    """Values that are scaled alike, as they are and scaled, with their products; and the scales."""

    values: set[int] = field(default_factory=set)
    scales: set[int] = field(default_factory=set)


class Guards:
    """What the source scales: by literals, leaves and maxima, or by one and the same computed value.

    by_node: source node -> class; numbers: the classes that are made of literals and sizes.
    """

    def __init__(
        self, graph: Graph, space: Space, by_node: Mapping[int, int], numbers: set[int]
    ) -> None:
        self.space, self.numbers = space, numbers
        self._graph, self._by_node = graph, by_node
        self._extreme = self._extremes()
        # What is only summed is multiplied with nothing: it may be the product of a contraction.
        multiplied = {a for n in graph.nodes if not isinstance(n, Reduce) for a in n.args}
        groups: dict[int, _Scaled] = {}
        for i in multiplied.intersection(by_node):
            for value, scale in self._scalings(i):
                group = self._group(value, scale)
                if group is not None:
                    found = groups.setdefault(group, _Scaled())
                    found.values |= {value, by_node[i]}
                    found.scales.add(scale)
        self.groups = list(groups.values())
        for found in self.groups:
            self._close(found)

    def removes(self, cls: ValueClass, d: Derivation) -> bool:
        """Whether a derivation makes a product that the source does not have and guards against."""
        if d.op != "mul" or cls.nodes:
            return False
        for a, b in (d.args, d.args[::-1]):
            # n * x, to be divided by n later on.
            if {*self.space.sizes.get(a, ())} & {*self.space.classes[b].axes}:
                return True
        return any((g.values | g.scales).issuperset(d.args) for g in self.groups)

    def _scalings(self, i: int) -> list[tuple[int, int]]:
        """The classes (value, scale) of a product or quotient of the source."""
        node = self._graph.nodes[i]
        if not isinstance(node, Map) or node.op not in ("mul", "div"):
            return []
        if any(a not in self._by_node for a in node.operands):
            return []
        a, b = (self._by_node[a] for a in node.operands)
        return [(a, b)] if node.op == "div" else [(a, b), (b, a)]

    def _group(self, value: int, scale: int) -> int | None:
        """GIVEN for a scale that the program is given, the scale for one that it computes; None for none."""
        of, by = self.space.classes[value], self.space.classes[scale]
        if not of.axes or self._is_small(of):
            return None
        if scale in self.space.sizes:
            return None
        if scale in self.space.literals:
            size = abs(self.space.literals[scale])
            return GIVEN if size and abs(math.log2(size)) > PLAIN else None
        if scale in self._extreme:
            return GIVEN
        if not {*by.axes} < {*of.axes}:
            return None
        return scale if by.derivations else GIVEN

    def _is_small(self, cls: ValueClass) -> bool:
        """Whether values are of few magnitudes: shifted exponentials, and casts of bytes."""
        if any(d.op == "exp" for d in cls.derivations):
            return True
        nodes = [] if cls.derivations else [self._graph.nodes[i] for i in cls.nodes]
        cast = [n.args[0] for n in nodes if isinstance(n, Map) and n.op == "cast"]
        return any(DTYPES[self._graph.nodes[a].dtype].bytes == 1 for a in cast)

    def _close(self, group: _Scaled) -> None:
        moved = True
        while moved:
            numbers = group.scales | self.numbers
            values = self._made(lambda d: d.op == "mul", group.values, numbers)
            scales = self._made(lambda d: len(d.args) == 1 or d.op == "mul", group.scales, numbers)
            moved = not (values <= group.values and scales <= group.scales)
            group.values |= values
            group.scales |= scales

    def _made(self, allowed: Callable[[Derivation], bool], of: set[int], by: set[int]) -> set[int]:
        """The classes that are made of some classes, beside them of others, in an allowed way."""
        return {
            c.id
            for c in self.space.classes
            for d in c.derivations
            if not d.over and allowed(d) and not of.isdisjoint(d.args)
            if (of | by).issuperset(d.args)
        }

    def _extremes(self) -> set[int]:
        """The classes that functions and numbers make of a maximum of plain values."""
        leaves = [c for c in self.space.classes if not c.derivations]
        out = {c.id for c in leaves if any(is_extreme(self._graph, i) for i in c.nodes)}
        scalars = {c.id for c in self.space.classes if not c.axes}
        moved = bool(out)
        while moved:
            more = self._made(lambda d: d.op != "exp", out, scalars)
            moved = not more <= out
            out |= more
        return out


def is_extreme(graph: Graph, root: int) -> bool:
    """Whether a leaf is a maximum, or a minimum, of values that no sum makes."""
    todo, seen, found = [root], set[int](), False
    while todo:
        i = todo.pop()
        node = graph.nodes[i]
        if i in seen or not isinstance(node, Map | Reduce):
            continue
        seen.add(i)
        extreme = node.op in EXTREMES
        if isinstance(node, Reduce) and not extreme:
            return False
        tensors = [a for a in node.args if graph.nodes[a].axes]
        found |= extreme and (isinstance(node, Reduce) or len(tensors) > 1)
        todo += tensors
    return found
