"""Interleaved measurement, floors, and the description of the machine."""

import gc
import json

import pytest
import torch

from superopt.bench import measure as module
from superopt.bench.floors import Floors, bandwidth, peak_flops
from superopt.bench.machine import machine
from superopt.bench.measure import Timing, evictor, measure


class Clock:
    """A clock that only moves when a callable spends time on it."""

    def __init__(self):
        self.now = 0.0

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def test_calls_take_turns_and_the_order_rotates(clock):
    log = []

    def call(name):
        def run():
            log.append(name)
            clock.spend(1.0)

        return run

    measure({n: call(n) for n in "abc"}, seconds=0.0, least=3, cold=True, evict=lambda: None)
    assert "".join(log) == "abc" + "abc" + "bca" + "cab"


def test_warm_runs_follow_an_untimed_run_of_the_same(clock):
    log = []
    calls = {n: lambda n=n: log.append(n) for n in "ab"}
    measure(calls, least=2, most=2)
    assert "".join(log) == "ab" + "aabb" + "bbaa"


def test_a_slow_spell_hits_all_and_eviction_is_not_timed(clock):
    speed = {"fast": 1.0, "slow": 2.0}
    rounds = []

    def call(name):
        def run():
            rounds.append(name)
            spell = 10.0 if len(rounds) > 6 else 1.0
            clock.spend(speed[name] * spell)

        return run

    got = measure(
        {n: call(n) for n in speed},
        seconds=0.0,
        least=5,
        cold=True,
        evict=lambda: clock.spend(1e6),
    )
    assert got["slow"].median_s == pytest.approx(2 * got["fast"].median_s)
    assert got["fast"].median_s < 1e6


def test_budget_and_counts(clock):
    def run():
        clock.spend(1.0)

    assert measure({"a": run}, seconds=0.0, least=4)["a"].runs == 4
    # A warm round costs two runs.
    assert measure({"a": run}, seconds=20.0, least=1)["a"].runs == 11
    assert measure({"a": run}, seconds=1e9, least=1, most=7)["a"].runs == 7
    assert measure({}) == {}


def test_collection_is_off_while_timing_and_restored():
    seen = []
    measure({"a": lambda: seen.append(gc.isenabled())}, seconds=0.0, least=2)
    assert seen[1:] == [False] * 4
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure({"a": lambda: 1 / 0})
    assert gc.isenabled()


def test_summary_of_samples():
    t = Timing.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (t.median_s, t.iqr_s, t.best_s, t.runs) == (3.0, 2.0, 1.0, 5)
    assert Timing.of([2.0]).iqr_s == 0.0
    with pytest.raises(ValueError, match="no samples"):
        Timing.of([])


def test_eviction_touches_its_buffer():
    evictor(1 << 16)()
    got = measure({"a": lambda: None}, seconds=0.0, least=1, cold=True, evict=evictor(1 << 16))
    assert got["a"].runs == 1


def test_floor_is_the_larger_of_both_bounds(monkeypatch):
    monkeypatch.setattr("superopt.bench.floors.bandwidth", lambda size, runs: 100.0)
    peaks = iter([50.0, 40.0, 60.0])
    monkeypatch.setattr("superopt.bench.floors.peak_flops", lambda dtype: next(peaks))
    floors = Floors()
    assert floors.floor(1000, 10, torch.float32) == pytest.approx(10.0)
    # A later, slower measurement of the peak does not raise the floor; a faster one lowers it.
    assert floors.floor(1, 1000, torch.float32) == pytest.approx(20.0)
    assert floors.floor(1, 1200, torch.float32) == pytest.approx(20.0)


def test_measured_limits_are_plausible():
    assert 1e8 < bandwidth(1 << 22, runs=2) < 1e14
    assert 1e8 < peak_flops(torch.float32, runs=1) < 1e16


def test_machine_is_plain_json_and_names_what_matters():
    about = json.loads(json.dumps(machine()))
    assert about["torch"] == torch.__version__
    for key in ("cpu", "cores", "caches", "memory_bytes", "os", "python", "compiler", "superopt"):
        assert key in about
    assert about["cores"] >= 1
