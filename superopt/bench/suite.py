"""Runs a suite: every workload, size and dtype, ours and the peers, checked and timed in turn."""

from __future__ import annotations

import fnmatch
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from superopt import trace
from superopt.bench import peers as table
from superopt.bench import results
from superopt.bench.floors import Floors
from superopt.bench.inputs import parse_dtype, short
from superopt.bench.machine import machine
from superopt.bench.measure import Timing, measure
from superopt.bench.results import OURS, Row, row_key
from superopt.bench.workloads import WORKLOADS, Params, Workload, suite
from superopt.config import Options, usable_cores, version
from superopt.errors import BadOption, SuperoptError, closest

FACTOR = 4.0
"""An output is correct when its error is at most this factor times eager's (or the dtype's eps)."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """One workload at one size and dtype, with the setting it is measured in."""

    workload: Workload
    params: Params
    dtype: torch.dtype
    threads: int
    cold: bool

    def __str__(self) -> str:
        sizes = ",".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.workload.name} {sizes} {short(self.dtype)}"

    def row(self, peer: str, peer_version: str, status: str, reason: str = "", **more: Any) -> Row:
        """A row of this case; what is not given is None."""
        values: dict[str, Any] = dict.fromkeys(
            ("median_s", "iqr_s", "floor_s", "max_rel_error", "correct")
        )
        return Row(
            workload=self.workload.name,
            params=dict(self.params),
            dtype=short(self.dtype),
            peer=peer,
            peer_version=peer_version,
            status=status,
            reason=reason,
            threads=self.threads,
            cache="cold" if self.cold else "warm",
            **{**values, **more},
        )

    def key(self, peer: str) -> tuple[Any, ...]:
        """The key of the row that a peer has in this case."""
        return row_key(self.row(peer, "", "ok").to_json())


def run_suite(
    name: str,
    *,
    peers: Sequence[str] = ("eager", "inductor"),
    dtypes: Sequence[str] = ("f32", "bf16"),
    json_path: Path | None = None,
    threads: int | None = None,
    only: Sequence[str] = (),
    seconds: float = 2.0,
    cold: bool = True,
    resume: bool = False,
    ours: bool = True,
    options: Options | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures a suite and returns its document (see ``results``), written after every case.

    only: patterns of workload names, such as "gqa" or "qwen3*"; seconds: timed wall time of one
    case, shared by its callables; cold: evict the data caches before each run; resume: keep the
    rows of ``json_path`` that are ok or skipped; ours: measure superopt too. Raises BadOption for
    a name that is not known, or an existing file of another form.
    """
    chosen = [table.peer(p) for p in dict.fromkeys(peers)]
    kinds = [parse_dtype(d) for d in dict.fromkeys(dtypes)]
    threads = threads or min(torch.get_num_threads(), usable_cores())
    cases = [
        Case(w, p, d, threads, cold) for w in _matching(name, only) for p in w.grid for d in kinds
    ]
    document: dict[str, Any] = {"schema": results.SCHEMA, "suite": name, "rows": []}
    if resume and json_path is not None and json_path.exists():
        document["rows"] = results.read(json_path)["rows"]
    labels = [*([OURS] if ours else []), *(p.name for p in chosen)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        document["machine"] = machine()
        if json_path is not None:
            _write(json_path, document)  # what cannot be written is better known before hours
        floors = Floors()
        for n, case in enumerate(cases):
            if progress is not None:
                progress(n, len(cases), str(case))
            rows = {row_key(r): r for r in document["rows"]}
            done = [rows.get(case.key(label)) for label in labels]
            if all(r is not None and r["status"] in ("ok", "skipped") for r in done):
                continue
            for row in run_case(case, chosen, floors, seconds, options, ours=ours):
                rows[row_key(row.to_json())] = row.to_json()
            document["rows"] = list(rows.values())
            if json_path is not None:
                _write(json_path, document)
        if progress is not None:
            progress(len(cases), len(cases), "done")
    finally:
        torch.set_num_threads(before)
    return _ordered(document)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    results.put(path, _ordered(document))


def _ordered(document: Mapping[str, Any]) -> dict[str, Any]:
    return {k: document[k] for k in ("schema", "suite", "machine", "rows")}


def _matching(name: str, only: Sequence[str]) -> list[Workload]:
    rows = suite(name)
    chosen = [w for w in rows if not only or any(fnmatch.fnmatch(w.name, o) for o in only)]
    for pattern in only:
        if not any(fnmatch.fnmatch(w.name, pattern) for w in rows):
            known = [w.name for w in (rows or WORKLOADS)]
            raise BadOption(
                f"suite {name} has no workload {pattern!r}",
                "option --only",
                closest(pattern, known),
            )
    return chosen


@dataclass(frozen=True)
class _Entry:
    """Something to run in a case, or why it is not run."""

    version: str
    call: Callable[..., Any] | None
    status: str = "ok"
    reason: str = ""
    result: Any = None


@torch.no_grad()
def run_case(
    case: Case,
    chosen: Sequence[table.Peer],
    floors: Floors,
    seconds: float = 2.0,
    options: Options | None = None,
    *,
    ours: bool = True,
) -> list[Row]:
    """The rows of one case: ours first, then the peers in their order."""
    table.forget()
    fn, args = case.workload.reference, case.workload.inputs(case.params, case.dtype)
    wanted = outputs(fn(*(a.double() if a.is_floating_point() else a for a in args)))
    tolerance = FACTOR * max(
        relative_error(outputs(fn(*args)), wanted) or 0.0, torch.finfo(case.dtype).eps
    )
    entries: dict[str, _Entry] = {}
    if ours:
        entries[OURS] = _prepare_ours(fn, args, options or Options())
    for p in chosen:
        entries[p.name] = _prepare_peer(p, fn, args, case.dtype)
    calls = {name: e.call for name, e in entries.items() if e.call is not None}
    generated = getattr(entries[OURS].result, "generated", None) if ours else None
    if generated is not None:
        calls[_GENERATED] = generated
    errors: dict[str, float | None] = {}
    for name, call in list(calls.items()):
        try:
            errors[name] = relative_error(outputs(call(*args)), wanted)
        except Exception as error:
            del calls[name]
            label = OURS if name == _GENERATED else name
            entries[label] = _failed(entries[label].version, error)
    timings = _timed(calls, args, seconds, case.cold)
    floor = floors.floor(
        case.workload.bytes(case.params, case.dtype),
        case.workload.flops(case.params),
        case.dtype,
        cold=case.cold,
    )
    if _GENERATED in calls and _GENERATED in errors:
        # A race may show only after many runs, and a user may be given either callable.
        again = relative_error(outputs(calls[_GENERATED](*args)), wanted)
        errors[OURS] = _worst(errors.get(OURS), errors[_GENERATED], again)
    rows = [
        _row(case, name, entry, errors.get(name), timings, floor, tolerance)
        for name, entry in entries.items()
    ]
    gc.collect()
    return rows


_GENERATED = "superopt.generated"


def _row(
    case: Case,
    name: str,
    entry: _Entry,
    error: float | None,
    timings: Mapping[str, Timing],
    floor: float,
    tolerance: float,
) -> Row:
    more: dict[str, Any] = {}
    if name == OURS and entry.result is not None:
        spent = entry.result.timings
        made = timings.get(_GENERATED)
        more = {
            "search_s": spent.get("search_s"),
            "compile_s": spent.get("compile_s"),
            "states": entry.result.states,
            "winner": entry.result.winner,
            "generated_median_s": made.median_s if made else None,
        }
    elif name == OURS and entry.status == "ok":
        more = {"winner": "eager"}
    timing = timings.get(name)
    if entry.status != "ok" or timing is None:
        reason = entry.reason or "not timed"
        status = entry.status if entry.status != "ok" else "not_measured"
        return case.row(name, entry.version, status, reason, **more)
    correct = error is not None and error <= tolerance
    reason = entry.reason
    if not correct:
        said = (
            "its outputs differ in shape, dtype or finiteness" if error is None else f"{error:.2e}"
        )
        reason = f"wrong: error {said}, allowed {tolerance:.2e}"
    return case.row(
        name,
        entry.version,
        "ok",
        reason,
        median_s=timing.median_s,
        iqr_s=timing.iqr_s,
        floor_s=floor,
        max_rel_error=error,
        correct=correct,
        **more,
    )


def _timed(
    calls: Mapping[str, Callable[..., Any]],
    args: tuple[torch.Tensor, ...],
    seconds: float,
    cold: bool,
) -> dict[str, Timing]:
    """Timings by name; two names of one callable (a fallback that won) share one measurement."""
    first: dict[int, str] = {}
    for name, call in calls.items():
        first.setdefault(id(call), name)
    unique = {first[id(c)]: lambda c=c: c(*args) for c in calls.values()}
    timings = measure(unique, seconds=seconds, cold=cold)
    return {name: timings[first[id(call)]] for name, call in calls.items()}


def _prepare_ours(
    fn: Callable[..., Any], args: tuple[torch.Tensor, ...], options: Options
) -> _Entry:
    # Imported here: a list of workloads or peers needs no engine.
    from superopt import pipeline

    try:
        result = pipeline.optimize(fn, args, {}, options)
    except SuperoptError as error:
        trace.log("bench", f"nothing was generated: {error.report()}")
        return _Entry(version(), fn, reason=f"nothing generated: {error}")
    except Exception as error:
        return _failed(version(), error)
    return _Entry(version(), result.call, result=result)


def _prepare_peer(
    peer: table.Peer, fn: Callable[..., Any], args: tuple[torch.Tensor, ...], dtype: torch.dtype
) -> _Entry:
    if reason := peer.missing():
        return _Entry("", None, "skipped", reason)
    if dtype not in peer.dtypes:
        return _Entry(peer.version(), None, "skipped", f"takes no {short(dtype)} inputs here")
    try:
        return _Entry(peer.version(), peer.prepare(fn, args))
    except Exception as error:
        return _failed(peer.version(), error)


def _failed(peer_version: str, error: Exception) -> _Entry:
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
    trace.log("bench", reason)
    return _Entry(peer_version, None, "failed", reason)


def outputs(value: Any) -> tuple[torch.Tensor, ...]:
    """A program's output as a tuple of tensors."""
    return (value,) if isinstance(value, torch.Tensor) else tuple(value)


def relative_error(got: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float | None:
    """max |y - ref| / max |ref|, the worst over the outputs; None if they cannot be compared.

    Values that are not finite must stand where the reference has the same ones.
    """
    if len(got) != len(wanted) or any(g.shape != w.shape for g, w in zip(got, wanted, strict=True)):
        return None
    worst = 0.0
    for g, w in zip(got, wanted, strict=True):
        g, finite = g.double(), w.isfinite()
        if not torch.equal(g.isfinite(), finite):
            return None
        if not finite.all() and not torch.equal(
            g[~finite].nan_to_num(nan=7.0), w[~finite].nan_to_num(nan=7.0)
        ):
            return None
        if finite.any():
            scale = w[finite].abs().max().clamp_min(1e-300)
            worst = max(worst, float((g[finite] - w[finite]).abs().max() / scale))
    return worst


def _worst(*errors: float | None) -> float | None:
    return None if any(e is None for e in errors) else max(e for e in errors if e is not None)
