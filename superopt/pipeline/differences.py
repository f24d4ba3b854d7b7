"""Inputs on which two captured functions are run, in search of a difference or of NaN in one alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from superopt import trace
from superopt.errors import SuperoptError
from superopt.frontend.together import Together
from superopt.mugraph.algebras.field_values import Integers
from superopt.mugraph.axes import Sym
from superopt.mugraph.graph import Const
from superopt.verify.admit import other_sizes, resized
from superopt.verify.counterexample import GIVEN, Draw, differing, draws, nan_in_one
from superopt.verify.decision import Counterexample
from superopt.verify.sizes import integer_ranges
from superopt.verify.ties import literals

LARGEST_SIZE = 4096
"""Sizes up to which functions of unknown sizes are run in search of a difference."""

UNDEFINED_DRAWS = 8
"""Draws on which functions that were shown equal are run to see whether one is NaN alone."""


def sizes_of(both: Together, leaves: Sequence[Any]) -> dict[str, int]:
    """The sizes of the symbols on these arguments."""
    out: dict[str, int] = {}
    for node, tensor in zip(both.first.inputs, both.tensors(leaves), strict=True):
        for d, dim in enumerate(node.dims):
            if len(dim) == 1 and isinstance(size := dim[0].size, Sym):
                out[size.name] = int(tensor.shape[d])
    return out


def drawn(both: Together, leaves: Sequence[Any], seed: int) -> Iterator[Draw]:
    """Arguments like the given ones, and at other sizes where these may change."""
    ranges: dict[str, Integers] = {}
    try:
        sizes = {x: x.size for g in (both.first, both.second) for x in g.axes}
        known = {x: n if isinstance(n, int) else n.lo for x, n in sizes.items()}
        ranges = integer_ranges((both.first, both.second), known)
    except SuperoptError as error:
        trace.log("verify", f"no ranges of integers: {error}", 2)
    by_place = {
        source: ranges[node.name]
        for node, source in zip(both.first.inputs, both.sources, strict=True)
        if isinstance(source, int) and node.name in ranges
    }
    numbers = literals(both.first, both.second)
    yield from draws(leaves, by_place, numbers, seed)
    given = sizes_of(both, leaves)
    for there in (*other_sizes(both.first, given), *_beyond_literals(both, given)):
        moved = list(leaves)
        for node, source in zip(both.first.inputs, both.sources, strict=True):
            if isinstance(source, int):
                moved[source] = resized(node, leaves[source], there)
        label = ", ".join(f"{k} = {v}" for k, v in sorted(there.items()))
        for draw in draws(moved, by_place, numbers, seed):
            yield replace(draw, name=f"{draw.name}, {label}")


def _beyond_literals(both: Together, sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes beyond the integers that are written in the programs, and the largest that fit."""
    graphs = both.first, both.second
    symbols = {x.size for g in graphs for x in g.axes if isinstance(x.size, Sym)}
    written = {
        abs(int(n.value))
        for g in graphs
        for n in g.nodes
        if isinstance(n, Const) and math.isfinite(n.value)
    }
    for size in sorted({k for n in written for k in (n + 1, n + n // 2 + 2) if k < LARGEST_SIZE}):
        there = {s.name: min(max(size, s.lo), s.hi) for s in symbols}
        if there and there != dict(sizes):
            yield there


def search(
    runs: Sequence[Callable[..., Any]],
    tried: Iterator[Draw],
    shown: bool,
    nan_counts: bool = False,
    masks: bool = False,
) -> Counterexample | None:
    """The first draw on which the functions differ; shown: whether they were shown equal.

    The arguments as given are in the domain, so that one function alone has no value there is a
    difference; on other draws if nan_counts.
    """
    for draw in tried:
        counts = nan_counts or draw.name == GIVEN
        example = differing(runs[0], runs[1], draw, counts, masks, shown)
        if example is not None:
            return example
    return None


def undefined(runs: Sequence[Callable[..., Any]], tried: Iterator[Draw]) -> Counterexample | None:
    """Inputs on which one of two equal functions is NaN and the other is not, if a draw shows some."""
    for draw in itertools.islice(tried, UNDEFINED_DRAWS):
        if (example := nan_in_one(runs[0], runs[1], draw)) is not None:
            return example
    return None
