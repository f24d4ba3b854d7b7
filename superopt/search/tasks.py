"""What a search asks its workers to do: explore a region, cut a term graph, place a cut one.

A worker keeps the nodes of each program's term graphs, numbered as in the process that drives the
search, and the kernels costed so far. The results depend on neither: kernels known are a memo.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from superopt.mugraph.graph import Graph, Map, Node, Output, Reduce
from superopt.mugraph.placement import Kernel, MuGraph, Split
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.text import print_graph, print_kernels
from superopt.search.cut import Cut, Cutter, KernelSeconds, Memo, body_of
from superopt.search.cut_bound import BranchAndBound
from superopt.search.enumerate import Space, explore
from superopt.search.regions import Region
from superopt.search.techniques import ALL, Techniques
from superopt.search.workers import Here, Task


class Lowerable(Protocol):
    """Says why a placed graph cannot be lowered; given by code generation."""

    def __call__(self, mugraph: MuGraph, kernels: Sequence[int] | None = None, /) -> str | None:
        """None when it can. kernels: the positions of those that are looked at, all by default."""


@dataclass(frozen=True)
class Given:
    """What holds for a whole search; see ``driver.search``."""

    cost: KernelSeconds
    lowerable: Lowerable
    seed: int
    keep: int
    techniques: Techniques = ALL
    max_block_ops: int | None = None


@dataclass
class _Held:
    """What a worker knows of a search; a cost function may keep what it learns of one program."""

    given: Given
    nodes: list[tuple[Node, ...]]
    memos: list[Memo]
    costs: list[KernelSeconds]

    def cutter(self, term: Term, late: Callable[[], bool] = lambda: False) -> Cutter:
        """What cuts one term graph."""
        n = term.program
        graph = Graph(term.name, self.nodes[n], term.outputs)
        most = self.given.max_block_ops
        bound = self.given.techniques.bound
        return Cutter(graph, self.costs[n], late, self.memos[n], bound, max_block_ops=most)


def begin(here: Here, start: tuple[Given, int]) -> None:
    """A search of so many programs begins."""
    given, programs = start
    each = range(programs)
    here.kept["search"] = _Held(
        given, [() for _ in each], [{} for _ in each], [copy.copy(given.cost) for _ in each]
    )


@dataclass(frozen=True)
class News:
    """What is new of a program: nodes from number ``start`` on, kernels costed; forget: drop the old."""

    program: int
    start: int
    nodes: tuple[Node, ...]
    kernels: tuple[tuple[Any, float], ...] = ()
    forget: bool = False


def learn(here: Here, news: News) -> None:
    """Notes what is new."""
    held: _Held = here.kept["search"]
    held.nodes[news.program] = held.nodes[news.program][: news.start] + news.nodes
    if news.forget:
        held.memos[news.program].clear()
    held.memos[news.program].update(news.kernels)


@dataclass(frozen=True)
class Explore:
    """A region to explore, within seconds, terms tried, bytes held and operators of a term."""

    graph: Graph
    region: Region
    seconds: float | None
    states: int | None
    memory: int | None
    operators: int | None = None


def explored(here: Here, task: Explore) -> Space:
    """The space of a region."""
    held: _Held = here.kept["search"]
    return explore(
        task.graph,
        task.region,
        seed=held.given.seed,
        seconds=task.seconds,
        candidates=task.states,
        memory=task.memory,
        operators=task.operators,
        prune=held.given.techniques.prune,
        share=held.given.techniques.share,
        watch=lambda states, classes: here.note({"states": states, "classes": classes}),
    )


@dataclass(frozen=True)
class Term:
    """A term graph: its program, its name, its outputs among the program's nodes."""

    program: int
    name: str
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Scored:
    """The cuts of a term graph, each with the digest of its structure, and the kernels costed."""

    cuts: tuple[tuple[Cut, str], ...]
    kernels: tuple[tuple[Any, float], ...] = ()
    costed: frozenset[int] = field(default=frozenset())


def score(here: Here, task: tuple[Term, float | None]) -> Scored:
    """Cuts a term graph; no seconds left: the cuts found at once.

    What it learns of kernels is for the next round: so its work does not depend on what else the
    worker does in this one.
    """
    term, left = task
    held: _Held = here.kept["search"]
    memo = held.memos[term.program]
    known = len(memo)
    cutter = held.cutter(term, _clock(left))
    try:
        cuts = tuple((c, _structure(cutter.graph, c)) for c in cutter.cuts())
    except RecursionError:
        cuts = ()
    new = tuple(islice(memo.items(), known, None))
    for key, _ in new:
        del memo[key]
    return Scored(cuts, new, frozenset(hash(key) for key, _ in new))


def _clock(left: float | None) -> Callable[[], bool]:
    """Whether so many seconds have passed since now."""
    end = None if left is None else time.perf_counter() + left
    return lambda: end is not None and time.perf_counter() > end


@dataclass(frozen=True)
class Bounded:
    """The best cut known of a term graph, and the seconds that no cut of it takes less than."""

    cut: Cut
    structure: str
    bound: float


def bounded(here: Here, task: tuple[Term, Cut, int, float | None]) -> Bounded:
    """Improves a cut by branch and bound, within so many expansions and seconds."""
    term, cut, expansions, left = task
    held: _Held = here.kept["search"]
    cutter = held.cutter(term, _clock(left))
    memo = held.memos[term.program]
    known = len(memo)
    found = BranchAndBound(cutter, expansions).search(cut)
    for key in [*islice(memo, known, None)]:
        del memo[key]  # as for ``score``: the work does not depend on who does it
    return Bounded(found.cut, _structure(cutter.graph, found.cut), found.bound)


def _structure(graph: Graph, cut: Cut) -> str:
    """Per kernel: the axes that it stores, and its reductions; as a digest.

    Of a reduction counts how many others wait for one another below it, and whether it is added to one.
    """
    stored = frozenset(i for group in cut.groups for i in group)
    kernels = []
    for group in cut.groups:
        body, _ = body_of(graph, group, stored)
        sums = {i: n for i in body if isinstance(n := graph.nodes[i], Reduce)}
        added, after = _added(graph, body, sums), _depths(graph, body)
        stores = sorted(str(graph.nodes[i].axes) for i in group)
        rows = [(n.op, str(n.axes), str(n.over), after[i], i in added) for i, n in sums.items()]
        kernels.append((stores, sorted(rows)))
    return _digest(kernels)


def _depths(graph: Graph, body: Sequence[int]) -> dict[int, int]:
    """For each node of a kernel, the most reductions on a way to it, itself among them."""
    out: dict[int, int] = {}
    for i in body:
        node = graph.nodes[i]
        out[i] = max((out.get(a, 0) for a in node.args), default=0) + isinstance(node, Reduce)
    return out


def _added(graph: Graph, body: Sequence[int], sums: Container[int]) -> set[int]:
    """The reductions that are added to another one, and may share its accumulator."""
    out: set[int] = set()
    for i in body:
        node = graph.nodes[i]
        if isinstance(node, Map) and SCALARS[node.op].abstract == "add":
            terms = {a for a in node.args if a in sums}
            out |= terms if len(terms) > 1 else set()
    return out


def _digest(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:32]


def one_of(here: Here, task: tuple[Task, Any]) -> Any:
    """Does a task of any kind, so that those of several kinds can go side by side."""
    function, value = task
    return function(here, value)


Placed = list[tuple[float, MuGraph, str | None, str]]
"""Predicted seconds, the placed graph, why it cannot be lowered, and a digest of its text."""


def placed(here: Here, task: tuple[Term, Cut]) -> Placed:
    """The best placements of a cut."""
    term, cut = task
    held: _Held = here.kept["search"]
    found = held.cutter(term).place(cut, held.given.keep)
    if not found:
        return []
    # All are placements of one graph, and most differ from one another in tile sizes alone.
    text = _digest(print_graph(found[0][1].graph))
    reasons = _Reasons(held.given.lowerable)
    return [
        (seconds, mugraph, reasons.of(mugraph), _digest((text, print_kernels(mugraph))))
        for seconds, mugraph in found
    ]


class _Reasons:
    """Why placements of one graph cannot be lowered; a kernel's form is tried once.

    Of a tile it matters whether it is one element or the whole axis, and not how many it has.
    """

    def __init__(self, lowerable: Lowerable) -> None:
        self.lowerable = lowerable
        self.known: dict[Hashable, str | None] = {}

    def of(self, mugraph: MuGraph) -> str | None:
        """The reason for the first kernel that cannot be lowered; None where all can."""
        forms = [(k, _form(kernel)) for k, kernel in enumerate(mugraph.kernels)]
        new = [k for k, form in forms if (k, form) not in self.known]
        if new:
            why = self.lowerable(mugraph, new)
            for k in new:  # of several, each is asked about where one cannot be lowered
                alone = why is None or len(new) == 1
                self.known[forms[k]] = why if alone else self.lowerable(mugraph, [k])
        return next((why for form in forms if (why := self.known[form]) is not None), None)


def _form(kernel: Kernel) -> Hashable:
    """A kernel without the sizes of its tiles."""
    place = kernel.placement
    return (
        kernel.outputs,
        kernel.carries,
        *(
            tuple((s.axis, s.tile == 1, _whole(s)) for s in part)
            for part in (place.grid, place.loop)
        ),
    )


def _whole(split: Split) -> bool:
    size = split.axis.size
    return split.tile >= (size if isinstance(size, int) else size.hi)
