"""A second check of two programs, at the sizes that they are run at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import CHAINS
from superopt.mugraph.axes import Sym
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.verify.assumed import assumed
from superopt.verify.equivalence import Equivalence
from superopt.verify.evaluators import evaluator
from superopt.verify.sizes import Sizing, cells_of, own_sizes
from superopt.verify.trials import (
    Tally,
    added,
    compare,
    interface,
    output_level,
    planned,
    refused,
    work_of,
)

MOST_CELLS = 1 << 27
"""Elements of one value, up to which programs are checked at their own sizes."""

LOG_WORK = 1 << 17
"""Elements of a contraction that take as long as one discrete logarithm."""

MOST_WHOLE = 16
"""Trials of the check at the sizes themselves, in which each output must be defined somewhere."""

FEW_CELLS = 1024
"""Cells compared up to which another trial is run: of few, a selection may take one side in all."""


def check_at_own_sizes(
    a: Graph,
    b: Graph,
    *,
    seed: int,
    max_work: int = 1 << 30,
) -> Equivalence | None:
    """A second check of two graphs, at the sizes that their axes have (design section 6.1).

    It needs no assumption on reduced sizes, and few trials, as each compares many cells: what is
    defined in both programs. Its primes are others than those of the first check, so that literals which
    are one element of one field (2^32 and 89442) are two here. It claims nothing by itself (its kind is
    "second"), and has no result (None) where sizes are symbols, where one trial would compute more than
    ``max_work`` elements, or where an output is undefined everywhere. Inputs and outputs are matched as
    in ``check_equal``.
    """
    run, chain = evaluator(), CHAINS[1]
    if any(isinstance(x.size, Sym) for g in (a, b) for x in g.axes):
        return None
    result = refused(chain, seed, run.name, interface(a, b))
    if result.reason:
        return result
    try:
        sizing = own_sizes(a, b)
        levels = [output_level(a, b, i, chain) for i in range(len(a.outputs))]
    except VerificationFailed:
        return None
    work = sum(work_of(g, sizing, LOG_WORK) for g in (a, b))
    if work > max_work or max(_largest(g, sizing) for g in (a, b)) > MOST_CELLS:
        return None
    plans = tuple(planned(g, levels, chain) for g in (a, b))
    named = assumed(a, b, plans, (sizing,))
    tally = Tally([np.zeros((), dtype=np.int64)] * len(levels))
    done = 0
    most = max(1, min(MOST_WHOLE, max_work // work))
    while (
        done < most
        and not tally.differs
        and (tally.compared < FEW_CELLS or any(not c.any() for c in tally.clean))
    ):
        numbers = range(done, done + 1)
        compare(a, b, plans, levels, chain, seed, numbers, False, sizing, run, tally)
        done += 1
    sizes = (tuple(sorted({(x.name, n) for x, n in sizing.sizes.items()})),)
    result = replace(result, trials=done, work=done * work, sizes=sizes, assumptions=named)
    if tally.differs:
        return added(result, tally, tally.differs)
    if any(not c.any() for c in tally.clean):
        return None
    return replace(added(result, tally), verdict="equal", kind="second")


def _largest(graph: Graph, sizing: Sizing) -> int:
    """Elements of the largest value that is stored: a product that is only summed is not."""
    users = graph.users()
    stored = 0
    for node, mine in zip(graph.nodes, users, strict=True):
        summed = len(mine) == 1 and isinstance(graph.nodes[mine[0]], Reduce)
        if not (summed and isinstance(node, Map) and node.op == "mul"):
            stored = max(stored, cells_of(node, sizing.sizes))
    return stored
