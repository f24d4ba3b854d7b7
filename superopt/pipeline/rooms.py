"""Where a bucket's programs are timed and tested: sizes of the bucket, and inputs of those sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from superopt import trace
from superopt.cost.measure import Timing
from superopt.mugraph.dispatch import Guard, by_name, holds, middle
from superopt.mugraph.graph import Graph
from superopt.mugraph.text import print_mugraph
from superopt.pipeline.chosen import Candidate, Winner
from superopt.pipeline.why import Ledger
from superopt.runtime.plan import make_plan
from superopt.search.buckets import Room, seconds_at
from superopt.search.cut import KernelSeconds
from superopt.search.points import Point, spans, too_large
from superopt.verify import gate
from superopt.verify.admit import ELSEWHERE, admit, inputs_at
from superopt.verify.edges import edge_sizes
from superopt.verify.inputs import CLASSES
from superopt.verify.whole import check_at_own_sizes

LONG = 0.005
"""Predicted seconds of a call up to which a size is run that is not the caller's own."""

OWN_SIZES_WORK = 3 << 28
"""Elements of all values, of both graphs, up to which they are compared at their own sizes as well."""

BRIEF = 0.0005
"""Predicted seconds up to which all classes of inputs are tried there."""


WORTH = 0.97
"""Times with packed inputs, as parts of those without, below which calls pack inputs."""


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

    nearby = [near(p) for p in offers(graph, room.guard)]
    if holds(room.guard, [sizes[name] for name, _, _ in room.guard]):
        return Stand(sizes, inputs, tuple(CLASSES), _unlike(nearby, [sizes]))
    for there in nearby:
        made = inputs_at(graph, eager, inputs, there)
        if made is not None:
            brief = seconds(there) <= BRIEF
            others = _unlike(nearby, [there])
            return Stand(there, made, tuple(CLASSES) if brief else ELSEWHERE, others)
    return None


def offers(graph: Graph, guard: Guard) -> Iterator[Point]:
    """Sizes to test at: the middle of a bucket, its ends, and a size between that divides badly."""
    ranges = spans(graph)
    low = {name: a for name, (a, _) in by_name(guard).items()}
    high = {name: z for name, (_, z) in by_name(guard).items()}
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


@dataclass
class Fits:
    """Times and gates the candidates of one piece, room by room; measure: times calls in turn."""

    graph: Graph
    eager: Callable[..., Sequence[torch.Tensor]]
    called: Callable[..., object]
    inputs: Sequence[torch.Tensor]
    cost: KernelSeconds
    seed: int
    ledger: Ledger
    measure: Callable[[Sequence[Callable[[], object]], float], list[Timing]]
    reasons: list[str] = field(default_factory=list)
    gate_s: float = 0.0

    def winner(self, room: Room, own: list[Candidate], rest: list[Candidate]) -> Winner:
        """The fastest candidate of a room whose binary is as accurate as eager PyTorch.

        own: those that are timed; rest: those of other rooms, tried when none of its own is
        admitted. Where none is, or the program has no answer, the original runs.
        """
        if not (own or rest):
            return Winner(room)
        mugraph = (own or rest)[0].mugraph

        def seconds(there: Mapping[str, int]) -> float:
            return seconds_at(mugraph, self.cost, there)

        here = stand(self.graph, room, self.inputs, self.eager, seconds)
        if here is None:
            return Winner(room)
        known: dict[str, gate.Known] = {}
        for some in filter(None, (own, rest)):
            with trace.stage("measure"):
                times = self._times(some, here)
            order = sorted(range(len(some)), key=lambda k: (times[k].median_s, k))
            for n, k in enumerate(order):
                verdict = self._verdict(some[k], room, here, known, times[k].median_s)
                if verdict.passed and self._same_at_own_sizes(some[k], times[k].median_s):
                    for j in order[n + 1 :]:
                        c, slower = some[j], times[j].median_s
                        self.ledger.lost("measured slower", c.mugraph, c.predicted, "", slower)
                    return Winner(room, some[k], verdict, times[k], times[-1], here.sizes)
        return Winner(room, sizes=here.sizes)

    def _same_at_own_sizes(self, c: Candidate, median: float) -> bool:
        """Whether the graph is the program at the sizes that it is run at, as far as that is checked."""
        with trace.stage("verify") as verifying:
            again = check_at_own_sizes(
                self.graph, c.mugraph.graph, seed=self.seed, max_work=OWN_SIZES_WORK
            )
        self.gate_s += verifying.seconds
        if again is None:
            return True
        if not again:
            self.reasons.append(again.reason)
            self.ledger.lost("not shown equal", c.mugraph, c.predicted, again.reason, median)
            return False
        c.checks.append(again)
        return True

    def _times(self, some: Sequence[Candidate], here: Stand) -> list[Timing]:
        """The timing of each candidate; eager PyTorch's comes last."""
        calls: list[Callable[[], object]] = [partial(c.kernels.plain, here.inputs) for c in some]
        packed = [k for k, c in enumerate(some) if c.kernels.packs]
        calls += [partial(some[k].kernels.packed_call(here.inputs), here.inputs) for k in packed]
        called = self.called
        try:
            called(*here.inputs)
        except (RuntimeError, IndexError):  # what else it is given does not fit these sizes
            called = self.eager
        calls.append(lambda: called(*here.inputs))
        times = self.measure(calls, 0.3 * len(calls))
        best = times[: len(some)]
        for k, time in zip(packed, times[len(some) : -1], strict=True):
            worth = time.median_s < WORTH * best[k].median_s
            some[k].kernels.keep_packing(worth)
            plan = some[k].kernels.plan
            # What has further axes may be keys or values, which are new in each call: the choice among
            # candidates must not rest on their being packed.
            if worth and all(len(plan.inputs[p.input].dims) == 2 for p in plan.packed):
                best[k] = time
        return [*best, times[-1]]

    def _others(self, c: Candidate, room: Room, here: Stand) -> list[Point] | None:
        """The sizes that are tested beside a room's own: also at the edges of the candidate's tiles."""
        if here.others is None:
            return None

        def small(there: Point) -> bool:
            return not too_large(self.graph, there) and (
                seconds_at(c.mugraph, self.cost, there) <= LONG
            )

        others = list(here.others)
        return others + edge_sizes(c.mugraph, room.guard, [here.sizes, *others], small)

    def _verdict(
        self,
        c: Candidate,
        room: Room,
        here: Stand,
        known: dict[str, gate.Known],
        median: float,
    ) -> gate.Gate:
        ways = [c.kernels.checked]
        if c.kernels.plan.packed:
            ways.append(partial(c.kernels.checked, packed=True))
        found: list[gate.Gate] = []
        with trace.stage("gate") as gating:
            for way in ways:
                found.append(
                    admit(
                        self.graph,
                        way,
                        self.eager,
                        here.inputs,
                        here.sizes,
                        seed=self.seed,
                        known=known,
                        others=self._others(c, room, here),
                        classes=here.classes,
                    )
                )
                if not found[-1].passed:
                    break
        verdict = gate.joined(found) or found[0]
        self.gate_s += gating.seconds
        if not verdict.passed:
            self.reasons.append(verdict.reason)
            self.ledger.lost("gate failed", c.mugraph, c.predicted, verdict.reason, median)
            trace.log("verify", f"the numeric gate rejected a candidate: {verdict.reason}")
            trace.log("verify", print_mugraph(c.mugraph), 2)
        return verdict
