"""The suite ``search``: what each technique of the search is worth, as in table 5 of Mirage."""

from __future__ import annotations

import dataclasses
import fnmatch
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from superopt.bench import results
from superopt.bench.deep import DEEP
from superopt.bench.inputs import parse_dtype, short
from superopt.bench.machine import machine
from superopt.bench.moe import MOE_LAYER
from superopt.bench.search_run import TECHNIQUES, Run, fresh, searched_workload
from superopt.bench.workloads import MIRAGE
from superopt.config import usable_cores
from superopt.errors import BadOption, closest

SUITE = "search"
BOUNDED = "rmsnorm_linear"
"""The program that is searched with every bound on a kernel, as in Mirage's table 5."""

BOUNDS = tuple(range(5, 14))
OPERATORS = tuple(range(5, 12))
"""Operators of a term up to which all terms are counted, with pruning and without, for ``BOUNDED``."""

AT = 7
"""The same for every other program."""

LAYERS = ("llama-3.2-1b.layer", "qwen3-0.6b.layer", MOE_LAYER.name, *DEEP)
SECONDS = 60.0
VALUES = 2_000_000
"""Terms of one region after which its exploration is stopped: 4 GB of memory without pruning."""

FEW_VALUES = 300_000
"""The same where the operators of a term are limited: what is due is known from fewer terms."""

REPEATS = 3
STATUSES = ("ok", "stopped", "skipped", "failed")
TIMES = ("seconds", "cpu_s", "capture_s", "algebra_s", "cut_s", "placement_s")
COUNTS = ("states", "classes", "graphs", "kernels_costed", "largest_kernel", "kernels")
OTHERS = (
    "removed",
    "closed",
    "tried",
    "due",
    "predicted_s",
    "boundaries",
    "spaces",
    "memory_bytes",
)
KEYS = (
    "workload",
    "params",
    "dtype",
    "max_block_ops",
    "operators",
    "without",
    "limit_s",
    "limit_states",
    "threads",
    "runs",
    "status",
    "reason",
    *TIMES,
    *COUNTS,
    *OTHERS,
)
"""The keys of a row. Times are medians over ``runs`` in seconds; states: terms tried by the algebra;
graphs and kernels_costed: candidates built; kernels and largest_kernel: of the best placed program,
its kernels and the compute nodes of the largest one; operators: of a term of the algebra, at most,
None for any; tried: up to which size in operators all terms were tried, where the search was not
closed; due: terms to try within ``operators`` (``enumerate.Space``): the states of a run that was not
stopped, and a lower bound of those that one which was stopped would have gone through."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """One workload, with bounds on the compute nodes of a kernel and on the operators of a term."""

    workload: str
    params: Mapping[str, int]
    dtype: str
    max_block_ops: int | None
    operators: int | None = None

    def __str__(self) -> str:
        bound = "" if self.max_block_ops is None else f" max-block-ops {self.max_block_ops}"
        size = "" if self.operators is None else f" terms of {self.operators} operators"
        return f"{self.workload} {self.dtype}{bound}{size}"

    def variations(self) -> tuple[str, ...]:
        """What is left out in turn.

        Terms of limited size are there to compare pruning alone, deep models to compare with a layer.
        """
        if self.workload in DEEP:
            return ("",)
        return ("", *(TECHNIQUES if self.operators is None else ("prune",)))


def cases(
    max_block_ops: int | None = None, dtypes: Sequence[str] = ("bf16",), only: Sequence[str] = ()
) -> list[Case]:
    """The cases of the suite; max_block_ops: this bound alone, and for every workload."""
    names = [BOUNDED, *(w.name for w in MIRAGE if w.name != BOUNDED), *LAYERS]
    for pattern in only:
        if not any(fnmatch.fnmatch(n, pattern) for n in names):
            raise BadOption(
                f"suite {SUITE} has no workload {pattern!r}",
                "option --only",
                closest(pattern, names),
            )
    out = []
    for name in names:
        if only and not any(fnmatch.fnmatch(name, o) for o in only):
            continue
        w = searched_workload(name)
        params = w.grid[0] if name in LAYERS else w.grid[len(w.grid) // 2]
        bounds: tuple[int | None, ...] = (None, *BOUNDS) if name == BOUNDED else (None,)
        sizes: tuple[int, ...] = OPERATORS if name == BOUNDED else (AT,)
        if max_block_ops is not None or name in DEEP:
            bounds, sizes = (max_block_ops,), ()
        for dtype in dtypes:
            kind = short(parse_dtype(dtype))
            out += [Case(name, params, kind, bound) for bound in bounds]
            out += [Case(name, params, kind, None, size) for size in sizes]
    return out


def run_search_suite(
    *,
    max_block_ops: int | None = None,
    dtypes: Sequence[str] = ("bf16",),
    json_path: Path | None = None,
    threads: int | None = None,
    only: Sequence[str] = (),
    seconds: float = SECONDS,
    values: int = VALUES,
    repeats: int = REPEATS,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs the suite and returns its document (``results``), written after every row.

    seconds and values: after which the exploration of one region is stopped; repeats: runs of the
    search with everything on, whose median counts. Every run is a process of its own. Raises
    BadOption for a name that is not known, or an existing file of another form.
    """
    threads = threads or min(torch.get_num_threads(), usable_cores())
    chosen = cases(max_block_ops, list(dict.fromkeys(dtypes)), only)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    if resume and json_path is not None and json_path.exists():
        old = results.read(json_path, problems, "this suite")
        rows = {row_key(r): r for r in old["rows"]}
    document = {"schema": results.SCHEMA, "suite": SUITE, "machine": machine(), "rows": []}
    todo = [(c, without) for c in chosen for without in c.variations()]
    for n, (case, without) in enumerate(todo):
        if progress is not None:
            progress(n, len(todo), f"{case}{f' without {without}' if without else ''}")
        run = Run(
            **dataclasses.asdict(case),
            without=without,
            seconds=seconds,
            values=values if case.operators is None else min(values, FEW_VALUES),
            threads=threads,
        )
        row = _row(run, [])
        if rows.get(row_key(row), row)["status"] in ("ok", "stopped") and row_key(row) in rows:
            continue
        made = [fresh(run, _patience(seconds)) for _ in range(1 if without else repeats)]
        row = _row(run, made)
        rows[row_key(row)] = row
        document["rows"] = list(rows.values())
        if json_path is not None:
            results.put(json_path, document)
    document["rows"] = list(rows.values())
    if progress is not None:
        progress(len(todo), len(todo), "done")
    return document


def _patience(seconds: float) -> float:
    """Seconds after which a process is ended: a layer has several regions, each with its limit."""
    return 20 * seconds + 300


def _row(run: Run, made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(KEYS)
    row.update(
        workload=run.workload,
        params=dict(run.params),
        dtype=run.dtype,
        max_block_ops=run.max_block_ops,
        operators=run.operators,
        without=run.without,
        limit_s=run.seconds,
        limit_states=run.values,
        threads=1 if run.without == "threads" else run.threads,
        runs=len(made),
        status="failed",
        reason="not run",
    )
    if made:
        # Of runs that ended differently (a limit in seconds), the worst one is told.
        told = max(made, key=lambda m: STATUSES.index(m["status"]))
        row.update({k: told.get(k) for k in ("status", "reason", *COUNTS, *OTHERS)})
        for key in TIMES:
            times = [m[key] for m in made if m.get(key) is not None]
            row[key] = statistics.median(times) if times else None
    return row


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a row the same measurement as another one."""
    params = tuple(sorted(row["params"].items()))
    limits = row["limit_s"], row["limit_states"], row["threads"]
    bounds = row["max_block_ops"], row["operators"]
    return row["workload"], params, row["dtype"], *bounds, row["without"], *limits


def problems(document: Any) -> list[str]:
    """What is wrong with a document of this suite, in words; empty when it has its form."""
    found = results.envelope_problems(document)
    if found:
        return found
    if document["suite"] != SUITE:
        return [f"suite {document['suite']!r} is not {SUITE!r}"]
    for n, row in enumerate(document["rows"]):
        if set(row) != set(KEYS):
            found.append(f"row {n}: keys differ: {sorted(set(row) ^ set(KEYS))}")
            continue
        if row["status"] not in STATUSES:
            found.append(f"row {n}: status {row['status']!r}")
        if row["status"] != "ok" and not row["reason"]:
            found.append(f"row {n}: {row['status']} without a reason")
        if row["status"] == "ok" and not (row["states"] and row["runs"]):
            found.append(f"row {n}: ok without figures")
        if row["status"] == "ok" and not row["closed"] and not row["reason"]:
            found.append(f"row {n}: not closed without a reason")
        if row["without"] not in ("", *TECHNIQUES):
            found.append(f"row {n}: without {row['without']!r}")
    return found
