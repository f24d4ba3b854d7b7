"""The results of a suite: the JSON form of its rows, its checks, and atomic writing.

The form is ``{"schema": 1, "suite": …, "machine": {…}, "rows": […]}``, with one row for each
(workload, params, dtype, peer). Every suite keeps it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from superopt.errors import BadOption

SCHEMA = 1
OURS = "superopt"
STATUSES = ("ok", "skipped", "failed", "not_measured")
CACHES = ("cold", "warm")
WINNERS = ("generated", "eager", "inductor")
OUR_KEYS = ("search_s", "compile_s", "states", "winner", "generated_median_s")


@dataclass(frozen=True)
class Row:
    """One row; times in seconds, None where nothing was measured.

    peer: "superopt" for ours; median_s, iqr_s: of the callable a user gets (for ours the winner);
    floor_s: see ``floors``; max_rel_error: max |y - ref| / max |ref| against float64; correct: that
    error is within a factor of eager's; cache: whether the data caches were evicted before each
    run. The last five are ours alone: generated_median_s is that of the generated kernels, also
    when a fallback won.
    """

    workload: str
    params: Mapping[str, int]
    dtype: str
    peer: str
    peer_version: str
    status: str
    reason: str
    median_s: float | None
    iqr_s: float | None
    floor_s: float | None
    max_rel_error: float | None
    correct: bool | None
    threads: int
    cache: str
    search_s: float | None = None
    compile_s: float | None = None
    states: int | None = None
    winner: str | None = None
    generated_median_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON; a number that is not finite becomes null."""
        out = asdict(self)
        out["params"] = dict(self.params)
        for name, value in out.items():
            if isinstance(value, float) and not math.isfinite(value):
                out[name] = None
        if self.peer != OURS:
            for name in OUR_KEYS:
                del out[name]
        return out


KEYS = tuple(f.name for f in fields(Row) if f.name not in OUR_KEYS)


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a row the same measurement as another one."""
    params = tuple(sorted(row["params"].items()))
    return row["workload"], params, row["dtype"], row["threads"], row["cache"], row["peer"]


def envelope_problems(document: Any) -> list[str]:
    """What is wrong with a document apart from its rows, which each suite checks."""
    if not isinstance(document, dict):
        return ["not an object"]
    keys = ("schema", "suite", "machine", "rows")
    found = [f"key {k} is missing" for k in keys if k not in document]
    if not found and document["schema"] != SCHEMA:
        found.append(f"schema {document['schema']!r} is not {SCHEMA}")
    return found


def problems(document: Any) -> list[str]:
    """What is wrong with a document, in words; empty when it has the form above."""
    if found := envelope_problems(document):
        return found
    for n, row in enumerate(document["rows"]):
        wanted = set(KEYS) | (set(OUR_KEYS) if row.get("peer") == OURS else set())
        if set(row) != wanted:
            found.append(f"row {n}: keys differ: {sorted(set(row) ^ wanted)}")
            continue
        if row["status"] not in STATUSES or row["cache"] not in CACHES:
            found.append(f"row {n}: status {row['status']!r}, cache {row['cache']!r}")
        if row["status"] == "ok" and not isinstance(row["median_s"], float):
            found.append(f"row {n}: ok without a median")
        if row["status"] != "ok" and not row["reason"]:
            found.append(f"row {n}: {row['status']} without a reason")
        if row["peer"] == OURS and row["winner"] not in (*WINNERS, None):
            found.append(f"row {n}: winner {row['winner']!r}")
    return found


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Writes the document beside its place and renames it there: never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def load(path: Path) -> Any:
    """The JSON at ``path``; BadOption if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOption(
            f"{path} cannot be read: {error}", "option --json", "give another file, or delete it"
        ) from error


def put(path: Path, document: Mapping[str, Any]) -> None:
    """``write``; BadOption if it cannot be written."""
    try:
        write(path, document)
    except OSError as error:
        raise BadOption(
            f"the results cannot be written: {error}", "option --json", "name another file"
        ) from error


def read(
    path: Path, check: Callable[[Any], list[str]] = problems, of: str = "a suite"
) -> dict[str, Any]:
    """The document at ``path``; BadOption if it cannot be read or has another form.

    check: what is wrong with a document, as ``problems`` tells it for suites that time workloads.
    """
    document = load(path)
    if wrong := check(document):
        raise BadOption(
            f"{path} does not hold results of {of}: {wrong[0]}",
            "option --json",
            "give another file, or delete it",
        )
    return dict(document)
