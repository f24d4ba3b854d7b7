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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Const, Graph, Map, Reduce, View, remap
from superopt.mugraph.rewrite import rewritten
from superopt.mugraph.scalars import SCALARS
from superopt.search.degrees import LOG1P, Degrees, Mixed, analyzed


@dataclass(frozen=True)
class Step:
    """A shift: the program before and after it.

    free: what is after it, with the shift as an input of the program.
    """

    before: Graph
    after: Graph
    free: Graph

    def obligation(self) -> tuple[Graph, Graph]:
        """Two graphs whose equality justifies the step: they are equal whatever the shift is.

        That says more than that they are equal for a maximum, and is shown where that is not: a
        maximum of a score and 0 is one of two cases, of which a random element takes either.
        """
        own = {n.name for n in self.before.inputs}
        more = tuple(n for n in self.free.inputs if n.name not in own)
        return replace(self.before, nodes=(*self.before.nodes, *more)), self.free


def stabilized(graph: Graph) -> Graph | None:
    """The program with every exponential shifted that a result is homogeneous in; None if none is.

    What comes out is to be shown equal by the verifier, as any rewriting.
    """
    steps = stable_steps(graph)
    return steps[-1].after if steps else None


def stable_steps(graph: Graph) -> list[Step]:
    """The shifts that make a program stable, one after another."""
    masked = _masked_inside(graph)
    for program in (masked, graph):
        steps = []
        while program is not None and (step := _one_more(program)) is not None:
            steps.append(step)
            program = step.after
        if steps:
            return [
                *([Step(graph, masked, masked)] if masked and program is not graph else []),
                *steps,
            ]
    return []


def _masked_inside(graph: Graph) -> Graph | None:
    """The program with exp(-inf) for each 0 that is chosen beside exp(u); None where none is.

    An exponent that is masked out must not be the maximum.
    """

    def rule(b: Builder, at: Mapping[int, int], i: int) -> int | None:
        choice = _choice(graph, i)
        if choice is None:
            return None
        condition, exp, when = choice
        u = at[graph.nodes[exp].args[0]]
        inside = [u, b.const(-math.inf, b.dtype(u))]
        return b.map("exp", b.map("where", at[condition], *(inside if when else inside[::-1])))

    masked = rewritten(graph, rule)
    return None if masked is graph else masked


def _choice(graph: Graph, i: int) -> tuple[int, int, bool] | None:
    """A choice of exp(u) or 0, or a product with a truth value: condition, exp(u), when it is taken."""
    node = graph.nodes[i]
    if not isinstance(node, Map):
        return None
    if SCALARS[node.op].field == "where":
        for k in (1, 2):
            if _is_exp(graph, node.args[k]) and _is_zero(graph, node.args[3 - k]):
                return node.args[0], node.args[k], k == 1
    if node.op == "mul":
        for exp, factor in (node.args, node.args[::-1]):
            truth = graph.nodes[factor]
            cast = isinstance(truth, Map) and SCALARS[truth.op].abstract == "cast"
            if cast and _is_exp(graph, exp) and graph.nodes[truth.args[0]].dtype == "bool":
                return truth.args[0], exp, True
    return None


def _is_zero(graph: Graph, i: int) -> bool:
    node = graph.nodes[i]
    return isinstance(node, Const) and node.value == 0


def _one_more(graph: Graph) -> Step | None:
    """The program with the exponentials of one more gauge shifted."""
    live = graph.reachable([o.node for o in graph.outputs])
    bare = [i for i in live if _is_exp(graph, i) and not _has_shift(graph, graph.nodes[i].args[0])]
    for exps in [*([i] for i in bare), *([bare] if len(bare) > 1 else [])]:
        try:
            degrees = analyzed(graph, frozenset(exps))
            after = _shifted(live, degrees, exps, free=False)
        except Mixed:
            continue
        return Step(graph, after, _shifted(live, degrees, exps, free=True))
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


def _shifted(live: Sequence[int], degrees: Degrees, exps: Sequence[int], free: bool) -> Graph:
    """The program with a common maximum subtracted in the exponents, and added to logarithms.

    free: with an input in place of the maximum.
    """
    graph = degrees.graph
    b = Builder(graph.name)
    at: dict[int, int] = {}
    above = _above(graph, exps)
    for i, node in enumerate(graph.nodes):
        if i not in above:
            at[i] = b.add(remap(node, at))
    unit = [b.const(0.0, graph.nodes[exps[0]].dtype)] if degrees.mixed else []
    peak = _peak(b, [*(at[graph.nodes[e].args[0]] for e in exps), *unit], degrees.summed)
    if free:
        taken = {n.name for n in graph.inputs}
        name = next(
            n for n in ("shift", *(f"shift{k}" for k in range(len(taken)))) if n not in taken
        )
        peak = b.input(name, tuple((a,) for a in b.axes(peak)), b.dtype(peak))
    rebuild = _Shift(degrees, b, at, peak)
    for i in live:
        if i in above:
            at[i] = rebuild.node(i)
    if any(b.axes(at[o.node]) != graph.nodes[o.node].axes for o in graph.outputs):
        raise Mixed
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


@dataclass
class _Shift:
    """The program that is built again; at: old node -> new node; peak: the shift."""

    degrees: Degrees
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
        exact = SCALARS[node.op].body == LOG1P
        if i in self.degrees.mixed:
            still = [known[a].degree or known[a].zero for a in node.args]
            args = [x if as_is else self._unit(x) for x, as_is in zip(args, still, strict=True)]
            if exact:  # where the shift is 0, and the argument may be small
                args = [b.map("add", args[0], b.map("expm1", b.map("neg", self.peak)))]
        new = b.map(node.op, *args, dtype=node.dtype)
        log = exact or SCALARS[node.op].field == "log"
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
