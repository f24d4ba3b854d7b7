"""The error bound of a check, counted through both graphs: degrees, roots, selections, keyed values.

A program without selections is, cell by cell, a rational function of its inputs (level by level
independent residues), of z = omega^u for each exponent u, of roots and of keyed values. Two such
functions that differ agree at a random point with probability at most D/q (Schwartz 1980, Zippel
1979; design section 6), D being the degree of the cleared difference. Here D is counted:

* a value is numerator over denominator with degrees (n, d); sums take the product of the
  denominators, a reduction of s terms (n + (s-1)d, s d);
* a root r of f counts as half the degree of f; with k roots below a cell the difference is
  multiplied by its 2^k conjugates, which gives a polynomial, and the cell is looked at only when
  all k are squares, which happens with probability 2^-k at least half: 2 4^k D/q;
* N keyed values collide with probability below N^2 D/q, else they are fresh variables;
* selections make it one function per pattern of winners; a wrong one is met with probability 1/W.

docs/verification.md derives the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from superopt.mugraph.algebras.field_values import Integers, integers
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
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
from superopt.mugraph.scalars import SCALARS, Arg, Term
from superopt.verify.triangular import Exponents

MOST_PATTERNS = 90.0
"""Patterns of winners up to which enough trials are run to meet each; a caller may allow more."""

Degree = tuple[float, float]
"""Degrees of numerator and denominator."""

ROOT, SELECT, KEYED, EXP, LOG, CHOICE = "root", "select", "keyed", "exp", "log", "choice"
INTEGER, CAST, DECIDES = "integer", "cast", "decides"


@dataclass(frozen=True, slots=True)
class Mark:
    """How often one kind of application occurs below a cell: ``count`` cells, over ``free`` axes.

    weight: alternatives of one application (values compared, or values an integer input takes).
    """

    kind: str
    weight: int
    count: float
    free: frozenset[Axis]


Marks = Mapping[tuple[Any, ...], Mark]


class Congruence:
    """Numbers subgraphs of several graphs so that equal ones get one number."""

    def __init__(self) -> None:
        self._ids: dict[Node, int] = {}

    def numbers(self, graph: Graph) -> list[int]:
        """One number per node."""
        out: list[int] = []
        for node in graph.nodes:
            out.append(self._ids.setdefault(remap(node, out), len(self._ids)))
        return out


@dataclass
class Counter:
    """Counts degrees and marks through graphs at the given sizes."""

    sizes: Mapping[Axis, int]
    ranges: Mapping[str, Integers]
    congruence: Congruence = field(default_factory=Congruence)

    def count(self, graph: Graph) -> list[tuple[Degree, Marks]]:
        """(degree, marks) of every node."""
        numbers = self.congruence.numbers(graph)
        out: list[tuple[Degree, Marks]] = []
        for i, node in enumerate(graph.nodes):
            out.append(self._node(graph, node, numbers[i], out))
        return out

    def _node(
        self, graph: Graph, node: Node, number: int, done: list[tuple[Degree, Marks]]
    ) -> tuple[Degree, Marks]:
        free = frozenset(node.axes)
        match node:
            case Input():
                if is_float(node.dtype):
                    return (1.0, 0.0), {}
                known = integers(self.ranges, node)
                kind = CHOICE if known.complete else INTEGER
                return (1.0, 0.0), {(number,): Mark(kind, known.count, 1, free)}
            case Const() | SizeOf() | Iota():
                return (0.0, 0.0), {}
            case Map():
                args = [done[i] for i in node.operands]
                merged = merge([m for _, m in args])
                term = (node.op, *(Arg(i) for i in range(len(args))))
                fixed = [not is_float(graph.nodes[i].dtype) for i in node.operands]
                degree = self._term(term, [d for d, _ in args], fixed, (number,), free, merged)
                if node.op == "cast" and not (
                    is_float(node.dtype) or node.dtype == "bool" or fixed[0]
                ):
                    merged[(number,)] = Mark(CAST, 1, 1, free)
                return degree, merged
            case Reduce():
                return self._reduce(node, number, *done[node.operand])
            case View():
                return done[node.operand][0], moved(node, number, done[node.operand][1])
            case Gather():
                degree, marks = done[node.operand]
                merged = merge([gathered(node, graph, number, marks), done[node.at][1]])
                if _takes_some(done[node.at][1]):
                    merged[(number,)] = Mark(DECIDES, 1, 1, free)
                return degree, merged
        raise TypeError(f"unknown node {node!r}")

    def _term(
        self,
        term: Term,
        args: list[Degree],
        fixed: list[bool],
        path: tuple[Any, ...],
        free: frozenset[Axis],
        marks: dict[tuple[Any, ...], Mark],
    ) -> Degree:
        if isinstance(term, Arg):
            return args[term.index]
        if not isinstance(term, tuple):
            return (0.0, 0.0)
        inner = [
            self._term(t, args, fixed, (*path, j), free, marks) for j, t in enumerate(term[1:])
        ]
        row = SCALARS[term[0]]
        if row.body is not None:
            literal = [t is None or _exactly(t, fixed) for t in term[1:]]
            return self._term(row.body, inner, literal, (*path, row.name), free, marks)

        def mark(kind: str) -> None:
            marks[path] = Mark(kind, 2, 1, free)

        exact = all(_exactly(t, fixed) for t in term[1:])
        if exact and row.field in DECIDING and _takes_some(marks):
            marks[path] = Mark(DECIDES, 1, 1, free)
        match row.field:
            case "add":
                (n1, d1), (n2, d2) = inner
                return max(n1 + d2, n2 + d1), d1 + d2
            case "mul":
                return inner[0][0] + inner[1][0], inner[0][1] + inner[1][1]
            case "recip":
                return inner[0][1], inner[0][0]
            case "sqrt":
                mark(ROOT)
                return inner[0][0] / 2, inner[0][1] / 2
            case "exp":
                mark(EXP)
                return 1.0, 1.0
            case "log":
                mark(LOG)
                return 1.0, 1.0
            case "max" | "min" | "lt" | "le" | "eq":
                if not exact:
                    mark(SELECT)
                return max(n for n, _ in inner), max(d for _, d in inner)
            case "where":
                return max(n for n, _ in inner[1:]), max(d for _, d in inner[1:])
            case "cast":
                return inner[0]
            case "keyed" | "floordiv" | "mod":
                if not exact:
                    mark(KEYED)
                return (1.0, 0.0) if not exact else (max(n for n, _ in inner), 0.0)
        return (0.0, 0.0)  # truth values

    def _reduce(
        self, node: Reduce, number: int, degree: Degree, marks: Marks
    ) -> tuple[Degree, Marks]:
        n, d = degree
        terms = math.prod(self.sizes[a] for a in node.over)
        out = reduced(node, self.sizes, marks)
        if node.op == "add":
            return (n + (terms - 1) * d, terms * d), out
        if node.op == "mul":
            return (terms * n, terms * d), out
        if is_float(node.dtype):
            out[(number,)] = Mark(SELECT, max(terms, 2), 1, frozenset(node.axes))
        return degree, out


def gathered(node: Gather, graph: Graph, number: int, marks: Marks) -> dict[tuple[Any, ...], Mark]:
    """Marks as seen through a gather: along the axis that it reads, other cells count on their own."""
    out = {}
    for k, m in marks.items():
        key = (*k, number) if node.along in m.free else k
        at = frozenset(graph.nodes[node.at].axes)
        out[key] = replace(m, free=(m.free - {node.along}) | at)
    return out


def reduced(node: Reduce, sizes: Mapping[Axis, int], marks: Marks) -> dict[tuple[Any, ...], Mark]:
    """Marks as seen below one cell of a reduction."""
    out = {}
    for k, m in marks.items():
        times = math.prod(sizes[a] for a in node.over if a in m.free)
        out[k] = replace(m, count=m.count * times, free=m.free - frozenset(node.over))
    return out


def moved(node: View, number: int, marks: Marks) -> dict[tuple[Any, ...], Mark]:
    """Marks as seen through an index map: a slice holds other cells than the next."""
    index = dict(node.index)
    out = {}
    for k, m in marks.items():
        read = [index[a] for a in m.free if a in index]
        free = {x for ix in read for x, _ in ix.terms}
        renames = all(ix.rename_of() is not None for ix in read) and len(free) == len(read)
        out[k if renames else (*k, number)] = replace(m, free=frozenset(free))
    return out


DECIDING = frozenset({"max", "min", "lt", "le", "eq", "floordiv", "mod"})
"""Field primitives that decide by cases when they are given integers."""


def _takes_some(marks: Marks) -> bool:
    """Whether a value depends on an integer input of which some values only are tried."""
    return any(m.kind in (INTEGER, CAST) for m in marks.values())


def _exactly(term: Any, fixed: list[bool]) -> bool:
    """Whether a body term is certainly exact: an integer argument or a literal."""
    if isinstance(term, Arg):
        return fixed[term.index]
    return not isinstance(term, tuple)


def merge(parts: list[Marks]) -> dict[tuple[Any, ...], Mark]:
    """The marks of several values below one cell; those of the same cells count once."""
    out: dict[tuple[Any, ...], Mark] = {}
    for part in parts:
        for k, m in part.items():
            old = out.get(k)
            if old is None or old == m:
                out[k] = m
            else:  # the same application reached at two index maps: other cells
                out[k] = replace(m, count=old.count + m.count, free=old.free | m.free)
    return out


@dataclass(frozen=True)
class Bound:
    """The miss probability of one clean trial, and what it was counted from.

    miss: None when no bound is claimed, with the reason; patterns: W of the module's text; cases:
    whether it is for the sake of cases that may not have been met, each of which may differ.
    """

    miss: float | None
    reason: str
    degree: float
    roots: int
    patterns: float
    keyed: int
    cases: bool = False


def bound(
    pairs: list[tuple[tuple[Degree, Marks], tuple[Degree, Marks]]],
    q: int,
    peak: float,
    form: Exponents | str | None,
    roots_free: bool,
    apart: bool = False,
    scaled: bool = False,
    orders: float = math.inf,
    most_patterns: float = MOST_PATTERNS,
) -> Bound:
    """The bound for output pairs (counts in both graphs) over a field of at least q elements.

    peak: the highest degree of any value in either graph (arguments of keyed functions, gradients
    of exponents); form: the triangular form of the exponents, or why there is none; roots_free:
    whether the roots were shown to be independent; apart: whether the cells of one selection were
    shown to compare values of their own; scaled: whether an infinity is multiplied by what is no
    literal, so that its sign is that of a value; orders: how rare an order of all compared values is
    at most (``superopt.verify.orders``).
    """
    worst = Bound(0.0, "", 0, 0, 1, 0)
    for ((n1, d1), m1), ((n2, d2), m2) in pairs:
        degree = max(n1 + d2, n2 + d1, 1.0)
        marks = merge([m1, m2])
        roots = int(sum(m.count for m in marks.values() if m.kind == ROOT))
        keyed = int(sum(m.count for m in marks.values() if m.kind == KEYED))
        patterns = _patterns(list(marks.values()), apart, orders)
        kinds = {m.kind for m in marks.values()}
        reason = _not_met(kinds, scaled, patterns, most_patterns)
        cases = bool(reason)
        reason = reason or _no_degree(kinds, form, roots_free)
        atoms, height = (form.atoms, form.height) if isinstance(form, Exponents) else (0, 1.0)
        error = (degree * height + 2 * peak * (keyed * keyed + atoms)) / q
        if roots:
            error *= 2 * 4.0 ** min(roots, 500)
        if not reason and roots and roots * 2.0 ** min(roots, 500) * peak > math.sqrt(q) / 2:
            reason = f"the degree {peak:.3g} is too high for {roots} roots to be independent"
        if not reason and error >= 0.5:
            reason = f"the degree {degree:.3g} with {roots} roots is too high for the field"
        miss = 1 - (1 - error) / patterns
        found = Bound(None if reason else miss, reason, degree, roots, patterns, keyed, cases)
        if (found.cases, found.miss is None, found.miss or 0) >= (
            worst.cases,
            worst.miss is None,
            worst.miss or 0,
        ):
            worst = found
    return worst


def _not_met(kinds: set[str], scaled: bool, patterns: float, most_patterns: float) -> str:
    """Which cases may not have been met, though each may differ; the empty string for none."""
    if DECIDES in kinds:
        return "an integer input decides by cases, and takes some of its values only"
    if CAST in kinds:
        return "a cast of floats to integers is a random function of few values"
    if scaled:
        return "an infinity is scaled by a value of either sign"
    if patterns > most_patterns:
        return f"{patterns:.3g} patterns of winners are too many to meet each"
    return ""


def _no_degree(kinds: set[str], form: Exponents | str | None, roots_free: bool) -> str:
    """Why the difference of two programs has no degree that is known; the empty string if it has."""
    if LOG in kinds:
        return "a logarithm has no degree"
    if INTEGER in kinds:
        return "an integer input takes some of its values only"
    if EXP in kinds and not isinstance(form, Exponents):
        return form or "the exponents were not looked at"
    if ROOT in kinds and not roots_free:
        return "a root's argument may be a square"
    return ""


def _patterns(marks: Sequence[Mark], apart: bool, orders: float) -> float:
    """W: every pattern of winners and of integer inputs has probability at least 1/W.

    Where one selection compares other values in each cell (``apart``), or has one cell, each of its
    winners is one of those it compares; else any pattern of comparisons contains an order of all the
    values that are compared.
    """
    choices = math.prod(min(m.weight**m.count, 1e9) for m in marks if m.kind == CHOICE)
    selects = [m for m in marks if m.kind == SELECT]
    if not selects:
        return choices
    single = len(selects) == 1 and (apart or selects[0].count == 1)
    if single and selects[0].count * math.log2(selects[0].weight) < 64:
        orders = min(orders, selects[0].weight ** selects[0].count)
    return choices * orders
