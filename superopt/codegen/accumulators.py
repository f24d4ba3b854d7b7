"""What the lowering asks about a kernel body: who depends on whom, which sums share a buffer."""

from __future__ import annotations

from collections.abc import Mapping

from superopt.codegen.expressions import NotLowerable
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.mugraph.placement import Carry
from superopt.mugraph.scalars import REDUCTIONS, SCALARS, Arg
from superopt.mugraph.tile_analysis import loads
from superopt.mugraph.tileir import (
    Apply,
    Buffer,
    Coord,
    Expr,
    Lit,
    Load,
    Stmt,
    statements,
)


def here(buffer: Buffer, dtype: str | None = None) -> Load:
    """A buffer read at its own coordinates."""
    return Load(buffer, tuple(Coord(a) for a in buffer.axes), dtype or buffer.dtype)


def term_expr(term: object, args: list[Expr], dtype: str) -> Expr:
    """A term over the scalar table as an expression; ``args`` stand for its arguments."""
    if isinstance(term, Arg):
        return args[term.index]
    if isinstance(term, tuple):
        of = "bool" if SCALARS[term[0]].result == "bool" else dtype
        return Apply(term[0], tuple(term_expr(t, args, dtype) for t in term[1:]), of)
    return Lit(float(term), dtype)  # type: ignore[arg-type]


def reach(graph: Graph, body: set[int]) -> dict[int, frozenset[int]]:
    """For each node of the body, all body nodes that its value depends on."""
    out: dict[int, frozenset[int]] = {}
    for i in sorted(body):
        below: set[int] = set()
        for a in graph.nodes[i].args:
            if a in body:
                below |= out[a] | {a}
        out[i] = frozenset(below)
    return out


def followers(
    looped: Mapping[int, Axis], carry: Mapping[int, Carry], added: Mapping[int, int]
) -> dict[int, Axis]:
    """The looped reductions, without sums of derivatives whose owner moves with no statistic here.

    looped and added: as for ``phases``. A derivative may lack an axis that its owner keeps, and so
    come up in an outer loop than its owner; where the statistic is complete, it moves no more.
    """

    def moves(i: int) -> bool:
        stat = carry[i].stat
        return i in looped and stat in looped and looped[i] == looped[stat]

    return {i: axis for i, axis in looped.items() if i not in added or moves(added[i])}


def phases(
    looped: Mapping[int, Axis],
    deps: Mapping[int, frozenset[int]],
    carry: Mapping[int, Carry],
    added: Mapping[int, int],
) -> dict[int, int]:
    """The pass in which each looped reduction is made: after those that it waits for.

    looped: reductions with the axis of their next loop; added: those that belong to another one's
    carry, which is looped as well. What follows a statistic of the same loop shares its pass.
    """
    out: dict[int, int] = {}
    for i in sorted(looped):
        if i in added:
            out[i] = out[added[i]]
            continue
        stat = carry[i].stat if i in carry else None
        waits = [
            out[d] + (0 if d == stat and looped[d] == looped[i] else 1) for d in deps[i] if d in out
        ]
        out[i] = max(waits, default=0)
    return out


def shared_accumulators(
    graph: Graph,
    body: set[int],
    users: dict[int, set[int]],
    outputs: set[int],
    carry: dict[int, Carry],
) -> dict[int, int]:
    """Reduction -> the sum it is a term of, for sums whose terms can share one accumulator."""
    out: dict[int, int] = {}
    for i in sorted(body):
        node = graph.nodes[i]
        if not isinstance(node, Map) or "associative" not in _laws(node.op):
            continue
        members = [
            a
            for a in dict.fromkeys(node.operands)
            if isinstance(t := graph.nodes[a], Reduce)
            and a in body
            and t.op == node.op
            and t.axes == node.axes
            and t.dtype == node.dtype
            and users[a] == {i}
            and a not in outputs
            and a not in carry
        ]
        if len(members) >= 2 and not any(
            x in _reach_one(graph, y) for x in members for y in members
        ):
            out.update(dict.fromkeys(members, i))
            out[i] = i
    return out


def _reach_one(graph: Graph, i: int) -> set[int]:
    return set(graph.reachable([i])) - {i}


def as_reduce(graph: Graph, i: int) -> Reduce:
    """Node ``i``, which must be a reduction."""
    node = graph.nodes[i]
    if not isinstance(node, Reduce):
        raise NotLowerable(f"%{i} is not a reduction", graph.name)
    return node


def identity_of(op: str) -> float | bool:
    """The neutral element of a reduction row."""
    identity = REDUCTIONS[op].identity if op in REDUCTIONS else None
    if identity is None:
        raise NotLowerable(f"{op!r} has no neutral element", "kernel body")
    return identity


def _laws(op: str) -> frozenset[str]:
    return REDUCTIONS[op].laws if op in REDUCTIONS else frozenset()


def buffers_used(body: tuple[Stmt, ...]) -> dict[str, Buffer]:
    """The buffers that a body reads or writes, by name, in order of appearance."""
    used: dict[str, Buffer] = {}
    for stmt in statements(body):
        for load in loads(stmt.expr):
            used.setdefault(load.buffer.name, load.buffer)
        used.setdefault(stmt.dst.name, stmt.dst)
    return used
