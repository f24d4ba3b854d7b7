"""Lemma "index map": each view of the graph reads inside its argument, for all sizes.

For each axis of the argument, of size n, read at ``clamp(((sum c x + offset) // div) % mod)``: let
every x be within its axis. Then ``0 <= index < n``. (The rules of well-formedness show the same by
intervals; a gather has a run-time index, and its loads are clamped: lemma "in bounds".)
"""

from __future__ import annotations

from collections.abc import Iterator

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Index, View
from superopt.mugraph.tileir import Coord, index_expr
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.lemma import Lemma
from superopt.verify.proofs.solver import Solver


def views(graph: Graph, solver: Solver) -> Iterator[Lemma]:
    """The lemmas of every view, one for each axis of its argument."""
    for i, node in enumerate(graph.nodes):
        if isinstance(node, View) and not any(a.size == 0 for a in node.axes):
            for axis, index in node.index:
                yield _inside(i, axis, index, solver)


def _inside(i: int, axis: Axis, index: Index, solver: Solver) -> Lemma:
    f = Formula()
    at = f.value(index_expr(index, Coord))
    goal = f"(and (<= 0 {at}) (< {at} {f.size(axis)}))"
    return solver.lemma("index map", f"%{i} along {axis.name}", f, goal)
