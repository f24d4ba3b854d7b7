"""Prints tile-IR expressions as C++: scalars or vectors along one lane axis, invariants hoisted."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

from superopt.codegen.backends.cpu_bits import looked_up, shifted
from superopt.codegen.backends.cpu_layout import Names, Num, Place, Range, size_num
from superopt.codegen.backends.cpu_values import NARROW, Value, fits32, literal, wraps
from superopt.codegen.backends.types import exact_literal, operand_dtypes, value_dtype
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.scalars import SCALARS, inline
from superopt.mugraph.tile_analysis import affine, expr_axes
from superopt.mugraph.tile_panels import panel_elements
from superopt.mugraph.tile_shared import unrolled
from superopt.mugraph.tileir import (
    Apply,
    Buffer,
    Coord,
    Expr,
    Extent,
    Lit,
    Load,
    Panels,
)


class NoVector(Exception):
    """This expression has no vector form along the chosen axis; never leaves the backend."""


Printing = Generator[Expr, Value, Value]
"""The recursion over an expression: yields what has to be printed before."""


@dataclass(frozen=True)
class Scope:
    """What a statement sees: where buffers live, the current ranges, and the names in use.

    loop: the innermost loop around it, as the axis and how far it steps.
    """

    names: Names
    places: Mapping[str, Place]
    ranges: Mapping[Axis, Range]
    loop: tuple[Axis, int] | None = None

    def place(self, buffer: Buffer) -> Place:
        """Where a buffer lives."""
        return self.places[buffer.name]


class Nest:
    """The loop nest of one statement: ``lines[d]`` belongs inside the first ``d`` loops of ``order``.

    ``lane`` is the axis that runs along the lanes (``lanes`` of them), or None. ``added`` is what a sum
    adds up, if that is all that reads it.
    """

    def __init__(
        self,
        scope: Scope,
        order: tuple[Axis, ...],
        lane: Axis | None,
        lanes: int,
        added: Expr | None = None,
    ) -> None:
        self.scope, self.order, self.lane, self.lanes = scope, order, lane, lanes
        self.added = added
        self.lines: list[list[str]] = [[] for _ in range(len(order) + 1)]
        self._memo: dict[Expr, Value] = {}
        self._pointers: dict[tuple[int, str, str], str] = {}
        self._count = 0
        self.at: dict[Axis, str] = {a: f"i_{scope.names.axis(a)}" for a in order}

    # -- emitting --------------------------------------------------------------------------------

    def depth(self, axes: frozenset[Axis]) -> int:
        """The shallowest place where a value over these axes can be computed."""
        return max((self.order.index(a) + 1 for a in axes if a in self.order), default=0)

    def name(self, depth: int, ctype: str, text: str, prefix: str = "v") -> str:
        """Emits ``const ctype name = text;`` and returns the name."""
        self._count += 1
        name = f"{prefix}{self._count}"
        self.lines[depth].append(f"const {ctype} {name} = {text};")
        return name

    def ctype(self, dtype: str, vec: bool) -> str:
        """The C++ type of a value."""
        if not vec:
            return DTYPES[dtype].c
        if dtype == "bool":
            return f"so_mask<{self.lanes}>"
        return f"so_vec<{DTYPES[dtype].c}, {self.lanes}>"

    def _var(self, axis: Axis) -> Num:
        """The position of an axis within its current tile."""
        text = self.at.get(axis, "0")
        return Num.of(0) if text == "0" else Num(text)

    # -- conversions -----------------------------------------------------------------------------

    def convert(self, value: Value, dtype: str, vec: bool) -> str:
        """The text of a value converted to ``dtype`` and, if asked, spread over all lanes."""
        n, c = self.lanes, DTYPES[dtype].c
        text = value.text
        if not value.vec:
            if value.dtype != dtype:
                text = f"so_cvt1<{c}>({text})"
            if not vec:
                return text
            return (
                f"so_splat_mask<{n}>({text})" if dtype == "bool" else f"so_splat<{c}, {n}>({text})"
            )
        if value.dtype == dtype:
            return text
        if dtype == "bool":
            return f"so_to_mask<{n}>({text} != 0)"
        if value.dtype == "bool":
            return f"so_from_mask<{c}, {n}>({text})"
        return f"so_cvt<{c}, {n}>({text})"

    # -- values ----------------------------------------------------------------------------------

    def value(self, expr: Expr) -> Value:
        """The value of an expression at the current point of the nest."""
        return unrolled(self._named, expr)

    def _named(self, expr: Expr) -> Printing:
        if expr not in self._memo:
            self._memo[expr] = yield from self._value(expr)
        return self._memo[expr]

    def _value(self, expr: Expr) -> Printing:
        axes = expr_axes(expr)
        vec = self.lane is not None and self.lane in axes
        dtype = value_dtype(expr)
        match expr:
            case Lit():
                return Value(literal(exact_literal(expr.value, dtype), dtype), dtype, False)
            case Extent():
                size = size_num(expr.axis.size)
                return Value(f"{DTYPES[dtype].c}({size.text})", dtype, False)
            case Coord():
                return self._coord(expr, vec)
            case Load():
                return self._load(expr, vec)
            case Apply():
                if vec and self.lanes == 16 and (found := looked_up(expr)) is not None:
                    value = yield found[0]
                    if value.vec and value.dtype == "i32":
                        text = found[1].format(value.text)
                        name = self.name(self.depth(axes), self.ctype("f32", True), text)
                        return Value(name, "f32", True)
                return (yield from self._apply(expr, axes, vec))
        raise NoVector(f"unknown expression {expr!r}")

    def _coord(self, expr: Coord, vec: bool) -> Value:
        at = (self.scope.ranges[expr.axis].base + self._var(expr.axis)).text
        if not vec:
            return Value(at, "i64", False)
        dtype = "i32" if fits32(expr) else "i64"
        c = DTYPES[dtype].c
        text = f"so_iota<{c}, {self.lanes}>({c}({at}))"
        return Value(
            self.name(self.depth(frozenset({expr.axis})), self.ctype(dtype, True), text),
            dtype,
            True,
        )

    def _apply(self, expr: Apply, axes: frozenset[Axis], vec: bool) -> Printing:
        row = SCALARS[expr.op]
        dtype = value_dtype(expr)
        if row.c is None and row.body is not None:
            body = inline(
                row.body,
                expr.args,
                lambda op, xs: Apply(op, tuple(xs), expr.dtype),
                lambda v: Lit(v, dtype),
            )
            return (yield body)
        wanted = operand_dtypes(expr)
        args = []
        for a in expr.args:
            args.append((yield a))
        if vec:
            dtype, wanted = self._lane_dtypes(expr, dtype, wanted)
        texts = [self.convert(v, d, vec) for v, d in zip(args, wanted, strict=True)]
        if expr.op == "cast":
            source = Value(texts[0], wanted[0], vec)
            text = self.convert(source, dtype, vec)
            if text == texts[0] and not (vec and expr.dtype in NARROW and wraps(expr)):
                return Value(text, dtype, vec)
        elif expr.op == "round":
            target = DTYPES[expr.attr or expr.dtype]
            text = f"so_round_to<{target.c}>({texts[0]})" if target.bytes == 2 else texts[0]
        else:
            text = shifted(expr, texts[0]) or (row.c or "").format(*texts)
            if expr is self.added and row.field == "mul":
                text = f"({texts[0]} * {texts[1]})"  # may be fused into the addition
            if row.result == "bool" and vec and wanted[0] in ("f64", "i64"):
                text = f"so_to_mask<{self.lanes}>({text})"
            elif not vec and DTYPES[dtype].kind == "int" and DTYPES[dtype].bytes < 4:
                text = f"{DTYPES[dtype].c}({text})"  # wrap as the type does, after promotion
        if vec and expr.dtype in NARROW and wraps(expr):
            text = f"so_wrap<{DTYPES[expr.dtype].c}>({text})"
        return Value(self.name(self.depth(axes), self.ctype(dtype, vec), text), dtype, vec)

    def _lane_dtypes(
        self, expr: Apply, dtype: str, wanted: tuple[str, ...]
    ) -> tuple[str, tuple[str, ...]]:
        """Vector form: integers that provably fit are i32, and so are those of narrow types."""
        dtype = "i32" if dtype in NARROW else dtype
        wanted = tuple("i32" if d in NARROW else d for d in wanted)
        if expr.op == "cast":
            source = self.value(expr.args[0]).dtype
            if dtype == "i64" and fits32(expr):
                dtype = "i32"
            return dtype, (source,)
        if "i64" not in (dtype, *wanted):
            return dtype, wanted
        if all(fits32(a) for a, d in zip(expr.args, wanted, strict=True) if d == "i64") and (
            dtype != "i64" or fits32(expr)
        ):
            return (
                "i32" if dtype == "i64" else dtype,
                tuple("i32" if d == "i64" else d for d in wanted),
            )
        return dtype, wanted

    # -- addresses -------------------------------------------------------------------------------

    def _load(self, load: Load, vec: bool) -> Value:
        place = self.scope.place(load.buffer)
        dtype = value_dtype(load)
        if not vec:
            base, step = self.address(load)
            # A load is named at once: a later store to the same tile must not move before it.
            text = f"so_cvt1<{DTYPES[dtype].c}>({base}[{step}])"
            axes = expr_axes(load)
            return Value(self.name(self.depth(axes), DTYPES[dtype].c, text), dtype, False)
        coef = self.lane_coef(load)
        lane = self.lane
        if lane is None:
            raise NoVector("no lane axis")
        depth = self.depth(expr_axes(load))
        dtype = "i32" if dtype in NARROW else dtype
        n, c = self.lanes, DTYPES[dtype].c
        mask = place.dtype == "bool"
        if mask and dtype != "bool":
            inner = self.value(replace(load, dtype="bool"))
            return Value(
                self.name(depth, self.ctype(dtype, True), self.convert(inner, dtype, True)),
                dtype,
                True,
            )
        if dtype == "bool" and not mask:
            raise NoVector("a number loaded as a boolean")
        if coef is None:
            text = self._scalar_lanes(load, dtype)
        else:
            base, step = self.address(load)
            kind = ("_mask", f"{n}") if mask else ("", f"{c}, {n}")
            at = f"{base} + {step}" if step != "0" else base
            if coef.value == 1:
                text = f"so_load{kind[0]}<{kind[1]}>({at}, part)"
            else:
                text = f"so_gather{kind[0]}<{kind[1]}>({at}, {coef.text}, part)"
        return Value(self.name(depth, self.ctype(dtype, True), text), dtype, True)

    def _scalar_lanes(self, load: Load, dtype: str) -> str:
        """A load whose index is not affine in the lane axis: one scalar evaluation per lane."""
        if self.lane is None:
            raise NoVector("no lane axis")
        sub = Nest(self.scope, (), None, self.lanes)
        sub.at = {**self.at, self.lane: f"({self.at[self.lane]} + lane)"}
        sub._count = 1000 * (1 + self._count)
        value = sub.value(load)
        c = "int32_t" if dtype == "bool" else DTYPES[dtype].c
        result = f"-int32_t({value.text})" if dtype == "bool" else value.text
        return (
            f"so_lanes<{c}, {self.lanes}>(part, [&](int64_t lane) SO_LAMBDA "
            f"{{ {' '.join(sub.lines[0])} return {c}({result}); }})"
        )

    def lane_coef(self, load: Load) -> Num | None:
        """Elements between neighbouring lanes, 0 if none; None when that is not one number."""
        return stride_along(self.scope, load, self.lane)

    def address(self, load: Load, write: bool = False) -> tuple[str, str]:
        """(pointer, element offset) of a load, or of a destination if ``write``; hoisted.

        All but the innermost varying axis goes into a named pointer, the rest into the offset.
        """
        place = self.scope.place(load.buffer)
        axes = [a for a in self.order if a in expr_axes(load)]
        last = axes[-1] if axes else None
        base, step = Num.of(0), Num.of(0)
        outer = frozenset(axes[:-1])
        if place.panels is not None:
            base, outer = self._in_panels(load, place.panels), frozenset(axes)
        for d, (index, own) in enumerate(zip(load.index, load.buffer.axes, strict=True)):
            stride = place.strides[d]
            if stride.value == 0 and place.panels is not None:
                continue
            form = None if d in load.clamp else affine(index)
            if form is None:
                where = self._index(load, d, index, own)
                outer |= expr_axes(index)
                base = base + where * stride
                continue
            const = Num.of(form[1])
            for axis, coef in form[0].items():
                span, var = self.scope.ranges[axis], self._var(axis)
                # In a tile, its own axis counts from the current base, unless it was cut since.
                if not (place.tile and axis == own and coef == 1 and own not in place.origin):
                    const = const + Num.of(coef) * span.base
                term = Num.of(coef) * var * stride
                if axis == last:
                    step = step + term
                else:
                    base = base + term
            if place.tile and (own not in form[0] or own in place.origin):
                start = place.origin.get(own, self.scope.ranges[own].base)
                const = const + Num.of(-1) * start
            base = base + const * stride
        if last is not None and last in outer:
            base, step = base + step, Num.of(0)
        if base.value == 0:
            return place.var, step.text
        if place.var and not self.order:
            return f"({place.var} + {base.text})", step.text
        depth = self.depth(outer)
        ctype = f"{place.c}*" if write else f"const {place.c}*"
        pointer = self._pointer(depth, ctype, f"{place.var} + {base.text}")
        return pointer, step.text

    def _in_panels(self, load: Load, panels: Panels) -> Num:
        """The offset of an element of a packed buffer inside the panels of its outer axes."""
        names = {}
        for d, own in enumerate(load.buffer.axes):
            if own in (panels.columns, panels.steps):
                names[own] = self._index(load, d, load.index[d], own).text
        i, j = names[panels.columns], names[panels.steps]
        w, g = panels.width, panels.group
        return Num(
            f"({i} / {w} * {panel_elements(panels)} + {j} / {g} * {w * g} + {i} % {w} * {g} + {j} % {g})"
        )

    def _pointer(self, depth: int, ctype: str, text: str) -> str:
        key = (depth, ctype, text)
        if key not in self._pointers:
            self._count += 1
            self._pointers[key] = f"p{self._count}"
            self.lines[depth].append(f"{ctype} const {self._pointers[key]} = {text};")
        return self._pointers[key]

    def _index(self, load: Load, d: int, index: Expr, own: Axis) -> Num:
        """A run-time or divided index as an i64 value, clamped into its axis where asked."""
        value = self.value(index)
        text = self.convert(value, "i64", False)
        if value.vec:
            raise NoVector("an index that varies along the lanes")
        if d in load.clamp:
            text = f"so_index({text}, {size_num(own.size).text})"
        return Num(self.name(self.depth(expr_axes(index)), "int64_t", text, "k"))


def stride_along(scope: Scope, load: Load, axis: Axis | None) -> Num | None:
    """Elements between neighbours along ``axis``; None when that is not one number."""
    place, out = scope.place(load.buffer), Num.of(0)
    if axis is None:
        return out
    for d, index in enumerate(load.index):
        if axis not in expr_axes(index):
            continue
        panels = place.panels
        if panels is not None and load.buffer.axes[d] in (panels.columns, panels.steps):
            return None
        form = None if d in load.clamp else affine(index)
        if form is None:
            return None
        out = out + Num.of(form[0].get(axis, 0)) * place.strides[d]
    return out
