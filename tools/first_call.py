"""Measures first calls: with a cold cache, and in new processes with a warm one.

Each call runs in a process of its own, and is timed there from the call to its result; importing
torch and superopt is timed apart. Usage: python tools/first_call.py [--json OUT] [--cold N] [--warm N]
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

PROGRAMS = {
    "rmsnorm_linear 16x4096x6144": """
def program(x, g, w):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), g) @ w
args = torch.randn(16, 4096), torch.randn(4096), torch.randn(4096, 6144) / 64
""",
    "gpt2_block 1x32x768": """
class Block(torch.nn.Module):
    def __init__(self, d=768, heads=12):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
        self.qkv, self.proj = torch.nn.Linear(d, 3 * d), torch.nn.Linear(d, d)
        self.up, self.down = torch.nn.Linear(d, 4 * d), torch.nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2)
                   for y in self.qkv(self.ln1(x)).split(d, -1))
        a = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(a.transpose(1, 2).reshape(b, t, d))
        return x + self.down(torch.nn.functional.gelu(self.up(self.ln2(x)), approximate="tanh"))
program = Block().eval()
args = (torch.randn(1, 32, 768),)
""",
}

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
torch.manual_seed(0)
{program}
with torch.no_grad():
    fast = superoptimize(program, strict=True)
    begun = time.perf_counter()
    y = fast(*args)
    call_s = time.perf_counter() - begun
    error = float((y - program(*args)).abs().max() / y.abs().max())
    result = fast.result(*args)
print(json.dumps(dict(
    torch_s=torch_s, import_s=import_s, call_s=call_s, cache=result.cache, winner=result.winner,
    max_rel_error=error, compiles=sum(" -c " in s or " -o " in s for s in started),
    timings=result.timings, threads=torch.get_num_threads(),
)))
"""


def child(name: str, folder: str) -> dict[str, Any]:
    """One first call in a new process that uses this cache folder."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.replace("{program}", PROGRAMS[name])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SUPEROPT_CACHE_DIR": folder},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"program": name, **json.loads(done.stdout.strip().splitlines()[-1])}


def measured(name: str, cold: int, warm: int) -> list[dict[str, Any]]:
    """Calls with an empty cache each, then calls with that of the last one."""
    rows: list[dict[str, Any]] = []
    for n in range(cold):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(child(name, folder))
            if n == cold - 1:
                rows += [child(name, folder) for _ in range(warm)]
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the calls with a cold and with a warm cache."""
    out = {}
    for cache in ("cold", "warm"):
        mine = [r for r in rows if r["cache"] == cache]
        calls = [r["call_s"] for r in mine]
        out[cache] = {
            "runs": len(mine),
            "median_call_s": statistics.median(calls),
            "slowest_call_s": max(calls),
            "median_import_s": statistics.median(r["import_s"] for r in mine),
            "compiles": [r["compiles"] for r in mine],
            "winners": sorted({r["winner"] for r in mine}),
        }
    return out


def main() -> None:
    """Measures, prints a line for each program, and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cold", type=int, default=3)
    parser.add_argument("--warm", type=int, default=7)
    wanted = parser.parse_args()
    from superopt.bench.machine import machine

    document: dict[str, Any] = {"schema": 1, "suite": "first_call", "machine": machine()}
    document.update(dtype="f32", summary={}, rows=[])
    for name in PROGRAMS:
        rows = measured(name, max(wanted.cold, 1), max(wanted.warm, 1))
        document["rows"] += rows
        document["summary"][name] = summary(rows)
        print(name, json.dumps(document["summary"][name]), flush=True)
    if wanted.json:
        wanted.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
