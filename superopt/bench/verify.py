"""The suite ``verify``: whether the verifier and the numeric gate can be trusted, by mutation.

What must be refused is made by breaking programs and kernels in one place; what must be shown equal
comes from the search's own derivations and from a list of identities. A mutant that is accepted is held
against float64, and where no difference is seen, an argument must say why there is none.
"""

from __future__ import annotations

import concurrent.futures
import fnmatch
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from superopt.bench import results, verify_cases
from superopt.bench.identities import IDENTITIES, NEAR_MISSES
from superopt.bench.machine import machine
from superopt.bench.verify_tasks import LISTED, RANDOM, TASKS, Task, done
from superopt.config import usable_cores
from superopt.errors import BadOption, closest
from superopt.pipeline.mutation_fields import cases as field_cases

SUITE = "verify"
PROGRAMS = 52
"""Tasks of random programs, of ``RANDOM`` programs each."""

KEYS = (
    "part",
    "case",
    "tried",
    "rewritten",
    "rejected",
    "accepted",
    "explained",
    "kinds",
    "bounds",
    "wrong",
    "unexplained",
    "seconds",
    "more",
    "task",
    "share",
    "wall_s",
    "host",
    "status",
    "reason",
)
"""The keys of a row; see ``verify_tasks.Row``. share: of the counts of the whole suite; wall_s: of the
task, with what is not a check; host: the machine that the row is of, since a file may be resumed on
another one."""

STATUSES = ("ok", "wrong", "failed")
PARTS = (
    "graph mutants",
    "outputs and inputs",
    "rewrites",
    "identities",
    "near misses",
    "tiny fields",
    "kernel mutants",
)

Progress = Callable[[int, int, str], None]


def tasks(only: Sequence[str] = ()) -> list[Task]:
    """What the suite does, longest first; only: patterns of the parts or of what they try.

    Raises BadOption for a pattern that fits nothing.
    """
    every = verify_cases.cases()
    out: list[Task] = [("kernel mutants", n) for n in range(len(verify_cases.KERNELS))]
    out += [("graph mutants", c) for c in reversed(every)]
    out += [("random rewrites", n * RANDOM) for n in range(PROGRAMS)]
    out += [("outputs and inputs", c) for c in every]
    out += [("rewrites", c) for c in every]
    out += [("tiny fields", n) for n in range(len(field_cases()))]
    out += [("identities", n) for n in range(0, len(IDENTITIES), LISTED)]
    out += [("near misses", n) for n in range(0, len(NEAR_MISSES), LISTED)]
    chosen = [t for t in out if not only or any(_fits(t, o) for o in only)]
    for pattern in only:
        if not any(_fits(t, pattern) for t in out):
            known = [*TASKS, *{c.workload for c in every}, *(k.name for k in verify_cases.KERNELS)]
            what = f"suite {SUITE} has no part or workload {pattern!r}"
            raise BadOption(what, "option --only", closest(pattern, known))
    return chosen


def _fits(task: Task, pattern: str) -> bool:
    kind, value = task
    named = verify_cases.KERNELS[value].name if kind == "kernel mutants" else str(value)
    names = [kind, named, getattr(value, "workload", "")]
    return any(fnmatch.fnmatch(n, pattern) for n in names if n)


def run_verify_suite(
    *,
    json_path: Path | None = None,
    threads: int | None = None,
    only: Sequence[str] = (),
    share: float = 1.0,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs the suite and returns its document (``results``), written after every task.

    threads: processes that work side by side; share: of the counts, for a look at it; resume: keep the
    rows of ``json_path`` that are not failed. Raises BadOption as ``tasks`` does, or for an existing
    file of another form.
    """
    if not 0 < share <= 1:
        raise BadOption(f"a share of {share}", "option --share", "give a number from 0 to 1")
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    if resume and json_path is not None and json_path.exists():
        old = results.read(json_path, problems, "this suite")
        rows = {(r["task"], r["share"]): r for r in old["rows"] if r["status"] != "failed"}
    todo = [t for t in tasks(only) if (_name(t), share) not in rows]
    host = machine()
    document = {"schema": results.SCHEMA, "suite": SUITE, "machine": host, "rows": []}
    if json_path is not None:
        results.put(json_path, document)  # what cannot be written is better known before
    count = max(1, min(threads or usable_cores(), len(todo)))
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=context)
    try:
        running = {pool.submit(done, t, share): t for t in todo}
        for n, future in enumerate(concurrent.futures.as_completed(running)):
            task = running[future]
            row = {**_row(task, share, future), "host": host_of(host)}
            rows[row["task"], share] = row
            document["rows"] = ordered(list(rows.values()))
            if json_path is not None:
                results.put(json_path, document)
            if progress is not None:
                progress(n + 1, len(todo), f"{row['part']}: {row['case']}: {row['status']}")
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    document["rows"] = ordered(list(rows.values()))
    return document


def host_of(found: Mapping[str, Any]) -> str:
    """A machine in words."""
    features = ", ".join(found.get("features", ())) or found.get("arch", "")
    l2 = found.get("caches", {}).get("L2", "?")
    return f"{found.get('cpu') or 'an unknown processor'} ({features}; L2 {l2})"


def _name(task: Task) -> str:
    return f"{task[0]}: {task[1]}"


def _row(task: Task, share: float, future: concurrent.futures.Future[Any]) -> dict[str, Any]:
    error = future.exception()
    if error is not None:
        part = "rewrites" if task[0] == "random rewrites" else task[0]
        empty: dict[str, Any] = {k: {} for k in KEYS}
        empty.update(part=part, case=str(task[1]), tried=0, rewritten=0, wrong=[], unexplained=[])
        empty.update(task=_name(task), share=share, wall_s=0.0, status="failed")
        empty["seconds"] = dict.fromkeys(("total", "median", "p90", "max"), 0.0)
        return {**empty, "reason": f"{type(error).__name__}: {error}"[:300]}
    row: dict[str, Any] = future.result()
    status = "wrong" if row["wrong"] else "ok"
    return {**row, "status": status, "reason": row["wrong"][0] if row["wrong"] else ""}


def ordered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by part, as in ``PARTS``, then by case."""
    return sorted(rows, key=lambda r: (PARTS.index(r["part"]), r["case"], r["share"]))


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
        if row["part"] not in PARTS or row["status"] not in STATUSES:
            found.append(f"row {n}: part {row['part']!r}, status {row['status']!r}")
        if row["status"] != "ok" and not row["reason"]:
            found.append(f"row {n}: {row['status']} without a reason")
        said = sum(row["rejected"].values()) + sum(row["accepted"].values())
        if row["part"] != "tiny fields" and said != row["tried"]:
            found.append(f"row {n}: {row['tried']} tried, but {said} judged")
    return found
