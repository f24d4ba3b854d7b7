"""Searches a function without compiling or running it: what the search did, and what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from superopt import trace
from superopt.codegen.lower import why_not_lowerable
from superopt.cost.devices import Device, cpu_device
from superopt.cost.model import cost_on
from superopt.frontend.capture import capture
from superopt.frontend.partition import Program, partition
from superopt.mugraph.placement import MuGraph, kernel_body
from superopt.runtime.isa import cpu_features
from superopt.search.cut_points import computes
from superopt.search.driver import Budget, Found, search
from superopt.search.gauge import stabilized
from superopt.search.techniques import ALL, Techniques
from superopt.search.workers import workers

__all__ = ["ALL", "Budget", "PieceSearch", "ProgramSearch", "Techniques", "search_function"]


@dataclass(frozen=True)
class PieceSearch:
    """The search over one piece of a program.

    name: of the piece; nodes: of its graph; seconds: wall time, of which ``phases`` are algebra,
    cut (with coarse placements) and placement; cpu_s: processor time of the process; values: terms
    tried, classes: values found among them; removed: terms and derivations by rule; graphs: term
    graphs costed, kernels: kernels costed; closed: whether the algebraic space of every region in
    ``spaces`` was exhausted; candidates: placed programs, best first; why_none: why there are none.
    """

    name: str
    nodes: int
    seconds: float
    cpu_s: float
    phases: Mapping[str, float]
    values: int
    classes: int
    removed: Mapping[str, int]
    graphs: int
    kernels: int
    closed: bool
    spaces: Sequence[Mapping[str, Any]]
    why_none: str
    candidates: tuple[MuGraph, ...] = field(repr=False)
    predicted_s: float | None = None

    def best_kernels(self) -> list[int]:
        """The compute nodes in each kernel of the best placed program."""
        if not self.candidates:
            return []
        best = self.candidates[0]
        return [
            sum(computes(best.graph, i) for i in kernel_body(best, k))
            for k in range(len(best.kernels))
        ]


@dataclass(frozen=True)
class ProgramSearch:
    """The searches over the pieces of a function; capture_s: seconds of the frontend.

    boundaries: the operators that stay in PyTorch, each with the reason.
    """

    pieces: tuple[PieceSearch, ...]
    boundaries: tuple[tuple[str, str], ...]
    capture_s: float


def search_function(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    budget: Budget | None = None,
    techniques: Techniques = ALL,
    max_block_ops: int | None = None,
    precision: str = "default",
    device: Device | None = None,
    seed: int = 0,
    processes: int = 1,
) -> ProgramSearch:
    """Captures ``fn`` on ``args``, whose values do not matter, and searches every piece.

    budget: of each piece, none by default; device: the row of the device table, this machine's by
    default; processes: that work on a search, see ``Processes``. Raises SuperoptError where the
    function cannot be captured.
    """
    began = time.perf_counter()
    with trace.stage("frontend"):
        program: Program = partition(capture(fn, args), precision)
    captured_s = time.perf_counter() - began
    device = device or cpu_device(cpu_features(), torch.get_num_threads())
    pieces = []
    for piece in program.supported:
        spend = budget or Budget()
        graph = stabilized(piece.graph) or piece.graph
        mine = replace(spend, started=time.perf_counter(), used=0)
        cpu, wall = time.process_time(), time.perf_counter()
        with trace.stage("search"), workers("", processes) as who:
            who.expect(len(graph.nodes))
            found = search(
                graph,
                cost_on(device),
                mine,
                seed=seed,
                lowerable=why_not_lowerable,
                workers=who,
                techniques=techniques,
                max_block_ops=max_block_ops,
            )
            seconds = (time.perf_counter() - wall, time.process_time() - cpu)
        pieces.append(_piece(graph.name, len(graph.nodes), found, *seconds))
    boundaries = tuple((b.op, b.reason) for b in program.boundaries)
    return ProgramSearch(tuple(pieces), boundaries, captured_s)


def _piece(name: str, nodes: int, found: Found, seconds: float, cpu_s: float) -> PieceSearch:
    stats = found.stats
    return PieceSearch(
        name,
        nodes,
        seconds,
        cpu_s,
        {phase: stats[f"{phase}_s"] for phase in ("algebra", "cut", "placement")},
        stats["values"],
        sum(s["classes"] for s in stats["spaces"]),
        stats["removed"],
        stats["graphs"],
        stats["kernels_costed"],
        stats["closed"],
        stats["spaces"],
        found.why_none,
        tuple(c.mugraph for c in found.candidates),
        found.candidates[0].seconds if found.candidates else None,
    )
