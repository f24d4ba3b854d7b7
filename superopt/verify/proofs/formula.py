"""Formulas of linear integer arithmetic as SMT-LIB text, which is also the key of what was proved.

Constants are named in the order in which they come up, so that formulas which differ in the names
of axes alone are one text. Sizes are literals or constants within the range of their symbol, tile
sizes are literals: ``ceil(n / T) = k`` is written ``T (k - 1) < n <= T k``, so all is linear.

Expressions of the tile IR are written with these meanings: ``floordiv`` and ``mod`` by a positive
literal are the floored ones (which ``div`` and ``mod`` of SMT-LIB are for a positive divisor); an
integer is an integer of any size; what is loaded is any integer. What has no form here is any
integer too, and then a counter-model shows nothing (``loose``).
"""

from __future__ import annotations

from collections.abc import Generator

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_shared import unrolled
from superopt.mugraph.tileir import Apply, Coord, Expr, Extent, Lit, Load

_PLAIN = {"add": "+", "sub": "-", "mul": "*"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "=", "ne": "distinct"}
_LOGICAL = {"and": "and", "or": "or", "not": "not"}


class Formula:
    """Constants, definitions and facts, from which a goal is to follow."""

    def __init__(self) -> None:
        self.head: list[str] = []
        self.words: dict[str, str] = {}
        self.loose = False
        self._names: dict[object, str] = {}

    def var(self, key: object, words: str, sort: str = "Int") -> str:
        """The constant of a key, declared when it first comes up; words: for people."""
        if key not in self._names:
            name = self._names[key] = f"v{len(self._names)}"
            self.words[name] = words
            self.head.append(f"(declare-const {name} {sort})")
        return self._names[key]

    def knows(self, key: object) -> bool:
        """Whether there is a constant of a key."""
        return key in self._names

    def define(self, text: str, sort: str = "Int") -> str:
        """A name for a term."""
        key = ("term", text)
        if key not in self._names:
            name = self._names[key] = f"d{len(self._names)}"
            self.head.append(f"(define-fun {name} () {sort} {text})")
        return self._names[key]

    def fact(self, *texts: str) -> None:
        """What is given."""
        self.head += [f"(assert {text})" for text in texts]

    def size(self, axis: Axis) -> str:
        """The number of elements along an axis."""
        size = axis.size
        if not isinstance(size, Sym):
            return number(size)
        fresh = ("size", size.name) not in self._names
        name = self.var(("size", size.name), size.name)
        if fresh:
            self.fact(f"(<= {number(size.lo)} {name})", f"(<= {name} {number(size.hi)})")
        return name

    def coordinate(self, axis: Axis) -> str:
        """Any element along an axis."""
        fresh = ("at", axis) not in self._names
        name = self.var(("at", axis), axis.name)
        if fresh:
            self.fact(f"(<= 0 {name})", f"(< {name} {self.size(axis)})")
        return name

    def text(self, goal: str) -> str:
        """Satisfiable exactly when the goal does not follow."""
        return "\n".join([*self.head, f"(assert (not {goal}))"])

    # -- expressions of the tile IR ----------------------------------------------------------------

    def value(self, expr: Expr) -> str:
        """An expression as a term: Int, or Bool for a comparison."""
        known: dict[Expr, str] = {}

        def ask(e: Expr) -> Generator[Expr, str, str]:
            if e not in known:
                args = []
                if isinstance(e, Apply):
                    for a in e.args:
                        args.append((yield a))
                known[e] = self._written(e, args)
            return known[e]

        return unrolled(ask, expr)

    def _written(self, expr: Expr, args: list[str]) -> str:
        match expr:
            case Lit(value=bool(value)):
                return "true" if value else "false"
            case Lit(value=value, dtype=dtype) if _whole(dtype) and value == value // 1:
                return number(int(value))
            case Coord(axis=axis):
                return self.coordinate(axis)
            case Extent(axis=axis, dtype=dtype) if _whole(dtype):
                return self.size(axis)
            case Load(buffer=buffer, dtype=dtype) if _whole(dtype):
                return self.var(expr, f"the value read from {buffer.name}")
            case Apply() if (text := _applied(expr, args)) is not None:
                boolean = expr.dtype == "bool"
                return self.define(text, "Bool" if boolean else "Int")
        self.loose = True
        name = self.var(expr, "a value")
        return f"(= {name} 0)" if expr.dtype == "bool" else name


def _applied(expr: Apply, args: list[str]) -> str | None:
    """An application as a term, or None when it has no form here."""
    kinds = [DTYPES[a.dtype].kind for a in expr.args]
    if expr.op in _COMPARE and kinds == ["int", "int"]:
        return f"({_COMPARE[expr.op]} {args[0]} {args[1]})"
    if expr.op in _LOGICAL and set(kinds) == {"bool"}:
        return f"({_LOGICAL[expr.op]} {' '.join(args)})"
    if expr.op == "where" and kinds == ["bool", "int", "int"] and _whole(expr.dtype):
        return f"(ite {args[0]} {args[1]} {args[2]})"
    if set(kinds) != {"int"} or not _whole(expr.dtype):
        return None
    match expr.op:
        case "add" | "sub" | "mul":
            return f"({_PLAIN[expr.op]} {args[0]} {args[1]})"
        case "neg":
            return f"(- {args[0]})"
        case "max":
            return f"(ite (<= {args[0]} {args[1]}) {args[1]} {args[0]})"
        case "min":
            return f"(ite (<= {args[0]} {args[1]}) {args[0]} {args[1]})"
        case "cast":
            return args[0]
        case "floordiv" | "mod":
            by = expr.args[1]
            if isinstance(by, Lit) and by.value >= 1:
                return f"({'div' if expr.op == 'floordiv' else 'mod'} {args[0]} {args[1]})"
    return None


def _whole(dtype: str) -> bool:
    """Whether values of a dtype are integers wide enough for any coordinate."""
    return DTYPES[dtype].kind == "int" and DTYPES[dtype].bytes >= 4


def number(value: int) -> str:
    """An integer literal."""
    return str(value) if value >= 0 else f"(- {-value})"


def smaller(a: str, b: str) -> str:
    """The smaller of two terms."""
    return f"(ite (<= {a} {b}) {a} {b})"
