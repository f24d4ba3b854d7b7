"""Cuts: a check in two halves, below and above values that both programs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from superopt.errors import VerificationFailed
from superopt.mugraph.graph import Graph, Input, Node, Output, dense_strides
from superopt.verify.equivalence import Equivalence


def check_pieces(
    a: Graph,
    b: Graph,
    cuts: Sequence[tuple[int, int]],
    check: Callable[[Graph, Graph], Equivalence],
) -> Equivalence:
    """Shows the cut values equal, then the rest with fresh inputs in their place.

    cuts: pairs (node of a, node of b), of the same axes and dtype. Two programs that need the cut
    value's own definition are not shown equal, though they may be. The bounds add up.
    """
    parts: list[Equivalence] = []
    for i, j in cuts:
        x, y = _down_to(a, i), _down_to(b, j)
        if a.nodes[i].axes != b.nodes[j].axes or a.nodes[i].dtype != b.nodes[j].dtype:
            raise VerificationFailed(
                what=f"nodes {i} and {j} have different axes or dtypes",
                where="cuts",
                fix="cut at values of one shape",
            )
        parts.append(check(x, y))
        if not parts[-1]:
            return replace(parts[-1], reason=f"below the cut at {i} and {j}: {parts[-1].reason}")
    above = check(
        _with_inputs(a, {i: k for k, (i, _) in enumerate(cuts)}),
        _with_inputs(b, {j: k for k, (_, j) in enumerate(cuts)}),
    )
    if not above:
        return replace(above, reason=f"above the cuts: {above.reason}")
    return _joined([*parts, above])


def _joined(parts: Sequence[Equivalence]) -> Equivalence:
    bounds = [p.bound_log2 for p in parts]
    total = None
    if all(x is not None for x in bounds):
        total = -math.log2(sum(2.0**-x for x in bounds if x is not None))
    names = tuple(sorted({n for p in parts for n in p.assumptions}))
    return replace(
        parts[-1],
        bound_log2=total,
        kind="sampled" if total is None else "bound",
        trials=sum(p.trials for p in parts),
        tied_trials=sum(p.tied_trials for p in parts),
        clean=sum(p.clean for p in parts),
        total=sum(p.total for p in parts),
        assumptions=names,
        reason="; ".join(p.reason for p in parts if p.reason),
    )


def _down_to(graph: Graph, i: int) -> Graph:
    dims = tuple((x,) for x in graph.nodes[i].axes)
    return Graph(graph.name, graph.nodes, (Output("cut", i, dims),)).pruned()


def _with_inputs(graph: Graph, at: Mapping[int, int]) -> Graph:
    nodes: list[Node] = list(graph.nodes)
    for i, k in at.items():
        dims = tuple((x,) for x in nodes[i].axes)
        nodes[i] = Input(nodes[i].axes, nodes[i].dtype, f"cut{k}", dims, dense_strides(dims))
    return Graph(graph.name, tuple(nodes), graph.outputs).pruned()
