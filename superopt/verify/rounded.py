"""Comparisons of values that a cast has rounded, which no equality of real numbers is said of.

Casts are identities to the field, and rounding is no difference, as long as what follows is continuous.
A comparison is not: whole numbers from 2^24 on that differ may be one number of 24 binary digits. So a
cast that may round, and that one program alone makes, must not decide a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from superopt.mugraph.algebras.levels import EXACT
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, is_float
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
)
from superopt.mugraph.rules import describe
from superopt.mugraph.scalars import SCALARS
from superopt.verify.bound import Congruence
from superopt.verify.casewise import jumps_at
from superopt.verify.probe import unfolded
from superopt.verify.sizes import integer_ranges

Span = tuple[int, int]
"""The least and the greatest of some whole numbers."""


def compared_after_rounding(a: Graph, b: Graph) -> str:
    """Why two programs cannot be shown equal: the comparison and the cast; the empty string if they can."""
    congruence = Congruence()
    whole = [unfolded(g) for g in (a, b)]
    numbers = [congruence.numbers(g) for g in whole]
    sizes = {x: n for g in whole for x in g.axes if isinstance(n := _greatest(x), int)}
    ranges = integer_ranges((a, b), sizes)
    known = {name: (r.lo, r.hi) for name, r in ranges.items() if r.complete}
    for graph, mine, other in zip(whole, numbers, reversed(numbers), strict=True):
        common, spans, casts = set(other), _spans(graph, known), dict[int, int]()
        for i in graph.reachable([o.node for o in graph.outputs]):
            node = graph.nodes[i]
            below = [casts[k] for k in node.args if k in casts]
            if below and _jumps(graph, node):
                return f"{describe(graph, i)} decides by a value that {describe(graph, below[0])} may round"
            if below:
                casts[i] = below[0]
            elif mine[i] not in common and _rounds(graph, node, spans):
                casts[i] = i
    return ""


def _greatest(axis: Axis) -> int:
    return axis.size if isinstance(axis.size, int) else axis.size.hi


def _jumps(graph: Graph, node: Node) -> bool:
    """Whether a function of floats is not continuous."""
    if not isinstance(node, Map) or not any(is_float(graph.nodes[k].dtype) for k in node.operands):
        return False
    return SCALARS[node.op].field in EXACT - {"not", "and", "or"} or jumps_at(graph, node)


def _rounds(graph: Graph, node: Node, spans: Mapping[int, Span]) -> bool:
    """Whether a cast, or a rounding that is kept, may give another number than it takes."""
    if not isinstance(node, Map) or node.op not in ("cast", "round") or not is_float(node.dtype):
        return False
    given = graph.nodes[node.operands[0]].dtype
    to = torch.finfo(DTYPES[node.dtype].torch)
    if (span := spans.get(node.operands[0])) is not None:
        return max(map(abs, span)) > min(2 / to.eps, to.max)
    if not is_float(given):
        return True
    of = torch.finfo(DTYPES[given].torch)
    return to.eps > of.eps or to.max < of.max or to.tiny > of.tiny


def _spans(graph: Graph, known: Mapping[str, Span]) -> dict[int, Span]:
    """Of nodes that hold whole numbers, between which these lie; known: of inputs."""
    out: dict[int, Span] = {}
    for i, node in enumerate(graph.nodes):
        if is_float(node.dtype):
            if isinstance(node, Map) and node.op == "cast" and node.operands[0] in out:
                out[i] = out[node.operands[0]]  # this cast is the one that rounds, if one does
            continue
        span = _span(graph, node, out, known)
        lo, hi = _all(node.dtype)
        out[i] = span if span is not None and lo <= span[0] and span[1] <= hi else (lo, hi)
    return out


def _all(dtype: str) -> Span:
    if dtype == "bool":
        return 0, 1
    info = torch.iinfo(DTYPES[dtype].torch)
    return info.min, info.max


def _span(
    graph: Graph, node: Node, out: Mapping[int, Span], known: Mapping[str, Span]
) -> Span | None:
    match node:
        case Input():
            return known.get(node.name)
        case Const():
            return int(node.value), int(node.value)
        case Iota():
            return 0, _greatest(node.axes[0]) - 1
        case SizeOf():
            return 0, _greatest(node.axis)
        case View() | Gather():
            return out.get(node.operand)
        case Reduce(op="add") if node.operand in out:
            count = math.prod(_greatest(x) for x in node.over)
            lo, hi = out[node.operand]
            return min(lo * count, lo, 0), max(hi * count, hi, 0)
        case Reduce(op="max" | "min"):
            return out.get(node.operand)
        case Map() if all(k in out for k in node.operands):
            return _of_map(node.op, [out[k] for k in node.operands])
    return None


def _of_map(op: str, given: list[Span]) -> Span | None:
    match op, given:
        case "cast", [x]:
            return x
        case "neg", [(lo, hi)]:
            return -hi, -lo
        case "where", [_, (a, b), (c, d)]:
            return min(a, c), max(b, d)
        case "add", [(a, b), (c, d)]:
            return a + c, b + d
        case "sub", [(a, b), (c, d)]:
            return a - d, b - c
        case "mul", [(a, b), (c, d)]:
            every = a * c, a * d, b * c, b * d
            return min(every), max(every)
        case "max", [(a, b), (c, d)]:
            return max(a, c), max(b, d)
        case "min", [(a, b), (c, d)]:
            return min(a, c), min(b, d)
    return None
