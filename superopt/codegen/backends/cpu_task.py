"""Prints the task function of one program: its buffers, its grid and its statements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

from superopt.codegen.backends.cpu_expr import Scope
from superopt.codegen.backends.cpu_isa import Isa
from superopt.codegen.backends.cpu_layout import (
    ONE,
    ZERO,
    Names,
    Num,
    Place,
    Range,
    padded_bytes,
    place_global,
    place_tile,
    size_num,
    symbol,
    tile_of,
    whole,
)
from superopt.codegen.backends.cpu_loops import print_compute
from superopt.codegen.backends.cpu_match import Target
from superopt.codegen.backends.cpu_pack import is_product, print_statement
from superopt.codegen.backends.cpu_rows import grouped, print_rows
from superopt.codegen.backends.cpu_sums import print_sums, together
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_analysis import loads, reads
from superopt.mugraph.tileir import (
    Compute,
    Loop,
    Program,
    Stmt,
    print_expr,
    statements,
)


class Task:
    """Prints the task function of one program; it is given the program's own buffers, in order."""

    def __init__(
        self,
        program: Program,
        fn: str,
        isa: Isa,
        syms: tuple[str, ...],
        stack_bytes: int,
    ) -> None:
        self.program, self.fn, self.isa, self.syms = program, fn, isa, syms
        self.names = Names()
        self.slots = {b.name: k for k, b in enumerate(program.buffers)}
        self.places: dict[str, Place] = {}
        for b in program.buffers:
            self.places[b.name] = place_global(b, self.names)
        self.tiles = [place_tile(program, t, self.names) for t in program.tiles]
        self.places |= {t.name: p for t, p in zip(program.tiles, self.tiles, strict=True)}
        self.sizes = [padded_bytes(p) for p in self.tiles]
        known = [n.value for n in self.sizes]
        self.on_stack = None not in known and sum(n or 0 for n in known) <= stack_bytes
        self.loop: tuple[Axis, int] | None = None  # the innermost around what is printed
        self.readers = Counter(n for s in statements(program.body) for n in reads(s.expr))
        self.ranges: dict[Axis, Range] = {}
        for axis in _axes(program):
            self.ranges[axis] = whole(axis)

    def tasks(self) -> Num:
        """The number of tasks."""
        out = ONE
        for split in self.program.grid:
            out = out * _count(split.axis, split.tile)
        return out

    def picks(self) -> bool:
        """Whether something is read at run-time indices, which may be outside their axis."""
        stmts = statements(self.program.body)
        return any(load.clamp for stmt in stmts for load in loads(stmt.expr))

    def memory_lines(self) -> list[str]:
        """Where a thread's tile buffers beyond the stack live: a block that is kept between calls."""
        if self.on_stack:
            return ["  char* const arena = nullptr;"]
        total = ZERO
        for n in self.sizes:
            total = total + n
        return [
            "  static thread_local so_arena block;",
            f"  char* const arena = block.get({total.text});",
            f"  if (!arena && {total.text} > 0) return 1;",
        ]

    def text(self) -> str:
        """The task function."""
        out = [f"// {line}" for line in str(self.program).splitlines()]
        out.append(
            f"static void {self.fn}(void* const* bufs, const int64_t* ints, int64_t task, "
            "char* arena) {"
        )
        body = [*size_lines(self.syms), *self._pointers(), *self._storage(), *self._grid()]
        body += self._body(self.program.body, 0)
        return "\n".join([*out, *(f"  {line}" for line in body), "}"])

    def _pointers(self) -> list[str]:
        out = []
        written = {s.dst.name for s in statements(self.program.body)}
        for b in self.program.buffers:
            place = self.places[b.name]
            const = "" if b.name in written else "const "
            out.append(
                f"[[maybe_unused]] {const}{place.c}* __restrict const {place.var} = "
                f"static_cast<{const}{place.c}*>(bufs[{self.slots[b.name]}]);"
            )
        return out

    def _storage(self) -> list[str]:
        out, at = [], ZERO
        for place, size in zip(self.tiles, self.sizes, strict=True):
            if self.on_stack:
                n = -(-(size.value or 0) // DTYPES[place.dtype].bytes)
                out.append(f"[[maybe_unused]] alignas(64) {place.c} {place.var}[{n}];")
            else:
                out.append(
                    f"[[maybe_unused]] {place.c}* __restrict const {place.var} = "
                    f"reinterpret_cast<{place.c}*>(arena + {at.text});"
                )
                at = at + size
        return [*out, "(void)arena, (void)ints, (void)task;"]

    def _grid(self) -> list[str]:
        """Base and extent of every grid axis, from the number of the task."""
        out = []
        rest = "task"
        for k, split in enumerate(reversed(self.program.grid)):
            n = self.names.axis(split.axis)
            count = _count(split.axis, split.tile)
            at = rest if k == len(self.program.grid) - 1 else f"({rest}) % {_paren(count)}"
            rest = f"({rest}) / {_paren(count)}"
            out.append(f"[[maybe_unused]] const int64_t b_{n} = ({at}) * {split.tile};")
            out += self._open(split.axis, self.ranges[split.axis], split.tile, f"b_{n}", f"n_{n}")
        for part in self.program.parts:
            n, at = self.names.axis(part.axis), self.names.axis(part.number)
            size = size_num(part.axis.size).text
            # A part beyond the end of an axis of run-time size is empty.
            base = f"so_least(b_{at} * {part.tile}, {size})"
            out.append(f"[[maybe_unused]] const int64_t b_{n} = {base};")
            out += self._open(part.axis, self.ranges[part.axis], part.tile, f"b_{n}", f"n_{n}")
        return out

    def _open(self, axis: Axis, outer: Range, tile: int, base: str, extent: str) -> list[str]:
        """Enters a tile of an axis; the lines that define its extent."""
        self.ranges[axis], text = tile_of(outer, tile, base, extent)
        return [f"[[maybe_unused]] const int64_t {extent} = {text};"] if text else []

    def _body(self, body: tuple[Stmt, ...], depth: int) -> list[str]:
        out: list[str] = []
        rest: list[Stmt] = []  # one by one, or row by row
        for stmts in together(body, self.readers):
            if (one := self._together(stmts)) is None:
                rest += stmts
                continue
            out += [*self._apart(rest, depth), *one]
            rest = []
        return [*out, *self._apart(rest, depth)]

    def _apart(self, body: Sequence[Stmt], depth: int) -> list[str]:
        """Statements of their own, those of the same rows row by row."""
        out: list[str] = []
        scope, target = self._scope(), self._target()
        for group in grouped(body, scope, lambda s: is_product(scope, s, target)):
            computes = [s for s in group if isinstance(s, Compute)]
            lines = print_rows(scope, computes, partial(self._statements, computes))
            if lines is not None:
                out += ["{  // row by row", *(f"  {line}" for line in lines), "}"]
                continue
            for stmt in group:
                if isinstance(stmt, Compute):
                    out += self._statements([stmt], scope)
                else:
                    out += self._loop(stmt, depth)
        return out

    def _together(self, stmts: list[Stmt]) -> list[str] | None:
        """Statements that add up into one result, as one nest."""
        if not any(isinstance(s, Compute) and s.reduce for s in stmts):
            return None
        lines = print_sums(self._scope(), stmts, self._target())
        if lines is None:
            return None
        titles = [f"// {_title(s)}" for s in stmts if isinstance(s, Compute)]
        return [*titles, "{", *(f"  {line}" for line in lines), "}"]

    def _loop(self, loop: Loop, depth: int) -> list[str]:
        outer = self.ranges[loop.axis]
        n = self.names.axis(loop.axis)
        base, extent = f"b{depth}_{n}", f"n{depth}_{n}"
        end = outer.base + outer.extent
        head = (
            f"for (int64_t {base} = {outer.base.text}; {base} < {end.text}; "
            f"{base} += {loop.tile}) {{  // {loop.axis.name} by {loop.tile}"
        )
        around, self.loop = self.loop, (loop.axis, loop.tile)
        inner = [
            *self._open(loop.axis, outer, loop.tile, base, extent),
            *self._body(loop.body, depth + 1),
        ]
        self.ranges[loop.axis], self.loop = outer, around
        return [head, *(f"  {line}" for line in inner), "}"]

    def _scope(self) -> Scope:
        return Scope(self.names, self.places, dict(self.ranges), self.loop)

    def _target(self) -> Target:
        return Target(self.isa.vector_bytes, self.isa.bf16, self.program.lane)

    def _statements(self, stmts: Iterable[Compute], scope: Scope) -> list[str]:
        out: list[str] = []
        for stmt in stmts:
            lines = print_statement(scope, stmt, self._target())
            if lines is None:
                lines = print_compute(scope, stmt, self.isa.vector_bytes)
            out += [f"// {_title(stmt)}", "{", *(f"  {line}" for line in lines), "}"]
        return out


def _title(stmt: Compute) -> str:
    over = f"{stmt.reduce}({','.join(a.name for a in stmt.over)}) " if stmt.reduce else ""
    eq = f"{stmt.reduce}=" if stmt.accumulate else "="
    text = (
        f"{stmt.dst.name}[{','.join(a.name for a in stmt.axes)}] {eq} {over}{print_expr(stmt.expr)}"
    )
    return text if len(text) < 400 else text[:400] + " ..."


def _axes(program: Program) -> Iterable[Axis]:
    out: dict[Axis, None] = {}
    for buffer in (*program.buffers, *program.tiles):
        out.update(dict.fromkeys(buffer.axes))
    out.update(dict.fromkeys(program.task_tiles))
    for stmt in statements(program.body):
        out.update(dict.fromkeys((*stmt.axes, *stmt.over)))
    return out


def _count(axis: Axis, tile: int) -> Num:
    """How many tiles an axis is cut into."""
    if isinstance(axis.size, Sym):
        return Num(f"(({size_num(axis.size).text} + {tile - 1}) / {tile})")
    return Num.of(-(-axis.size // tile))


def _paren(n: Num) -> str:
    return n.text if n.value is not None else f"({n.text})"


def size_lines(syms: tuple[str, ...]) -> list[str]:
    return [f"[[maybe_unused]] const int64_t {symbol(s)} = ints[{k}];" for k, s in enumerate(syms)]
