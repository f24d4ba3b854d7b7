"""The search problem of one region as plain data: what both enumeration engines read.

Operators arrive here by name and leave as *steps* of four kinds (leaf, product, sum, function,
reduction) over terms numbered in topological order; composite rows are unfolded by their bodies. A
unary row becomes a chain of laws: the lawful functions (exponential, reciprocal, square root) of
which its body consists, or one keyed function that is known by name alone. So neither engine knows
an operator by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from typing import Any

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.mugraph.scalars import SCALARS, Arg, Scalar, inline
from superopt.search.joint import Joint, joint
from superopt.search.regions import Region, is_number, through_casts

LAWFUL = frozenset({"exp", "recip", "sqrt"})
"""Meanings of primitives in the field whose laws the algebra has; others are keyed by name."""

Chain = tuple[tuple[str, int], ...]
"""A unary row as laws applied in turn: ("exp" | "recip" | "sqrt", 0) or ("fn", key of the name)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One source term: kind "leaf", "size", "const", "mul", "add", "fn" or "reduce".

    args: numbers of earlier terms; index: the leaf, axis or function it refers to; value: a literal.
    """

    kind: str
    args: tuple[int, ...] = ()
    index: int = 0
    value: Fraction = Fraction(0)


@dataclass(frozen=True)
class Problem:
    """One region, ready for an engine.

    axes:      axis number -> the axes of the graph that it stands for (see ``joint``)
    leaves:    the axes of each leaf; functions: unary rows as chains
    names:     the row name of each function
    steps:     the source terms; term_of: graph node -> its term (leaves, literals and casts too)
    reducible: axes that the source sums over (a sum over any other cannot be part of it)
    sums:      whether the region adds terms (addition is enumerated only then)
    literals:  the literals that the region consumes, once per use; rank: most axes of a value
    """

    axes: tuple[tuple[Axis, ...], ...]
    leaves: tuple[frozenset[int], ...]
    functions: tuple[Chain, ...]
    names: tuple[str, ...]
    steps: tuple[Step, ...]
    term_of: dict[int, int]
    reducible: frozenset[int]
    sums: bool
    literals: tuple[Fraction, ...]
    rank: int


def chain_of(row: Scalar) -> Chain:
    """The laws that a unary row stands for, innermost first."""
    if row.field in LAWFUL:
        return ((row.field, 0),)
    body = row.body
    laws: list[tuple[str, int]] = []
    while isinstance(body, tuple) and len(body) == 2 and SCALARS[body[0]].field in LAWFUL:
        laws.append((str(SCALARS[body[0]].field), 0))
        body = body[1]
    if laws and isinstance(body, Arg):
        return tuple(reversed(laws))
    return (("fn", int.from_bytes(hashlib.sha256(row.name.encode()).digest()[:8], "little")),)


@dataclass
class _Compiler:
    graph: Graph
    region: Region
    joint: Joint
    steps: list[Step] = field(default_factory=list)
    known: dict[Step, int] = field(default_factory=dict)
    leaves: list[frozenset[int]] = field(default_factory=list)
    functions: dict[str, Chain] = field(default_factory=dict)
    term_of: dict[int, int] = field(default_factory=dict)
    literals: list[Fraction] = field(default_factory=list)

    def emit(self, step: Step) -> int:
        if step not in self.known:
            self.known[step] = len(self.steps)
            self.steps.append(step)
        return self.known[step]

    def const(self, value: float | Fraction) -> int:
        return self.emit(Step("const", value=Fraction(value)))

    def apply(self, name: str, args: Sequence[int]) -> int:
        """A row applied to terms, composites unfolded where the algebra sees the body."""
        row = SCALARS[name]
        if row.abstract in ("add", "mul"):
            self.literals += [self.steps[a].value for a in args if self.steps[a].kind == "const"]
            return self.emit(Step(row.abstract, tuple(sorted(args))))
        if row.abstract == "expand":
            return int(inline(row.body, list(args), self.apply, self.const))
        self.functions.setdefault(name, chain_of(row))
        return self.emit(Step("fn", tuple(args), list(self.functions).index(name)))

    def total(self, arg: int, over: Sequence[Axis]) -> int:
        for axis in dict.fromkeys(self.joint.number[a] for a in over):
            arg = self.emit(Step("reduce", (arg,), axis))
        return arg

    def leaf(self, i: int) -> int:
        node: Any = self.graph.nodes[i]
        if is_number(node):
            return self.const(node.value)
        self.leaves.append(frozenset(self.joint.number[a] for a in node.axes))
        return self.emit(Step("leaf", index=len(self.leaves) - 1))

    def count(self, numbers: Sequence[int]) -> int:
        """The product of some sizes."""
        sizes = [self.emit(Step("size", index=n)) for n in numbers]
        return reduce(lambda a, b: self.apply("mul", (a, b)), sizes)

    def run(self) -> None:
        for i in (*self.region.leaves, *self.region.nodes):
            node = self.graph.nodes[i]
            if i in self.joint.inner:
                continue
            if i in self.joint.counts:
                self.term_of[i] = self.count(self.joint.counts[i])
                continue
            if i in self.region.leaves:
                self.term_of[i] = self.leaf(i)
                continue
            args = [self.term(a) for a in node.args]
            if isinstance(node, Reduce):
                self.term_of[i] = self.total(args[0], node.over)
            elif isinstance(node, Map):
                base = through_casts(self.graph, i)
                self.term_of[i] = self.term(base) if base != i else self.apply(node.op, args)

    def term(self, i: int) -> int:
        return self.term_of[through_casts(self.graph, i)]


def problem(graph: Graph, region: Region, extra_rank: int = 0) -> Problem:
    """The search problem of a region; ``extra_rank`` axes more than any source term are allowed."""
    axes = joint(graph, region)
    made = _Compiler(graph, region, axes)
    made.run()
    terms = (*region.leaves, *region.nodes)
    ranks = [len({axes.number[a] for a in graph.nodes[i].axes}) for i in terms]
    return Problem(
        axes.axes,
        tuple(made.leaves),
        tuple(made.functions.values()),
        tuple(made.functions),
        tuple(made.steps),
        made.term_of,
        frozenset(s.index for s in made.steps if s.kind == "reduce"),
        any(s.kind == "add" for s in made.steps),
        tuple(made.literals),
        max(ranks, default=0) + extra_rank,
    )
