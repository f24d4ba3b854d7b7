"""What the well-formedness rules share: how errors name an operator, and bounds of index maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from superopt.errors import IllFormedGraph
from superopt.mugraph.axes import Axis, Size, Sym
from superopt.mugraph.graph import Graph, Index, Input, Map, Node, Reduce


def describe(graph: Graph, i: int) -> str:
    """How errors name an operator: its id, kind and row, with the axes of its value."""
    node = graph.nodes[i]
    axes = ",".join(a.name for a in node.axes) if isinstance(node, Node) else ""
    match node:
        case Map() | Reduce():
            what = f"{type(node).__name__.lower()} {node.op}"
        case Input():
            what = f"input {node.name!r}"
        case _:
            what = type(node).__name__.lower()
    return f"%{i} {what} [{axes}]"


def fail(what: str, where: str, fix: str) -> NoReturn:
    """Raises IllFormedGraph."""
    raise IllFormedGraph(what=what, where=where, fix=fix)


def no_twice(axes: Sequence[Axis], where: str) -> None:
    """Raises when an axis is listed twice."""
    twice = sorted({a.name for a in axes if axes.count(a) > 1})
    if twice:
        fail(
            f"axis {twice[0]!r} occurs twice",
            where,
            "give each dimension its own axis and rename with a view",
        )


def check_index(axis: Axis, index: Index, where: str, empty: bool) -> None:
    """Raises unless the index stays within ``axis``; ``empty``: the view has no coordinates."""
    if index.div < 1 or (index.mod is not None and index.mod < 1):
        fail(
            f"the index of axis {axis.name!r} has div {index.div}, mod {index.mod}",
            where,
            "div and mod are at least 1",
        )
    if index.lo is not None and index.hi is not None and index.lo > index.hi:
        fail(
            f"the index of axis {axis.name!r} is clamped to {index.lo}..{index.hi}",
            where,
            "clamp to lo <= hi",
        )
    no_twice([a for a, _ in index.terms], f"{where}, index of axis {axis.name!r}")
    if empty:
        return
    low, high = index_range(index)
    least = axis.size.lo if isinstance(axis.size, Sym) else axis.size
    if low < 0 or (high >= least and not _below_symbol(index, axis.size)):
        why = "" if isinstance(axis.size, int) else ", which cannot be shown to be inside"
        fail(
            f"axis {axis.name!r} of size {axis.size} is read at {low}..{high}{why}",
            where,
            "clamp the index, or narrow the range of the symbols",
        )


def index_range(index: Index) -> tuple[int, int]:
    """The least interval, by interval arithmetic, that holds the index for all coordinates.

    A symbolic axis counts with its largest size; axes are taken to have at least one coordinate.
    """
    low = high = index.offset
    for axis, coef in index.terms:
        size = axis.size.hi if isinstance(axis.size, Sym) else axis.size
        reach = coef * (max(size, 1) - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    low, high = low // index.div, high // index.div
    if index.mod is not None:
        one_period = low // index.mod == high // index.mod
        low, high = (low % index.mod, high % index.mod) if one_period else (0, index.mod - 1)
    if index.lo is not None:
        low, high = max(low, index.lo), max(high, index.lo)
    if index.hi is not None:
        low, high = min(low, index.hi), min(high, index.hi)
    return low, high


def _below_symbol(index: Index, size: Size) -> bool:
    """Whether the index is an axis of this very symbolic size plus what never adds to it.

    Then it stays below the size for each value of the symbol, which intervals alone cannot see:
    ``t`` in an axis of size n is at most n - 1, and so are ``t - 1``, ``t // 2`` and ``t % 4``
    clamped from below at 0.
    """
    if not isinstance(size, Sym) or (index.lo is not None and index.lo > 0):
        return False
    same = [k for k, (a, c) in enumerate(index.terms) if a.size == size and c == 1]
    rest = [t for k, t in enumerate(index.terms) if k != (same[0] if same else -1)]
    _, high = index_range(Index(tuple(rest), index.offset))
    # A negative value wraps to the top of the period, so a mod needs what is never negative.
    wraps = index.mod is not None and index_range(Index(index.terms, index.offset))[0] < 0
    return bool(same) and high <= 0 and not wraps
