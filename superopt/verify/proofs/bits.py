"""Pointwise operators of integers as bit vectors as wide as their types, which wrap as these do.

The parity of x * x is found in its lowest bit, where arithmetic would look at all products. Division
and remainder round down; by a power of two they are a shift and a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Const, Map
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.values import Unwritten, Value, When, together


class Bits:
    """Writes integers and truth values into a formula; the counterpart of ``reals.Numbers``."""

    casts = False

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self._literals: dict[str, int] = {}

    def atom(self, key: object, dtype: str, low: int | None, high: int | None) -> Value:
        """An unknown value of a type, between two numbers where they are given."""
        fresh = not self.formula.knows(("atom", key))
        name = self.formula.var(("atom", key), str(key), _sort(dtype))
        if fresh and dtype != "bool":
            less = "bvule" if dtype == "u8" else "bvsle"
            if low is not None:
                self.formula.fact(f"({less} {_number(low, dtype)} {name})")
            if high is not None:
                self.formula.fact(f"({less} {name} {_number(high, dtype)})")
        return Value(_sort(dtype), dtype, name)

    def flag(self, key: object) -> str:
        """An unknown truth value: whether an atom is defined."""
        return self.formula.var(("flag", key), str(key), "Bool")

    def const(self, node: Const) -> Value:
        """A literal."""
        if node.dtype == "bool":
            return Value("Bool", "bool", "true" if node.value else "false")
        if is_float(node.dtype):
            raise Unwritten("a float")
        term = _number(int(node.value), node.dtype)
        self._literals[term] = int(node.value)
        return Value(_sort(node.dtype), node.dtype, term)

    def settled(self, x: Value) -> Value:
        """A value as it leaves the program."""
        return x

    def map(self, node: Map, args: Sequence[Value]) -> Value:
        """A row of the table applied; raises Unwritten where it has no exact form."""
        if is_float(node.dtype):
            raise Unwritten("a float")
        out = Value(_sort(node.dtype), node.dtype, "", when=together(args))
        op = node.op
        if op in ("not", "and", "or") and all(a.sort == "Bool" for a in args):
            return self._named(out, f"({op} {' '.join(a.term for a in args)})")
        if op == "where" and args[0].sort == "Bool":
            test = args[0].term
            x, y = (self._widened(a, node.dtype) for a in args[1:])
            no = f"(not {test})"
            out = replace(out, when=args[0].when | x.when.where(test) | y.when.where(no))
            return self._named(out, f"(ite {test} {x.term} {y.term})")
        if op == "cast":
            return self._cast(out, args[0])
        if op in ("lt", "le", "eq") and args[0].dtype == args[1].dtype:
            return self._compared(op, out, *args)
        if node.dtype == "bool" or op not in ("add", "mul", "max", "min", "floordiv", "mod"):
            raise Unwritten(op)
        x, y = (self._widened(a, node.dtype) for a in args)
        if op in ("add", "mul"):
            return self._named(out, f"(bv{op} {x.term} {y.term})")
        if op in ("max", "min"):
            less = "bvule" if node.dtype == "u8" else "bvsle"
            first, second = (y, x) if op == "max" else (x, y)
            return self._named(out, f"(ite ({less} {x.term} {y.term}) {first.term} {second.term})")
        return self._divided(op, out, x, y)

    def _named(self, out: Value, term: str) -> Value:
        return replace(out, term=self.formula.define(term, out.sort))

    def _widened(self, x: Value, dtype: str) -> Value:
        """A value in a type that holds all of its own."""
        return x if x.dtype == dtype else self._cast(replace(x, dtype=dtype, sort=_sort(dtype)), x)

    def _cast(self, out: Value, x: Value) -> Value:
        if x.dtype == out.dtype:
            return x
        if x.dtype == "bool":
            one, zero = _number(1, out.dtype), _number(0, out.dtype)
            return self._named(out, f"(ite {x.term} {one} {zero})")
        if out.dtype == "bool":
            return self._named(out, f"(distinct {x.term} {_number(0, x.dtype)})")
        more = _width(out.dtype) - _width(x.dtype)
        if more > 0:
            extend = "zero" if x.dtype == "u8" else "sign"
            return self._named(out, f"((_ {extend}_extend {more}) {x.term})")
        return self._named(out, f"((_ extract {_width(out.dtype) - 1} 0) {x.term})")

    def _compared(self, op: str, out: Value, x: Value, y: Value) -> Value:
        if op == "eq":
            return self._named(out, f"(= {x.term} {y.term})")
        if x.dtype == "bool":
            term = f"(and (not {x.term}) {y.term})" if op == "lt" else f"(=> {x.term} {y.term})"
            return self._named(out, term)
        name = f"bv{'u' if x.dtype == 'u8' else 's'}{op}"
        return self._named(out, f"({name} {x.term} {y.term})")

    def _divided(self, op: str, out: Value, x: Value, y: Value) -> Value:
        dtype = out.dtype
        by = self._literals.get(y.term, 0)
        low = 0 if dtype == "u8" else -(2 ** (_width(dtype) - 1))
        top = low + 2 ** _width(dtype) - 1
        if 0 < by <= top and by & (by - 1) == 0:
            if op == "mod":
                return self._named(out, f"(bvand {x.term} {_number(by - 1, dtype)})")
            shift = "bvlshr" if dtype == "u8" else "bvashr"
            return self._named(out, f"({shift} {x.term} {_number(by.bit_length() - 1, dtype)})")
        zero = _number(0, dtype)
        if not by:
            nonzero = frozenset({f"(distinct {y.term} {zero})"})
            out = replace(out, when=out.when | When(divided=nonzero))
        if dtype == "u8":
            return self._named(out, f"({'bvurem' if op == 'mod' else 'bvudiv'} {x.term} {y.term})")
        rest = f"(bvsmod {x.term} {y.term})"  # which has the sign of the divisor
        if op == "mod":
            return self._named(out, rest)
        exact, minus = f"(bvsdiv {x.term} {y.term})", _number(-1, dtype)
        signs = f"(distinct (bvslt {x.term} {zero}) (bvslt {y.term} {zero}))"
        down = f"(and {signs} (distinct {rest} {zero}))"
        return self._named(out, f"(ite {down} (bvadd {exact} {minus}) {exact})")


def _width(dtype: str) -> int:
    return 8 * DTYPES[dtype].bytes


def _sort(dtype: str) -> str:
    if is_float(dtype):
        raise Unwritten("a float")
    return "Bool" if dtype == "bool" else f"(_ BitVec {_width(dtype)})"


def _number(value: int, dtype: str) -> str:
    return f"(_ bv{value % 2 ** _width(dtype)} {_width(dtype)})"
