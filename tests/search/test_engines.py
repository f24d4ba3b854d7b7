"""The two enumeration engines agree: same classes, same derivations, same counts."""

import functools
import os
import signal
import threading
import time

import pytest

from superopt.bench.generated import named, program
from superopt.errors import BadOption
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder
from superopt.search import oracle
from superopt.search.enumerate import explore
from superopt.search.oracle import Limits
from superopt.search.problem import problem
from superopt.search.regions import regions
from tests import programs

native = pytest.importorskip("superopt.search.native", exc_type=ImportError)

COMPARED = 100


def same(graph, limits, seed=0):
    for region in regions(graph):
        task = problem(graph, region)
        try:
            slow = oracle.enumerate_values(task, seed, limits)
        except oracle.Unsupported as error:  # the source divides by x - x, say
            with pytest.raises(oracle.Unsupported, match=str(error)):
                native.enumerate_values(task, seed, limits)
            assert not explore(graph, region).closed
            continue
        fast = native.enumerate_values(task, seed, limits)
        assert slow.axes == fast.axes
        assert slow.class_of == fast.class_of
        assert slow.derivations == fast.derivations
        assert (slow.operators, slow.due) == (fast.operators, fast.due)
        assert (slow.closed, slow.states, slow.removed, slow.keyed_roots) == (
            fast.closed,
            fast.states,
            fast.removed,
            fast.keyed_roots,
        )
        yield slow


def test_generated_programs():
    compared = closed = 0
    for seed in range(COMPARED + 20):
        graph = program(seed, ops=3 + seed % 4, signs=True, literals=seed % 2 == 0)
        for raw in same(graph, Limits(candidates=1500)):
            compared += 1
            closed += raw.closed
    assert compared >= COMPARED
    assert closed >= COMPARED // 2


@pytest.mark.parametrize(("prune", "share"), [(False, True), (True, False), (False, False)])
def test_what_is_left_out_is_left_out_alike(prune, share):
    compared = more = 0
    for seed in range(30):
        graph = program(seed, ops=2 + seed % 3, literals=False)
        limits = Limits(candidates=600, prune=prune, share=share)
        for raw in same(graph, limits):
            compared += 1
            assert prune or not raw.removed["abstract"]
        for raw in same(graph, Limits(candidates=600)):
            more += raw.closed
    assert compared >= 30 and more >= 10


@pytest.mark.parametrize("prune", [True, False])
def test_terms_of_limited_size(prune):
    """The engines agree, nothing is left of what is due, and a stopped run says no more than that."""
    compared = stopped = 0
    for seed in range(24):
        graph = program(seed, ops=2 + seed % 3, literals=False)
        for raw in same(graph, Limits(prune=prune, operators=3)):
            compared += 1
            assert (raw.operators, raw.closed) == (3, False)
            assert raw.due == raw.states
            for early in same(graph, Limits(prune=prune, operators=3, candidates=raw.states // 2)):
                stopped += 1
                assert early.operators < 3 and early.states < early.due <= raw.due
    assert compared >= 24 and stopped >= 20


def test_a_large_limit_limits_nothing():
    """With as many operators as any class needs, the values are those of the whole space."""
    compared = 0
    for seed in range(20):
        graph = program(seed, ops=3, literals=False)
        for region in regions(graph):
            task = problem(graph, region)
            whole = native.enumerate_values(task, 0, Limits(candidates=4000))
            most = native.enumerate_values(task, 0, Limits(operators=12, candidates=4000))
            if whole.closed and most.operators == 12:
                compared += 1
                assert {*whole.axes} == {*most.axes} and len(whole.axes) == len(most.axes)
                made = [sum(map(len, raw.derivations)) for raw in (whole, most)]
                assert made[0] == made[1]
    assert compared >= 12


def test_pruning_and_sharing_remove_nothing_that_is_wanted():
    """Without them the targets are reached as well, by more terms; with them by the fewest."""
    for make in (programs.lora, programs.rmsnorm_linear):
        graph = make(2, 3, 4)
        region = regions(graph)[0]
        spaces = [
            explore(graph, region, candidates=20_000, prune=prune, share=share)
            for prune, share in ((True, True), (True, False), (False, True))
        ]
        assert spaces[0].closed
        states = [s.stats["states"] for s in spaces]
        assert states[0] < states[1] and states[0] < states[2]
        for space in spaces:
            assert all(space.classes[c].derivations for c in space.targets.values())


@pytest.mark.parametrize("name", list(named()))
def test_named_programs(name):
    assert list(same(named()[name], Limits(candidates=4000)))


@pytest.mark.parametrize(
    "make",
    [
        programs.rmsnorm_linear,
        programs.lora,
        programs.gated_mlp,
        programs.attention,
        programs.softmax,
    ],
)
def test_programs_of_the_suite(make):
    for raw in same(make(), Limits()):
        assert raw.closed


@pytest.mark.parametrize("candidates", [0, 1, 7, 100])
def test_a_budget_in_candidates_is_deterministic(candidates):
    for raw in same(programs.attention(), Limits(candidates=candidates), seed=5):
        assert raw.states <= candidates


def test_another_seed_gives_the_same_space():
    graph = programs.rmsnorm_linear()
    (region,) = regions(graph)
    spaces = [explore(graph, region, seed=s) for s in (0, 1, 2)]
    assert spaces[0].classes == spaces[1].classes == spaces[2].classes


def test_stopping_keeps_the_source():
    graph = programs.attention()
    for region in regions(graph):
        for engine in ("python", "cpp"):
            space = explore(graph, region, candidates=0, engine=engine)
            assert not space.closed
            assert space.stats["why"] == "budget"
            for i in region.targets:
                assert space.classes[space.targets[i]].derivations


def test_a_stop_flag_is_polled():
    graph = programs.attention()
    region = max(regions(graph), key=lambda r: len(r.nodes))
    assert not explore(graph, region, engine="python", stop=lambda: True).closed


def large():
    """More than any budget of a test: the product of twelve matrices, in any order."""
    b = Builder("large")
    axes = [Axis(n, 3) for n in "abcd"]
    xs = [b.input(f"x{i}", ((axes[i % 4],), (axes[(i + 1) % 4],)), "f32") for i in range(12)]
    out = b.reduce("add", functools.reduce(lambda x, y: b.map("mul", x, y), xs), axes[:3])
    return b.build([("o", out, ((axes[3],),))])


def test_an_exception_of_the_stop_flag_passes_through():
    def interrupt():
        raise KeyboardInterrupt

    graph = large()
    with pytest.raises(KeyboardInterrupt):
        explore(graph, regions(graph)[0], engine="cpp", stop=interrupt)


def test_an_interrupt_stops_the_engine_at_once():
    graph = large()
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    started = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        explore(graph, regions(graph)[0], engine="cpp", seconds=30)
    assert time.perf_counter() - started < 5


def test_a_budget_in_seconds_is_kept():
    graph = large()
    started = time.perf_counter()
    space = explore(graph, regions(graph)[0], engine="cpp", seconds=0.2)
    assert not space.closed
    assert time.perf_counter() - started < 5


def test_an_unknown_engine_is_named():
    graph = programs.lora()
    with pytest.raises(BadOption, match="no search engine"):
        explore(graph, regions(graph)[0], engine="fast")
