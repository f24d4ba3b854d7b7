"""Exact values of tile programs: what a kernel computes, as forms, cell by cell and task by task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from superopt.bench.exact import Exact
from superopt.mugraph.axes import Axis, extent
from superopt.mugraph.tile_analysis import loads
from superopt.mugraph.tileir import (
    Apply,
    Buffer,
    Compute,
    Coord,
    Expr,
    Extent,
    Lit,
    Load,
    Loop,
    Program,
    Stmt,
)


class Stray(Exception):
    """A program reads or writes outside a buffer, or where an axis has no range."""


def outputs(
    exact: Exact, programs: Sequence[Program], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The forms of every output buffer; raises Stray, and TooMuch (``exact_forms``).

    What is read before it is written is an unknown of its own. Inputs that are read as indices must be
    given to ``exact``, else they stray.
    """
    memory: dict[str, np.ndarray] = {}
    for program in programs:
        for b in program.buffers:
            if b.name not in memory:
                memory[b.name] = _fresh(exact, b, [extent(a.size, sizes) for a in b.axes])
        _Task(exact, program, memory, dict(sizes)).grid()
    names = {b.name for p in programs for b in p.buffers if b.space == "output"}
    return {n: memory[n] for n in sorted(names)}


def _fresh(exact: Exact, b: Buffer, shape: Sequence[int]) -> np.ndarray:
    if b.space == "input":
        cells = [exact.cell(b.name, at) for at in np.ndindex(*shape)]
    else:
        cells = [exact.unknown("never written", b.name, at) for at in np.ndindex(*shape)]
    return np.array(cells, dtype=np.int64).reshape(list(shape))


@dataclass
class _Task:
    """Runs the tasks of one program in order, as the plain backend of the tile IR does."""

    exact: Exact
    program: Program
    memory: dict[str, np.ndarray]
    sizes: dict[str, int]
    at: dict[Axis, tuple[int, int]] = field(default_factory=dict)
    tiles: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[Expr, np.ndarray] = field(default_factory=dict)

    def grid(self) -> None:
        """All tasks."""
        spans = []
        for split in self.program.grid:
            n = extent(split.axis.size, self.sizes)
            steps = range(0, n, split.tile)
            spans.append([(split.axis, (b, min(b + split.tile, n))) for b in steps])
        for task in itertools.product(*spans):
            self.at = dict(task)
            for part in self.program.parts:
                if part.number not in self.at:
                    raise Stray
                n = extent(part.axis.size, self.sizes)
                base = min(self.at[part.number][0] * part.tile, n)
                self.at[part.axis] = (base, min(base + part.tile, n))
            self.tiles = {}
            self._body(self.program.body)

    def _span(self, axis: Axis) -> tuple[int, int]:
        return self.at.get(axis) or (0, extent(axis.size, self.sizes))

    def _body(self, body: tuple[Stmt, ...]) -> None:
        for stmt in body:
            if isinstance(stmt, Compute):
                self._compute(stmt)
                continue
            outer, (lo, hi) = self.at.get(stmt.axis), self._span(stmt.axis)
            for base in range(lo, hi, stmt.tile):
                self.at[stmt.axis] = (base, min(base + stmt.tile, hi))
                self._body(stmt.body)
            if outer is None:
                self.at.pop(stmt.axis, None)
            else:
                self.at[stmt.axis] = outer

    def _compute(self, stmt: Compute) -> None:
        space = (*stmt.axes, *stmt.over)
        shape = [hi - lo for lo, hi in map(self._span, space)]
        kept = shape[: len(stmt.axes)]
        if 0 in kept:
            return
        self.values = {}
        value = np.broadcast_to(self._value(stmt.expr, space), shape)
        cells, bases = self._buffer(stmt.dst)
        left = [a for a in stmt.dst.axes if a not in stmt.axes]
        if any(np.diff(self._span(a)) != 1 for a in left) or set(stmt.axes) - {*stmt.dst.axes}:
            raise Stray  # a store that leaves an axis out says which element only where there is one
        window: list[slice | int] = []
        for d, a in enumerate(stmt.dst.axes):
            lo, hi = self._span(a)
            if lo < bases[d] or hi - bases[d] > cells.shape[d]:
                raise Stray
            here = slice(lo - bases[d], hi - bases[d])
            window.append(lo - bases[d] if a in left else here)
        rest = [a for a in stmt.dst.axes if a not in left]
        target = cells[(*window, ...)].transpose([rest.index(a) for a in stmt.axes])
        if stmt.reduce is None:
            target[...] = value
            return
        rows = value.reshape(math.prod(kept), -1)
        made = np.array(
            [self.exact.fold(stmt.reduce, [int(x) for x in row]) for row in rows], dtype=np.int64
        ).reshape(kept)
        if stmt.accumulate:
            both = np.stack([target, made], axis=-1).reshape(-1, 2)
            made = np.array(
                [self.exact.fold(stmt.reduce, [int(x) for x in row]) for row in both],
                dtype=np.int64,
            ).reshape(kept)
        target[...] = made

    def _buffer(self, b: Buffer) -> tuple[np.ndarray, list[int]]:
        if b.space != "tile":
            return self.memory[b.name], [0] * len(b.axes)
        if b.name not in self.tiles:
            shape = [self._most(b, a) for a in b.axes]
            self.tiles[b.name] = _fresh(self.exact, b, shape)
        return self.tiles[b.name], [self._span(a)[0] for a in b.axes]

    def _most(self, b: Buffer, axis: Axis) -> int:
        """The largest extent that an axis of a tile buffer has at any statement that uses it."""

        def visit(body: tuple[Stmt, ...], now: int) -> int:
            out = 0
            for stmt in body:
                if isinstance(stmt, Loop):
                    inner = min(stmt.tile, now) if stmt.axis == axis else now
                    out = max(out, visit(stmt.body, inner))
                elif b.name in {stmt.dst.name, *(x.buffer.name for x in loads(stmt.expr))}:
                    out = max(out, now)
            return out

        whole = extent(axis.size, self.sizes)
        return visit(self.program.body, min(self.program.task_tiles.get(axis, whole), whole))

    def _value(self, expr: Expr, space: tuple[Axis, ...]) -> np.ndarray:
        if expr not in self.values:
            self.values[expr] = self._made(expr, space)
        return self.values[expr]

    def _made(self, expr: Expr, space: tuple[Axis, ...]) -> np.ndarray:
        exact = self.exact
        match expr:
            case Lit():
                return np.array(exact.literal(float(expr.value)))
            case Extent():
                return np.array(exact.number(extent(expr.axis.size, self.sizes)))
            case Coord():
                lo, hi = self._span(expr.axis)
                if expr.axis not in space:
                    if hi - lo != 1:
                        raise Stray
                    return np.array(exact.number(lo))
                shape = [1] * len(space)
                shape[space.index(expr.axis)] = hi - lo
                return np.array([exact.number(k) for k in range(lo, hi)]).reshape(shape)
            case Load():
                return self._load(expr, space)
            case Apply():
                args: list[Any] = [self._value(a, space) for a in expr.args]
                return exact.mapped(expr.op, expr.attr or expr.dtype, np.broadcast_arrays(*args))
        raise Stray

    def _load(self, load: Load, space: tuple[Axis, ...]) -> np.ndarray:
        cells, bases = self._buffer(load.buffer)
        picks = []
        for d, index in enumerate(load.index):
            forms = self._value(index, space)
            numbers = [self.exact.constant(int(f)) for f in forms.reshape(-1)]
            if None in numbers:
                raise Stray  # an index that is read from an input
            pick = np.array([int(n or 0) for n in numbers]).reshape(forms.shape) - bases[d]
            size = cells.shape[d]
            if d in load.clamp:
                pick = pick.clip(0, size - 1)
            elif pick.size and (pick.min() < 0 or pick.max() >= size):
                raise Stray
            picks.append(pick)
        return cells[tuple(picks)] if picks else cells
