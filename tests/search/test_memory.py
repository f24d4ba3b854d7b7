"""A search within a limit of memory: it goes on with what it has, or says that it cannot begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from superopt.errors import MemoryTooSmall
from superopt.search import descend, rounds
from superopt.search.enumerate import explore
from superopt.search.regions import regions
from superopt.search.workers import Processes
from tests.search.searches import digest, graph_of, searched
from tests.search.test_engines import large
from tests.search.test_workers import wait_for_children

MEGABYTE = 1 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_engine_holds_no_more_than_it_may():
    graph = large()
    (region,) = regions(graph)
    states = []
    for limit in (1, 3, 20):
        before, most = resident(), 0

        def watch(states: int, classes: int) -> None:
            nonlocal most
            most = max(most, resident())

        space = explore(graph, region, memory=limit * MEGABYTE, watch=watch)
        assert not space.closed
        assert space.stats["why"] == "memory"
        assert limit * MEGABYTE < space.stats["held"] < 1.2 * limit * MEGABYTE
        assert most - before < 2 * limit * MEGABYTE + 4 * MEGABYTE
        for i in region.targets:
            assert space.classes[space.targets[i]].derivations
        states.append(space.stats["states"])
        again = explore(graph, region, memory=limit * MEGABYTE)
        assert again.classes == space.classes
    assert states == sorted(set(states))


def test_what_is_held_is_counted_without_a_limit_too():
    tried = 0
    for name in ("attention", "gated_mlp", "deep3"):
        for region in regions(graph := graph_of(name)):
            stats = explore(graph, region).stats
            assert 0 < stats["source_held"] <= stats["held"]
            tried += 1
    assert tried >= 4


def test_a_search_goes_on_with_what_it_has():
    needs = least("attention")
    free = searched("attention", 30)
    tight = searched("attention", 30, memory=needs + 10_000)
    assert tight.candidates
    assert tight.stats["open"].get("memory")
    assert tight.stats["states"] < free.stats["states"]
    assert not tight.stats["closed"]
    with Processes(2, earned=0) as who:
        wait_for_children(who)
        there = searched("attention", 30, memory=needs + 10_000, workers=who)
    assert digest(there) == digest(tight)
    assert digest(searched("attention", 30, memory=1 << 40)) == digest(free)


def least(name: str) -> int:
    """Bytes that a search of a program needs to begin, as its error says."""
    with pytest.raises(MemoryTooSmall) as caught:
        searched(name, 30, memory=1024)
    assert "1024 bytes" in str(caught.value) and "fix:" in str(caught.value)
    return int(str(caught.value).split("needs ")[1].split()[0])


@pytest.mark.parametrize("name", ["attention", "deep3"])
def test_a_limit_that_cannot_be_kept_is_an_error(name):
    needs = least(name)
    with pytest.raises(MemoryTooSmall):
        searched(name, 30, memory=needs - 100)
    assert searched(name, 5, memory=needs + 1000).candidates


def test_term_graphs_count(monkeypatch):
    monkeypatch.setattr(descend, "NODE_BYTES", 1 << 40)
    found = searched("attention", 30, memory=1 << 32)
    assert found.candidates
    assert found.stats["open"] == {"memory": 1}
    assert found.stats["graphs"] == 1


def test_kernels_known_are_a_memo_and_may_be_dropped(monkeypatch):
    want = [str(c) for c in searched("attention", 30).candidates]
    monkeypatch.setattr(rounds, "KERNEL_BYTES", 1 << 40)
    assert [str(c) for c in searched("attention", 30, memory=1 << 32).candidates] == want


def test_spaces_count(monkeypatch):
    monkeypatch.setattr(rounds, "DERIVATION_BYTES", 1 << 40)
    monkeypatch.setattr(rounds, "WAVE", 1)
    found = searched("attention", 30, memory=1 << 32)
    assert found.candidates
    assert found.stats["open"]["memory"] >= 1
