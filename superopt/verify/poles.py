"""Programs compared where a divisor is zero, with an infinity for the quotient, as floats have it.

The field leaves out what is divided by zero, but an infinity may end in something finite: 1 / (1 + 1 / x),
exp(-1 / x^2), a clamp, a test for it. Two programs that are equal where no divisor is zero may differ there.
"""

from __future__ import annotations

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import CHAINS, trial_keys
from superopt.mugraph.algebras.field import FieldAlgebra
from superopt.mugraph.algebras.field_values import OK, POS, Real, clear
from superopt.mugraph.graph import Const, Graph, Map
from superopt.mugraph.rules import describe
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.evaluators import Cells
from superopt.verify.probe import unfolded
from superopt.verify.sizes import Sizing, assignments
from superopt.verify.solved import POINTS, outputs_at, solved
from superopt.verify.ties import literals
from superopt.verify.trials import output_level, planned

MOST_DIVISORS = 12
"""Divisors of both programs that are made zero, at most."""

MOST_CELLS = 1 << 20
"""Elements of one value, at most."""

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
    """Where two programs give different finite values at a zero divisor; empty if none is found.

    Divisors are made zero where they are affine in some input element (``solved.py``); others are not
    looked at.
    """
    try:
        sizing = assignments(a, b, MOST_CELLS)[0]
        levels = [output_level(a, b, i, CHAINS[0]) for i in range(len(a.outputs))]
    except VerificationFailed:
        return ""
    congruence, seen = Congruence(), set[int]()
    for graph in (unfolded(a), unfolded(b)):
        numbers = congruence.numbers(graph)
        for i in graph.reachable([o.node for o in graph.outputs]):
            node = graph.nodes[i]
            if not isinstance(node, Map) or SCALARS[node.op].field != "recip":
                continue
            for k in _factors(graph, node.operands[0]):
                if numbers[k] in seen:
                    continue
                seen.add(numbers[k])
                if len(seen) > MOST_DIVISORS:
                    return ""
                if found := _at(a, b, graph, k, levels, seed ^ SEED, sizing):
                    return f"{found} where {describe(graph, k)} is zero, a divisor of {describe(graph, i)}"
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


def _at(
    a: Graph, b: Graph, graph: Graph, k: int, levels: list[int], seed: int, sizing: Sizing
) -> str:
    """The difference where one node is zero."""
    chain, numbers = CHAINS[0], literals(a, b)
    keys = trial_keys(seed, range(POINTS))
    try:
        zeros = solved(graph, [k], chain, seed, sizing, numbers)
        if not zeros:
            return ""
        mine, other = (
            outputs_at(
                g, planned(g, levels, chain), levels, chain, sizing, keys, zeros, numbers, _Poles
            )
            for g in (a, b)
        )
    except VerificationFailed:
        return ""
    for name, x, y in zip((o.name for o in a.outputs), mine, other, strict=True):
        if (wrong := _apart(x, y)).any():
            return f"output {name!r} differs at {tuple(np.argwhere(wrong)[0].tolist()[1:])}"
    return ""


def _apart(x: Cells, y: Cells) -> np.ndarray:
    finite = (x.status == OK) & (y.status == OK)
    differs: np.ndarray = finite & (x.data != y.data)
    return differs
