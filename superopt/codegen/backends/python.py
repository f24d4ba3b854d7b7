"""Interprets tile-IR programs with torch, tile by tile: the living definition of the tile IR.

Every other backend must give the same values (up to rounding). It is slow and plain on purpose:
tiles start as NaN, reads outside a buffer are errors, and tasks may be run in any order.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from superopt.codegen.backends.types import (
    exact_literal,
    operand_dtypes,
    stored_dtype,
    sum_dtype,
    value_dtype,
)
from superopt.errors import SuperoptError
from superopt.mugraph.axes import Axis, extent
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.scalars import SCALARS, inline
from superopt.mugraph.tile_analysis import reads
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

Span = tuple[int, int]


class BadAccess(SuperoptError):
    """A program reads or writes outside a buffer, or uses an axis that has no range."""

    default_fix = "the lowering is at fault: please report it with the printed program"


def run(
    programs: Sequence[Program],
    buffers: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int] | None = None,
    seed: int | None = None,
) -> dict[str, torch.Tensor]:
    """Runs programs in order; returns all global buffers by name, each with its buffer's axes.

    ``buffers`` holds the tensors of inputs (any strides; read through the strides that the program
    gives) and, where the caller wants them in place, of outputs; what is missing is allocated.
    ``sizes``: symbol name -> int. With a ``seed`` the tasks of each grid run in a random order.
    """
    env = _Memory(dict(sizes or {}))
    for program in programs:
        for buffer in program.buffers:
            env.bind(buffer, buffers.get(buffer.name))
        _Task(program, env).grid(None if seed is None else random.Random(seed))
    return env.globals


@dataclass
class _Memory:
    """Global buffers as strided views, one dimension per axis."""

    sizes: dict[str, int]
    globals: dict[str, torch.Tensor] = field(default_factory=dict)

    def bind(self, buffer: Buffer, given: torch.Tensor | None) -> None:
        if buffer.name in self.globals:
            return
        shape = [extent(a.size, self.sizes) for a in buffer.axes]
        if buffer.panels is not None:  # how it lies in memory is the printers' business
            self.globals[buffer.name] = _poison(shape, DTYPES[buffer.dtype].torch)
            return
        strides = [s.value(self.sizes) for s in buffer.strides]
        if given is None:
            span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
            given = _poison([0 if 0 in shape else span], DTYPES[buffer.dtype].torch)
        if given.dtype != DTYPES[buffer.dtype].torch:
            raise BadAccess(f"buffer {buffer.name!r} is {given.dtype}", f"expected {buffer.dtype}")
        self.globals[buffer.name] = given.as_strided(shape, strides, given.storage_offset())


def _poison(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.full(tuple(shape), float("nan"), dtype=dtype)
    if dtype == torch.bool:
        return torch.zeros(tuple(shape), dtype=dtype)
    return torch.full(tuple(shape), torch.iinfo(dtype).min + 7, dtype=dtype)


class _Task:
    """Runs the tasks of one program."""

    def __init__(self, program: Program, memory: _Memory) -> None:
        self.program, self.memory, self.sizes = program, memory, memory.sizes
        self.stored = {b.name: DTYPES[stored_dtype(program, b)].torch for b in program.tiles}
        self.at: dict[Axis, Span] = {}
        self.tiles: dict[str, torch.Tensor] = {}
        self.values: dict[Expr, torch.Tensor] = {}  # of the statement that runs

    def grid(self, rng: random.Random | None) -> None:
        """All tasks, in ascending or random order."""
        spans = []
        for split in self.program.grid:
            n = extent(split.axis.size, self.sizes)
            spans.append(
                [(split.axis, (b, min(b + split.tile, n))) for b in range(0, n, split.tile)]
            )
        tasks = list(itertools.product(*spans))
        if rng is not None:
            rng.shuffle(tasks)
        for task in tasks:
            self.at = dict(task)
            for part in self.program.parts:
                n = extent(part.axis.size, self.sizes)
                base = min(self.at[part.number][0] * part.tile, n)
                self.at[part.axis] = (base, min(base + part.tile, n))
            self.tiles = {}
            self._body(self.program.body)

    def _span(self, axis: Axis) -> Span:
        return self.at.get(axis) or (0, extent(axis.size, self.sizes))

    def _body(self, body: tuple[Stmt, ...]) -> None:
        for stmt in body:
            if isinstance(stmt, Compute):
                self._compute(stmt)
            else:
                self._loop(stmt)

    def _loop(self, loop: Loop) -> None:
        outer = self.at.get(loop.axis)
        lo, hi = self._span(loop.axis)
        for base in range(lo, hi, loop.tile):
            self.at[loop.axis] = (base, min(base + loop.tile, hi))
            self._body(loop.body)
        if outer is None:
            self.at.pop(loop.axis, None)
        else:
            self.at[loop.axis] = outer

    # -- statements ------------------------------------------------------------------------------

    def _compute(self, stmt: Compute) -> None:
        space = (*stmt.axes, *stmt.over)
        spans = [self._span(a) for a in space]
        shape = [hi - lo for lo, hi in spans]
        kept = shape[: len(stmt.axes)]
        if 0 in kept:
            return
        self.values = {}
        value = self._value(stmt.expr, space)
        target = self._place(stmt.dst, stmt.axes)
        if stmt.reduce is None:
            target.copy_(value.expand(kept) if value.dim() else value)
            return
        value = value.expand(shape)
        row = SCALARS[stmt.reduce]
        value = value.to(DTYPES[sum_dtype(stmt)].torch)
        identity = exact_literal(row.identity or 0.0, sum_dtype(stmt))
        start = torch.full(kept, identity, dtype=value.dtype)
        total = _REDUCE[stmt.reduce](value, len(kept)) if 0 not in shape else start
        if stmt.accumulate:
            total = _apply(row.name, [target.to(value.dtype), total])
        target.copy_(total)

    def _place(self, buffer: Buffer, axes: tuple[Axis, ...]) -> torch.Tensor:
        """The current tile of a destination as a view whose dimensions are ``axes``."""
        view, bases = self._buffer(buffer)
        for d, a in enumerate(buffer.axes):
            lo, hi = self._span(a)
            if lo - bases[d] < 0 or hi - bases[d] > view.shape[d]:
                raise BadAccess(
                    f"a write to {buffer.name!r} leaves axis {a.name!r}", str(self.program)
                )
            view = view.narrow(d, lo - bases[d], hi - lo)
        return view.permute([buffer.axes.index(a) for a in axes])

    def _buffer(self, buffer: Buffer) -> tuple[torch.Tensor, list[int]]:
        """The storage of a buffer and the coordinate of its first element along each axis."""
        if buffer.space != "tile":
            return self.memory.globals[buffer.name], [0] * len(buffer.axes)
        if buffer.name not in self.tiles:
            shape = [self._most(buffer, a) for a in buffer.axes]
            self.tiles[buffer.name] = _poison(shape, self.stored[buffer.name])
        return self.tiles[buffer.name], [self._span(a)[0] for a in buffer.axes]

    def _most(self, buffer: Buffer, axis: Axis) -> int:
        """The largest extent that an axis of a tile buffer has at any statement that uses it."""
        out = 0

        def visit(body: tuple[Stmt, ...], now: int) -> None:
            nonlocal out
            for stmt in body:
                if isinstance(stmt, Loop):
                    visit(stmt.body, min(stmt.tile, now) if stmt.axis == axis else now)
                elif buffer.name == stmt.dst.name or buffer.name in reads(stmt.expr):
                    out = max(out, now)

        whole = extent(axis.size, self.sizes)
        tile = self.program.task_tiles.get(axis)
        visit(self.program.body, whole if tile is None else min(tile, whole))
        return out

    # -- values ----------------------------------------------------------------------------------

    def _value(self, expr: Expr, space: tuple[Axis, ...]) -> torch.Tensor:
        """The value over the current tiles of ``space``, one dimension per axis (1 = broadcast)."""
        if expr not in self.values:
            self.values[expr] = self._fresh(expr, space)
        return self.values[expr]

    def _fresh(self, expr: Expr, space: tuple[Axis, ...]) -> torch.Tensor:
        dtype = DTYPES[value_dtype(expr)].torch
        match expr:
            case Lit():
                return torch.tensor(exact_literal(expr.value, value_dtype(expr)), dtype=dtype)
            case Extent():
                return torch.tensor(extent(expr.axis.size, self.sizes), dtype=dtype)
            case Coord():
                if expr.axis not in space:
                    raise BadAccess(f"axis {expr.axis.name!r} has no range here", str(self.program))
                lo, hi = self._span(expr.axis)
                shape = [1] * len(space)
                shape[space.index(expr.axis)] = hi - lo
                return torch.arange(lo, hi).reshape(shape)
            case Load():
                return self._load(expr, space).to(dtype)
            case Apply():
                wanted = operand_dtypes(expr)
                args = [
                    self._value(a, space).to(DTYPES[d].torch)
                    for a, d in zip(expr.args, wanted, strict=True)
                ]
                if expr.op == "cast":
                    return args[0].to(dtype)
                if expr.op == "round":
                    return args[0].to(DTYPES[expr.attr or expr.dtype].torch).to(dtype)
                return _apply(expr.op, args).to(dtype)
        raise BadAccess(f"unknown expression {expr!r}", str(self.program))

    def _load(self, load: Load, space: tuple[Axis, ...]) -> torch.Tensor:
        view, bases = self._buffer(load.buffer)
        picks: list[torch.Tensor] = []
        for d, index in enumerate(load.index):
            pick = self._value(index, space).long() - bases[d]
            size = view.shape[d]
            if d in load.clamp:
                pick = pick.clamp(0, size - 1)
            elif pick.numel() and (int(pick.min()) < 0 or int(pick.max()) >= size):
                raise BadAccess(
                    f"a read of {load.buffer.name!r} leaves axis {load.buffer.axes[d].name!r}",
                    str(self.program),
                )
            picks.append(pick)
        return view[tuple(picks)] if picks else view


def _apply(op: str, args: list[Any]) -> Any:
    row = SCALARS[op]
    if row.fn is not None:
        return row.fn(*args)
    dtype = args[0].dtype
    return inline(row.body, args, _apply, lambda v: torch.tensor(v, dtype=dtype))


def _fold(fn: Any) -> Any:
    def reduce(x: torch.Tensor, kept: int) -> torch.Tensor:
        for d in range(x.dim() - 1, kept - 1, -1):
            x = fn(x, d)
        return x

    return reduce


_REDUCE: dict[str, Any] = {
    "add": _fold(lambda x, d: x.sum(d, dtype=x.dtype)),
    "mul": _fold(lambda x, d: x.prod(d, dtype=x.dtype)),
    "max": _fold(torch.amax),
    "min": _fold(torch.amin),
    "and": _fold(torch.all),
    "or": _fold(torch.any),
}
