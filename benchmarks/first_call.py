"""The first call of RMSNorm+Linear: with a cold cache, and in new processes with a warm one.

Each call runs in a process of its own, and is timed there from the call to its result; importing
torch and superopt is timed apart. Usage: python benchmarks/first_call.py [--json OUT] [--warm N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = {"tokens": 16, "k": 4096, "n": 6144}

CHILD = """
import json, subprocess, sys, time
begun = time.perf_counter()
import torch
torch_s = time.perf_counter() - begun
begun = time.perf_counter()
from superopt import superoptimize
import_s = time.perf_counter() - begun
started = []
spawn = subprocess.Popen.__init__
def counted(self, args, *rest, **more):
    started.append(args if isinstance(args, str) else " ".join(map(str, args)))
    spawn(self, args, *rest, **more)
subprocess.Popen.__init__ = counted

def rmsnorm_linear(x, g, w):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), g) @ w

torch.manual_seed(0)
x, g, w = torch.randn({tokens}, {k}), torch.randn({k}), torch.randn({k}, {n}) / {k} ** 0.5
with torch.no_grad():
    fast = superoptimize(rmsnorm_linear, strict=True)
    begun = time.perf_counter()
    y = fast(x, g, w)
    call_s = time.perf_counter() - begun
    error = float((y - rmsnorm_linear(x, g, w)).abs().max() / y.abs().max())
    result = fast.result(x, g, w)
print(json.dumps(dict(
    torch_s=torch_s, import_s=import_s, call_s=call_s, cache=result.cache, winner=result.winner,
    max_rel_error=error, compiles=sum(" -c " in s or " -o " in s for s in started),
    timings=result.timings, threads=torch.get_num_threads(),
)))
"""


def child(folder: str) -> dict[str, Any]:
    """One first call in a new process that uses this cache folder."""
    done = subprocess.run(
        [sys.executable, "-c", _filled()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SUPEROPT_CACHE_DIR": folder},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _filled() -> str:
    text = CHILD
    for name, value in SIZES.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def main() -> None:
    """Measures, prints a table, and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cold", type=int, default=3)
    parser.add_argument("--warm", type=int, default=7)
    wanted = parser.parse_args()
    from superopt.bench.machine import machine

    rows: list[dict[str, Any]] = []
    for _ in range(wanted.cold):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(child(folder))
            if len(rows) == wanted.cold:
                rows += [child(folder) for _ in range(wanted.warm)]
    summary = {}
    for cache in ("cold", "warm"):
        mine = [r for r in rows if r["cache"] == cache]
        calls = [r["call_s"] for r in mine]
        summary[cache] = {
            "runs": len(mine),
            "median_call_s": statistics.median(calls),
            "slowest_call_s": max(calls),
            "median_import_s": statistics.median(r["import_s"] for r in mine),
            "compiles": [r["compiles"] for r in mine],
        }
        print(cache, json.dumps(summary[cache]))
    document = {
        "schema": 1,
        "suite": "first_call",
        "machine": machine(),
        "params": SIZES,
        "dtype": "f32",
        "summary": summary,
        "rows": rows,
    }
    if wanted.json:
        wanted.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
