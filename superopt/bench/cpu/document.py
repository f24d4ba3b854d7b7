"""The results of the suite: the JSON form of its rows, their summary numbers, and its checks.

The envelope is that of ``results``. A row is one peer in one case; its keys are in ``KEYS``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from superopt.bench.measure import Timing
from superopt.bench.results import STATUSES, envelope_problems

CACHES = ("cold", "warm")
KEYS = (
    "workload",
    "params",
    "dtype",
    "threads",
    "peer",
    "peer_version",
    "status",
    "reason",
    "cold",
    "warm",
    "floor",
    "max_rel_error",
    "correct",
    "setup_s",
    "info",
)
TIMES = ("median_s", "iqr_s", "best_s", "runs", "x_floor")


@dataclass(frozen=True)
class Need:
    """What a case costs at least: bytes moved once, operations, exponentials."""

    bytes: int
    flops: int
    exps: int


def floor(need: Need, samples: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The floor of a case and its parts, from what was measured beside it.

    Seconds for each state of the caches: max(bytes / bandwidth, flops / peak + exps * exp_s) +
    launch_s. Bandwidth and launch are medians of the samples, peak and exp_s the best of them.
    """
    peak = max(s["peak"] for s in samples)
    exp_s = min(s["exp_s"] for s in samples)
    work_s = need.flops / peak + need.exps * exp_s
    out: dict[str, Any] = {**asdict(need), "peak": peak, "exp_s": exp_s}
    for cache in CACHES:
        bandwidth = statistics.median(s[f"bandwidth_{cache}"] for s in samples)
        launch_s = statistics.median(s[f"launch_{cache}_s"] for s in samples)
        moved_s = need.bytes / bandwidth
        out[cache] = {
            "bandwidth": bandwidth,
            "launch_s": launch_s,
            "floor_s": max(moved_s, work_s) + launch_s,
            "by": "bytes" if moved_s >= work_s else "work",
        }
    return out


def times(samples: Sequence[float], floor_s: float) -> dict[str, Any]:
    """The summary of the times of one peer in one state of the caches."""
    timing = Timing.of(samples)
    return {**asdict(timing), "x_floor": timing.median_s / floor_s}


def case_key(r: Mapping[str, Any]) -> tuple[Any, ...]:
    """What rows of one case share."""
    return r["workload"], tuple(sorted(r["params"].items())), r["dtype"], r["threads"]


def problems(document: Any) -> list[str]:
    """What is wrong with a document, in words; empty when it has the form above."""
    if found := envelope_problems(document):
        return found
    for n, r in enumerate(document["rows"]):
        if set(r) != set(KEYS):
            found.append(f"row {n}: keys differ: {sorted(set(r) ^ set(KEYS))}")
            continue
        if r["status"] not in STATUSES:
            found.append(f"row {n}: status {r['status']!r}")
        if r["status"] != "ok" and not r["reason"]:
            found.append(f"row {n}: {r['status']} without a reason")
        for cache in CACHES:
            found += [f"row {n}, {cache}: {p}" for p in _time_problems(r, cache)]
    return found


def _time_problems(r: Mapping[str, Any], cache: str) -> list[str]:
    timed = r[cache]
    if r["status"] != "ok":
        return ["times of what was not measured"] if timed is not None else []
    if not isinstance(timed, dict) or set(timed) != set(TIMES):
        return ["no times"]
    if not all(math.isfinite(v) and v >= 0 for v in timed.values()):
        return [f"times {timed}"]
    if not isinstance(r["floor"], dict) or r["floor"][cache]["floor_s"] <= 0:
        return ["no floor"]
    return []
