"""Superoptimizes blocks of a real decoder layer on real input, and times them beside PyTorch.

One decode step of SmolLM2-135M runs on a real prompt; the RMSNorm and projections, the gated MLP
and the attention of one layer are then optimized with the weights and tensors of that step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import smollm2
import torch
import torch.nn.functional as F
from torch import Tensor

from superopt import report, superoptimize
from superopt.bench.floors import Floors
from superopt.bench.machine import machine
from superopt.bench.measure import measure
from superopt.bench.peers import peer
from superopt.bench.suite import FACTOR, outputs, relative_error
from superopt.bench.table import seconds

EPS = 1e-5  # of SmolLM2's configuration


def rmsnorm_projections(x, gain, wq, wk, wv):
    """The input norm and the q, k and v projections."""
    y = F.rms_norm(x, (x.shape[-1],), gain, EPS)
    return F.linear(y, wq), F.linear(y, wk), F.linear(y, wv)


def gated_mlp(x, w_gate, w_up, w_down):
    """The gated MLP and its down projection."""
    return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)


def attention(q, k, v):
    """One query over the cached keys and values; a head of k and v serves several of q."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
    return (weights @ v).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Block:
    """A function, its real arguments, what the model itself computed, and its operations."""

    name: str
    fn: Callable[..., object]
    args: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]
    flops: int


@dataclass
class Line:
    """One line of the final table; times in seconds."""

    name: str
    dtype: str
    times: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    floor: float | None = None
    winner: str = "-"
    error: str = "-"
    search: float | None = None
    wrong: bool = False


def blocks(layer: smollm2.Layer) -> list[Block]:
    """The three blocks of the captured layer."""
    w = layer.weights
    qkv = tuple(w[f"self_attn.{n}_proj.weight"] for n in "qkv")
    mlp = tuple(w[f"mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
    heads, steps, d = layer.q.shape[1], layer.k.shape[2], layer.q.shape[3]
    return [
        Block(
            "RMSNorm + q, k, v",
            rmsnorm_projections,
            (layer.x, w["input_layernorm.weight"], *qkv),
            layer.projections,
            2 * sum(m.numel() for m in qkv),
        ),
        Block(
            "gated MLP",
            gated_mlp,
            (layer.mlp_in, *mlp),
            (layer.mlp_out,),
            2 * sum(m.numel() for m in mlp),
        ),
        Block(
            "attention",
            attention,
            (layer.q, layer.k, layer.v),
            (layer.attended,),
            heads * steps * (4 * d + 4),
        ),
    ]


@torch.no_grad()
def run(
    block: Block, dtype: torch.dtype, budget: str, floors: Floors, duration: float, tell: bool
) -> Line:
    """Optimizes one block, checks it, and times it beside eager and torch.compile."""
    line = Line(block.name, str(dtype).removeprefix("torch."))
    args = tuple(a.to(dtype) for a in block.args)
    wanted = outputs(block.fn(*(a.double() for a in args)))
    eager = outputs(block.fn(*args))
    tolerance = FACTOR * max(relative_error(eager, wanted) or 0.0, torch.finfo(dtype).eps)
    if dtype == torch.float32:
        # The function of this file is the model's own block: same tensors in, same tensors out.
        away = relative_error(eager, block.expected)
        print(f"  this function against the model's own module: error {away:.1e}")

    calls: dict[str, Callable[[], object]] = {"eager": lambda: block.fn(*args)}
    try:
        compiled = peer("inductor").prepare(block.fn, args)
        calls["torch.compile"] = lambda: compiled(*args)
    except Exception as error:
        line.notes.append(f"torch.compile failed: {type(error).__name__}: {str(error)[:200]}")

    optimized = superoptimize(block.fn, budget=budget)
    begun = time.perf_counter()
    try:
        result = optimized.result(*args)
    except Exception as error:
        # The demo goes on with the other blocks, and ends with status 1.
        line.notes.append(f"superopt generated nothing: {type(error).__name__}: {error}")
        line.wrong = True
        result = None
    if result is not None:
        line.search = time.perf_counter() - begun
        line.winner = result.winner
        if tell:
            print(report.explain(result))
        errors = [relative_error(outputs(result.call(*args)), wanted)]
        if result.generated is not None:
            errors.append(relative_error(outputs(result.generated(*args)), wanted))
            calls["generated"] = lambda: result.generated(*args)
        bad = any(e is None or e > tolerance for e in errors)
        line.error = "WRONG" if bad else f"{max(e for e in errors if e is not None):.1e}"
        line.wrong = bad
    # Cold: in the model, other layers run in between, and evict what this one had read.
    line.times = {k: t.median_s for k, t in measure(calls, seconds=duration, cold=True).items()}
    moved = sum(t.numel() * t.element_size() for t in (*args, *eager))
    line.floor = floors.floor(moved, block.flops, dtype)
    return line


def show(lines: list[Line]) -> None:
    """The table of all blocks."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="one decode step, caches cold, medians of interleaved runs")
    for head in ("block", "dtype", "eager", "torch.compile", "generated"):
        table.add_column(head, justify="left" if head in ("block", "dtype") else "right")
    for head in ("eager / generated", "x floor", "first call", "winner", "error"):
        table.add_column(head, justify="right")
    for line in lines:
        made, eager = line.times.get("generated"), line.times["eager"]
        table.add_row(
            line.name,
            line.dtype,
            seconds(eager),
            seconds(line.times.get("torch.compile")),
            seconds(made),
            f"{eager / made:.2f}" if made else "-",
            f"{made / line.floor:.2f}" if made and line.floor else "-",
            seconds(line.search),
            line.winner,
            line.error,
        )
    # Piped into a file, or in a narrow terminal, the table keeps its columns.
    Console(width=max(Console().width, 130)).print(table)
    for line in lines:
        for note in line.notes:
            print(f"{line.name} {line.dtype}: {note}")


def main() -> int:
    """Runs the demo; 1 if anything was wrong or not generated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", default="float32,bfloat16", help="with commas")
    parser.add_argument("--budget", default="15s", help="of each search")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing each block")
    parser.add_argument("--layer", type=int, default=12, help="which decoder layer, 0 to 29")
    options = parser.parse_args()
    about = machine()
    print(f"{about['cpu']}, {about['torch_threads']} threads, torch {about['torch']}")
    print("loading SmolLM2-135M from its package, and running a prompt through it ...")
    layer = smollm2.capture(options.layer)
    print(
        f"layer {layer.index}, one decode step after {layer.context - 1} tokens "
        f"(the model goes on with {layer.next_word!r})"
    )
    lines, floors = [], Floors()
    for word in options.dtypes.split(","):
        dtype = getattr(torch, word)
        for block in blocks(layer):
            shapes = ", ".join(str(list(a.shape)) for a in block.args)
            print(f"\n== {block.name}, {word}: {shapes}", flush=True)
            tell = dtype == torch.float32
            lines.append(run(block, dtype, options.budget, floors, options.seconds, tell))
    print()
    show(lines)
    return int(any(line.wrong for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
