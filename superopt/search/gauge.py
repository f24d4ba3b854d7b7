"""A shift inside exponentials where the source has none: the gauge of a homogeneous result.

A value has *degree* d in a set of exponentials exp(u) if it is multiplied by exp(-d m) when each of
them becomes exp(u - m). A result of degree 0 (a softmax written as exp(s) / sum exp(s)) is the same
for every m, and the logarithm of a value of degree 1 (a log-sum-exp) needs m added to it. With m
the maximum of u over the axes that are summed, no exponential overflows and no sum is zero, which
the source does not give (design: floats are not the field). Degrees are read off the operators:
products add them, sums and comparisons need them equal. An exponential whose argument has a maximum
subtracted already is left to its author.

A term of degree 0 beside one of degree 1, as the 1 of exp(s) / (1 + sum exp(s)), is a multiple of
exp(0), whose exponent is then one of those that m is the maximum of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Const, Graph, Map, Reduce, SizeOf, View, remap
from superopt.mugraph.scalars import SCALARS, inline

ZERO, ONE = Fraction(0), Fraction(1)
UNIT = -1
"""Stands for the node exp(0) among those that are shifted."""


class _Mixed(Exception):
    """The degrees of two values do not go together, or an operator has no law for them."""


def stabilized(graph: Graph) -> Graph | None:
    """The program with every exponential shifted that a result is homogeneous in; None if none is.

    What comes out is to be shown equal by the verifier, as any rewriting.
    """
    for program in (_masked_inside(graph), graph):
        shifted = None
        while program is not None and (better := _one_more(program)) is not None:
            program = shifted = better
        if shifted is not None:
            return shifted
    return None


def _masked_inside(graph: Graph) -> Graph | None:
    """The program with exp(-inf) for each 0 that is chosen beside exp(u); None where none is.

    An exponent that is masked out must not be the maximum.
    """
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        at[i] = b.add(remap(node, at))
        if not isinstance(node, Map) or SCALARS[node.op].field != "where":
            continue
        chosen = [k for k in (1, 2) if _is_exp(graph, node.args[k])]
        if len(chosen) != 1 or not _is_zero(graph, node.args[3 - chosen[0]]):
            continue
        exp = graph.nodes[node.args[chosen[0]]]
        inside = [at[node.args[0]], at[exp.args[0]], b.const(-math.inf, b.dtype(at[exp.args[0]]))]
        if chosen[0] == 2:
            inside[1:] = reversed(inside[1:])
        at[i] = b.map(exp.op, b.map(node.op, *inside)) if isinstance(exp, Map) else at[i]
    if all(new == old for old, new in at.items()):
        return None
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _is_zero(graph: Graph, i: int) -> bool:
    node = graph.nodes[i]
    return isinstance(node, Const) and node.value == 0


def _one_more(graph: Graph) -> Graph | None:
    """The program with the exponentials of one more gauge shifted."""
    live = graph.reachable([o.node for o in graph.outputs])
    bare = [i for i in live if _is_exp(graph, i) and not _has_shift(graph, graph.nodes[i].args[0])]
    for exps in [*([i] for i in bare), *([bare] if len(bare) > 1 else [])]:
        try:
            return _shifted(graph, live, exps)
        except _Mixed:
            continue
    return None


def _is_exp(graph: Graph, i: int) -> bool:
    node = graph.nodes[i]
    return isinstance(node, Map) and SCALARS[node.op].field == "exp" and is_float(node.dtype)


def _has_shift(graph: Graph, i: int) -> bool:
    """Whether a maximum is a term of a value, or of what a choice takes for it."""
    todo, seen = [i], set()
    while todo:
        j = todo.pop()
        if j in seen:
            continue
        seen.add(j)
        node = graph.nodes[j]
        if isinstance(node, Reduce) and SCALARS[node.op].field == "max":
            return True
        if isinstance(node, View) or (isinstance(node, Map) and _keeps_order(node.op)):
            todo.extend(node.args)
    return False


def _keeps_order(op: str) -> bool:
    row = SCALARS[op]
    return row.abstract in ("add", "mul", "expand", "cast") or row.field in ("max", "where")


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


class _Degrees:
    """What is known of every value of a program, for one set of exponentials that is shifted.

    over: the axes that the shift is a maximum over, once they are known. A quotient and a logarithm
    are then refused unless their argument holds every exponential: at the maximum one of them is 1,
    so that the argument does not vanish where the source's does not.
    """

    def __init__(self, graph: Graph, exps: frozenset[int], before: _Degrees | None = None) -> None:
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
            if i in self.mixed and getattr(graph.nodes[i], "op", "") not in ("add", "sub", "log1p"):
                raise _Mixed
            self.of[i] = replace(found, axes=frozenset(graph.nodes[i].axes))

    def _node(self, i: int) -> _Value:
        node = self.graph.nodes[i]
        below = [self.of[a] for a in node.args]
        moved = any(x.degree for x in below)
        if i in self.exps:
            if moved:
                raise _Mixed  # an exponential of what is to be shifted
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
        raise _Mixed

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
            holds = held[0].holds if len(held) == 1 else frozenset[int]()
            return _Value(sum(degrees, ZERO), positive=not held, holds=holds)
        if row.field in ("recip", "log") and any(degrees):
            if row.field == "log" and degrees != [ONE]:
                raise _Mixed
            if self.over is not None and (args[0].axes & self.over or args[0].holds != self.held):
                raise _Mixed
            return _Value(
                ZERO if row.field == "log" else -degrees[0]
            )  # the log has the shift added
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
            return _Value(degrees[0] / 2)
        if row.field == "where":
            if args[0].degree:
                raise _Mixed
            return _Value(_common([x.degree for x in args[1:] if not x.zero]))
        if row.field in ("max", "min"):
            return _Value(_common(degrees))
        if row.result == "bool" and row.arity == 2:
            _common(degrees)  # a positive factor on both sides
            return _Value()
        if row.body is None:
            raise _Mixed
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
        raise _Mixed
    return degrees[0] if degrees else ZERO


def _analyzed(graph: Graph, exps: frozenset[int]) -> _Degrees:
    """The degrees in these exponentials; all results have degree 0, and all quotients a divisor."""
    first = _Degrees(graph, exps)
    if any(first.of[o.node].degree for o in graph.outputs) or not first.summed:
        raise _Mixed
    return _Degrees(graph, exps, first)


def _shifted(graph: Graph, live: Sequence[int], exps: list[int]) -> Graph:
    """The program with a common maximum subtracted in the exponents, and added to logarithms."""
    degrees = _analyzed(graph, frozenset(exps))
    b = Builder(graph.name)
    at: dict[int, int] = {}
    above = _above(graph, exps)
    for i, node in enumerate(graph.nodes):
        if i not in above:
            at[i] = b.add(remap(node, at))
    unit = [b.const(0.0, graph.nodes[exps[0]].dtype)] if degrees.mixed else []
    peak = _peak(b, [*(at[graph.nodes[e].args[0]] for e in exps), *unit], degrees.summed)
    rebuild = _Shift(degrees, b, at, peak)
    for i in live:
        if i in above:
            at[i] = rebuild.node(i)
    if any(b.axes(at[o.node]) != graph.nodes[o.node].axes for o in graph.outputs):
        raise _Mixed
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


@dataclass
class _Shift:
    """The program that is built again; at: old node -> new node; peak: the shift."""

    degrees: _Degrees
    b: Builder
    at: dict[int, int]
    peak: int

    def node(self, i: int) -> int:
        """The node over its new arguments, which may have more axes."""
        b, node, known = self.b, self.degrees.graph.nodes[i], self.degrees.of
        args = [self.at[a] for a in node.args]
        if i in self.degrees.exps:
            args = [b.map("sub", args[0], self.peak)]
        if isinstance(node, Reduce):
            return b.reduce(node.op, args[0], node.over)
        if not isinstance(node, Map):
            return b.add(remap(node, self.at))
        if i in self.degrees.mixed:
            still = [known[a].degree or known[a].zero for a in node.args]
            args = [x if as_is else self._unit(x) for x, as_is in zip(args, still, strict=True)]
            if node.op == "log1p":  # exact where the shift is 0, and the argument may be small
                args = [b.map("add", args[0], b.map("expm1", b.map("neg", self.peak)))]
        new = b.map(node.op, *args, dtype=node.dtype)
        log = node.op == "log1p" or SCALARS[node.op].field == "log"
        return self._raised(new) if log and known[node.args[0]].degree else new

    def _unit(self, x: int) -> int:
        """A value times exp(0), which is shifted."""
        factor = self.b.map("exp", self.b.map("neg", self.peak))
        one = self.b.nodes[x]
        return factor if isinstance(one, Const) and one.value == 1 else self.b.map("mul", x, factor)

    def _raised(self, log: int) -> int:
        """A logarithm with the shift added; where the shift is infinite, it is the answer itself."""
        b, peak = self.b, self.peak
        infinite = b.map("eq", b.map("abs", peak), b.const(math.inf, b.dtype(peak)))
        return b.map("where", infinite, peak, b.map("add", log, peak))


def _above(graph: Graph, roots: Sequence[int]) -> set[int]:
    """These nodes and all that depend on them."""
    out = set(roots)
    for i, node in enumerate(graph.nodes):
        if not out.isdisjoint(node.args):
            out.add(i)
    return out


def _peak(b: Builder, exponents: Sequence[int], over: Iterable[Axis]) -> int:
    """The largest of several exponents along the axes that are summed.

    Exponents that have the same of these axes, or none, are compared one by one under one maximum:
    it is a running one where they are looped.
    """
    of: dict[tuple[Axis, ...], int] = {}
    for u in exponents:
        own = tuple(a for a in b.axes(u) if a in over)
        of[own] = b.map("max", of[own], u) if own in of else u
    rest = of.pop((), None)
    peaks = []
    for own, u in of.items():
        if rest is not None and {*b.axes(rest)} <= {*b.axes(u)}:
            u, rest = b.map("max", u, rest), None
        peaks.append(b.reduce("max", u, own))
    peaks += [] if rest is None else [rest]
    peak = peaks[0]
    for other in peaks[1:]:
        peak = b.map("max", peak, other)
    return peak
