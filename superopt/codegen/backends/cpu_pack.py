"""Prints what has to do with packed buffers: copies into panels, products that read them, comparisons."""

from __future__ import annotations

import math

from superopt.codegen.backends.cpu_contract import Printer, print_contraction
from superopt.codegen.backends.cpu_expr import Nest, Scope, stride_along
from superopt.codegen.backends.cpu_layout import Num, stride_num
from superopt.codegen.backends.cpu_match import Contraction, Target, match, plain, size_of, unit
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.lanes import most_sums
from superopt.mugraph.tile_analysis import expr_axes
from superopt.mugraph.tile_panels import fixed, outer_axes, packed_strides, panel_elements
from superopt.mugraph.tileir import Apply, Buffer, Compute, Coord, Expr, Load, Panels

STEPS, FEW_STEPS = 128, 64
"""Groups of steps of a block: those of many rows fill half of the first cache; one or two rows use each
once, and are read a shorter way ahead."""

SAMPLES, SHARE = 32, 1024
"""Runs of a packed buffer that each call compares with its input: so many anywhere, and one part in so
many, which moves on from call to call."""


def print_statement(scope: Scope, stmt: Compute, target: Target) -> list[str] | None:
    """A contraction, or a copy into panels; None for a statement of another form."""
    if stmt.dst.panels is not None:
        return _print_copy(scope, stmt)
    found = _match(scope, stmt)
    if found is None:
        return print_contraction(scope, stmt, target)
    return _Panels(scope, stmt, found, target).lines()


def is_product(scope: Scope, stmt: Compute, target: Target) -> bool:
    """Whether ``print_statement`` prints a statement: it is made as a whole."""
    packed = stmt.dst.panels is not None or _match(scope, stmt) is not None
    return packed or match(scope, stmt, target) is not None


# -- products ------------------------------------------------------------------------------------


def _match(scope: Scope, stmt: Compute) -> Contraction | None:
    """The form of a sum of products with a packed factor, which gives the columns."""
    if stmt.reduce != "add" or not isinstance(stmt.expr, Apply) or stmt.expr.op != "mul":
        return None
    a, b = stmt.expr.args
    if _panels_of(b) is None:
        a, b = b, a
    panels = _panels_of(b)
    if panels is None or not isinstance(b, Load) or _panels_of(a) is not None:
        return None
    column, step = _along(b, panels.columns), _along(b, panels.steps)
    if column not in stmt.axes or step not in stmt.over or column in expr_axes(a):
        return None
    ranges = scope.ranges
    live = [x for x in (*stmt.axes, *stmt.over) if not ranges[x].single or x in (column, step)]
    if any(ranges[x].extent.value == 0 for x in live):
        return None
    kept = [x for x in live if x in stmt.axes]
    rows = tuple(x for x in kept if x not in expr_axes(b))
    cols = tuple(x for x in kept if x in expr_axes(b) and x not in expr_axes(a))
    both = tuple(x for x in kept if x not in rows and x not in cols)
    return Contraction(
        a, b, rows, cols, both, tuple(x for x in live if x in stmt.over), column, None
    )


def _panels_of(factor: Expr) -> Panels | None:
    return factor.buffer.panels if isinstance(factor, Load) else None


def _along(load: Load, own: Axis) -> Axis:
    """The axis of a statement that an axis of a packed buffer is read along."""
    index = load.index[load.buffer.axes.index(own)]
    if not isinstance(index, Coord):
        raise TypeError("a packed buffer is read along axes")
    return index.axis


class _Panels(Printer):
    """Prints one product whose columns come out of panels."""

    def __init__(self, scope: Scope, stmt: Compute, form: Contraction, target: Target) -> None:
        super().__init__(scope, stmt, form, target)
        if not isinstance(form.b, Load) or form.b.buffer.panels is None:
            raise TypeError("the second factor is packed")
        self.packed: Buffer = form.b.buffer
        self.panels: Panels = form.b.buffer.panels
        self.step = _along(form.b, self.panels.steps)

    def _again(self, scope: Scope, stmt: Compute) -> list[str] | None:
        return print_statement(scope, stmt, self.target)

    def _whole_groups(self, axis: Axis, steps: int) -> int:
        group = self.panels.group
        return max(steps // group * group, group) if axis == self.step else steps

    def _needs_pack(self, factor: Expr, side: str) -> bool:
        if side == "b":
            return False
        if not plain(self.scope, factor) or not isinstance(factor, Load):
            return True
        stored = self.scope.place(factor.buffer).dtype
        pairs = self.target.bf16 and self.panels.group == 2 and stored == "bf16"
        # A factor that is no bf16 beside pairs is converted where it is used, once for many columns.
        return stored != self.dtype and not (pairs and unit(self.scope, factor, self.step))

    def _inner_sum(self) -> Axis:
        return self.step

    def _columns(self, form: Contraction, k: Axis, pointers: list[str], load: str) -> list[str]:
        p = self.panels
        m = math.prod(size_of(self.scope, x) for x in form.rows)
        cols = p.width // self.lanes
        rows = panel_rows(m, most_sums(self.target.vector_bytes) // cols)
        block = (FEW_STEPS if m <= 2 else STEPS) * p.group
        a, b, d = pointers
        n = self._count([form.column] if form.column else [])
        return [
            f"// {rows} rows x {cols} vectors of {self.lanes} in panels; {block} steps of {k.name} at a time",
            f"so_mm_packed<{rows}, {cols}, {self.lanes}, {p.group}, {block}, {self.c}>(",
            f"    {self._count(form.rows)}, {n}, {self.scope.ranges[k].extent.text}, {a}, "
            f"{self._step(form.a, k)}, {b}, {panel_elements(p)}, {d},",
            f"    {self._offsets(form.rows, form.a, 'i')}, {load});",
        ]


def panel_rows(rows: int, most: int) -> int:
    """Rows of a register tile: all if they fit, else a number that leaves none over, or few."""
    most = min(most, 16)
    if rows <= most:
        return max(rows, 1)
    whole = next((r for r in range(most, most // 2, -1) if rows % r == 0), 0)
    return whole or -(-rows // -(-rows // most))


# -- copies and comparisons ----------------------------------------------------------------------


def _print_copy(scope: Scope, stmt: Compute) -> list[str] | None:
    """A task's columns of an input, copied into panels."""
    packed, source = stmt.dst, stmt.expr
    panels = packed.panels
    if panels is None or not isinstance(source, Load) or stmt.reduce is not None:
        return None
    if scope.place(source.buffer).dtype != packed.dtype:
        return None
    loops = outer_axes(packed)
    nest = Nest(scope, loops, None, 1)
    for x in stmt.axes:
        nest.at.setdefault(x, "0")
    here = Load(packed, tuple(Coord(x) for x in packed.axes), packed.dtype)
    src, to = _at(nest, source, False), _at(nest, here, True)
    along = [stride_along(scope, source, x) for x in (panels.steps, panels.columns)]
    if None in along:
        return None
    sk, sn = (x.text for x in along if x is not None)
    extent = scope.ranges
    call = [
        f"so_pack_panels<{panels.width}, {panels.group}>({extent[panels.columns].extent.text}, "
        f"{extent[panels.steps].extent.text},",
        f"    {src}, {sk}, {sn}, {to}, {panel_elements(panels)});",
    ]
    body = [*nest.lines[len(loops)], *call]
    for depth in range(len(loops) - 1, -1, -1):
        n = scope.names.axis(loops[depth])
        stop = extent[loops[depth]].extent.text
        body = [
            *nest.lines[depth],
            f"for (int64_t i_{n} = 0; i_{n} < {stop}; ++i_{n}) {{",
            *(f"  {line}" for line in body),
            "}",
        ]
    return body


def _at(nest: Nest, load: Load, write: bool) -> str:
    base, step = nest.address(load, write)
    return base if step == "0" else f"{base} + {step}"


def same_call(source: Buffer, packed: Buffer, src: str, to: str, turn: str) -> list[str]:
    """C++ that tells whether parts of a packed buffer are still copies of its input."""
    panels = packed.panels
    if panels is None:
        raise TypeError("a buffer that is not packed")
    c = DTYPES[packed.dtype].c
    strides = dict(zip(source.axes, source.strides, strict=True))
    own = dict(zip(packed.axes, packed_strides(packed), strict=True))
    a, d, rest = Num.of(0), Num.of(0), "i"
    outer = outer_axes(packed)
    for x in reversed(outer):
        at = Num(f"({rest} % {fixed(x)})")
        rest = f"({rest} / {fixed(x)})"
        a, d = a + at * stride_num(strides[x]), d + at * stride_num(own[x])
    return [
        f"so_same_panels<{panels.width}, {panels.group}, {SAMPLES}, {SHARE}>("
        f"{math.prod(fixed(x) for x in outer)}, {fixed(panels.columns)}, {fixed(panels.steps)},",
        f"    static_cast<const {c}*>({src}), {stride_num(strides[panels.steps]).text}, "
        f"{stride_num(strides[panels.columns]).text}, static_cast<const {c}*>({to}), {turn},",
        f"    [&]([[maybe_unused]] int64_t i) SO_LAMBDA {{ return so_row{{{a.text}, {d.text}}}; }})",
    ]
