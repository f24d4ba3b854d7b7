"""The second check of winners, at the sizes that they are run at: Mirage's workloads in the compiled field.

The program is compared with the graph that the search places first. Usage:
python tools/own_sizes.py [--json OUT] [--runs N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from superopt.bench.machine import machine
from superopt.bench.workloads import WORKLOADS
from superopt.pipeline.mutation import pieces, placed
from superopt.verify.whole import check_at_own_sizes

MOST_WORK = 1 << 32
"""Elements that a check may compute here; the pipeline allows fewer."""


def measured(runs: int) -> list[dict[str, Any]]:
    """One row for each program and size."""
    rows = []
    for w in WORKLOADS:
        if "mirage" not in w.suites:
            continue
        for params in w.grid:
            (piece,) = pieces(w.reference, w.inputs(params, torch.float32), "default")
            (winner,) = placed(piece.graph, 1, 2, 1 << 20)
            seconds = []
            for seed in range(runs):
                begun = time.perf_counter()
                found = check_at_own_sizes(piece.graph, winner.graph, seed=seed, max_work=MOST_WORK)
                seconds.append(time.perf_counter() - begun)
                if found is not None and not found:
                    raise SystemExit(f"{w.name} {params}: {found.reason}")
            if found is None:  # a value of more elements than are checked
                rows.append({"program": w.name, "params": dict(params), "checked": False})
                print(f"{w.name:24} {params}  not checked", flush=True)
                continue
            rows.append(
                {
                    "program": w.name,
                    "params": dict(params),
                    "checked": True,
                    "sizes": {k: n for s in found.sizes for k, n in s},
                    "elements_compared": found.clean,
                    "elements": found.total,
                    "work": found.work,
                    "median_s": statistics.median(seconds),
                    "max_s": max(seconds),
                }
            )
            print(f"{w.name:24} {params}  {statistics.median(seconds):.2f} s", flush=True)
    return rows


def main() -> None:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    wanted = parser.parse_args()
    document = {"machine": machine(), "runs": wanted.runs, "summary": measured(wanted.runs)}
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
