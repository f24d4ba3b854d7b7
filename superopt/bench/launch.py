"""The suite ``launch``: what a repeated call costs beyond the kernel, on each way into it.

Sizes are so small that the kernel itself is next to nothing. Each way is called many times in a row;
the ways take turns, and the median of the turns counts. Caches are warm, no other thread is woken.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from superopt.bench import programs, results
from superopt.bench.machine import machine
from superopt.errors import SuperoptError

SUITE = "launch"
CALLS, TURNS = 1000, 25
"""Calls of a turn, and turns."""

WAYS = {
    "entry": "the C entry, by ctypes, pointers at hand",
    "output": "torch.empty_like of the result: the allocation that every other way includes",
    "launch": "runtime.launch on given tensors (without the output's allocation)",
    "kernels": "runtime.kernels.Kernels on a list of tensors",
    "generated": "Result.generated: the kernel as the function is called, state looked at by Python",
    "decorated": "@superoptimize: signature and state compared at each call",
    "eager": "the function in PyTorch",
}
"""The ways, and what is called."""

Call = Callable[[], object]


class _Scale(torch.nn.Module):
    """A small norm with a weight and a number."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(n), requires_grad=False)
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(
            torch.rms_norm(x, (self.gain.shape[0],), self.gain, self.eps)
        )


def _chain(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(torch.nn.functional.gelu(x * 2.0 + 1.0), -1)


def _held() -> Callable[..., Any]:
    w = torch.ones(64)
    return lambda x: torch.softmax(x * w + 1.0, -1)


CASES: dict[str, Callable[[], tuple[Callable[..., Any], int]]] = {
    "chain": lambda: (_chain, 1),
    "ntrans": lambda: (programs.ntrans, 3),
    "closure": lambda: (_held(), 1),
    "module": lambda: (_Scale(64), 1),
}
"""Functions of tensors of 1 x 64, and how many tensors they take: an elementwise chain with a softmax,
the residual of nGPT, a function that holds a tensor, and a module with a weight and a number."""


def run_launch_suite(
    *,
    json_path: Path | None = None,
    threads: int | None = None,
    calls: int = CALLS,
    turns: int = TURNS,
) -> dict[str, Any]:
    """Times each way into each kernel; the document (see ``results``), written to a file if given."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        document: dict[str, Any] = {
            "schema": results.SCHEMA,
            "suite": SUITE,
            "machine": machine(),
            "rows": [],
        }
        for name, make in CASES.items():
            fn, count = make()
            args = tuple(torch.rand(1, 64) + 0.1 for _ in range(count))
            document["rows"] += _rows(name, fn, args, calls, turns)
    finally:
        torch.set_num_threads(before)
    if json_path is not None:
        results.put(json_path, document)
    return document


@torch.no_grad()
def _rows(
    name: str, fn: Callable[..., Any], args: tuple[torch.Tensor, ...], calls: int, turns: int
) -> list[dict[str, Any]]:
    try:
        ways = _ways(fn, args)
    except SuperoptError as error:
        return [_row(name, way, status="failed", reason=str(error)) for way in WAYS]
    times: dict[str, list[float]] = {way: [] for way in ways}
    for call in ways.values():
        for _ in range(calls):
            call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(turns):
            for way, call in ways.items():
                began = time.perf_counter()
                for _ in range(calls):
                    call()
                times[way].append((time.perf_counter() - began) / calls)
    finally:
        if collecting:
            gc.enable()
    return [
        _row(name, way, median_us=statistics.median(t) * 1e6, best_us=min(t) * 1e6)
        for way, t in times.items()
    ]


def _row(case: str, way: str, **more: Any) -> dict[str, Any]:
    values = {"median_us": None, "best_us": None, "status": "ok", "reason": "", **more}
    return {"case": case, "way": way, "threads": torch.get_num_threads(), "cache": "warm", **values}


def _ways(fn: Callable[..., Any], args: tuple[torch.Tensor, ...]) -> dict[str, Call]:
    # Imported here: a list of suites needs no engine.
    from superopt import pipeline
    from superopt.api import superoptimize

    found = pipeline.optimize(fn, args, {})
    decorated = superoptimize(fn)
    for _ in range(2):  # the first searches, the second is looked at and written down
        decorated(*args)
    parts = pipeline.ways_into(fn, found, args)
    like = decorated(*args)
    return {
        "entry": parts["entry"],
        "output": lambda: torch.empty_like(like),
        "launch": parts["launch"],
        "kernels": parts["kernels"],
        "generated": lambda: found.generated(*args),
        "decorated": lambda: decorated(*args),
        "eager": lambda: fn(*args),
    }


def problems(document: Any) -> list[str]:
    """What is wrong with a document, in words; empty when it has the form of this suite."""
    if found := results.envelope_problems(document):
        return found
    if document["suite"] != SUITE:
        return [f"suite {document['suite']!r} is not {SUITE!r}"]
    keys = set(_row("", ""))
    for n, row in enumerate(document["rows"]):
        if set(row) != keys or row["way"] not in WAYS or row["case"] not in CASES:
            found.append(f"row {n}: its keys, its case or its way are not known")
        elif row["status"] == "ok" and not isinstance(row["median_us"], float):
            found.append(f"row {n}: ok without a median")
    return found


def markdown(document: Mapping[str, Any]) -> str:
    """The document as a Markdown table: microseconds of a call, a line for each way."""
    host, rows = document["machine"], document["rows"]
    cases = list(dict.fromkeys(r["case"] for r in rows))
    at = {(r["case"], r["way"]): r["median_us"] for r in rows}
    lines = [
        f"Microseconds of one call on tensors of 1 x 64, medians: {host['cpu']}, "
        f"{host['torch_threads']} threads, torch {host['torch']}, Python {host['python']}, "
        f"superopt {host['superopt']}; caches warm.",
        "",
        f"| way | {' | '.join(cases)} | what is called |",
        f"|---|{'---|' * (len(cases) + 1)}",
    ]
    for way, what in WAYS.items():
        cells = [at.get((case, way)) for case in cases]
        shown = " | ".join("-" if c is None else f"{c:.2f}" for c in cells)
        lines.append(f"| {way} | {shown} | {what} |")
    return "\n".join([*lines, ""])
