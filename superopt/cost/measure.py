"""Measurement: several callables timed in turn, so that a slow spell of the machine hits them all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one callable: median, interquartile range, and the number of runs behind them."""

    median_s: float
    iqr_s: float
    runs: int


def interleave(
    calls: Sequence[Callable[[], object]],
    *,
    seconds: float = 0.5,
    least: int = 5,
    most: int = 200,
    between: Callable[[], object] | None = None,
) -> list[Timing]:
    """Times each callable in rounds, one run of each per round, until ``seconds`` are used.

    The first run of each is not counted. ``between`` runs, untimed, before each timed run (to evict
    caches, or to poison outputs). At least ``least`` rounds are made, at most ``most``.
    """
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    enabled = gc.isenabled()
    gc.disable()
    try:
        while len(times[0]) < most:
            if len(times[0]) >= least and time.perf_counter() - started > seconds:
                break
            for k, call in enumerate(calls):
                if between is not None:
                    between()
                t0 = time.perf_counter()
                call()
                times[k].append(time.perf_counter() - t0)
    finally:
        if enabled:
            gc.enable()
    return [summary(ts) for ts in times]


def summary(samples: Sequence[float]) -> Timing:
    """Median and interquartile range of timings in seconds."""
    if len(samples) < 2:
        return Timing(samples[0] if samples else float("nan"), 0.0, len(samples))
    quarters = statistics.quantiles(samples, n=4)
    return Timing(statistics.median(samples), quarters[2] - quarters[0], len(samples))
