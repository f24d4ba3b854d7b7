"""What the helpers of the CPU backend's headers do, over exact forms: loads, stores, steps, functions.

A part, which says how many lanes of a step exist, is None where all do, else their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from superopt.bench.cpp_parse import Type, Unreadable
from superopt.bench.exact_memory import FLOATS, Pointer, Real, Scalar
from superopt.bench.exact_numbers import Numbers, Vec

Args = Sequence[Any]

_FUNCTIONS = (
    "exp", "expm1", "log", "log1p", "sqrt", "tanh", "erf", "erfc", "sin", "cos", "abs", "floor",
    "ceil",
)  # fmt: skip


@dataclass(frozen=True)
class Lambda:
    """A lambda; flat: the associative operation that it is, or the empty string."""

    call: Callable[..., Any]
    flat: str = ""


class Helpers:
    """The helpers by name; a call is given the arguments of the template and its own."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        n = numbers
        self.table: dict[str, Callable[[Args, Args], Any]] = {
            "so_cvt1": lambda t, a: n.convert(_name(t[0]), a[0]),
            "so_cvt": lambda t, a: self.converted(_name(t[0]), a[0]),
            "so_splat": lambda t, a: Vec((n.convert(_name(t[0]), a[0]),) * t[1]),
            "so_splat_mask": lambda t, a: Vec((n.boolean(a[0]),) * t[0]),
            "so_iota": self._iota,
            "so_to_mask": lambda t, a: n.lanes(self._masked, a[0], masks=True),
            "so_from_mask": self._from_mask,
            "so_load": lambda t, a: self._load(_name(t[0]), t[1], a[0], 1, a[1]),
            "so_load_mask": lambda t, a: self._load("bool", t[0], a[0], 1, a[1]),
            "so_gather": lambda t, a: self._load(_name(t[0]), t[1], a[0], a[1], a[2]),
            "so_gather_mask": lambda t, a: self._load("bool", t[0], a[0], a[1], a[2]),
            "so_store": lambda t, a: self._store(t[0], a[0], 1, a[1], a[2]),
            "so_store_mask": lambda t, a: self._store(t[0], a[0], 1, a[1], a[2]),
            "so_scatter": lambda t, a: self._store(t[0], a[0], a[1], a[2], a[3]),
            "so_scatter_mask": lambda t, a: self._store(t[0], a[0], a[1], a[2], a[3]),
            "so_lanes": self._lanes,
            "so_steps": self._steps,
            "so_mul": lambda t, a: n.binary("*", a[0], a[1]),
            "so_max": lambda t, a: n.lanes(lambda x, y: n.extreme("max", x, y), a[0], a[1]),
            "so_min": lambda t, a: n.lanes(lambda x, y: n.extreme("min", x, y), a[0], a[1]),
            "so_where": self._where,
            "so_pow": lambda t, a: n.lanes(self._pow, a[0], a[1]),
            "so_floordiv": lambda t, a: n.lanes(self._floordiv, a[0], a[1]),
            "so_mod": lambda t, a: n.lanes(self._mod, a[0], a[1]),
            "so_round_to": self._round_to,
            "so_least": lambda t, a: min(_integer(a[0]), _integer(a[1])),
            "so_index": self._index,
            "so_row": lambda t, a: (_integer(a[0]), _integer(a[1])),
            "so_fix": lambda t, a: _integer(t[0]),
            "INT64_C": lambda t, a: _integer(a[0]),
            "so_vec": lambda t, a: self.typed(Type("so_vec", tuple(t)), a[0]),
            "so_mask": lambda t, a: self.typed(Type("so_mask", tuple(t)), a[0]),
        }
        for name in _FUNCTIONS:
            self.table[f"so_{name}"] = self._function(name)

    # -- conversions

    def typed(self, kind: Type, x: Any) -> Any:
        """A value given to a variable of a type."""
        if kind.pointers or kind.name in ("auto", "char", "void"):
            return x
        if kind.name in ("so_vec", "so_mask"):
            if not isinstance(x, Vec):
                raise Unreadable("a number where a vector is expected")
            if kind.name == "so_vec":
                name = _name(kind.args[0])
                if name in FLOATS and not any(
                    isinstance(v, int) and not isinstance(v, bool) for v in x.lanes
                ):
                    return x  # the bits of a mask stay those of a mask
                return self.converted(name, x)
            return self.numbers.lanes(self._masked, x, masks=True)
        if isinstance(x, Vec | Pointer):
            raise Unreadable("no number where one is expected")
        return self.numbers.convert(kind.name, x)

    def converted(self, ctype: str, x: Any) -> Any:
        """A vector converted lane by lane."""
        return self.numbers.lanes(lambda v: self.numbers.convert(ctype, v), x)

    def _masked(self, x: Scalar) -> Scalar:
        if isinstance(x, Real):
            raise Unreadable("a number as a mask")
        return self.numbers.boolean(x)

    def _from_mask(self, t: Args, a: Args) -> Any:
        def lane(x: Scalar) -> Scalar:
            return self.numbers.convert(_name(t[0]), self._masked(x))

        return self.numbers.lanes(lane, a[0], masks=True)

    def _iota(self, t: Args, a: Args) -> Vec:
        first = _integer(a[0])
        return Vec(tuple(self.numbers.convert(_name(t[0]), first + k) for k in range(t[1])))

    def _round_to(self, t: Args, a: Args) -> Any:
        dtype = {"so_bf16": "bf16", "so_f16": "f16"}[_name(t[0])]
        return self.numbers.lanes(lambda x: self.numbers.apply("round", x, dtype=dtype), a[0])

    # -- memory

    def _load(self, ctype: str, width: int, p: Any, stride: int, part: int | None) -> Vec:
        lanes = []
        for k in range(_count(width, part)):
            lanes.append(self.numbers.convert(ctype, pointer(p).read(k * _integer(stride))))
        return Vec(tuple(lanes))

    def _store(self, width: int, p: Any, stride: int, value: Any, part: int | None) -> None:
        n = _count(width, part)
        if not isinstance(value, Vec):
            raise Unreadable("a number where a vector is expected")
        lanes = value.first(n)
        if pointer(p).block.ctype != "bool":
            self.numbers.plain_lanes(lanes)
        for k, x in enumerate(lanes):
            self.put(p, k * _integer(stride), x)

    def put(self, p: Any, k: int, value: Any) -> None:
        """Stores a number ``k`` elements on from a pointer, converted to the array's type."""
        target = pointer(p)
        target.write(k, self.numbers.convert(target.block.ctype, value))

    def _index(self, t: Args, a: Args) -> int:
        i, n = _integer(a[0]), _integer(a[1])
        return i if 0 <= i < n else 0 if i < 0 else n - 1

    # -- loops

    def _lanes(self, t: Args, a: Args) -> Vec:
        made = [a[1].call(k) for k in range(_count(t[1], a[0]))]
        if t[0] == Type("int32_t") and made and not isinstance(made[0], int):
            raise Unreadable("masks made lane by lane")
        return Vec(tuple(self.numbers.convert(_name(t[0]), x) for x in made))

    def _steps(self, t: Args, a: Args) -> None:
        width, n = t[0], _integer(a[0])
        for i in range(0, n, width):
            self.numbers.exact.spend(1)
            a[1].call(i, None if i + width <= n else n - i)

    # -- functions

    def _function(self, name: str) -> Callable[[Args, Args], Any]:
        numbers = self.numbers

        def lane(x: Scalar) -> Scalar:
            if isinstance(x, int) and not isinstance(x, bool):
                if name == "abs":
                    return abs(x)
                raise Unreadable(f"so_{name} of an integer")
            return numbers.apply(name, x)

        def call(t: Args, a: Args) -> Any:
            (x,) = a
            return numbers.lanes(lane, x)

        return call

    def _where(self, t: Args, a: Args) -> Any:
        widths = [len(x.lanes) for x in a if isinstance(x, Vec)]
        if widths and len(widths) < 3:
            raise Unreadable("a number where a vector is expected")
        return self.numbers.lanes(self.numbers.where, *a, masks=True)

    def _pow(self, x: Scalar, y: Scalar) -> Scalar:
        if isinstance(x, int) and isinstance(y, int):
            raise Unreadable("so_pow of integers")
        return self.numbers.apply("pow", x, y)

    def _floordiv(self, x: Scalar, y: Scalar) -> Scalar:
        if isinstance(x, int) and isinstance(y, int):
            return x // y if y else 0
        return self.numbers.apply("floordiv_real", x, y)

    def _mod(self, x: Scalar, y: Scalar) -> Scalar:
        if isinstance(x, int) and isinstance(y, int):
            return x % y if y else 0
        return self.numbers.apply("mod_real", x, y)


def pointer(p: Any) -> Pointer:
    """A pointer; raises Unreadable where there is none."""
    if not isinstance(p, Pointer):
        raise Unreadable("no pointer where one is expected")
    return p


def _count(width: int, part: int | None) -> int:
    return width if part is None else min(width, part)


def _name(t: Any) -> str:
    return t.name if isinstance(t, Type) else str(t)


def _integer(x: Any) -> int:
    if not isinstance(x, int):
        raise Unreadable("no integer where one is expected")
    return int(x)
