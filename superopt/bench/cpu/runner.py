"""The coordinator of the suite: one process per peer, runs in rotation, a floor beside each case."""

from __future__ import annotations

import fnmatch
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from superopt.bench import results
from superopt.bench.cpu import native
from superopt.bench.cpu.cases import SECONDS, Case, Limits, Setting, write_reference
from superopt.bench.cpu.document import case_key, floor, problems, times
from superopt.bench.cpu.peers import RIVALS, Rival, rival
from superopt.bench.cpu.process import Gone, Process, at_priority
from superopt.bench.cpu.rows import ROWS, SUITE
from superopt.bench.inputs import parse_dtype, short
from superopt.bench.machine import machine
from superopt.bench.results import OURS
from superopt.bench.workload import Workload
from superopt.config import usable_cores
from superopt.errors import BadOption, closest

LEAST, MOST = 7, 60
"""Rounds of a case: so many at least, beyond the time if need be, and at most."""

FLOOR = "floor"
"""The label of the process that measures the machine."""

Progress = Callable[[int, int, str], None]


def run_cpu_suite(
    *,
    peers: Sequence[str] = (),
    dtypes: Sequence[str] = ("f32", "bf16"),
    only: Sequence[str] = (),
    threads: int | None = None,
    json_path: Path | None = None,
    seconds: float = SECONDS,
    resume: bool = False,
    ours: bool = True,
    options: Mapping[str, Any] | None = None,
    lock: Path | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures the suite and returns its document, written to ``json_path`` after every case.

    peers: names, or module:NAME of a Rival (none: all); only: patterns of workload names; resume:
    keep cases of ``json_path`` whose rows are all ok or skipped; ours: superopt too; lock: a file
    held while times are taken, at real-time priority. Raises BadOption for a name that is not known
    or a file of another form, and what ``native.build`` raises.
    """
    chosen = [rival(p) for p in dict.fromkeys(peers)] or [r for r in RIVALS if r.name != OURS]
    if ours and OURS not in (r.name for r in chosen):
        chosen.insert(0, rival(OURS))
    kinds = [parse_dtype(d) for d in dict.fromkeys(dtypes)]
    setting = Setting(
        threads or min(torch.get_num_threads(), usable_cores()),
        seconds,
        limits or Limits(),
        options or {},
        lock=lock,
    )
    cases = [Case(w, p, d) for w in _matching(only) for p in w.grid for d in kinds]
    probes = native.build()
    rows: list[dict[str, Any]] = []
    if resume and json_path is not None and json_path.exists():
        rows = results.read(json_path, problems, f"suite {SUITE}")["rows"]
    about = {**machine(), "peers": {r.name: r.version() or "missing" for r in chosen}}
    about["torch_threads"] = setting.threads
    document: dict[str, Any] = {
        "schema": results.SCHEMA,
        "suite": SUITE,
        "machine": about,
        "rows": rows,
    }
    if json_path is not None:
        results.put(json_path, document)  # what cannot be written is better known before hours
    for n, case in enumerate(cases):
        if progress is not None:
            progress(n, len(cases), str(case))
        key = case_key(case.blank(setting, ""))
        here = {r["peer"]: r for r in document["rows"] if case_key(r) == key}
        here_too = [r for r in chosen if r.takes(case.workload.name)]
        labels = [label for r in here_too for label in r.labels]
        if all(here.get(x, {}).get("status") in ("ok", "skipped") for x in labels):
            continue
        made = run_case(case, here_too, setting, probes)
        others = [r for r in document["rows"] if case_key(r) != key or r["peer"] not in labels]
        document["rows"] = [*others, *made]
        if json_path is not None:
            results.put(json_path, document)
    if progress is not None:
        progress(len(cases), len(cases), "done")
    return document


def _matching(only: Sequence[str]) -> list[Workload]:
    for pattern in only:
        if not any(fnmatch.fnmatch(w.name, pattern) for w in ROWS):
            raise BadOption(
                f"suite {SUITE} has no workload {pattern!r}",
                "option --only",
                closest(pattern, [w.name for w in ROWS]),
            )
    return [w for w in ROWS if not only or any(fnmatch.fnmatch(w.name, o) for o in only)]


@dataclass
class _Entry:
    """A peer in a case: its process while it lives, what it said, and its times."""

    rival: Rival
    process: Process | None = None
    status: str = "ok"
    reason: str = ""
    said: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def failed(self, reason: str) -> None:
        """From here on it takes no part."""
        self.status, self.reason = "failed", reason
        self.close()

    def close(self) -> None:
        """Ends its process."""
        if self.process is not None:
            self.process.end()
        self.process = None


@torch.no_grad()
def run_case(
    case: Case, chosen: Sequence[Rival], setting: Setting, probes: Path
) -> list[dict[str, Any]]:
    """The rows of one case: those of every peer, in their order."""
    need = case.need()
    entries = [_Entry(r) for r in chosen]
    measuring = Process(FLOOR, {}, setting.threads)
    try:
        for e in entries:
            if reason := e.rival.unfit(case.dtype):
                e.status, e.reason = "skipped", reason
                continue
            e.process = Process(e.rival.name, e.rival.environment, setting.threads)
        with tempfile.TemporaryDirectory(prefix="superopt-bench-") as place:
            reference = Path(place) / "reference.pt"
            tolerance = write_reference(case, reference)
            asked = {
                "workload": case.workload.name,
                "params": dict(case.params),
                "dtype": short(case.dtype),
                "threads": setting.threads,
                "probes": str(probes),
                "evict_bytes": setting.evict_bytes,
                "reference": str(reference),
                "options": dict(setting.options),
            }
            floors = _measured(measuring, entries, setting, {**asked, "bytes": need.bytes})
    finally:
        measuring.end()
        for e in entries:
            e.close()
    found = floor(need, floors) if floors else None
    return [
        _row(case, setting, e, label, found, tolerance) for e in entries for label in e.rival.labels
    ]


def _measured(
    measuring: Process, entries: Sequence[_Entry], setting: Setting, asked: Mapping[str, Any]
) -> list[dict[str, float]]:
    """Prepares every peer, one after the other, and asks them in rounds; the floor's samples.

    None where the floor's process fails: then no peer of the case counts as measured.
    """
    limits = setting.limits
    try:
        measuring.ready(limits.start_s)
        _alright(measuring.ask("prepare", limits.setup_s, **asked, peer=FLOOR))
        for e in entries:
            _prepare(e, limits, asked)
        floors = _rounds(measuring, entries, setting)
    except Gone as error:
        for e in entries:
            if e.status == "ok":
                e.failed(f"the floor was not measured: {error}")
        return []
    for e in entries:
        _check(e, limits)
    return floors


def _alright(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer that is not a failure; Gone otherwise."""
    if answer.get("status", "ok") == "failed":
        raise Gone(str(answer["reason"]))
    return answer


def _prepare(e: _Entry, limits: Limits, asked: Mapping[str, Any]) -> None:
    if e.process is None:
        return
    try:
        e.process.ready(limits.start_s)
        name = e.rival.found_at or e.rival.name
        e.said = e.process.ask("prepare", limits.setup_s, **asked, peer=name)
    except Gone as error:
        e.failed(f"setup: {error}")
        return
    if e.said["status"] != "ok":
        e.status, e.reason = e.said["status"], e.said["reason"]
        e.close()


def _rounds(
    measuring: Process, entries: Sequence[_Entry], setting: Setting
) -> list[dict[str, float]]:
    """Asks every living process once a round, in an order that rotates; the floor's samples."""
    floors: list[dict[str, float]] = []
    alive = [e for e in entries if e.process is not None]
    parts: list[_Entry | None] = [None, *alive]
    everyone = [measuring, *(e.process for e in alive if e.process is not None)]
    with at_priority(everyone, setting.lock):
        begun = time.perf_counter()
        for n in range(MOST):
            if n >= LEAST and time.perf_counter() - begun > setting.seconds:
                break
            for e in parts[n % len(parts) :] + parts[: n % len(parts)]:
                if e is None:
                    floors.append(_alright(measuring.ask("run", setting.limits.start_s))["floor"])
                elif e.process is not None:
                    _run(e, setting.limits)
    return floors


def _asked(e: _Entry, what: str, limits: Limits) -> Mapping[str, Any] | None:
    """What a process answers; None where there is none, or where it has failed now."""
    if e.process is None:
        return None
    try:
        return _alright(e.process.ask(what, limits.run_s))
    except Gone as error:
        e.failed(f"{what}: {error}")
        return None


def _run(e: _Entry, limits: Limits) -> None:
    if (found := _asked(e, "run", limits)) is not None:
        for name, sample in found["times"].items():
            e.samples.setdefault(name, []).append(sample)


def _check(e: _Entry, limits: Limits) -> None:
    """Holds the outputs against the reference again: a race may show only after many runs."""
    if (found := _asked(e, "check", limits)) is not None:
        first, again = e.said["errors"], found["errors"]
        e.said["errors"] = {n: _worse(first[n], again[n]) for n in first}


def _worse(a: float | str, b: float | str) -> float | str:
    if isinstance(a, str) or isinstance(b, str):
        return a if isinstance(a, str) else b
    return max(a, b)


def _row(
    case: Case,
    setting: Setting,
    e: _Entry,
    label: str,
    found: Mapping[str, Any] | None,
    tolerance: float,
) -> dict[str, Any]:
    out = case.blank(setting, label)
    out["peer_version"] = e.said.get("version") or e.rival.version()
    out["info"] = e.said.get("info") or {}
    out["setup_s"] = e.said.get("setup_s")
    out["floor"] = None if found is None else dict(found)
    samples = e.samples.get(label, [])
    if e.status != "ok" or not samples or found is None:
        out["status"] = e.status if e.status != "ok" else "not_measured"
        out["reason"] = e.reason or "it gave no times"
        return out
    error = e.said["errors"].get(label, "differs")
    out["status"], out["reason"] = "ok", ""
    out["cold"] = times([s["cold"] for s in samples], found["cold"]["floor_s"])
    out["warm"] = times([t for s in samples for t in s["warm"]], found["warm"]["floor_s"])
    if error == "unchecked":
        out["reason"] = "its outputs are not compared with the reference"
        return out
    out["max_rel_error"] = error if isinstance(error, float) else None
    out["correct"] = isinstance(error, float) and error <= tolerance
    if not out["correct"]:
        what = f"{error:.2e}" if isinstance(error, float) else "shape, dtype or finiteness differ"
        out["reason"] = f"wrong: error {what}, allowed {tolerance:.2e}"
    return out
