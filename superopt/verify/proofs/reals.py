"""Pointwise operators as terms over integers and reals; functions of floats are in ``functions``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Const, Map
from superopt.verify.proofs.formula import Formula, number
from superopt.verify.proofs.functions import Functions
from superopt.verify.proofs.values import (
    Unwritten,
    Value,
    When,
    all_of,
    bounds_of,
    greatest,
    least,
    product,
    real,
    together,
)

SORTS = {"bool": "Bool", "int": "Int", "float": "Real"}


class Numbers:
    """Writes values into a formula; see the module."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.casts = False
        self.functions = Functions(formula)

    # -- leaves

    def atom(self, key: object, dtype: str, low: int | None, high: int | None) -> Value:
        """An unknown value of a type, between two numbers where they are given."""
        sort = SORTS[DTYPES[dtype].kind]
        fresh = not self.formula.knows(("atom", key))
        name = self.formula.var(("atom", key), str(key), sort)
        if sort == "Bool":
            return Value(sort, dtype, name)
        if sort == "Int":
            bottom, top = bounds_of(dtype)
            low, high = (bottom if low is None else low), (top if high is None else high)
        if fresh:
            write = number if sort == "Int" else lambda n: real(Fraction(n))
            if low is not None:
                self.formula.fact(f"(<= {write(low)} {name})")
            if high is not None:
                self.formula.fact(f"(<= {name} {write(high)})")
        return Value(sort, dtype, name, _fraction(low), _fraction(high))

    def flag(self, key: object) -> str:
        """An unknown truth value: whether an atom is defined."""
        return self.formula.var(("flag", key), str(key), "Bool")

    def const(self, node: Const) -> Value:
        """A literal."""
        kind = DTYPES[node.dtype].kind
        if kind == "bool":
            return Value("Bool", node.dtype, "true" if node.value else "false")
        if math.isinf(node.value):
            raise Unwritten("an infinity")
        x = Fraction(node.value)
        if kind == "float":
            return Value("Real", node.dtype, real(x), x, x)
        bottom, top = bounds_of(node.dtype)
        outside = not bottom <= x <= top
        return Value("Int", node.dtype, number(int(x)), x, x, outside=outside)

    # -- what values are as others

    def whole(self, x: Value, dtype: str | None = None) -> Value:
        """An integer as its type holds it; a truth value as 0 or 1."""
        if x.sort == "Bool":
            term = f"(ite {x.term} 1 0)"
            return replace(
                x, sort="Int", dtype=dtype or "u8", term=term, lo=Fraction(0), hi=Fraction(1)
            )
        if x.sort != "Int" or x.outside:
            raise Unwritten("no integer of its type")
        low, high = bounds_of(x.dtype)
        if x.lo is not None and x.hi is not None and low <= x.lo and x.hi <= high:
            return x
        term = f"(+ (mod (- {x.term} {number(low)}) {high - low + 1}) {number(low)})"
        return replace(x, term=self.formula.define(term), lo=Fraction(low), hi=Fraction(high))

    def raw(self, x: Value, dtype: str) -> Value:
        """An integer up to multiples of the period of a type."""
        return x if x.sort == "Int" and x.dtype == dtype else self.whole(x, dtype)

    def real(self, x: Value) -> Value:
        """A number as a real one."""
        if x.sort == "Real":
            return x
        x = self.whole(x)
        return replace(x, sort="Real", term=f"(to_real {x.term})")

    def settled(self, x: Value) -> Value:
        """A value as it leaves the program."""
        return self.whole(x) if x.sort == "Int" else x

    # -- operators

    def map(self, node: Map, args: Sequence[Value]) -> Value:
        """A row of the table applied; raises Unwritten where it has no exact form."""
        kind = DTYPES[node.dtype].kind
        when = together(args)
        match node.op:
            case "lt" | "le" | "eq":
                return self._compared(node.op, args, when)
            case "not" | "and" | "or" if all(a.sort == "Bool" for a in args):
                term = f"({node.op} {' '.join(a.term for a in args)})"
                return self._named(Value("Bool", "bool", term, when=when))
            case "where":
                return self._chosen(node.dtype, args)
            case "cast":
                return self._cast(node.dtype, args[0], when)
            case "max" | "min" if kind == "bool":
                term = f"({'or' if node.op == 'max' else 'and'} {' '.join(a.term for a in args)})"
                return self._named(Value("Bool", "bool", term, when=when))
            case "max" | "min":
                x, y = self._alike(node.dtype, args)
                first, second = (y, x) if node.op == "max" else (x, y)
                term = f"(ite (<= {x.term} {y.term}) {first.term} {second.term})"
                low, high = self._extreme(node.op, x, y)
                return self._named(replace(x, term=term, lo=low, hi=high, when=when))
            case "add" | "mul" if kind == "int":
                x, y = (self.raw(a, node.dtype) for a in args)
                return self._ring(node.op, x, y, replace(x, dtype=node.dtype, when=when))
            case "add" | "mul" if kind == "float":
                x, y = (self.real(a) for a in args)
                return self._ring(node.op, x, y, replace(x, dtype=node.dtype, when=when))
            case "floordiv" | "mod" if kind == "int":
                x, y = (self.whole(a, node.dtype) for a in args)
                return self._divided(node, x, y, when)
        if kind != "float":
            raise Unwritten(node.op)
        reals = [self.real(a) for a in args]
        return replace(self.functions.apply(node.op, reals, when), dtype=node.dtype)

    def _named(self, x: Value) -> Value:
        return replace(x, term=self.formula.define(x.term, x.sort))

    def _alike(self, dtype: str, args: Sequence[Value]) -> list[Value]:
        """Arguments as numbers of one type that holds them all."""
        if DTYPES[dtype].kind == "float":
            return [replace(self.real(a), dtype=dtype) for a in args]
        return [replace(self.whole(a, dtype), dtype=dtype) for a in args]

    def _extreme(self, op: str, x: Value, y: Value) -> tuple[Fraction | None, Fraction | None]:
        if op == "max":
            known = [v for v in (x.lo, y.lo) if v is not None]
            return (max(known) if known else None), greatest(x.hi, y.hi)
        known = [v for v in (x.hi, y.hi) if v is not None]
        return least(x.lo, y.lo), (min(known) if known else None)

    def _ring(self, op: str, x: Value, y: Value, like: Value) -> Value:
        if op == "add":
            low = None if x.lo is None or y.lo is None else x.lo + y.lo
            high = None if x.hi is None or y.hi is None else x.hi + y.hi
        else:
            low, high = product(x, y)
            if x.term == y.term and (low is None or low < 0):
                low = Fraction(0)
        out = replace(like, lo=low, hi=high, outside=False)
        if low is not None and low == high:
            write = real(low) if like.sort == "Real" else number(int(low))
            return replace(out, term=write)
        return self._named(replace(out, term=f"({'+' if op == 'add' else '*'} {x.term} {y.term})"))

    def _compared(self, op: str, args: Sequence[Value], when: When) -> Value:
        x, y = args
        if x.sort == y.sort == "Bool":
            term = {
                "lt": f"(and (not {x.term}) {y.term})",
                "le": f"(=> {x.term} {y.term})",
                "eq": f"(= {x.term} {y.term})",
            }[op]
        else:
            if "Real" in (x.sort, y.sort):
                x, y = self.real(x), self.real(y)
            else:
                x, y = self.whole(x), self.whole(y)
            term = f"({ {'lt': '<', 'le': '<=', 'eq': '='}[op] } {x.term} {y.term})"
        return self._truth(term, when)

    def _truth(self, term: str, when: When) -> Value:
        """A comparison, which is some truth value or other where a side is undefined."""
        if when.known:
            unknown = self.formula.var(("unknown", term, when.known), "a comparison", "Bool")
            term = f"(ite {all_of(when.known)} {term} {unknown})"
        return self._named(Value("Bool", "bool", term, when=When(divided=when.divided)))

    def _chosen(self, dtype: str, args: Sequence[Value]) -> Value:
        test, x, y = args
        if test.sort != "Bool":
            raise Unwritten("a choice by a number")
        kind = DTYPES[dtype].kind
        if kind == "float":
            x, y = self.real(x), self.real(y)
        elif kind == "int":
            if x.outside or y.outside:
                raise Unwritten("a literal outside of its type")
            x, y = self.raw(x, dtype), self.raw(y, dtype)
        elif {x.sort, y.sort} != {"Bool"}:
            raise Unwritten("a choice of two types")
        no = f"(not {test.term})"
        return self._named(
            replace(
                x,
                dtype=dtype,
                term=f"(ite {test.term} {x.term} {y.term})",
                lo=least(x.lo, y.lo),
                hi=greatest(x.hi, y.hi),
                when=test.when | x.when.where(test.term) | y.when.where(no),
            )
        )

    def _cast(self, dtype: str, x: Value, when: When) -> Value:
        kind = DTYPES[dtype].kind
        if kind == "float":
            self.casts |= x.sort == "Real" and x.dtype != dtype
            return replace(self.real(x), dtype=dtype)
        if kind == "bool":
            if x.sort == "Bool":
                return x
            x = self.settled(x)
            zero = "0.0" if x.sort == "Real" else "0"
            return self._truth(f"(distinct {x.term} {zero})", when)
        if x.sort == "Bool":
            return self.whole(x, dtype)
        low, high = bounds_of(dtype)
        if x.sort == "Int":
            narrower = DTYPES[dtype].bytes <= DTYPES[x.dtype].bytes
            if x.outside:
                raise Unwritten("a literal outside of its type")
            return replace(x if narrower else self.whole(x), dtype=dtype)
        if x.lo is None or x.hi is None or math.trunc(x.lo) < low or math.trunc(x.hi) > high:
            raise Unwritten("a cast of a float that the integers may not hold")
        term = f"(ite (<= 0.0 {x.term}) (to_int {x.term}) (- (to_int (- {x.term}))))"
        ends = Fraction(math.trunc(x.lo)), Fraction(math.trunc(x.hi))
        return self._named(Value("Int", dtype, term, lo=ends[0], hi=ends[1], when=when))

    def _divided(self, node: Map, x: Value, y: Value, when: When) -> Value:
        """The floored quotient or remainder of integers; SMT-LIB's are those by a positive number."""
        if x.lo is None or x.hi is None or y.lo is None or y.hi is None:
            raise Unwritten("integers without bounds")
        if y.lo <= 0 <= y.hi:
            when |= When(divided=frozenset({f"(distinct {y.term} 0)"}))
        if y.literal == 0:
            raise Unwritten("a division by zero")
        up, down = f"(div {x.term} {y.term})", f"(div (- {x.term}) (- {y.term}))"
        if y.lo > 0:
            quotient = up
        elif y.hi < 0:
            quotient = down
        else:
            quotient = f"(ite (< 0 {y.term}) {up} {down})"
        out = Value("Int", node.dtype, "", when=when)
        if node.op == "mod":
            term = f"(mod {x.term} {y.term})"
            if y.lo <= 0:
                term = f"(- {x.term} (* {y.term} {self.formula.define(quotient)}))"
            low, high = min(y.lo + 1, Fraction(0)), max(y.hi - 1, Fraction(0))
            return self._named(replace(out, term=term, lo=low, hi=high))
        if y.lo > 0:
            corners = [Fraction(p // q) for p in (x.lo, x.hi) for q in (y.lo, y.hi)]
        else:
            large = max(abs(x.lo), abs(x.hi))
            corners = [-large, large]
        return self._named(replace(out, term=quotient, lo=min(corners), hi=max(corners)))


def _fraction(x: int | None) -> Fraction | None:
    return None if x is None else Fraction(x)
