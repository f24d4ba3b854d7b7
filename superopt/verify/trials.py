"""What the checks over a field share: whether two programs fit, and their trials, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import Chain, trial_keys
from superopt.mugraph.algebras.field_values import NAN, POISON, Draw
from superopt.mugraph.algebras.levels import Levels, analyse, information, lowest
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Graph, Input, Map
from superopt.mugraph.scalars import uses
from superopt.verify.equivalence import Equivalence
from superopt.verify.evaluators import Cells, Evaluator
from superopt.verify.sizes import Sizing, cells_of
from superopt.verify.ties import POOLS, literals

UNDEFINED = (POISON, NAN)
"""Statuses of cells that are not compared."""

LOG_WORK = 256
"""Elements that take as long as one discrete logarithm."""


def refused(chain: Chain, seed: int, name: str, reason: str) -> Equivalence:
    """The result of a check that has not begun."""
    return Equivalence(
        "not_shown_equal",
        None,
        "sampled",
        field=(chain.name, chain.primes),
        seeds=(seed,),
        reason=reason,
        evaluator=name,
    )


def interface(a: Graph, b: Graph) -> str:
    """Why the two graphs cannot stand for one another at all, or the empty string."""
    mine: Mapping[str, Input] = {n.name: n for n in a.inputs}
    for node in b.inputs:
        other = mine.get(node.name)
        if other is None:
            return f"input {node.name!r} is in one program only"
        if other.dtype != node.dtype or _shape(other.dims) != _shape(node.dims):
            return f"input {node.name!r} has another dtype or shape"
    if len(a.outputs) != len(b.outputs):
        return f"{len(a.outputs)} outputs against {len(b.outputs)}"
    for p, q in zip(a.outputs, b.outputs, strict=True):
        if _shape(p.dims) != _shape(q.dims) or a.nodes[p.node].dtype != b.nodes[q.node].dtype:
            return f"output {p.name!r} has another dtype or shape"
    return ""


def _shape(dims: Sequence[Sequence[Axis]]) -> tuple[tuple[object, ...], ...]:
    return tuple(tuple(x.size for x in dim) for dim in dims)


@dataclass
class Tally:
    """Clean comparisons per output cell over the trials so far, and the first difference.

    nan_counts: whether a cell that is NaN, by infinities, in one program alone is a difference.
    """

    clean: list[np.ndarray]
    nan_counts: bool = False
    compared: int = 0
    total: int = 0
    differs: str = ""


def work_of(graph: Graph, sizing: Sizing, log: int = LOG_WORK) -> int:
    """Elements of all values that one trial computes; a discrete logarithm counts as many."""
    total = 1
    for node in graph.nodes:
        cells = cells_of(node, sizing.sizes)
        total += cells * (log if isinstance(node, Map) and uses(node.op, "log") else 1)
    return total


def added(result: Equivalence, tally: Tally, reason: str = "") -> Equivalence:
    return replace(
        result,
        clean=result.clean + tally.compared,
        total=result.total + tally.total,
        reason=reason or result.reason,
    )


def output_level(a: Graph, b: Graph, i: int, chain: Chain) -> int:
    """The level at which an output is compared, as a mask: the lowest that both programs have."""
    x, y = a.outputs[i].node, b.outputs[i].node
    if not is_float(a.nodes[x].dtype):
        return 1
    both = information(a, chain.full)[x].mask & information(b, chain.full)[y].mask
    if not both:
        raise VerificationFailed(
            what="the programs nest exponentials and logarithms differently",
            where=a.outputs[i].name,
            fix="cut the check at a value inside that both programs share",
        )
    return lowest(both)


def planned(graph: Graph, levels: Sequence[int], chain: Chain) -> Levels:
    roots: dict[int, int] = {}
    for out, level in zip(graph.outputs, levels, strict=True):
        roots[out.node] = roots.get(out.node, 0) | level
    return analyse(graph, chain.full, roots)


def compare(
    a: Graph,
    b: Graph,
    plans: tuple[Levels, ...],
    levels: Sequence[int],
    chain: Chain,
    seed: int,
    numbers: range,
    pooled: bool,
    sizing: Sizing,
    run: Evaluator,
    tally: Tally,
) -> None:
    """Adds some trials of both programs to the tally; pooled: with inputs from small pools."""
    keys = trial_keys(seed ^ (POOLS if pooled else 0), numbers)
    draw = Draw(keys, np.full(len(keys), pooled), sizing.ranges, literals(a, b))
    mine = run.outputs(a, plans[0], levels, chain, draw, sizing.sizes)
    other = run.outputs(b, plans[1], levels, chain, draw, sizing.sizes)
    tallied(a, mine, other, numbers, tally)


def tallied(
    a: Graph, mine: Sequence[Cells], other: Sequence[Cells], numbers: Sequence[int], tally: Tally
) -> None:
    """Adds the cells of some trials to the tally; numbers: of the trials."""
    for i, (x, y) in enumerate(zip(mine, other, strict=True)):
        clean, bad = _cells(x, y)
        tally.clean[i] = tally.clean[i] + clean.sum(0)
        tally.compared += int(clean.sum())
        tally.total += clean.size
        if tally.nan_counts and not (bad.any() or tally.differs):
            alone = _nan_alone(x, y) | _nan_alone(y, x)
            if alone.any():
                trial, *cell = np.argwhere(alone)[0].tolist()
                name = a.outputs[i].name
                tally.differs = f"output {name!r} is NaN in one program alone at {tuple(cell)}"
        if bad.any() and not tally.differs:
            trial, *cell = np.argwhere(bad)[0].tolist()
            tally.differs = (
                f"output {a.outputs[i].name!r} differs at {tuple(cell)} in trial "
                f"{numbers[trial]} ({int(bad.sum())} of {bad.size} cells differ)"
            )


def _nan_alone(x: Cells, y: Cells) -> np.ndarray:
    found: np.ndarray = (x.status == NAN) & ~np.isin(y.status, UNDEFINED)
    return found


def _cells(x: Cells, y: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Which cells are defined in both, and which of these differ."""
    clean = ~np.isin(x.status, UNDEFINED) & ~np.isin(y.status, UNDEFINED)
    return clean, clean & ((x.data != y.data) | (x.status != y.status))
