"""Programs compared where a divisor is zero, with an infinity for the quotient, as floats have it.

The field leaves out what is divided by zero, but an infinity may end in something finite: 1 / (1 + 1 / x),
exp(-1 / x^2), a clamp, a test for it. Two programs that are equal where no divisor is zero may differ there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import CHAINS, trial_keys
from superopt.mugraph.algebras.field import FieldAlgebra
from superopt.mugraph.algebras.field_values import OK, POISON, POS, Real, clear
from superopt.mugraph.axes import Sym
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Map, Node, Output
from superopt.mugraph.rules import describe
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.cuts import with_inputs
from superopt.verify.divided import compares, divides, prepared
from superopt.verify.evaluators import Cells
from superopt.verify.float_run import Near, values_of
from superopt.verify.signs import signs
from superopt.verify.sizes import Sizing, assignments, own_sizes
from superopt.verify.solved import POINTS, Tie, outputs_at, solved
from superopt.verify.ties import literals
from superopt.verify.trials import output_level, planned

MOST_DIVISORS = 12
"""Divisors of both programs that are made zero, at most."""

MOST_CUTS = 24
"""Values in which a divisor is solved for where no input makes it zero."""

MOST_CELLS = 1 << 20
"""Elements of one value, at most."""

OWN_CELLS = 1 << 12
"""Elements of one value up to which programs keep their own sizes."""

SEED = 0x90E5


class _Poles(FieldAlgebra):
    """The field with 1/0 an infinity; it is the positive one, as of the 0 that x - x is."""

    def recip(self, a: Real) -> Real:
        out = super().recip(a)
        zero = a.status == OK
        for residues in a.res.values():
            zero = zero & (residues == 0)
        return clear(out.res, np.where(zero, POS, out.status), a.sign)


def differ_at_poles(a: Graph, b: Graph, seed: int) -> str:
    """Where two programs may give different finite values at a zero divisor; empty if none is found.

    They are compared at random points, where comparisons tie, and where a divisor is zero: by a step of
    some input element in which it is affine (``solved.py``). Where there is none, what it is computed of
    is a fresh input of both programs; its values need not be any that it takes, so that a difference is
    a case that was not met and no more, and so is a comparison of one program alone that was not made to
    tie: it may know of the zero. Divisors that cannot be zero (``signs.py``) are left out.
    """
    programs = prepared(a, b)
    congruence, seen = Congruence(), set[int]()
    numbers = [congruence.numbers(g) for g in programs]
    if not any(divides(n) for g in programs for n in g.nodes):
        return ""
    with contextlib.suppress(VerificationFailed):
        found, _ = _at(*programs, (), seed ^ SEED)
        if found:
            return found
    loose = ""
    for side, graph in enumerate(programs):
        for i in compares(graph):
            if (number := numbers[side][i]) in seen:
                continue
            seen.add(number)
            found = None
            if len(seen) <= MOST_DIVISORS:
                with contextlib.suppress(VerificationFailed):
                    found, _ = _at(graph, programs[1 - side], graph.nodes[i].args, seed ^ SEED)
            if found:
                return f"{found} where {describe(graph, i)} ties"
            if found is None and number not in numbers[1 - side]:
                loose = loose or describe(graph, i)
    seen.clear()
    for side, graph in enumerate(programs):
        known = signs(graph)
        for i in graph.reachable([o.node for o in graph.outputs]):
            node = graph.nodes[i]
            for k in _factors(graph, node.args[0]) if divides(node) else ():
                if numbers[side][k] in seen or 0 not in known[k]:
                    continue
                seen.add(numbers[side][k])
                if len(seen) > MOST_DIVISORS:
                    return "more divisors that may be zero than are tried"
                zero = f"where {describe(graph, k)} is zero, of which {describe(graph, i)} is"
                found, unsure = _at_zero(graph, programs[1 - side], k, seed ^ SEED)
                if found:
                    return f"{found} {zero}"
                if loose and unsure:
                    return f"{loose} was not made to tie {zero}"
    return ""


def _factors(graph: Graph, i: int) -> set[int]:
    """The values of which one is zero where a divisor is: factors, and what a root is of."""
    out, todo = set[int](), [i]
    while todo:
        node = graph.nodes[i := todo.pop()]
        if isinstance(node, Map) and SCALARS[node.op].field in ("mul", "sqrt"):
            todo += node.operands
        elif not isinstance(node, Const):
            out.add(i)
    return out


def _at_zero(a: Graph, b: Graph, k: int, seed: int) -> tuple[str, bool]:
    """The difference where node k of a is zero, and whether inputs that make it so were not found.

    That is of no concern where the infinity does not end in something finite.
    """
    try:
        found, _ = _at(a, b, [k], seed)
        if found is not None:
            return found, False
        values = values_of(a, b, MOST_CELLS)
    except VerificationFailed:
        return "", True
    near = [Near(v) for v in values]
    inner = [i for i in a.reachable([k]) if a.nodes[i].args and is_float(a.nodes[i].dtype)]
    alike = {
        i: [
            [j for j in n.to(values[0][i]) if _alike(g.nodes[j], a.nodes[i])]
            for g, n in zip((a, b), near, strict=True)
        ]
        for i in inner
    }
    # What both compute comes first, and of that what is nearest to the inputs: more is known by it.
    inner.sort(key=lambda i: not alike[i][1])
    for i in dict.fromkeys((*inner[:MOST_CUTS], k)):
        mine, other = (_first(g, x) for g, x in zip((a, b), alike.get(i, ([], [])), strict=True))
        first, second, divisor = _cut(a, b, k, mine or [i], other)
        try:
            found, ends = _at(first, second, [divisor], seed, cut=True)
        except VerificationFailed:
            continue
        if found is not None:
            return found and f"{found}, if it is ever so", ends
    return "", True


def _alike(x: Node, y: Node) -> bool:
    return (x.axes, x.dtype) == (y.axes, y.dtype)


def _first(graph: Graph, nodes: Sequence[int]) -> list[int]:
    """Those that depend on no other of them: a choice between x and what x never is, is near to x."""
    return [i for i in nodes if not {*graph.reachable([i])} & ({*nodes} - {i})]


def _cut(
    a: Graph, b: Graph, k: int, mine: Sequence[int], other: Sequence[int]
) -> tuple[Graph, Graph, int]:
    """Both programs with one fresh input for some nodes of either, and the number of k in a."""
    divisor = Output("divisor", k, tuple((x,) for x in a.nodes[k].axes))
    cut = with_inputs(replace(a, outputs=(*a.outputs, divisor)), dict.fromkeys(mine, 0))
    rest = with_inputs(b, dict.fromkeys(other, 0))
    return replace(cut, outputs=cut.outputs[:-1]), rest, cut.outputs[-1].node


def _at(
    a: Graph, b: Graph, nodes: Sequence[int], seed: int, cut: bool = False
) -> tuple[str | None, bool]:
    """The difference where two nodes of a tie, or one is zero; None where they cannot be made to.

    Of no nodes: at random points. And whether something that is not finite there ends in something
    finite in a. cut: whether the programs have fresh inputs, so that they need not be equal elsewhere.
    """
    chain, numbers = CHAINS[0], literals(a, b)
    sizing = _sizing(a, b)
    levels = [output_level(a, b, i, chain) for i in range(len(a.outputs))]
    keys = trial_keys(seed, range(POINTS))
    zeros = solved(a, nodes, chain, seed, sizing, numbers) if nodes else {}
    if nodes and not zeros:
        return None, False
    plans = [(g, planned(g, levels, chain)) for g in (a, b)]

    def cells(kind: type[FieldAlgebra], ties: Mapping[int, Tie]) -> list[tuple[Cells, Cells]]:
        mine, other = (
            outputs_at(g, p, levels, chain, sizing, keys, ties, numbers, kind) for g, p in plans
        )
        return list(zip(mine, other, strict=True))

    # Cells that differ without poles say nothing of them; of programs that are cut, nor do others.
    plain = cells(FieldAlgebra, {})
    same = [_finite(x, y) & (x.data == y.data) for x, y in plain]
    fit = same if cut else [~_finite(x, y) | s for s, (x, y) in zip(same, plain, strict=True)]
    if cut and not any(s.any() for s in same):
        return None, False
    before, after, bare = cells(_Poles, {}), cells(_Poles, zeros), cells(FieldAlgebra, zeros)
    met = ends = False
    for output, known, old, new, (x0, _) in zip(a.outputs, fit, before, after, bare, strict=True):
        for x, y in (old, new):
            if (wrong := known & _finite(x, y) & (x.data != y.data)).any():
                where = tuple(np.argwhere(wrong)[0].tolist()[1:])
                return f"output {output.name!r} differs at {where}", True
        moved = known & (_other(old[0], new[0]) | _other(old[1], new[1]))
        unknown = (new[0].status == POISON) | (new[1].status == POISON)
        met |= bool((moved & ~unknown).any())
        ends |= bool((known & (x0.status != OK) & (new[0].status == OK)).any())
    # Roots that are none in the field may hide all that moves.
    return "" if met else None, ends


def _other(x: Cells, y: Cells) -> np.ndarray:
    found: np.ndarray = (x.status != y.status) | (x.data != y.data)
    return found


def _finite(x: Cells, y: Cells) -> np.ndarray:
    found: np.ndarray = (x.status == OK) & (y.status == OK)
    return found


def _sizing(a: Graph, b: Graph) -> Sizing:
    """Their own sizes, which literals may go with (a sum is 4 n where a mean is 4), or smaller ones."""
    if not any(isinstance(x.size, Sym) for g in (a, b) for x in g.axes):
        own = own_sizes(a, b)
        if own.cells <= OWN_CELLS:
            return own
    return assignments(a, b, MOST_CELLS)[0]
