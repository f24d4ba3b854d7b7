"""Tasks of a search: what is asked once for many placements is the same for each."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from superopt.codegen.lower import why_not_lowerable
from superopt.cost.model import cost_on
from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from superopt.mugraph.placement import MuGraph, Split
from superopt.search import tasks
from superopt.search.driver import Budget, Found, search
from superopt.search.gauge import stabilized
from tests.search.test_variants import VARIANTS


def found(name: str) -> Found:
    fn, shapes, device, _ = VARIANTS[name]
    inputs = tuple(torch.empty(s) for s in shapes)
    (piece,) = partition(capture(fn, inputs), "default").supported
    graph = stabilized(piece.graph) or piece.graph
    return search(graph, cost_on(device), Budget(), seed=0, lowerable=why_not_lowerable)


def test_tile_sizes_do_not_decide_whether_a_kernel_is_lowerable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked for every placement, the reasons and the candidates are those of the memo."""
    tried, forms = 0, set[object]()
    form = tasks._form
    for name in VARIANTS:
        mine, ids = found(name), itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(tasks, "_form", lambda _, ids=ids: next(ids))
            each = found(name)
        assert [c.mugraph for c in mine.candidates] == [c.mugraph for c in each.candidates]
        assert mine.stats["not_lowerable"] == each.stats["not_lowerable"]
        kernels = [k for c in each.candidates for k in c.mugraph.kernels]
        tried += len(kernels)
        forms |= {(name, form(k)) for k in kernels}
    assert tried > 300 and len(forms) < tried / 2, (tried, len(forms))


def test_a_reason_is_found_once_and_told_of_every_placement() -> None:
    placed = [c.mugraph for c in found("gated after a norm").candidates]
    placed = [m for m in placed if m.graph == placed[0].graph]
    asked: list[tuple[tuple[object, ...], int]] = []

    def never_looped(mugraph: MuGraph, kernels: Sequence[int]) -> str | None:
        asked.extend((tasks._form(mugraph.kernels[k]), k) for k in kernels)
        looped = [k for k in kernels if mugraph.kernels[k].placement.loop]
        return f"kernel {looped[0]} is looped" if looped else None

    reasons = tasks._Reasons(never_looped)
    told = [reasons.of(m) for m in placed * 2]
    assert told == [never_looped(m, range(len(m.kernels))) for m in placed] * 2
    assert len(placed) > 2 and any(told)
    before = asked[: len(asked) - sum(len(m.kernels) for m in placed)]
    assert max(Counter(before).values()) <= 2  # with others, and then alone


def test_a_form_tells_whole_axes_and_single_elements_apart() -> None:
    kernel = found("gelu").candidates[0].mugraph.kernels[0]
    split, *rest = kernel.placement.grid
    placed, whole = [], split.axis.size
    assert isinstance(whole, int)
    for tile in (1, 2, 3, whole):
        grid = (Split(split.axis, tile), *rest)
        placed.append(tasks._form(replace(kernel, placement=replace(kernel.placement, grid=grid))))
    assert placed[1] == placed[2] and len(set(placed)) == 3
