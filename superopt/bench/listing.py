"""What ``superopt bench`` knows: its suites, its peers and its workloads."""

from __future__ import annotations

import json
from pathlib import Path

from superopt.bench.cpu.peers import RIVALS
from superopt.bench.cpu.rows import ROWS
from superopt.bench.peers import PEERS, Installed
from superopt.bench.results import OURS
from superopt.bench.workloads import OTHERS, SUITES, WORKLOADS
from superopt.errors import BadOption


def _peers() -> list[Installed]:
    """Those of the suites in this process, then those that the suite cpu has beside them."""
    known = {p.name for p in PEERS}
    return [*PEERS, *(r for r in RIVALS if r.name not in known and r.name != OURS)]


def listed(path: Path | None) -> list[str]:
    """The lines to print: plain text, or JSON where ``path`` is "-"; none where it is a file.

    Then the file is written as JSON; BadOption if it cannot be.
    """
    if path is None:
        return [
            f"suites: {', '.join((*SUITES, *OTHERS))}",
            *(f"peer {p.name}: {p.missing() or p.version()}" for p in _peers()),
            *(
                f"{w.name} ({', '.join(w.suites)}; {len(w.grid)} sizes): {w.note}"
                for w in (*WORKLOADS, *ROWS)
            ),
        ]
    value = {
        "suites": [*SUITES, *OTHERS],
        "peers": [
            {"name": p.name, "version": p.version(), "missing": p.missing()} for p in _peers()
        ],
        "workloads": [
            {"name": w.name, "suites": list(w.suites), "sizes": len(w.grid), "note": w.note}
            for w in (*WORKLOADS, *ROWS)
        ],
    }
    text = json.dumps(value, indent=1)
    if str(path) == "-":
        return [text]
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        what = f"the list cannot be written: {error}"
        raise BadOption(what, "option --json", "name another file") from error
    return []
