"""Lemma "reduced once": each element of a reduced axis is in one step of one part.

A statement that reduces sees, of each axis that it reduces, the span where it stands. If it adds to
an accumulator that was started outside of some of its loops, what it has added by the end of those
loops is the union of its steps. So, for an axis that is reduced:

* each loop over it between the start and the statement divides it (``nest.steps``): exactly once;
* a loop over it around both, or around a statement that does not accumulate, has one step:
  ``hi <= lo + T``;
* on the grid it has one task, ``n <= T``, unless its parts divide it (``nest.parts``);
* a loop over another axis between the start and the statement has one step, ``lo < hi <= lo + T``:
  else the same elements would be added again.

What is added to starts as the identity of its row. An update (``acc = acc * factor``) runs as often
as something is added: each loop between the start and the update has a statement that adds to the
accumulator. Every reduction of the graph that a kernel needs has its statement (at least as many
with its row and axes), and every statement that reduces does so over the axes of a reduction of the
graph, or over the parts of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Reduce
from superopt.mugraph.placement import MuGraph, kernel_body
from superopt.mugraph.scalars import SCALARS
from superopt.mugraph.tile_edit import Path, updates_itself
from superopt.mugraph.tileir import Lit
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.lemma import PROVED, REFUTED, Lemma
from superopt.verify.proofs.nest import Nest, Point, one_step, one_task, parts, steps
from superopt.verify.proofs.solver import Solver

Signature = tuple[str, frozenset[Axis]]


def reduced(nest: Nest, since: dict[Path, frozenset[Path]], solver: Solver) -> Iterator[Lemma]:
    """The lemmas of every statement that reduces or updates. since: from ``flow.Flow``."""
    for point in nest.points:
        begun = since.get(point.path, frozenset())
        if point.stmt.reduce is None:
            if updates_itself(point.stmt):
                yield _update(nest, point, begun)
            continue
        if not point.stmt.accumulate:
            begun = frozenset({point.path})
        for start in sorted(begun):
            yield from _covered(nest, point, nest.by_path[start], solver)


def _covered(nest: Nest, point: Point, start: Point, solver: Solver) -> Iterator[Lemma]:
    def lemma(what: str, formula: tuple[Formula, str]) -> Lemma:
        return solver.lemma("reduced once", nest.name(f"{point}, {what}"), *formula)

    around = {p for p, _ in start.loops}
    if start is not point:
        yield _from_identity(nest, point, start)
    for axis in point.stmt.over:
        whole = True
        if axis in nest.grid:
            whole = False
            yield lemma(f"one task along {axis.name}", one_task(nest, axis, empty=True))
        elif axis in nest.parts and nest.parts[axis].number in nest.grid:
            whole = False
            yield lemma(f"parts of {axis.name}", parts(nest, nest.parts[axis]))
        for path, loop in point.over(axis):
            whole = False
            if path in around:
                yield lemma(f"one step along {axis.name}", one_step(nest, point, path, empty=True))
            else:
                yield lemma(f"steps along {axis.name}", steps(loop.tile))
        if whole:
            yield Lemma("reduced once", nest.name(f"{point}, all of {axis.name}"), PROVED)
    for path, loop in point.loops:
        if path not in around and loop.axis not in point.stmt.over:
            yield lemma(f"once along {loop.axis.name}", one_step(nest, point, path))


def _from_identity(nest: Nest, point: Point, start: Point) -> Lemma:
    row = SCALARS.get(point.stmt.reduce or "")
    first = start.stmt.expr if start.stmt.reduce is None else None
    found = row is not None and isinstance(first, Lit) and first.value == row.identity
    words = "" if found else f"{start} is not the identity of the reduction"
    subject = nest.name(f"{point}, where it starts")
    return Lemma("reduced once", subject, PROVED if found else REFUTED, words)


def _update(nest: Nest, point: Point, begun: frozenset[Path]) -> Lemma:
    around = [{p for p, _ in nest.by_path[start].loops} for start in begun]
    adding = {
        p
        for x in nest.points
        if x.stmt.accumulate and x.stmt.dst.name == point.stmt.dst.name
        for p, _ in x.loops
    }
    odd = [
        loop.axis.name
        for p, loop in point.loops
        if p not in adding and any(p not in a for a in around)
    ]
    words = f"it is updated in each step along {odd[0]}, and added to in none" if odd else ""
    return Lemma("reduced once", nest.name(point), REFUTED if odd else PROVED, words)


def every_reduction(nests: Sequence[Nest], mugraph: MuGraph) -> Iterator[Lemma]:
    """The graph's reductions and the programs' statements match, kernel by kernel."""
    by_name = {kernel.name: k for k, kernel in enumerate(mugraph.kernels)}
    of: dict[int, list[Nest]] = {k: [] for k in by_name.values()}
    for nest in nests:
        k = kernel_of(nest, mugraph)
        if k is None:
            yield Lemma("reduced once", nest.name("kernel"), REFUTED, "no kernel has this name")
        else:
            of[k].append(nest)
    for k, mine in of.items():
        if mine:
            yield _matched(mine, mugraph, k)


def kernel_of(nest: Nest, mugraph: MuGraph) -> int | None:
    """The kernel that a program is of: its own name, or its name before that of a piece."""
    name = nest.program.name
    found = [
        (len(kernel.name), k)
        for k, kernel in enumerate(mugraph.kernels)
        if name == kernel.name or name.startswith(f"{kernel.name} ")
    ]
    return max(found)[1] if found else None


def _matched(nests: Sequence[Nest], mugraph: MuGraph, k: int) -> Lemma:
    graph: Graph = mugraph.graph
    wanted: Counter[Signature] = Counter()
    for i in kernel_body(mugraph, k):
        node = graph.nodes[i]
        if isinstance(node, Reduce):
            wanted[node.op, frozenset(node.over)] += 1
    numbers = {p.number for nest in nests for p in nest.parts.values()}
    found: Counter[Signature] = Counter(
        (p.stmt.reduce, frozenset(p.stmt.over))
        for nest in nests
        for p in nest.points
        if p.stmt.reduce is not None
    )
    faults = [
        f"{n} of {wanted[op, over]} reductions by {op} over {_names(over)} are made"
        for (op, over) in wanted
        if (n := found[op, over]) < wanted[op, over]
    ]
    axes = {over for _, over in wanted} | {frozenset({n}) for n in numbers}
    faults += [f"no reduction is over {_names(over)}" for _, over in found if over not in axes]
    subject = f"{mugraph.kernels[k].name}: reductions of the graph"
    return Lemma("reduced once", subject, REFUTED if faults else PROVED, "; ".join(faults))


def _names(axes: frozenset[Axis]) -> str:
    return ",".join(sorted(a.name for a in axes)) or "no axis"
