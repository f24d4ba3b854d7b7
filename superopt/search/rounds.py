"""The search over the programs of one search side by side, round by round, on any workers.

First all regions are explored, then each round cuts a batch of term graphs of every program, then
the best plans are placed. What a round does follows from the rounds before it alone; who does it,
and what of it is found in a checkpoint, changes nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from superopt import trace
from superopt.errors import MemoryTooSmall
from superopt.mugraph.graph import Graph
from superopt.search.checkpoint import (
    Checkpoint,
    scored_from_json,
    scored_to_json,
    space_from_json,
    space_to_json,
)
from superopt.search.cut import Cut
from superopt.search.cut_bound import EXPANSIONS
from superopt.search.descend import Descent, Plan
from superopt.search.enumerate import Space
from superopt.search.interpreter import tuned
from superopt.search.points import spaces_at
from superopt.search.regions import Region, regions
from superopt.search.tasks import (
    Explore,
    Given,
    News,
    Placed,
    Scored,
    Term,
    begin,
    bounded,
    explored,
    learn,
    one_of,
    placed,
    score,
)
from superopt.search.workers import GLANCE, Serial, Task

WAVE = 8
"""Regions that are explored at the same time, at most."""

KERNEL_BYTES = 3000
"""Bytes of one costed kernel in the memo of a worker, nearly."""

DERIVATION_BYTES = 250
"""Bytes of one derivation of a space, nearly."""

Progress = Callable[[str, dict[str, float]], None]


class Limit(Protocol):
    """A budget; see ``driver.Budget``."""

    seconds: float | None
    candidates: int | None
    operators: int | None
    started: float
    used: int

    def late(self) -> bool:
        """Whether the time is up."""

    def region(self) -> tuple[float | None, int | None]:
        """Seconds, and terms tried, of the exploration of one region."""


@dataclass(frozen=True)
class One:
    """What was found for one program: its spaces, its descent, its placed plans, the next plans."""

    explored: list[tuple[Region, Space]]
    descent: Descent
    placed: list[tuple[Plan, Placed]]
    next: list[Plan]


class Live:
    """How far the search is, from finished and from running tasks, told a few times a second."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.states = self.classes = self.graphs = 0
        self.best: Callable[[], float] = lambda: float("inf")
        self._running: dict[int, dict[str, float]] = {}
        self._thread = threading.get_ident()  # the one in whose context the listener is
        self._last = 0.0

    def note(self, k: int, figures: dict[str, float]) -> None:
        """How far task ``k`` is; negative: nothing new, from the process that drives the search."""
        if k >= 0:
            self._running[k] = figures
        if threading.get_ident() == self._thread:
            self.show()

    def done(self) -> None:
        """The running tasks are done; their figures are in the totals now."""
        self._running.clear()
        self.show()

    def show(self) -> None:
        """Tells the figures, unless they were told just now."""
        now = time.monotonic()
        if self.progress is None or now - self._last < GLANCE:
            return
        self._last = now
        running = list(self._running.values())
        self.progress(
            "search",
            {
                "states": self.states + sum(r.get("states", 0) for r in running),
                "classes": self.classes + sum(r.get("classes", 0) for r in running),
                "graphs": self.graphs,
                "best": self.best(),
            },
        )


class Rounds:
    """One search over ``programs``; times: how often each is in the whole; like: the first program
    that is the same but for the sizes of its symbols, whose spaces it takes."""

    def __init__(
        self,
        programs: Sequence[Graph],
        times: Sequence[int],
        given: Given,
        budget: Limit,
        workers: Serial,
        checkpoint: Checkpoint,
        memory: int | None,
        progress: Progress | None,
        like: Sequence[int] | None = None,
    ) -> None:
        self.like = range(len(programs)) if like is None else like
        self.programs, self.times, self.given, self.budget = programs, times, given, budget
        self.workers, self.checkpoint, self.memory = workers, checkpoint, memory
        self.live = Live(progress)
        self._kernels: list[list[tuple[Any, float]]] = [[] for _ in programs]
        self._memo = [0] * len(programs)
        self._cuts = [0] * len(programs)
        self._descents: list[Descent] = []
        self._placed: dict[tuple[Term, Cut], Placed] = {}
        self._shares = 1
        self.clock: list[float] = []
        # The time that an earlier run took counts.
        budget.started -= checkpoint.elapsed

    def run(self) -> list[One]:
        """Searches every program."""
        with tuned():
            return self._run()

    def _run(self) -> list[One]:
        begun = time.perf_counter()
        self.workers.expect(sum(len(g.nodes) for g in self.programs))
        self.workers.tell(begin, (self.given, len(self.programs)))
        spaces = self._explore()
        share = None if self.memory is None else self.memory // (8 * len(self.programs))
        self.clock = [begun, time.perf_counter()]
        self._descents = [
            Descent(n, g, s, share)
            for n, (g, s) in enumerate(zip(self.programs, spaces, strict=True))
        ]
        self.live.best = lambda: sum(
            t * d.best for t, d in zip(self.times, self._descents, strict=True)
        )
        while self._round():
            self.checkpoint.put("elapsed", time.perf_counter() - self.budget.started)
        self.clock.append(time.perf_counter())
        self._bound()
        out = self._place(spaces)
        self.clock.append(time.perf_counter())
        return out

    def phases(self) -> dict[str, float]:
        """Seconds of each phase of a search that has run."""
        names = ("algebra_s", "cut_s", "placement_s")
        ends = itertools.pairwise(self.clock)
        return {name: end - begun for name, (begun, end) in zip(names, ends, strict=True)}

    # Exploration.

    def _explore(self) -> list[list[tuple[Region, Space]]]:
        first = [(n, g) for n, g in enumerate(self.programs) if self.like[n] == n]
        todo = [(n, g, r) for n, g in first for r in regions(g)]
        out: list[list[tuple[Region, Space]]] = [[] for _ in self.programs]
        self._shares = 2 * max(min(WAVE, len(todo)), 1)  # half of the memory is for the engines
        held = 0
        for k in range(0, len(todo), WAVE):
            wave = todo[k : k + WAVE]
            names = [f"space {k + j}" for j in range(len(wave))]
            full = self.memory is not None and held > self.memory // 4
            for (n, _, region), space in zip(wave, self._spaces(wave, names, full), strict=True):
                out[n].append((region, space))
                self.live.states += int(space.stats["states"])
                self.live.classes += len(space.classes)
                held += DERIVATION_BYTES * sum(len(c.derivations) + 1 for c in space.classes)
            self.live.done()
        for n, (g, k) in enumerate(zip(self.programs, self.like, strict=True)):
            if k != n:
                out[n] = spaces_at(out[k], g)
        return out

    def _spaces(
        self, wave: list[tuple[int, Graph, Region]], names: list[str], full: bool
    ) -> list[Space]:
        spaces: list[Space | None] = []
        for (_, graph, region), name in zip(wave, names, strict=True):
            made = partial(space_from_json, graph, region)
            spaces.append(self.checkpoint.read(name, made))
        seconds, states = self.budget.region()
        states = 0 if full else states
        memory = None if self.memory is None else self.memory // self._shares
        left = [j for j, space in enumerate(spaces) if space is None]
        most = self.budget.operators
        tasks = [Explore(wave[j][1], wave[j][2], seconds, states, memory, most) for j in left]
        for j, space in zip(left, self.workers.map(explored, tasks, self.live.note), strict=True):
            if memory is not None and int(space.stats["source_held"]) > memory:
                raise self._too_small()
            if full:
                space.stats["why"] = "memory"
            spaces[j] = space
            self.checkpoint.put(names[j], space_to_json(wave[j][1], wave[j][2], space))
        return [s for s in spaces if s is not None]

    def _too_small(self) -> MemoryTooSmall:
        """The error of a limit that the programs alone go beyond."""
        tasks = [Explore(g, r, None, 0, None) for g in self.programs for r in regions(g)]
        spaces = self.workers.map(explored, tasks, self.live.note)
        needs = self._shares * max(int(s.stats["source_held"]) for s in spaces)
        return MemoryTooSmall(
            f"the search may hold {self.memory} bytes, and needs {needs} to begin",
            self.programs[0].name,
        )

    # Descent.

    def _round(self) -> bool:
        """One batch of every program that is not done; False when there is nothing more to do."""
        descents = self._descents
        first = not any(d.graphs for d in descents)
        active = [d for d in descents if not d.done]
        left = self._left()
        if not first and (left == 0 or (self.budget.late() and not self.checkpoint.unread)):
            return False
        work: list[tuple[Descent, list[Term]]] = []
        for n, d in enumerate(active):
            share = None if left is None else left // (len(active) - n)
            if first or share != 0:
                terms = d.batch(share)
                fresh = len(terms) - first  # the program as written is no candidate
                self.budget.used += fresh
                left = None if left is None else max(left - fresh, 0)
                work.append((d, terms))
        results = self._scored([t for _, terms in work for t in terms])
        for d, terms in work:
            d.take(terms, [results.pop(0) for _ in terms])
        self.live.graphs = sum(d.graphs for d in descents)
        self.live.done()
        return any(terms for _, terms in work) or any(not d.done for d in descents)

    def _left(self) -> int | None:
        """Candidates that may still be cut."""
        if self.budget.candidates is None:
            return None
        return max(self.budget.candidates - self.budget.used, 0)

    def _scored(self, terms: list[Term]) -> list[Scored]:
        out: list[Scored | None] = []
        names = []
        for term in terms:
            name = f"cut {term.program} {self._cuts[term.program]}"
            self._cuts[term.program] += 1
            names.append(name)
            kept = self.checkpoint.get(name) is not None
            out.append(self.checkpoint.read(name, partial(scored_from_json, _nodes(term))))
            if kept and out[-1] is None:
                trace.log("search", "the checkpoint holds other term graphs; they are cut again")
        new = [k for k, scored in enumerate(out) if scored is None]
        if new:
            self._tell(sorted({terms[k].program for k in new}))
            left = self._seconds_left()
            tasks = [(terms[k], left) for k in new]
            for k, scored in zip(new, self.workers.map(score, tasks, self.live.note), strict=True):
                out[k] = scored
                self._kernels[terms[k].program] += scored.kernels
                self.checkpoint.put(names[k], scored_to_json(_nodes(terms[k]), scored))
        return [s for s in out if s is not None]

    def _seconds_left(self) -> float | None:
        """Of the budget, if it has seconds."""
        if self.budget.seconds is None:
            return None
        return self.budget.started + self.budget.seconds - time.perf_counter()

    def _tell(self, programs: list[int]) -> None:
        """Tells the workers of new nodes and kernels of these programs."""
        for n in programs:
            self._memo[n] += len(self._kernels[n])
            share = None if self.memory is None else self.memory // (4 * self.workers.count)
            forget = share is not None and sum(self._memo) * KERNEL_BYTES > share
            start, nodes = self._descents[n].news()
            kernels = () if forget else tuple(self._kernels[n])
            self.workers.tell(learn, News(n, start, nodes, kernels, forget))
            self._kernels[n] = []
            self._memo[n] = 0 if forget else self._memo[n]

    # Placement.

    def _bound(self) -> None:
        """Improves the cuts of each program's best term graphs, and bounds what is left to gain."""
        if not self.given.techniques.bound:
            return
        leading = [(d, n, plan) for d in self._descents for n, plan in enumerate(d.leading())]
        self._tell(list(range(len(self._descents))))
        # The gap that is reported is that of the best graph.
        left = self._seconds_left()
        tasks: list[tuple[Task, Any]] = [
            (bounded, (p.term, p.cut, EXPANSIONS >> min(4 * n, 4), left)) for _, n, p in leading
        ]
        # One of these takes longer than all others: meanwhile the plans are placed as they are.
        early = self._chosen() if self.workers.count > 1 else []
        found = self.workers.map(one_of, [*tasks, *((placed, e) for e in early)], self.live.note)
        self._placed = dict(zip(early, found[len(tasks) :], strict=True))
        for (descent, _, plan), result in zip(leading, found, strict=False):
            descent.learn(plan, result)

    def _chosen(self) -> list[tuple[Term, Cut]]:
        """The plans to place, as far as is known now, without those that are placed."""
        plans = [(p.term, p.cut) for d in self._descents for p in d.chosen()[0]]
        return [p for p in dict.fromkeys(plans) if p not in self._placed]

    def _place(self, spaces: list[list[tuple[Region, Space]]]) -> list[One]:
        descents = self._descents
        self._tell(list(range(len(descents))))
        left = self._chosen()
        results = self._placed | dict(
            zip(left, self.workers.map(placed, left, self.live.note), strict=True)
        )
        out: list[One] = []
        chosen = [d.chosen() for d in descents]
        for descent, space, (first, rest) in zip(descents, spaces, chosen, strict=True):
            mine = [(plan, results[plan.term, plan.cut]) for plan in first]
            own = self.like[len(out)] == len(out)  # what was explored counts once
            out.append(One(space if own else [], descent, mine, rest))
        return out


def _nodes(term: Term) -> tuple[int, ...]:
    return tuple(o.node for o in term.outputs)
