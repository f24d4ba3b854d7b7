"""Partial functions: square roots and logarithms, which half of a field's elements lack.

Trials in which one is undefined are left out, so a program whose root is undefined in some case
always (of a literal that is no square, say, where a clamp takes it) would not be tested in that
case. Two rules keep such programs from being shown equal: the argument must not depend on a
selection, other than one among values that are all alike; and each must have a finite value in some
trials, in every cell. Programs that fail the first are compared in pieces, by their arguments
(``superopt.verify.cuts``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from superopt.mugraph.algebras.chain import Chain, trial_keys
from superopt.mugraph.algebras.field_values import OK, Draw
from superopt.mugraph.algebras.levels import Levels, analyse, lowest
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Const, Gather, Graph, Input, Map, Output, Reduce
from superopt.mugraph.scalars import SCALARS, uses
from superopt.verify.evaluators import Evaluator
from superopt.verify.sizes import Sizing

MOST_TRIALS = 1 << 11
"""Trials at most, in which a partial function is looked for a value."""


def partial(graph: Graph) -> list[int]:
    """The nodes that take a square root or a logarithm, in order."""
    return [
        i for i, n in enumerate(graph.nodes) if isinstance(n, Map) and uses(n.op, "sqrt", "log")
    ]


def chosen(graph: Graph, nodes: Sequence[int]) -> bool:
    """Whether values that these nodes depend on are chosen among different cases, trial by trial.

    The greatest element of a row is no such choice (all are alike), nor is one by position alone,
    nor a mask by an infinity, which leaves terms out of a sum.
    """
    return any(_chooses(graph, i) for i in graph.reachable(nodes))


def _chooses(graph: Graph, i: int) -> bool:
    node = graph.nodes[i]
    if isinstance(node, Gather) or (isinstance(node, Reduce) and node.op in ("max", "min")):
        # Of cells that differ by position, another is taken in each trial.
        return any(_differs(graph, j) for j in graph.reachable([node.operand]))
    if not isinstance(node, Map) or not is_float(node.dtype):
        return False
    field = SCALARS[node.op].field
    if field != "where" and any(_is_given_integer(graph, j) for j in node.operands):
        return True  # a number from a user's integer or truth value
    if field == "where":
        return _differs(graph, i) and _given(graph, node.operands[0])
    return uses(node.op, "max", "min", "where", "lt", "le", "eq")


def _differs(graph: Graph, i: int) -> bool:
    """Whether a node has one of two finite cases."""
    node = graph.nodes[i]
    if not isinstance(node, Map) or SCALARS[node.op].field != "where":
        return False
    return not any(_infinite(graph, j) for j in node.operands[1:])


def _is_given_integer(graph: Graph, i: int) -> bool:
    return not is_float(graph.nodes[i].dtype) and _given(graph, i)


def _given(graph: Graph, i: int) -> bool:
    return any(isinstance(graph.nodes[j], Input) for j in graph.reachable([i]))


def _infinite(graph: Graph, i: int) -> bool:
    node = graph.nodes[i]
    return isinstance(node, Const) and math.isinf(node.value)


def never_defined(
    graph: Graph, plan: Levels, chain: Chain, seed: int, sizing: Sizing, run: Evaluator
) -> bool:
    """Whether some partial function that the plan wants has no finite value in any trial, in some cell."""
    wanted = {i: plan.want[i] for i in partial(graph) if plan.want[i]}
    if not wanted:
        return False
    outputs = tuple(Output(f"part{i}", i, tuple((x,) for x in graph.nodes[i].axes)) for i in wanted)
    below = Graph(graph.name, graph.nodes, outputs)
    # Each has a value where its own argument and those below have: in 2^-depth of the trials.
    depth = max(len(partial(Graph(graph.name, graph.nodes, (o,)).pruned())) for o in outputs)
    trials = min(16 << depth, MOST_TRIALS, max(16, (1 << 28) // sizing.cells))
    keys = trial_keys(seed, range(trials))
    draw = Draw(keys, np.zeros(len(keys), dtype=bool), sizing.ranges)
    levels = [lowest(want) for want in wanted.values()]
    found = run.outputs(
        below, analyse(graph, chain.full, wanted), levels, chain, draw, sizing.sizes
    )
    expected = (1 - 2.0**-depth) ** trials
    return any(float((cells.status != OK).all(0).mean()) > 4 * expected for cells in found)
