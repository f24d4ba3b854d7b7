"""What the terms of a sum are where the statistic that it follows has seen nothing yet.

A running maximum begins at -inf. Terms that were added up under it are worth something only if they
are not zero once it has moved: then no finite factor takes them along, and the sum cannot follow
the statistic in one pass. They are zero where an exponent is -inf because what the maximum is taken
of is. So values are traced through the operators as finite, zero, infinite or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from superopt.mugraph.graph import Const, Graph, Map, Reduce, View
from superopt.mugraph.scalars import SCALARS, inline


class Kind(Enum):
    """What is known of a value."""

    FINITE = "finite"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    ZERO = "zero"
    HIGH = "inf"
    LOW = "-inf"
    NAN = "nan"
    ANY = "any"


FINITE, POSITIVE, NEGATIVE, ZERO, HIGH, LOW, NAN, ANY = Kind
_OPPOSITE = {HIGH: LOW, LOW: HIGH, POSITIVE: NEGATIVE, NEGATIVE: POSITIVE}
_SETTLED = {FINITE, POSITIVE, NEGATIVE, ZERO}

Known = dict[int, Kind]


def vanishes(graph: Graph, term: int, stat: int) -> bool:
    """Whether a term of a sum is 0, or NaN, wherever its part of an extreme is the extreme's identity.

    term: the node that is summed; stat: the maximum or minimum, which is some number by then. Other
    inputs are taken to be finite. False where it is not known.
    """
    node = graph.nodes[stat]
    if not isinstance(node, Reduce) or SCALARS[node.op].field not in ("max", "min"):
        return False
    empty = LOW if SCALARS[node.op].field == "max" else HIGH
    known: Known = {stat: FINITE}
    when: dict[int, Known] = {}
    _spread(graph, node.operand, empty, known, when)
    return _Trace(graph, known, when).of(term) in (ZERO, NAN)


def _spread(graph: Graph, i: int, kind: Kind, known: Known, when: dict[int, Known]) -> None:
    """Notes what follows for the values that an infinite one is made of.

    when: condition -> what follows where it holds.
    """
    known[i] = kind
    node = graph.nodes[i]
    if not isinstance(node, Map):
        return
    field, args = SCALARS[node.op].field, node.args
    values = [float(n.value) if isinstance(n := graph.nodes[a], Const) else None for a in args]
    if field == "cast":
        _spread(graph, args[0], kind, known, when)
    elif node.op == "neg":
        _spread(graph, args[0], _OPPOSITE[kind], known, when)
    elif field == ("max" if kind is LOW else "min"):
        for a, value in zip(args, values, strict=True):
            if value is None:
                _spread(graph, a, kind, known, when)
    elif field == "where" and values[2] is not None and _constant(values[2]) is kind:
        inside: Known = {}
        _spread(graph, args[1], kind, inside, when)
        when.setdefault(args[0], {}).update(inside)
    elif field == "mul":
        for a, value in zip(args, values[::-1], strict=True):
            if value is not None and value != 0.0 and math.isfinite(value):
                _spread(graph, a, kind if value > 0.0 else _OPPOSITE[kind], known, when)
    elif field == "add":
        for a, value in zip(args, values[::-1], strict=True):
            if value is not None and math.isfinite(value):
                _spread(graph, a, kind, known, when)


class _Trace:
    """The kinds of a term's values, given some of them."""

    def __init__(self, graph: Graph, known: Known, when: dict[int, Known]) -> None:
        self.graph, self.known, self.when = graph, known, when
        self.done: Known = {}

    def of(self, i: int) -> Kind:
        """The kind of a node."""
        for j in self.graph.reachable([i]):
            if j not in self.done:
                self.done[j] = self.known[j] if j in self.known else self._node(j)
        return self.done[i]

    def _node(self, i: int) -> Kind:
        node = self.graph.nodes[i]
        match node:
            case Const():
                return _constant(float(node.value))
            case Map() if SCALARS[node.op].field == "where":
                return self._choice(node)
            case Map() if SCALARS[node.op].field == "mul":
                return self._masked(node) or _applied(node.op, [self.done[a] for a in node.args])
            case Map():
                return _applied(node.op, [self.done[a] for a in node.args])
            case Reduce():
                below = self.done[node.operand]
                if SCALARS[node.op].field == "add" or below is FINITE:
                    return below
                return ANY
            case View():
                # Other places of a value are not known to be empty.
                return FINITE if self._free(node.operand) else ANY
        return FINITE

    def _choice(self, node: Map) -> Kind:
        return _either(self._where(node.args[0], node.args[1]), self.done[node.args[2]])

    def _masked(self, node: Map) -> Kind | None:
        """A product with a truth value: the other factor, or 0."""
        for x, truth in (node.args, node.args[::-1]):
            cast = self.graph.nodes[truth]
            if (
                isinstance(cast, Map)
                and SCALARS[cast.op].field == "cast"
                and cast.args[0] in self.when
            ):
                return _either(self._where(cast.args[0], x), ZERO)
        return None

    def _where(self, condition: int, i: int) -> Kind:
        """The kind of a value where a condition holds."""
        more = self.when.get(condition)
        if more is None:
            return self.done[i]
        return _Trace(self.graph, {**self.known, **more}, {}).of(i)

    def _free(self, i: int) -> bool:
        return self.known.keys().isdisjoint(self.graph.reachable([i]))


def _either(a: Kind, b: Kind) -> Kind:
    if a is b:
        return a
    return FINITE if {a, b} <= _SETTLED else ANY


def _constant(value: float) -> Kind:
    if math.isinf(value):
        return HIGH if value > 0 else LOW
    return POSITIVE if value > 0 else NEGATIVE if value < 0 else ZERO


def _applied(op: str, args: Sequence[Kind]) -> Kind:
    """The kind of a function of values."""
    row = SCALARS[op]
    if row.result == "bool":
        return FINITE
    if NAN in args:
        return NAN
    match row.field:
        case "add":
            return _added(*args)
        case "mul":
            return _multiplied(*args)
        case "recip":
            return ZERO if args[0] in (HIGH, LOW) else ANY if args[0] in (ANY, ZERO) else args[0]
        case "exp":
            return {LOW: ZERO, HIGH: HIGH, ANY: ANY}.get(args[0], POSITIVE)
        case "cast":
            return args[0]
        case "max" | "min":
            return _either(*args)
    if row.body is not None:
        found = inline(row.body, list(args), _applied, _constant)
        return found if isinstance(found, Kind) else ANY
    return FINITE if set(args) <= _SETTLED else ANY


def _added(a: Kind, b: Kind) -> Kind:
    for x, y in ((a, b), (b, a)):
        if x in (HIGH, LOW):
            return x if y is x or y in _SETTLED else NAN if y is _OPPOSITE[x] else ANY
        if x is ZERO:
            return y
    return _either(a, b)


def _multiplied(a: Kind, b: Kind) -> Kind:
    for x, y in ((a, b), (b, a)):
        if x is ZERO:
            return ZERO if y in _SETTLED else NAN if y in (HIGH, LOW) else ANY
        if y is POSITIVE:
            return x
        if y is NEGATIVE:
            return _OPPOSITE.get(x, x)
    return FINITE if {a, b} <= _SETTLED else ANY
