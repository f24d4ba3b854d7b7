"""Interleaved timing of several callables, so that a slow spell of the machine hits them all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

EVICT_BYTES = 64 << 20
"""Bytes touched to evict the caches: more than the last level of most machines."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one callable over its counted runs: median, interquartile range, least."""

    median_s: float
    iqr_s: float
    best_s: float
    runs: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """The summary of some times in seconds; ValueError if there are none."""
        if not samples:
            raise ValueError("no samples")
        spread = 0.0
        if len(samples) > 1:
            quarters = statistics.quantiles(samples, n=4, method="inclusive")
            spread = quarters[2] - quarters[0]
        return cls(statistics.median(samples), spread, min(samples), len(samples))


def evictor(size: int = EVICT_BYTES) -> Call:
    """A callable that reads and writes ``size`` bytes on all threads of PyTorch."""
    buffer = torch.ones(max(1, size // 4), dtype=torch.float32)
    # In place, so that the allocator hands out no memory between two timed runs.
    return lambda: buffer.mul_(1.0)


def measure(
    calls: Mapping[str, Call],
    *,
    seconds: float = 1.0,
    least: int = 5,
    most: int = 300,
    cold: bool = False,
    evict: Call | None = None,
) -> dict[str, Timing]:
    """Times each callable once per round, in rounds, until ``seconds`` of wall time are used.

    cold: caches are evicted, untimed, before each run (by ``evict``, else 64 MiB are touched).
    Warm: each timed run follows an untimed run of the same callable. The order rotates from round
    to round; garbage is collected before, not during. At least ``least`` rounds (beyond the
    budget, if need be), at most ``most``. The number of threads is the caller's business.
    """
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    if cold and evict is None:
        evict = evictor()
    for call in calls.values():
        call()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    try:
        for n in range(most if names else 0):
            if n >= least and time.perf_counter() - started > seconds:
                break
            for name in names[n % len(names) :] + names[: n % len(names)]:
                call = calls[name]
                if cold and evict is not None:
                    evict()
                else:
                    call()
                t0 = time.perf_counter()
                out = call()
                samples[name].append(time.perf_counter() - t0)
                del out  # freed outside the timed part
    finally:
        if collecting:
            gc.enable()
    return {name: Timing.of(times) for name, times in samples.items()}
