"""Programs that differ in names alone: the kernels of a deep model's layers are printed once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from superopt.mugraph.axes import Axis
from superopt.mugraph.tile_analysis import inner
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


def nameless(program: Program) -> Program:
    """The program with its name, axes and buffers named by the order in which they appear.

    Programs are alike exactly when these are equal. What the names of sizes stand for is the same
    in all programs of one source, so they are kept.
    """
    return _Renaming().program(program)


@dataclass
class _Renaming:
    axes: dict[Axis, Axis] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    exprs: dict[Expr, Expr] = field(default_factory=dict)

    def program(self, program: Program) -> Program:
        buffers = tuple(self.buffer(b) for b in program.buffers)
        tiles = tuple(self.buffer(t) for t in program.tiles)
        grid = tuple(replace(s, axis=self.axis(s.axis)) for s in program.grid)
        parts = tuple(
            replace(p, axis=self.axis(p.axis), number=self.axis(p.number)) for p in program.parts
        )
        body = tuple(self.stmt(s) for s in program.body)
        return Program("", buffers, tiles, grid, body, program.lane, parts)

    def axis(self, axis: Axis) -> Axis:
        if axis not in self.axes:
            self.axes[axis] = Axis(f"a{len(self.axes)}", axis.size)
        return self.axes[axis]

    def buffer(self, buffer: Buffer) -> Buffer:
        if buffer.name not in self.buffers:
            axes = tuple(self.axis(a) for a in buffer.axes)
            # A pointer is a pointer: where it comes from makes no difference to a task.
            space = "tile" if buffer.space == "tile" else "input"
            name = f"b{len(self.buffers)}"
            panels = buffer.panels
            if panels is not None:
                columns, steps = self.axis(panels.columns), self.axis(panels.steps)
                panels = replace(panels, columns=columns, steps=steps)
            self.buffers[buffer.name] = replace(
                buffer, name=name, axes=axes, space=space, panels=panels
            )
        return self.buffers[buffer.name]

    def stmt(self, stmt: Stmt) -> Stmt:
        if isinstance(stmt, Loop):
            return Loop(self.axis(stmt.axis), stmt.tile, tuple(self.stmt(s) for s in stmt.body))
        return Compute(
            self.buffer(stmt.dst),
            tuple(self.axis(a) for a in stmt.axes),
            self.expr(stmt.expr),
            stmt.reduce,
            tuple(self.axis(a) for a in stmt.over),
            stmt.accumulate,
        )

    def expr(self, expr: Expr) -> Expr:
        todo = [expr]
        while todo:
            e = todo[-1]
            waiting = [] if e in self.exprs else [x for x in inner(e) if x not in self.exprs]
            if waiting:
                todo.extend(reversed(waiting))
                continue
            todo.pop()
            if e not in self.exprs:
                self.exprs[e] = self.fresh(e)
        return self.exprs[expr]

    def fresh(self, e: Expr) -> Expr:
        """An expression whose parts are renamed already."""
        match e:
            case Coord():
                return Coord(self.axis(e.axis), e.dtype)
            case Extent():
                return Extent(self.axis(e.axis), e.dtype)
            case Load():
                index = tuple(self.exprs[x] for x in e.index)
                return Load(self.buffer(e.buffer), index, e.dtype, e.clamp)
            case Apply():
                return Apply(e.op, tuple(self.exprs[x] for x in e.args), e.dtype, e.attr)
            case Lit():
                return e


__all__ = ["nameless"]
