"""One search of the ablation in a process of its own: cold, without imports, and with limits."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from superopt.bench.deep import DEEP
from superopt.bench.moe import MOE_LAYER
from superopt.bench.workload import Workload
from superopt.bench.workloads import workload
from superopt.errors import BadOption, SuperoptError

TECHNIQUES = ("prune", "share", "bound", "threads")
"""What is left out in turn: see ``superopt.search.techniques``; threads: all processes but one."""


@dataclass(frozen=True)
class Run:
    """One search: a workload at a size, with at most so many compute nodes in a kernel.

    operators: of a term, at most, None for any; without: the technique that is left out, "" for none;
    seconds, values: after which the exploration of one region is stopped (wall time, terms tried);
    threads: for PyTorch's row of the device table, and processes of the search.
    """

    workload: str
    params: Mapping[str, int]
    dtype: str
    max_block_ops: int | None
    operators: int | None
    without: str
    seconds: float
    values: int
    threads: int


def searched_workload(name: str) -> Workload:
    """The workload of a name, those that are only searched among them."""
    searched = {MOE_LAYER.name: MOE_LAYER, **DEEP}
    return searched[name] if name in searched else workload(name)


def figures(run: Run) -> dict[str, Any]:
    """Runs the search here; its figures, with status "ok", "stopped" or "skipped", and a reason."""
    from superopt.bench.inputs import parse_dtype
    from superopt.pipeline.search_only import Budget, Techniques, search_function

    torch.set_num_threads(run.threads)
    processes = 1 if run.without == "threads" else run.threads
    off = {run.without: False} if run.without not in ("", "threads") else {}
    w = searched_workload(run.workload)
    dtype = parse_dtype(run.dtype)
    # The search does not look at values: memory that nobody writes to takes none.
    args = tuple(torch.empty(s.shape, dtype=s.dtype(dtype)) for s in w.specs(run.params))
    budget = Budget(region_seconds=run.seconds, values=run.values, operators=run.operators)
    try:
        found = search_function(
            w.reference,
            args,
            budget=budget,
            techniques=Techniques(**off),
            max_block_ops=run.max_block_ops,
            processes=processes,
        )
    except BadOption as refused:
        return {"status": "skipped", "reason": str(refused)}
    pieces = found.pieces
    spaces = [dict(s) for p in pieces for s in p.spaces]
    removed: dict[str, int] = {}
    for piece in pieces:
        for rule, count in piece.removed.items():
            removed[rule] = removed.get(rule, 0) + count
    empty = [p for p in pieces if not p.candidates]
    open_ = [s for s in spaces if not s["closed"]]
    tried = [s["operators"] for s in open_ if s["operators"] is not None]
    stopped = [s for s in open_ if s["why"] == "budget"]
    status, reason = "ok", "; ".join(sorted({f"not closed: {s['why']}" for s in open_}))
    if empty:
        status, reason = "failed", f"nothing was found: {empty[0].why_none}"
    elif stopped:
        status, reason = (
            "stopped",
            f"at least: {len(stopped)} of {len(spaces)} regions were stopped",
        )
    return {
        "status": status,
        "reason": reason,
        "seconds": sum(p.seconds for p in pieces),
        "cpu_s": sum(p.cpu_s for p in pieces),
        "capture_s": found.capture_s,
        **{f"{k}_s": sum(p.phases[k] for p in pieces) for k in ("algebra", "cut", "placement")},
        "states": sum(p.values for p in pieces),
        "classes": sum(p.classes for p in pieces),
        "graphs": sum(p.graphs for p in pieces),
        "kernels_costed": sum(p.kernels for p in pieces),
        "removed": removed,
        "closed": not open_,
        "tried": min(tried, default=None),
        "due": None if run.operators is None else sum(s["due"] or 0 for s in spaces),
        "largest_kernel": max((n for p in pieces for n in p.best_kernels()), default=0),
        "kernels": sum(len(p.best_kernels()) for p in pieces),
        "predicted_s": sum(p.predicted_s or 0.0 for p in pieces) or None,
        "boundaries": [f"{op}: {why}" for op, why in found.boundaries],
        "spaces": spaces,
        "memory_bytes": _peak(),
    }


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _child(end: Connection, run: Run) -> None:
    # Without pruning there are millions of objects, and nothing among them is garbage.
    gc.disable()
    try:
        answer = figures(run)
    except SuperoptError as error:
        answer = {"status": "failed", "reason": str(error)}
    except Exception as error:
        answer = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
    end.send(answer)
    end.close()


def fresh(run: Run, patience: float) -> dict[str, Any]:
    """``figures`` of a run in a fresh process, which is ended after ``patience`` seconds.

    The process is a fork of one that has imported everything and has searched nothing.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(
            [__name__, "superopt.pipeline.search_only", "superopt.search.native"]
        )
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, run))
    process.start()
    theirs.close()
    try:
        if not mine.poll(patience):
            return {"status": "stopped", "reason": f"ended after {patience:.0f} s without figures"}
        answer: dict[str, Any] = mine.recv()
        return answer
    except EOFError:
        process.join()
        return {"status": "failed", "reason": f"the process died ({process.exitcode})"}
    finally:
        mine.close()
        if process.is_alive():
            process.join(5)
        if process.is_alive():
            process.kill()
        process.join()
