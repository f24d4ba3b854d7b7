"""Of which degree a value is in a set of exponentials, read off the operators (``gauge.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Map, Node, Reduce, SizeOf
from superopt.mugraph.scalars import SCALARS, Arg, inline

ZERO, ONE = Fraction(0), Fraction(1)
UNIT = -1
"""Stands for the node exp(0) among those that are shifted."""

LOG1P = ("log", ("add", 1.0, Arg(0)))
"""The body of the one composite, beside a difference, in which a term of degree 0 may be beside others."""


class Mixed(Exception):
    """The degrees of two values do not go together, or an operator has no law for them."""


@dataclass(frozen=True)
class _Value:
    """What is known of a value: its degree, and why it is not small.

    zero: it is the literal 0; positive: it is a positive constant; axes: of the value; holds: the
    exponentials that it is at least a positive multiple of, summed where it lacks their axes.
    """

    degree: Fraction = ZERO
    zero: bool = False
    positive: bool = False
    axes: frozenset[Axis] = frozenset()
    holds: frozenset[int] = frozenset()


class Degrees:
    """What is known of every value of a program, for one set of exponentials that is shifted.

    over: the axes that the shift is a maximum over, once they are known. A quotient and a logarithm
    are then refused unless their argument holds every exponential: at the maximum one of them is 1,
    so that the argument does not vanish where the source's does not.
    """

    def __init__(self, graph: Graph, exps: frozenset[int], before: Degrees | None = None) -> None:
        self.graph, self.exps = graph, exps
        self.over = None if before is None else frozenset(before.summed)
        self.held = exps | {UNIT} if before is not None and before.mixed else exps
        self.of: dict[int, _Value] = {}
        self.summed: set[Axis] = set()
        self.mixed: set[int] = set()
        """The nodes in which a term of degree 0 is added to one of degree 1."""
        for i in graph.reachable([o.node for o in graph.outputs]):
            self.now = i
            found = self._node(i)
            if i in self.mixed and not self._takes_unit(graph.nodes[i]):
                raise Mixed
            self.of[i] = replace(found, axes=frozenset(graph.nodes[i].axes))

    def _takes_unit(self, node: Node) -> bool:
        """Whether a node is a sum or a difference, or the logarithm of one and its argument."""
        row = SCALARS[node.op] if isinstance(node, Map) else None
        return row is not None and (row.field == "add" or row.name == "sub" or row.body == LOG1P)

    def _node(self, i: int) -> _Value:
        node = self.graph.nodes[i]
        below = [self.of[a] for a in node.args]
        moved = any(x.degree for x in below)
        if i in self.exps:
            if moved:
                raise Mixed  # an exponential of what is to be shifted
            return _Value(ONE, holds=frozenset({i}))
        if isinstance(node, Const | SizeOf):
            value = 1 if isinstance(node, SizeOf) else node.value
            return _Value(zero=value == 0, positive=value > 0)
        if isinstance(node, Map) and (node.dtype == "bool" or is_float(node.dtype)):
            return self._map(node.op, below)
        if not moved:
            return _Value()
        if isinstance(node, Reduce) and SCALARS[node.op].field in ("add", "max", "min"):
            self.summed.update(node.over)
            lost = SCALARS[node.op].field == "min"
            return _Value(below[0].degree, holds=frozenset() if lost else below[0].holds)
        raise Mixed

    def _map(self, op: str, args: Sequence[_Value]) -> _Value:
        axes = frozenset[Axis]().union(*(x.axes for x in args))
        return replace(self._applied(op, args), axes=axes)

    def _applied(self, op: str, args: Sequence[_Value]) -> _Value:
        row = SCALARS[op]
        terms = [x for x in args if not x.zero]
        degrees = [x.degree for x in terms]
        if row.abstract == "cast":
            return args[0]
        if row.field == "mul":
            held = [x for x in terms if not x.positive]
            holds = frozenset[int].intersection(*(x.holds for x in held)) if held else frozenset()
            return _Value(sum(degrees, ZERO), positive=not held, holds=holds)
        if row.field in ("recip", "log") and any(degrees):
            if row.field == "log" and degrees != [ONE]:
                raise Mixed
            if self.over is not None and (args[0].axes & self.over or args[0].holds != self.held):
                raise Mixed
            # The logarithm has the shift added.
            return _Value(ZERO if row.field == "log" else -degrees[0])
        if row.field == "recip":
            return _Value(positive=args[0].positive)
        if row.field == "add":
            if {*degrees} == {ZERO, ONE}:
                self.mixed.add(self.now)
                terms, degrees = [_times_unit(x) for x in terms], [ONE]
            known = all(x.holds or x.positive for x in terms)
            holds = frozenset[int]().union(*(x.holds for x in terms)) if known else frozenset[int]()
            return _Value(_common(degrees), positive=all(x.positive for x in terms), holds=holds)
        if not any(degrees):
            return _Value()
        if row.field == "sqrt":
            return _Value(degrees[0] / 2, holds=args[0].holds)
        if row.field == "where":
            if args[0].degree:
                raise Mixed
            return _Value(_common([x.degree for x in args[1:] if not x.zero]))
        if row.field in ("max", "min"):
            return _Value(_common(degrees))
        if row.result == "bool" and row.arity == 2:
            _common(degrees)  # a positive factor on both sides
            return _Value()
        if row.body is None:
            raise Mixed
        made = inline(
            row.body, list(args), self._map, lambda c: _Value(zero=c == 0, positive=c > 0)
        )
        return made if isinstance(made, _Value) else _Value()


def _times_unit(x: _Value) -> _Value:
    """A value that is shifted, as a term beside others that are: one of degree 0 times exp(0)."""
    if x.degree:
        return x
    return replace(x, degree=ONE, positive=False, holds=frozenset({UNIT} if x.positive else ()))


def _common(degrees: Sequence[Fraction]) -> Fraction:
    if len(set(degrees)) > 1:
        raise Mixed
    return degrees[0] if degrees else ZERO


def analyzed(graph: Graph, exps: frozenset[int]) -> Degrees:
    """The degrees in these exponentials; all results have degree 0, and all quotients a divisor."""
    first = Degrees(graph, exps)
    if any(first.of[o.node].degree for o in graph.outputs) or not first.summed:
        raise Mixed
    return Degrees(graph, exps, first)
