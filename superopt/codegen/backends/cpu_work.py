"""How long a program takes on one core, as C text: whether other threads are worth waking."""

from __future__ import annotations

from superopt.codegen.backends.cpu_isa import Isa
from superopt.codegen.backends.cpu_layout import size_num
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.tile_analysis import parts
from superopt.mugraph.tileir import Apply, Compute, Program, statements

WAKE_S = 6e-6
"""Seconds that a parallel region may cost beyond its work. Measured on two Zen 4 cores with GCC's
OpenMP: 1.1 us while the pool still spins (a region ran less than a millisecond ago), 4 us after 3 ms,
46 us once its threads sleep; in between, since a kernel cannot know which it will meet."""

POINT_S = 0.1e-9
"""Seconds of a point of iteration before anything is computed: its loads and stores, from a cache."""

FLOP_S = 0.034e-9
"""Seconds of an operation of the scalar table's ``flops`` in a vector of 64 bytes; as many times longer
as vectors are narrower."""


def seconds(program: Program, isa: Isa) -> str:
    """Seconds of the whole program on one core, as a C double of its size symbols."""
    slower = 64 / max(isa.vector_bytes, 4)
    numbers = {p.number for p in program.parts}
    costs: dict[str, float] = {}
    for stmt in statements(program.body):
        axes = dict.fromkeys((*stmt.axes, *stmt.over, *program.task_tiles))
        points = " * ".join(size_num(a.size).text for a in axes if a not in numbers) or "1"
        cost = POINT_S + _flops(stmt) * FLOP_S * slower
        costs[points] = costs.get(points, 0.0) + cost
    # The first factor makes the product one of doubles.
    return " + ".join(f"{cost:.3e} * {points}" for points, cost in costs.items()) or "0.0"


def _flops(stmt: Compute) -> int:
    of_parts = (
        SCALARS[e.op].flops for e in parts(stmt.expr) if isinstance(e, Apply) and e.op in SCALARS
    )
    return sum(of_parts) + (stmt.reduce is not None)
