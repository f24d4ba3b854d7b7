"""What ``superopt bench`` knows: its suites, its peers and its workloads."""

from __future__ import annotations

import json
from pathlib import Path

from superopt.bench.peers import PEERS
from superopt.bench.workloads import OTHERS, SUITES, WORKLOADS
from superopt.errors import BadOption


def listed(path: Path | None) -> list[str]:
    """The lines to print: plain text, or JSON where ``path`` is "-"; none where it is a file.

    Then the file is written as JSON; BadOption if it cannot be.
    """
    if path is None:
        return [
            f"suites: {', '.join((*SUITES, *OTHERS))}",
            *(f"peer {p.name}: {p.missing() or p.version()}" for p in PEERS),
            *(
                f"{w.name} ({', '.join(w.suites)}; {len(w.grid)} sizes): {w.note}"
                for w in WORKLOADS
            ),
        ]
    value = {
        "suites": [*SUITES, *OTHERS],
        "peers": [{"name": p.name, "version": p.version(), "missing": p.missing()} for p in PEERS],
        "workloads": [
            {"name": w.name, "suites": list(w.suites), "sizes": len(w.grid), "note": w.note}
            for w in WORKLOADS
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
