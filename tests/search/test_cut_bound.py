"""Branch and bound over kernel cuts, against all cuts of generated programs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from superopt.cost.model import cost_on
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.search.cut import Cutter
from superopt.search.cut_bound import BranchAndBound
from tests.devices import known_device

SIZES = (2, 16, 256, 3072)
DEVICES = (
    known_device(frozenset({"avx512f", "avx512_bf16"}), 2),
    known_device(frozenset(), 1),
    known_device(frozenset({"avx2"}), 16),
)
MOST_FREE = 5


def drawn(seed: int) -> Graph:
    """A program of contractions, maxima, maps and views over axes of very different sizes."""
    rng = random.Random(seed)
    b = Builder(f"drawn{seed}")
    axes = [Axis(n, rng.choice(SIZES)) for n in "abcd"]
    twin = Axis("e", axes[0].size)
    dtype = rng.choice(["f32", "bf16"])
    pool = [
        b.input(f"x{n}", tuple((a,) for a in rng.sample(axes, rng.randint(1, 3))), dtype)
        for n in range(4)
    ]
    if dtype == "bf16":
        pool = [b.map("cast", x, dtype="f32") for x in pool]
    made: list[int] = []
    for _ in range(rng.randint(4, 10)):
        x = made[-1] if made and rng.random() < 0.7 else rng.choice([*pool, *made])
        y = rng.choice([*pool, *made])
        way = rng.random()
        if way < 0.45:
            x = b.map("mul", x, y)
        elif way < 0.6:
            x = b.map(rng.choice(("exp", "silu", "rsqrt")), x)
        elif way < 0.75:
            x = b.map(rng.choice(("add", "div")), x, y)
        if axes[0] in b.axes(x) and twin not in b.axes(x) and rng.random() < 0.15:
            x = b.rename(x, {axes[0]: twin})
        if b.axes(x) and rng.random() < 0.6:
            x = b.reduce(rng.choice(("add", "add", "max")), x, [rng.choice(b.axes(x))])
        if x not in made and x not in pool:
            made.append(x)
    outputs = {made[-1], *rng.sample(made, min(len(made), rng.randint(0, 2)))}
    return b.build(
        [(f"o{n}", i, tuple((a,) for a in b.axes(i))) for n, i in enumerate(sorted(outputs))]
    )


def _partitions(items: list[int]) -> Iterator[list[tuple[int, ...]]]:
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for n in range(len(rest) + 1):
        for some in itertools.combinations(rest, n):
            for parts in _partitions([i for i in rest if i not in some]):
                yield [(first, *some), *parts]


def _runs(graph: Graph, parts: list[tuple[int, ...]]) -> bool:
    """Whether the kernels can run one after another: taken away as soon as what is below is gone."""
    left = list(parts)
    while left:
        waiting = {i for p in left for i in p}
        free = [p for p in left if set(graph.reachable(p)) & waiting == set(p)]
        if not free:
            return False
        left = [p for p in left if p not in free]
    return True


def _one_kernel(graph: Graph, stored: tuple[int, ...]) -> bool:
    """Whether one kernel may store these: of the program's results, one with more axes or below."""
    results = {o.node for o in graph.outputs}
    for i, j in itertools.combinations(stored, 2):
        axes = [set(graph.nodes[k].axes) for k in (i, j)]
        apart = i not in graph.reachable([j]) and j not in graph.reachable([i])
        if {i, j} <= results:
            if axes[0] | axes[1] not in axes:
                return False
        elif axes[0] != axes[1] or not apart:
            return False
    return True


def every_cut(cutter: Cutter) -> Iterator[float]:
    """The seconds of every cut: each choice of what is stored, in each set of kernels."""
    graph, forced, free = cutter.graph, cutter.forced, cutter.free
    for n in range(len(free) + 1):
        for some in itertools.combinations(free, n):
            stored = forced | set(some)
            for parts in _partitions(sorted(stored)):
                if not all(_one_kernel(graph, p) for p in parts):
                    continue
                if _runs(graph, parts):
                    yield sum(cutter.seconds(p, frozenset(stored)) for p in parts)


def test_the_cut_is_the_best_of_all() -> None:
    programs = cuts = better = joined = kernels = without = 0
    for seed in range(600):
        graph = drawn(seed)
        cost = cost_on(DEVICES[seed % 3])
        reference = Cutter(graph, cost)
        points = len(reference.forced) + len(reference.free)
        if not 1 <= len(reference.free) <= MOST_FREE or points > 7:
            continue
        every = list(every_cut(reference))
        best = min(every)
        cutter = Cutter(graph, cost)
        local = cutter.cuts()[0]
        found = BranchAndBound(cutter, 10_000).search(local)
        assert found.cut.seconds == pytest.approx(best, rel=1e-8), graph
        assert found.gap <= 1e-8
        # The bound of every unfinished search is a bound.
        for expansions in (0, 1, 2, 4):
            some = BranchAndBound(Cutter(graph, cost), expansions).search(local)
            assert some.bound <= best * (1 + 1e-8)
            assert some.cut.seconds >= best * (1 - 1e-8)
        plain = Cutter(graph, cost, bound=False)
        unbounded = BranchAndBound(plain, 10_000, bound=False).search(plain.cuts()[0])
        assert unbounded.cut.seconds == pytest.approx(best, rel=1e-8)
        programs += 1
        cuts += len(every)
        kernels += cutter.evaluated
        without += plain.evaluated
        better += found.cut.seconds < local.seconds * 0.999
        joined += any(len(g) > 1 for g in found.cut.groups)
    print(programs, cuts, better, joined, kernels, without)
    assert programs >= 200 and cuts >= 3000
    assert joined >= 10
    assert kernels < without


def test_without_time_nothing_is_branched_on() -> None:
    """The cut that it began with is returned, with a bound that holds."""
    tried = open_ = 0
    for seed in range(30):
        graph = drawn(seed)
        cutter = Cutter(graph, cost_on(DEVICES[0]))
        start = cutter.cuts()[0]
        best = BranchAndBound(cutter).search(start)
        late = BranchAndBound(Cutter(graph, cost_on(DEVICES[0]), lambda: True)).search(start)
        assert late.cut == start and late.expanded == 0
        assert late.bound <= best.bound * (1 + 1e-9)
        tried += 1
        open_ += late.bound < best.bound
    assert tried == 30 and open_ >= 5
