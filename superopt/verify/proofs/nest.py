"""The loop nest of one tile program: where each statement stands, and what it sees of each axis.

An axis is cut by the grid (or by a part), then by each loop over it, the outermost first. What a
statement sees of it is a *span*, ``lo <= x < hi``:

* whole: ``0 <= x < n``;
* a grid tile of T: task p, ``0 <= p``, ``T p < n``: ``[T p, min(T p + T, n))``;
* a part of T, numbered by a grid axis whose tile starts at p: from ``base = min(T p, n)`` to
  ``min(base + T, n)``, which is empty beyond the end;
* a step s of a loop of T inside ``[lo, hi)``: ``0 <= s``, ``lo + T s < hi``:
  ``[lo + T s, min(lo + T s + T, hi))``.

That every cut divides what it cuts (``steps``, ``parts``) makes their composition divide the axis.
"""

from __future__ import annotations

from dataclasses import dataclass

from superopt.mugraph.axes import Axis
from superopt.mugraph.placement import Split
from superopt.mugraph.tile_edit import Path, Place, places
from superopt.mugraph.tileir import Buffer, Compute, Loop, Part, Program
from superopt.verify.proofs.formula import Formula, smaller

Key = tuple[tuple[Path, ...], ...]
"""For each axis of a buffer, the loops over it that are open: equal keys are equal bases."""


@dataclass(frozen=True)
class Point:
    """A Compute statement and where it stands."""

    stmt: Compute
    path: Path
    loops: tuple[tuple[Path, Loop], ...]

    def over(self, axis: Axis) -> tuple[tuple[Path, Loop], ...]:
        """The open loops over an axis, the outermost first."""
        return tuple((p, x) for p, x in self.loops if x.axis == axis)

    def key(self, buffer: Buffer) -> Key:
        """Which bases the axes of a buffer have here."""
        return tuple(tuple(p for p, _ in self.over(a)) for a in buffer.axes)

    def __str__(self) -> str:
        s = self.stmt
        over = f" {s.reduce}({','.join(a.name for a in s.over)})" if s.reduce else ""
        mark = f" {s.reduce}=" if s.accumulate else " ="
        at = ".".join(str(k) for k in self.path)
        return f"statement {at}, {s.dst.name}[{','.join(a.name for a in s.axes)}]{mark}{over}"


class Nest:
    """One program, its statements in order, and the spans of its axes."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.grid = {s.axis: s for s in program.grid}
        self.parts = {p.axis: p for p in program.parts}
        self.points = tuple(_point(p) for p in places(program.body) if isinstance(p.stmt, Compute))
        self.by_path = {p.path: p for p in self.points}
        self.stored = {p.stmt.dst.name: p.stmt.dst for p in self.points}

    def name(self, what: object) -> str:
        """A subject of this program, for people."""
        return f"{self.program.name}: {what}"

    def span(self, f: Formula, axis: Axis, loops: tuple[tuple[Path, Loop], ...]) -> tuple[str, str]:
        """``(lo, hi)`` of an axis inside these loops, for any task and any steps."""
        lo, hi = "0", f.size(axis)
        if axis in self.grid:
            lo, hi = self._task(f, self.grid[axis])
        elif axis in self.parts:
            part = self.parts[axis]
            first, _ = self.span(f, part.number, ())
            lo = f.define(smaller(f"(* {part.tile} {first})", hi))
            hi = f.define(smaller(f"(+ {lo} {part.tile})", hi))
        for path, loop in loops:
            if loop.axis == axis:
                step = f.var(("step", path), f"step of the loop over {axis.name}")
                base = f.define(f"(+ {lo} (* {loop.tile} {step}))")
                f.fact(f"(<= 0 {step})", f"(< {base} {hi})")
                lo, hi = base, f.define(smaller(f"(+ {base} {loop.tile})", hi))
        return lo, hi

    def _task(self, f: Formula, split: Split) -> tuple[str, str]:
        n = f.size(split.axis)
        task = f.var(("task", split.axis), f"task along {split.axis.name}")
        lo = f.define(f"(* {split.tile} {task})")
        f.fact(f"(<= 0 {task})", f"(< {lo} {n})")
        return lo, f.define(smaller(f"(+ {lo} {split.tile})", n))


def _point(place: Place) -> Point:
    loops = tuple((place.path[: k + 1], loop) for k, loop in enumerate(place.loops))
    if not isinstance(place.stmt, Compute):
        raise TypeError("a loop is no point")
    return Point(place.stmt, place.path, loops)


# -- the cuts --------------------------------------------------------------------------------------


def steps(tile: int) -> tuple[Formula, str]:
    """Steps of T divide any span: each x of ``[lo, hi)`` is in step ``(x - lo) div T`` and no other.

    ``lo <= x < hi`` implies ``in(s)`` and (``in(r)`` implies ``r = s``), for all integers lo, hi, x
    and r, where ``in(s)`` says that step s is run and has x.
    """
    f = Formula()
    lo, hi, x, r = (f.var(k, k) for k in ("from", "to", "element", "step"))
    f.fact(f"(<= {lo} {x})", f"(< {x} {hi})")
    s = f.define(f"(div (- {x} {lo}) {tile})")

    def has(step: str) -> str:
        base = f.define(f"(+ {lo} (* {tile} {step}))")
        end = smaller(f"(+ {base} {tile})", hi)
        return f"(and (<= 0 {step}) (< {base} {hi}) (<= {base} {x}) (< {x} {end}))"

    return f, f"(and {has(s)} (=> {has(r)} (= {r} {s})))"


def parts(nest: Nest, part: Part) -> tuple[Formula, str]:
    """Parts divide their axis: x of ``[0, n)`` is in the part ``x div T`` of a task, and no other.

    The tasks along the number axis of size m, in tiles of t, start at ``p = t q``, ``t q < m``.
    """
    f = Formula()
    n, m = f.size(part.axis), f.size(part.number)
    x = f.coordinate(part.axis)
    t = nest.grid[part.number].tile
    r = f.var("other", f"task along {part.number.name}")
    q = f.define(f"(div (div {x} {part.tile}) {t})")

    def has(task: str) -> str:
        first = f.define(f"(* {t} {task})")
        base = f.define(smaller(f"(* {part.tile} {first})", n))
        end = smaller(f"(+ {base} {part.tile})", n)
        return f"(and (<= 0 {task}) (< {first} {m}) (<= {base} {x}) (< {x} {end}))"

    return f, f"(and {has(q)} (=> {has(r)} (= {r} {q})))"


def one_step(nest: Nest, point: Point, path: Path, empty: bool = False) -> tuple[Formula, str]:
    """A loop of T has one step: ``lo < hi <= lo + T`` (or none, where ``empty`` is no matter)."""
    f = Formula()
    outer = tuple((p, x) for p, x in point.loops if len(p) < len(path))
    loop = next(x for p, x in point.loops if p == path)
    lo, hi = nest.span(f, loop.axis, outer)
    some = "" if empty else f"(< {lo} {hi}) "
    return f, f"(and {some}(<= {hi} (+ {lo} {loop.tile})))"


def some_step(nest: Nest, point: Point, path: Path) -> tuple[Formula, str]:
    """A loop has a step: ``lo < hi``."""
    f = Formula()
    outer = tuple((p, x) for p, x in point.loops if len(p) < len(path))
    loop = next(x for p, x in point.loops if p == path)
    lo, hi = nest.span(f, loop.axis, outer)
    return f, f"(< {lo} {hi})"


def one_task(nest: Nest, axis: Axis, empty: bool = False) -> tuple[Formula, str]:
    """One task along a grid axis, which sees all of it: ``1 <= n <= T``."""
    f = Formula()
    n = f.size(axis)
    some = "" if empty else f"(<= 1 {n}) "
    return f, f"(and {some}(<= {n} {nest.grid[axis].tile}))"
