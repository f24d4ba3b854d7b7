"""Programs compared where a divisor is zero, with an infinity for the quotient, as floats have it.

The field leaves out what is divided by zero, but an infinity may end in something finite: 1 / (1 + 1 / x),
exp(-1 / x^2), a clamp, a test for it. Two programs that are equal where no divisor is zero may differ there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import CHAINS, trial_keys
from superopt.mugraph.algebras.field import FieldAlgebra
from superopt.mugraph.algebras.field_values import OK, POS, Real, clear
from superopt.mugraph.axes import Sym
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Graph, Map, Node, Output
from superopt.mugraph.rules import describe
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.cuts import with_inputs
from superopt.verify.evaluators import Cells
from superopt.verify.float_run import Near, values_of
from superopt.verify.probe import unfolded
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

    A divisor is made zero by some input element in which it is affine (``solved.py``). Where there is
    none, what it is computed of is a fresh input of both programs; its values need not be any that
    it takes, so that a difference is a case that was not met and no more. Divisors that cannot be zero
    (``signs.py``) are left out.
    """
    programs = unfolded(a), unfolded(b)
    congruence, seen = Congruence(), set[int]()
    for pair in (programs, programs[::-1]):
        graph = pair[0]
        numbers, known = congruence.numbers(graph), signs(graph)
        for i in graph.reachable([o.node for o in graph.outputs]):
            node = graph.nodes[i]
            if not isinstance(node, Map) or SCALARS[node.op].field not in ("recip", "log"):
                continue
            for k in _factors(graph, node.operands[0]):
                if numbers[k] in seen or 0 not in known[k]:
                    continue
                seen.add(numbers[k])
                if len(seen) > MOST_DIVISORS:
                    return "more divisors that may be zero than are tried"
                if found := _at_zero(*pair, k, seed ^ SEED):
                    return f"{found} where {describe(graph, k)} is zero, of which {describe(graph, i)} is"
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


def _at_zero(a: Graph, b: Graph, k: int, seed: int) -> str:
    """The difference where node k of a is zero."""
    try:
        found = _at(a, b, k, seed)
        if found is not None:
            return found
        values = values_of(a, b, MOST_CELLS)
    except VerificationFailed:
        return ""
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
        try:
            found = _at(*_cut(a, b, k, mine or [i], other), seed)
        except VerificationFailed:
            continue
        if found is not None:
            return found and f"{found}, if it is ever so"
    return ""


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


def _at(a: Graph, b: Graph, k: int, seed: int) -> str | None:
    """The difference where node k of a is zero; None where it cannot be made so."""
    chain, numbers = CHAINS[0], literals(a, b)
    sizing = _sizing(a, b)
    levels = [output_level(a, b, i, chain) for i in range(len(a.outputs))]
    keys = trial_keys(seed, range(POINTS))
    zeros = solved(a, [k], chain, seed, sizing, numbers)
    if not zeros:
        return None
    plans = [(g, planned(g, levels, chain)) for g in (a, b)]

    def cells(ties: Mapping[int, Tie]) -> list[tuple[Cells, Cells]]:
        mine, other = (
            outputs_at(g, p, levels, chain, sizing, keys, ties, numbers, _Poles) for g, p in plans
        )
        return list(zip(mine, other, strict=True))

    # Of a cut program, cells that differ anyway say nothing of the pole.
    same = [_finite(x, y) & (x.data == y.data) for x, y in cells({})]
    if not any(s.any() for s in same):
        return None
    for output, known, (x, y) in zip(a.outputs, same, cells(zeros), strict=True):
        if (wrong := known & _finite(x, y) & (x.data != y.data)).any():
            return f"output {output.name!r} differs at {tuple(np.argwhere(wrong)[0].tolist()[1:])}"
    return ""


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
