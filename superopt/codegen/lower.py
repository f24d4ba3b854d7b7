"""Lowers a placed uGraph to tile-IR programs, one per kernel.

A kernel with a split reduction becomes two first (``split.py``). The named steps, per kernel:
  1. *storage*: inputs, outputs and scratch become global buffers (``storage.py``),
  2. *accumulators*: sums that are added together share one accumulator; those that are no
     contraction have it in double (``sums.py``),
  3. *phases*: reductions over a looped axis are ordered; those that do not wait for one another,
     and those carried by a running statistic, share one pass over the axis,
  4. *statements*: values are computed where their loop axes are open; pure maps are inlined into
     their reader unless that would compute them again and again, then they get a tile buffer.

Nothing here knows an operator by name beyond the structure of a row (its arity, flops, identity).
"""

from __future__ import annotations

from collections.abc import Sequence

from superopt import trace
from superopt.codegen.accumulators import (
    as_reduce,
    buffers_used,
    followers,
    here,
    identity_of,
    phases,
    reach,
    shared_accumulators,
    term_expr,
)
from superopt.codegen.expressions import Expressions, NotLowerable, Reader
from superopt.codegen.moments import Running, moments
from superopt.codegen.scope import Scope
from superopt.codegen.split import Piece, pieces
from superopt.codegen.storage import (
    axis_ranks,
    input_buffers,
    output_buffers,
    scratch_buffers,
    tile_buffer,
)
from superopt.codegen.sums import kept_in, made_in, read_as
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import compute_dtype
from superopt.mugraph.graph import Graph, Input, Map, Reduce
from superopt.mugraph.placement import Carry, Kernel, MuGraph, kernel_body
from superopt.mugraph.tileir import (
    Apply,
    Buffer,
    Compute,
    Expr,
    Lit,
    Load,
    Loop,
    Program,
)

__all__ = ["NotLowerable", "lower", "why_not_lowerable"]


def why_not_lowerable(mugraph: MuGraph, kernels: Sequence[int] | None = None) -> str | None:
    """The reason why a placed graph cannot be lowered, or None when it can.

    kernels: the positions of those that are looked at, all by default. Whether one can be lowered
    does not depend on how others are placed. Whatever goes wrong is a reason: one placement must not
    take the others with it.
    """
    try:
        lower(mugraph, kernels)
    except NotLowerable as reason:
        return str(reason)
    except Exception as error:
        why = f"lowering failed: {type(error).__name__}: {error}"
        trace.warn_once("codegen", f"a candidate is left out, {why}", error=error)
        return why
    return None


def lower(mugraph: MuGraph, kernels: Sequence[int] | None = None) -> tuple[Program, ...]:
    """The kernels of a placed graph (all, or those at some positions) as tile-IR programs, in order."""
    ranks = axis_ranks(mugraph.graph)
    inputs, outputs = input_buffers(mugraph.graph), output_buffers(mugraph.graph)
    scratch = scratch_buffers(mugraph, ranks)
    written = {i: scratch[i] if i in scratch else outputs[i][0] for i in mugraph.materialized()}
    stored = written | inputs  # an input that is also an output is read where it came in
    return tuple(
        _Lowering(piece).program()
        for k in (range(len(mugraph.kernels)) if kernels is None else kernels)
        for piece in pieces(Piece(mugraph, k, stored, outputs, scratch, ranks))
    )


class _Lowering:
    """Lowers one kernel."""

    def __init__(self, piece: Piece) -> None:
        self.kernel: Kernel = piece.mugraph.kernels[piece.position]
        self.moments = moments(piece.mugraph.graph, self.kernel)
        self.graph: Graph = self.moments.graph
        self.ranks, self.outputs, self.scratch = dict(piece.ranks), piece.outputs, piece.scratch
        self.part, stored = piece.part, piece.stored
        self.body = set(kernel_body(piece.mugraph, piece.position))
        self.body |= set(range(len(piece.mugraph.graph.nodes), len(self.graph.nodes)))
        self.body -= {i for i in self.body if isinstance(self.graph.nodes[i], Input)}
        mine = set(self.kernel.outputs)
        self.stored = {i: b for i, b in stored.items() if i not in mine or i not in self.body}
        self.loops = {s.axis: s.tile for s in self.kernel.placement.loop}
        self.carry = self.moments.carry
        self.tiles: list[Buffer] = []
        self.deps = reach(self.graph, self.body)
        self.exprs = Expressions(self.graph, self.body, self.stored, self.loops)
        self.shared = shared_accumulators(self.graph, self.body, self.exprs.users, mine, self.carry)
        self.exprs.sums = frozenset(self.shared.values())

    # -- steps -----------------------------------------------------------------------------------

    def program(self) -> Program:
        """The kernel as a tile-IR program."""
        top = Scope(None, frozenset())
        self._prepare(top, list(self.kernel.outputs), stores=list(self.kernel.outputs))
        for i in self.kernel.outputs:
            if self._loop_axes(i) <= top.open:
                self._store(top, i)
        used = buffers_used(tuple(top.body))
        return Program(
            self.kernel.name,
            tuple(b for b in used.values() if b.space != "tile"),
            tuple(t for t in self.tiles if t.name in used),
            self.kernel.placement.grid,
            tuple(top.body),
            self.kernel.placement.lane,
            () if self.part is None else (self.part,),
        )

    def _loop_axes(self, i: int) -> frozenset[Axis]:
        return frozenset(a for a in self.graph.nodes[i].axes if a in self.loops)

    def _prepare(self, scope: Scope, targets: list[int], stores: list[int] | None = None) -> None:
        """Emits the loops that complete every looped reduction which ``targets`` need here."""
        need = [i for i in self._closure(targets, scope) if self._loop_axes(i) <= scope.open]
        looped: dict[int, Axis] = {}
        for i in need:
            node = self.graph.nodes[i]
            if isinstance(node, Reduce):
                axis = self._next_axis(node.over, scope)
                if axis is not None:
                    looped[i] = axis
        late = {
            i: self._next_axis(tuple(self._loop_axes(i)), scope)
            for i in stores or []
            if not self._loop_axes(i) <= scope.open
        }
        looped = followers(looped, self.carry, self.moments.added)
        phase = phases(looped, self.deps, self.carry, self.moments.added)
        when = dict(phase)
        for i in late:
            when[i] = max((phase[d] + 1 for d in self.deps[i] if d in phase), default=0)
        for p in sorted(set(when.values())):
            axes = dict.fromkeys(looped.get(i) or late[i] for i in when if when[i] == p)
            for axis in axes:
                group = [i for i in sorted(phase) if phase[i] == p and looped[i] == axis]
                out = [i for i in late if when[i] == p and late[i] == axis]
                if axis is not None:
                    self._pass(scope, axis, group, out)

    def _next_axis(self, over: tuple[Axis, ...], scope: Scope) -> Axis | None:
        """The first looped axis of ``over`` that is not open yet, in placement order."""
        return next((a for a in self.loops if a in over and a not in scope.open), None)

    def _pass(self, scope: Scope, axis: Axis, group: list[int], out: list[int]) -> None:
        """One loop over ``axis`` that accumulates ``group`` and stores the outputs ``out``."""
        # A statistic that an outer loop has completed moves no more.
        stats = {self.carry[i].stat for i in group if i in self.carry} & set(group)
        inner = Scope(scope, scope.open | {axis}, frozenset(stats))
        for i in group:
            self._accumulator(scope, i)
        for i in sorted(stats):
            scope.tiles[i] = scope.partial[i]  # inside the loop, the running value is the value
        for i in sorted(group, key=lambda i: (i not in stats, i)):
            self._prepare(inner, [as_reduce(self.graph, i).operand])
            if i in stats:
                self._move_stat(
                    scope,
                    inner,
                    i,
                    [c for c in self.carry.values() if c.stat == i and c.reduce in group],
                )
            else:
                self._accumulate(scope, inner, i)
        if out:
            self._prepare(inner, out, stores=out)
            for i in out:
                if self._loop_axes(i) <= inner.open:
                    self._store(inner, i)
        scope.body += [Loop(axis, self.loops[axis], tuple(inner.body)), *scope.after]
        scope.after.clear()
        for i in group:
            scope.added.add(i)
            if i not in self.shared:
                scope.tiles[i] = scope.partial[i]

    # -- accumulators ----------------------------------------------------------------------------

    def _accumulator(self, scope: Scope, i: int) -> Buffer:
        """The accumulator of a reduction, filled with the identity where it is first needed."""
        root = self.shared.get(i, i)
        if root not in scope.partial:
            node = scope.begin(as_reduce(self.graph, i))
            members = [m for m, r in self.shared.items() if r == root != m] or [i]
            buffer = self._new_tile(f"acc{root}", node.axes, kept_in(self.graph, members))
            identity = Lit(identity_of(node.op), buffer.dtype)
            scope.body.append(Compute(buffer, buffer.axes, identity))
            scope.partial[root] = buffer
        scope.partial[i] = scope.partial[root]
        return scope.partial[i]

    def _accumulate(self, scope: Scope, inner: Scope, i: int) -> None:
        node, buffer = as_reduce(self.graph, i), scope.partial[i]
        expr = self._value(inner, node.operand, node)
        inner.body.append(Compute(buffer, buffer.axes, expr, node.op, node.over, True))

    def _move_stat(self, scope: Scope, inner: Scope, i: int, carries: list[Carry]) -> None:
        """Updates a running statistic, and corrects the accumulators that were built on its old value."""
        stat = scope.partial[i]
        if any(c.rank for c in carries):
            self._move_sum(scope, inner, i, carries)
            return
        old = self._new_tile(f"old{i}", stat.axes, stat.dtype)
        inner.body.append(Compute(old, old.axes, here(stat)))
        self._accumulate(scope, inner, i)
        if not carries:
            return
        # While nothing but the identity has been seen, readers inside the loop get zero in its
        # place: -inf - -inf would be NaN, where the value of an empty prefix is well defined.
        identity = Lit(identity_of(as_reduce(self.graph, i).op), stat.dtype)
        safe = self._new_tile(f"safe{i}", stat.axes, stat.dtype)
        empty = Apply("eq", (here(stat), identity), "bool")
        inner.body.append(
            Compute(
                safe,
                safe.axes,
                Apply("where", (empty, Lit(0.0, stat.dtype), here(stat)), stat.dtype),
            )
        )
        inner.tiles[i] = safe
        for c in carries:
            acc = scope.partial[c.reduce]
            dtype = self.graph.nodes[c.reduce].dtype  # what it moves may be kept in double
            factor = self._new_tile(f"fix{c.reduce}", stat.axes, dtype)
            expr = term_expr(c.factor, [here(old), here(stat)], dtype)
            same = next((s for s in inner.body if isinstance(s, Compute) and s.expr == expr), None)
            if same is None:
                inner.body.append(Compute(factor, factor.axes, expr))
            else:
                factor = same.dst
            inner.body.append(
                Compute(acc, acc.axes, Apply("mul", (here(acc), here(factor)), acc.dtype))
            )

    def _move_sum(self, scope: Scope, inner: Scope, i: int, carries: list[Carry]) -> None:
        """Updates a running sum, and moves what was built on its old value by Taylor's formula."""
        node, stat = as_reduce(self.graph, i), scope.partial[i]
        dtype = compute_dtype(stat.dtype)  # what is moved by a rounded shift would not add up
        likely, old, shift = (
            self._new_tile(f"{name}{i}", stat.axes, dtype) for name in ("likely", "old", "shift")
        )
        count = self._new_tile(f"count{i}", (), dtype)
        # The highest rank first: each is moved by the old values of those below it.
        moved = [
            (scope.partial[c.reduce], [scope.partial[s] for s in self.moments.sums[c.reduce]])
            for c in sorted(carries, key=lambda c: -c.rank)
        ]
        running = Running(stat, likely, old, shift, count, node.over, compute_dtype(node.dtype))
        scope.body += running.start()
        inner.body += running.before()
        self._accumulate(scope, inner, i)
        inner.body += [*running.count_up(), *running.move(moved)]
        scope.after += running.move(moved, exact=True)
        inner.tiles[i] = likely

    def _new_tile(self, name: str, axes: tuple[Axis, ...], dtype: str) -> Buffer:
        taken = {t.name for t in self.tiles}
        while name in taken:
            name += "_"
        buffer = tile_buffer(name, axes, dtype, self.ranks)
        self.tiles.append(buffer)
        return buffer

    # -- values ----------------------------------------------------------------------------------

    def _closure(self, targets: list[int], scope: Scope) -> list[int]:
        """What ``targets`` need inside this kernel and what has no buffer in ``scope``; ascending."""
        seen: set[int] = set()
        todo = list(targets)
        while todo:
            i = todo.pop()
            if i in seen or i not in self.body or scope.find(i) is not None:
                continue
            seen.add(i)
            todo.extend(self.graph.nodes[i].args)
            todo.extend(self.moments.sums.get(i, ()))
        return sorted(seen)

    def _value(self, scope: Scope, i: int, reader: Reduce | None, top: bool = False) -> Expr:
        """The value of a node as an expression at the reader's coordinates; buffers what it must."""
        space = frozenset(self.graph.nodes[i].axes) | frozenset(reader.over if reader else ())
        who = Reader(space, reader.op if reader else None)
        for j, dtype in self.exprs.buffered(i, who, lambda j: scope.find(j) is not None, top):
            self._tile(scope, j, dtype)
        return self.exprs.expr(i, lambda j: self._load(scope, j))

    def _load(self, scope: Scope, j: int) -> Load | None:
        buffer = scope.find(j)
        return None if buffer is None else here(buffer, read_as(buffer, self.graph.nodes[j].dtype))

    def _tile(self, scope: Scope, i: int, dtype: str) -> None:
        """Gives node ``i`` a tile buffer, in the outermost scope where its value is settled."""
        if scope.find(i) is not None:
            return
        home = scope
        while (
            home.parent is not None
            and self._loop_axes(i) <= home.parent.open
            and not (self.deps[i] | {i}) & home.running
        ):
            home = home.parent
        node = self.graph.nodes[i]
        root = self.shared.get(i)
        if root is not None and root != i:
            return  # accumulated as part of its sum
        members = [m for m, r in self.shared.items() if r == i and m != i]
        if members:
            self._sum(home, i, members)
            return
        if isinstance(node, Reduce):
            expr = self._value(home, node.operand, home.begin(node))
            buffer = self._new_tile(f"r{i}", node.axes, made_in(self.graph, i))
            home.body.append(Compute(buffer, buffer.axes, expr, node.op, node.over, False))
        else:
            expr = self._value(home, i, None, top=True)
            buffer = self._new_tile(f"t{i}", node.axes, dtype)
            home.body.append(Compute(buffer, buffer.axes, expr))
        home.tiles[i] = buffer

    def _sum(self, home: Scope, i: int, members: list[int]) -> None:
        """A sum whose reduction terms share one accumulator: the rest is added to it."""
        node = self.graph.nodes[i]
        if not isinstance(node, Map):
            raise NotLowerable(f"%{i} is not a sum", self.kernel.name)
        buffer = self._accumulator(home, members[0])
        for m in members:
            term = self.graph.nodes[m]
            if m not in home.added and isinstance(term, Reduce):
                expr = self._value(home, term.operand, term)
                home.body.append(Compute(buffer, buffer.axes, expr, term.op, term.over, True))
        for a in node.args:
            if a not in members:
                expr = Apply(node.op, (here(buffer), self._value(home, a, None)), buffer.dtype)
                home.body.append(Compute(buffer, buffer.axes, expr))
        home.tiles[i] = buffer

    def _store(self, scope: Scope, i: int) -> None:
        """Writes a kernel output to its global buffers."""
        node = self.graph.nodes[i]
        targets = list(self.outputs.get(i, []))
        if i in self.scratch:
            targets.insert(0, self.scratch[i])
        if (
            isinstance(node, Reduce)
            and scope.find(i) is None
            and len(targets) == 1
            and targets[0].dtype in (node.dtype, kept_in(self.graph, [i]))
            and i not in self.shared
        ):
            expr = self._value(scope, node.operand, scope.begin(node))
            scope.body.append(Compute(targets[0], targets[0].axes, expr, node.op, node.over, False))
            return
        if len(targets) > 1 or isinstance(node, Reduce) or i in self.shared:
            self._tile(scope, i, node.dtype)
        expr = self._value(scope, i, None)
        for buffer in targets:
            scope.body.append(Compute(buffer, buffer.axes, expr))
