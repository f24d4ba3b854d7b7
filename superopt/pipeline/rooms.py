"""Where a bucket's programs are timed and tested: sizes of the bucket, and inputs of those sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from superopt.mugraph.dispatch import by_name, holds, middle
from superopt.mugraph.graph import Graph
from superopt.runtime.plan import make_plan
from superopt.search.buckets import Room
from superopt.search.points import Point, spans, too_large
from superopt.verify.admit import ELSEWHERE, inputs_at
from superopt.verify.inputs import CLASSES

LONG = 0.005
"""Predicted seconds of a call up to which a size is run that is not the caller's own."""

BRIEF = 0.0005
"""Predicted seconds up to which all classes of inputs are tried there."""


@dataclass(frozen=True)
class Stand:
    """A bucket's representative size, with its inputs, and the sizes tested beside it.

    classes: of inputs that are tried at the representative size; others: None for what the gate
    tries when a program is not made of buckets.
    """

    sizes: Point
    inputs: Sequence[torch.Tensor]
    classes: tuple[str, ...] = tuple(CLASSES)
    others: Sequence[Point] | None = None


def stand(
    graph: Graph,
    room: Room,
    inputs: Sequence[torch.Tensor],
    eager: Callable[..., object],
    seconds: Callable[[Point], float],
) -> Stand | None:
    """Where to time and test in a room; None where the program has no answer at its sizes.

    inputs: the caller's own, which stand for the room that they are in; seconds: predicted ones of a
    call at some sizes.
    """
    sizes = make_plan(graph, "", (), {}).sizes(inputs)
    if not room.guard:
        return Stand(sizes, inputs)

    def near(there: Point) -> Point:
        """These sizes, or smaller ones of the room that take less time."""
        low = {name: a for name, (a, _) in by_name(room.guard).items()}
        while there != low and (too_large(graph, there) or seconds(there) > LONG):
            there = {n: max(k // 2, low[n]) for n, k in there.items()}
        return there

    offers = [near(p) for p in _offers(graph, room)]
    if holds(room.guard, [sizes[name] for name, _, _ in room.guard]):
        return Stand(sizes, inputs, tuple(CLASSES), _unlike(offers, [sizes]))
    for there in offers:
        made = inputs_at(graph, eager, inputs, there)
        if made is not None:
            brief = seconds(there) <= BRIEF
            others = _unlike(offers, [there])
            return Stand(there, made, tuple(CLASSES) if brief else ELSEWHERE, others)
    return None


def _offers(graph: Graph, room: Room) -> Iterator[Point]:
    """The middle of a room, its ends, and a size between that divides badly."""
    ranges = spans(graph)
    low = {name: a for name, (a, _) in by_name(room.guard).items()}
    high = {name: z for name, (_, z) in by_name(room.guard).items()}
    top = {n: max(low[n], min(high[n], ranges[n].top)) for n in low}
    yield {n: middle(low[n], top[n]) for n in low}
    yield low
    yield top if too_large(graph, high) else high
    yield {n: min(low[n] + (5, 3, 7)[k % 3], top[n]) for k, n in enumerate(sorted(low))}


def _unlike(offers: Sequence[Point], known: Sequence[Point]) -> list[Point]:
    """The offers that differ, from one another and from what is known."""
    out: list[Point] = []
    for p in offers:
        if p not in out and p not in known:
            out.append(p)
    return out
