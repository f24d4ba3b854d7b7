"""First calls: with a cold cache, and in new processes with a warm one.

Of RMSNorm+Linear, and of a whole transformer block with GPT-2's sizes and code as users write it.
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

RMSNORM_LINEAR = """
def fn(x, g, w):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), g) @ w

args = torch.randn(16, 4096), torch.randn(4096), torch.randn(4096, 6144) / 64
"""

GPT2_BLOCK = """
class Block(torch.nn.Module):
    def __init__(self, n=768, heads=12):
        super().__init__()
        nn = torch.nn
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.c_attn, self.c_proj = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.mlp = nn.Sequential(nn.Linear(n, 4 * n), nn.GELU("tanh"), nn.Linear(4 * n, n))

    def attention(self, x):
        b, t, n = x.shape
        parts = self.c_attn(x).split(n, dim=2)
        q, k, v = (p.view(b, t, self.heads, n // self.heads).transpose(1, 2) for p in parts)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, n))

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

fn = Block().eval()
args = (torch.randn(1, 32, 768),)
"""

PROGRAMS = {"rmsnorm_linear 16x4096x6144": RMSNORM_LINEAR, "gpt2_block 1x32x768": GPT2_BLOCK}

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
PROGRAM
with torch.no_grad():
    fast = superoptimize(fn, strict=True)
    begun = time.perf_counter()
    y = fast(*args)
    call_s = time.perf_counter() - begun
    error = float((y - fn(*args)).abs().max() / y.abs().max())
    result = fast.result(*args)
print(json.dumps(dict(
    torch_s=torch_s, import_s=import_s, call_s=call_s, cache=result.cache, winner=result.winner,
    max_rel_error=error, compiles=sum(" -c " in s or " -o " in s for s in started),
    timings=result.timings, threads=torch.get_num_threads(),
)))
"""


def child(program: str, folder: str) -> dict[str, Any]:
    """One first call in a new process that uses this cache folder."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.replace("PROGRAM", PROGRAMS[program])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SUPEROPT_CACHE_DIR": folder},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"program": program, **json.loads(done.stdout.strip().splitlines()[-1])}


def measured(program: str, cold: int, warm: int) -> list[dict[str, Any]]:
    """First calls with empty caches, then in new processes with the last of these caches."""
    rows: list[dict[str, Any]] = []
    for _ in range(cold):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(child(program, folder))
            if len(rows) == cold:
                rows += [child(program, folder) for _ in range(warm)]
    return rows


def main() -> None:
    """Measures, prints a table, and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cold", type=int, default=3)
    parser.add_argument("--warm", type=int, default=7)
    wanted = parser.parse_args()
    from superopt.bench.machine import machine

    rows = [r for p in PROGRAMS for r in measured(p, wanted.cold, wanted.warm)]
    summary: dict[str, dict[str, Any]] = {}
    for program in PROGRAMS:
        for cache in ("cold", "warm"):
            mine = [r for r in rows if (r["program"], r["cache"]) == (program, cache)]
            calls = [r["call_s"] for r in mine]
            summary.setdefault(program, {})[cache] = {
                "runs": len(mine),
                "median_call_s": statistics.median(calls),
                "slowest_call_s": max(calls),
                "median_import_s": statistics.median(r["import_s"] for r in mine),
                "compiles": [r["compiles"] for r in mine],
                "winners": sorted({r["winner"] for r in mine}),
            }
            print(program, cache, json.dumps(summary[program][cache]))
    document = {
        "schema": 1,
        "suite": "first_call",
        "machine": machine(),
        "dtype": "f32",
        "summary": summary,
        "rows": rows,
    }
    if wanted.json:
        wanted.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
