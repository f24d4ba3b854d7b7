"""Well-formedness of kernels: what each stores and reads, where its axes live, what it carries."""

from __future__ import annotations

import math

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Reduce
from superopt.mugraph.moments import MOST_RANK, degree
from superopt.mugraph.parts import split_axes, stats_of, why_not_split
from superopt.mugraph.placement import Carry, Kernel, MuGraph, Split, kernel_body
from superopt.mugraph.prefix import vanishes
from superopt.mugraph.rules import describe, fail, no_twice
from superopt.mugraph.scalars import SCALARS, Arg

MOST_SUMS = 256
"""Vectors of sums in a register tile, on any machine; a backend takes as many as it has room for."""


def check_kernels(mugraph: MuGraph) -> None:
    """Raises IllFormedGraph when a kernel of a placed, well-formed graph breaks a rule."""
    _check_storage(mugraph)
    for k, kernel in enumerate(mugraph.kernels):
        body = kernel_body(mugraph, k)
        _check_reads(mugraph, k, body)
        _check_placement(mugraph, kernel, body)
        for carry in kernel.carries:
            _check_carry(mugraph, kernel, carry, body)
        moved = [c.reduce for c in kernel.carries]
        if len(set(moved)) != len(moved):
            fail("a reduction is carried twice", f"kernel {kernel.name!r}", "keep one carry of it")


def _check_storage(mugraph: MuGraph) -> None:
    """Every output is materialized, and no node is materialized twice."""
    graph = mugraph.graph
    by: dict[int, str] = {}
    names: set[str] = set()
    for kernel in mugraph.kernels:
        where = f"kernel {kernel.name!r}"
        if kernel.name in names:
            fail(f"two kernels are named {kernel.name!r}", where, "rename one of them")
        names.add(kernel.name)
        if not kernel.outputs:
            fail("a kernel that stores nothing", where, "drop the kernel")
        for i in kernel.outputs:
            if type(i) is not int or not 0 <= i < len(graph.nodes):
                fail(f"there is no node %{i}", where, "store nodes of the graph")
            if i in by:
                fail(
                    f"{describe(graph, i)} is materialized twice",
                    f"{where} and kernel {by[i]!r}",
                    "each stored node belongs to one kernel",
                )
            by[i] = kernel.name
    for out in graph.outputs:
        if out.node not in by:
            fail(
                f"output {out.name!r} is materialized by no kernel",
                describe(graph, out.node),
                "add the node to the outputs of one kernel",
            )


def _check_reads(mugraph: MuGraph, position: int, body: list[int]) -> None:
    """A kernel reads inputs and what earlier kernels stored, and nothing else."""
    stored, graph = mugraph.materialized(), mugraph.graph
    inside = set(body)
    for i in body:
        for a in graph.nodes[i].args:
            if a not in inside and stored[a] > position:
                fail(
                    f"{describe(graph, a)} is read before kernel "
                    f"{mugraph.kernels[stored[a]].name!r} stores it",
                    f"kernel {mugraph.kernels[position].name!r}, {describe(graph, i)}",
                    "order kernels so that each reads earlier ones only",
                )


def _check_placement(mugraph: MuGraph, kernel: Kernel, body: list[int]) -> None:
    graph, place = mugraph.graph, kernel.placement
    parted = split_axes(graph, body, place)
    _check_parts(mugraph, kernel, body, parted)
    for level, splits in (("grid", place.grid), ("loop", place.loop)):
        where = f"kernel {kernel.name!r}, {level}"
        no_twice([s.axis for s in splits], where)
        for split in splits:
            _check_tile(split, where)
    for split in place.grid:
        for i in kernel.outputs if split.axis not in parted else ():
            if split.axis not in graph.nodes[i].axes:
                fail(
                    f"grid axis {split.axis.name!r} is no axis of an output",
                    f"kernel {kernel.name!r}, {describe(graph, i)}",
                    "put on the grid what all outputs of the kernel have",
                )
    occurs = _axes_of(mugraph, body)
    for split in place.loop:
        if split.axis not in occurs:
            fail(
                f"loop axis {split.axis.name!r} does not occur in the kernel",
                f"kernel {kernel.name!r}, storing {describe(graph, kernel.outputs[0])}",
                "loop over axes of the kernel's values",
            )
    lane = place.lane
    for name in ("vector", "rows", "cols", "unroll"):
        if type(getattr(lane, name)) is not int or getattr(lane, name) < 1:
            fail(
                f"lane {name} is {getattr(lane, name)!r}",
                f"kernel {kernel.name!r}",
                "lane sizes are at least 1",
            )
    if lane.rows * lane.cols > MOST_SUMS:
        fail(
            f"a register tile of {lane.rows} rows and {lane.cols} vectors",
            f"kernel {kernel.name!r}",
            f"no machine has registers for more than {MOST_SUMS} vectors of sums",
        )


def _check_parts(mugraph: MuGraph, kernel: Kernel, body: list[int], axes: list[Axis]) -> None:
    """A reduced axis on the grid: the parts of its reductions can be merged."""
    where = f"kernel {kernel.name!r}, grid"
    if len(axes) > 1:
        names = ", ".join(repr(a.name) for a in axes)
        fail(f"the reduced axes {names} are all on the grid", where, "split one reduction")
    for axis in axes:
        why = why_not_split(mugraph.graph, body, kernel.outputs, axis, stats_of(kernel))
        if why is not None:
            fail(
                f"grid axis {axis.name!r} is reduced inside the kernel, and not in parts: {why}",
                where,
                "take it off the grid, or cut here",
            )


def _check_tile(split: Split, where: str) -> None:
    if type(split.tile) is not int or split.tile < 1:
        fail(f"axis {split.axis.name!r} has the tile {split.tile!r}", where, "a tile is at least 1")


def _axes_of(mugraph: MuGraph, body: list[int]) -> set[Axis]:
    """The axes of a kernel's values and of what it reads."""
    nodes = mugraph.graph.nodes
    out = {a for i in body for a in nodes[i].axes}
    return out | {a for i in body for j in nodes[i].args for a in nodes[j].axes}


def _check_carry(mugraph: MuGraph, kernel: Kernel, carry: Carry, body: list[int]) -> None:
    graph = mugraph.graph
    where = f"kernel {kernel.name!r}, carry %{carry.reduce} with %{carry.stat}"
    place = kernel.placement
    looped = {s.axis for s in (*place.grid, *place.loop)}
    over = []
    for i in (carry.reduce, carry.stat):
        node = graph.nodes[i] if type(i) is int and i in set(body) else None
        if not isinstance(node, Reduce):
            fail(
                f"%{i} is no reduction of the kernel",
                where,
                "a carry joins two reductions computed in its kernel",
            )
        over.append(set(node.over))
    if not over[0] & over[1] & looped:
        names = ",".join(sorted(a.name for a in over[0] | over[1]))
        fail(
            f"the reductions over [{names}] share no axis of a loop or the grid",
            where,
            "a carry belongs to one loop over one axis",
        )
    if carry.reduce == carry.stat or carry.stat not in graph.reachable([carry.reduce]):
        fail(f"%{carry.reduce} does not depend on %{carry.stat}", where, "drop the carry")
    summand = graph.nodes[carry.reduce].args[0]
    if not carry.rank and not vanishes(graph, summand, carry.stat):
        fail(
            f"a term of %{carry.reduce} may count where %{carry.stat} has seen nothing yet",
            where,
            "drop the carry: a factor cannot move what was added up before",
        )
    _check_factor(carry.factor, where)
    _check_rank(mugraph, carry, where)


def _check_rank(mugraph: MuGraph, carry: Carry, where: str) -> None:
    """A carry by Taylor's formula: of a sum of polynomials in another sum, and of their degree."""
    if carry.rank == 0:
        return
    reduce, stat = (mugraph.graph.nodes[i] for i in (carry.reduce, carry.stat))
    if type(carry.rank) is not int or not 0 < carry.rank <= MOST_RANK:
        fail(f"the rank {carry.rank!r}", where, f"a rank is at most {MOST_RANK}")
    sums = all(isinstance(n, Reduce) and n.op == "add" for n in (reduce, stat))
    found = degree(mugraph.graph, reduce.args[0], carry.stat)
    if not sums or carry.factor != 1.0 or found != carry.rank:
        fail(
            f"the rank {carry.rank} of a summand whose degree in the statistic is {found}",
            where,
            "a rank is the degree of a sum's polynomials in another sum, and its factor is 1.0",
        )


def _check_factor(term: object, where: str) -> None:
    """The factor is a term over the scalar table, of Arg(0) (old), Arg(1) (new) and literals."""
    if isinstance(term, Arg):
        if term.index not in (0, 1):
            fail(f"the factor reads argument {term.index}", where, "Arg(0) is old, Arg(1) is new")
    elif isinstance(term, tuple):
        row = SCALARS.get(term[0]) if term and isinstance(term[0], str) else None
        if row is None or row.arity != len(term) - 1:
            name = term[0] if term else "()"
            fail(
                f"no scalar function {name!r} of {len(term) - 1} arguments in the factor",
                where,
                "see mugraph/scalars.py for the table",
            )
        for part in term[1:]:
            _check_factor(part, where)
    elif not isinstance(term, (int, float)) or isinstance(term, bool) or math.isnan(term):
        fail(f"the factor holds {term!r}", where, "a factor holds rows, Arg and numbers")
