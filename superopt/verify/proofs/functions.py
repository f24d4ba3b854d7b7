"""Functions of floats as terms over reals, with what is known of them as facts.

Roots and reciprocals are defined by their equations, where they are defined. A function that has no
form in arithmetic (exp, log, erf, ...) is an unknown number at each application, of which its laws are
given: equal arguments give equal values, and the laws of its row in the scalar table, for each pair of
applications. The logarithms and exponentials of a program are pairs (u, p) with p = exp(u), which are
ordered alike; that sums of u are products of p is given where it is asked for (``sums``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from superopt.mugraph.scalars import SCALARS
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.values import Unwritten, Value, When, real

MOST_APPLICATIONS = 8
"""Applications of one function between which laws are given; each pair is another disjunction."""

MOST_SUMMED = 5
"""Exponentials and logarithms up to which each three of them may be a sum and a product."""

INVERSE = ("exp", "log")
"""Rows that are one relation, read from either side."""


class Functions:
    """Applies the rows of the scalar table that are functions of floats."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.powers: list[tuple[str, str, str]] = []
        self._applied: dict[str, list[tuple[Value, ...]]] = {}

    def apply(self, op: str, args: Sequence[Value], when: When) -> Value:
        """A row applied to reals; raises Unwritten where it has no exact form."""
        x = replace(args[0], when=when)
        match op:
            case "recip":
                return self._reciprocal(x)
            case "floor" | "ceil":
                up = op == "ceil"
                term = (
                    f"(to_real (- (to_int (- {x.term}))))" if up else f"(to_real (to_int {x.term}))"
                )
                cut = math.ceil if up else math.floor
                low = None if x.lo is None else Fraction(cut(x.lo))
                high = None if x.hi is None else Fraction(cut(x.hi))
                return replace(x, term=self.formula.define(term, "Real"), lo=low, hi=high)
            case "floordiv_real" | "mod_real":
                below = self._reciprocal(args[1])
                when |= below.when
                ratio = f"(* {args[0].term} {below.term})"
                floor = f"(to_real (to_int {ratio}))"
                if op == "mod_real":
                    floor = f"(- {args[0].term} (* {args[1].term} {floor}))"
                return Value("Real", x.dtype, self.formula.define(floor, "Real"), when=when)
            case "sqrt":
                return self._root(x)
        if SCALARS[op].abstract != "fn" or op == "round":
            raise Unwritten(op)
        return self._function(op, args, when)

    def _reciprocal(self, x: Value) -> Value:
        if x.literal is not None:
            if x.literal == 0:
                raise Unwritten("a division by zero")
            inverse = 1 / x.literal
            return replace(x, term=real(inverse), lo=inverse, hi=inverse)
        fresh = not self.formula.knows(("recip", x.term))
        name = self.formula.var(("recip", x.term), "a reciprocal", "Real")
        if fresh:
            self.formula.fact(
                f"(=> (distinct {x.term} 0.0) (= (* {name} {x.term}) 1.0))",
                f"(=> (< 0.0 {x.term}) (< 0.0 {name}))",
                f"(=> (< {x.term} 0.0) (< {name} 0.0))",
            )
        positive = x.lo is not None and x.lo > 0
        when = x.when if positive else x.when | _defined(f"(distinct {x.term} 0.0)")
        return Value("Real", x.dtype, name, Fraction(0) if positive else None, None, when)

    def _root(self, x: Value) -> Value:
        fresh = not self.formula.knows(("sqrt", x.term))
        name = self.formula.var(("sqrt", x.term), "a root", "Real")
        if fresh:
            self.formula.fact(
                f"(<= 0.0 {name})", f"(=> (<= 0.0 {x.term}) (= (* {name} {name}) {x.term}))"
            )
        when = x.when if _not_negative(x) else x.when | _defined(f"(<= 0.0 {x.term})")
        return Value("Real", x.dtype, name, Fraction(0), None, when)

    def _function(self, op: str, args: Sequence[Value], when: When) -> Value:
        key = (op, *(a.term for a in args))
        fresh = not self.formula.knows(key)
        name = self.formula.var(key, op, "Real")
        laws = SCALARS[op].laws
        low = Fraction(0) if "not negative" in laws else None
        if op == "log":
            x = args[0]
            when |= When(finite=frozenset({f"(distinct {x.term} 0.0)"}))
            when = when if _not_negative(x) else when | _defined(f"(<= 0.0 {x.term})")
        elif op == "pow":  # it has no value for some numbers, and an infinite one for some
            flags = [(w, self.formula.var((w, *key), w, "Bool")) for w in ("defined", "finite")]
            when |= When(**{w: frozenset({name}) for w, name in flags})
        out = Value("Real", args[0].dtype, name, low, None, when)
        if fresh:
            self._laws(op, (out, *args))
        return out

    def _laws(self, op: str, new: tuple[Value, ...]) -> None:
        laws = SCALARS[op].laws
        value, x = new[0].term, new[1].term
        fact = self.formula.fact
        if op in INVERSE:
            self._power(*((x, value, "true") if op == "exp" else (value, x, f"(< 0.0 {x})")))
        if "odd" in laws:
            fact(f"(=> (= {x} 0.0) (= {value} 0.0))")
        earlier = self._applied.setdefault(op, [])
        for old in earlier[-MOST_APPLICATIONS:]:
            other, y = old[0].term, old[1].term
            same = " ".join(f"(= {a.term} {b.term})" for a, b in zip(new[1:], old[1:], strict=True))
            fact(f"(=> (and {same}) (= {value} {other}))")
            if "odd" in laws:
                fact(f"(=> (= {x} (- {y})) (= {value} (- {other})))")
            if "even" in laws:
                fact(f"(=> (= {x} (- {y})) (= {value} {other}))")
            if "increasing" in laws and op not in INVERSE:
                fact(_ordered(x, y, value, other))
        earlier.append(new)

    def _power(self, u: str, p: str, given: str) -> None:
        """The laws of p = exp(u), which holds where something is given: that u is the logarithm of p > 0."""
        fact = self.formula.fact
        if given == "true":
            fact(f"(< 0.0 {p})")
        fact(f"(=> {given} {_ordered('0.0', u, '1.0', p)})")
        for v, q, there in self.powers[-MOST_APPLICATIONS:]:
            fact(f"(=> (and {given} {there}) {_ordered(u, v, p, q)})")
        self.powers.append((u, p, given))

    def sums(self) -> bool:
        """Adds that exp takes sums to products, between its applications; whether that is to be tried."""
        if not 1 < len(self.powers) <= MOST_SUMMED:
            return False
        for k, (u, p, given) in enumerate(self.powers):
            for i, (v, q, one) in enumerate(self.powers):
                if i > k:
                    opposite = f"(= (= {u} (- {v})) (= (* {p} {q}) 1.0))"
                    self.formula.fact(f"(=> (and {given} {one}) {opposite})")
                for w, r, other in self.powers[i:]:
                    if p in (q, r):
                        continue
                    summed = f"(= (= {u} (+ {v} {w})) (= {p} (* {q} {r})))"
                    self.formula.fact(f"(=> (and {given} {one} {other}) {summed})")
        return True


def _ordered(x: str, y: str, value: str, other: str) -> str:
    """That two values are ordered as their arguments are."""
    return f"(and (= (< {x} {y}) (< {value} {other})) (= (< {y} {x}) (< {other} {value})))"


def _defined(condition: str) -> When:
    return When(defined=frozenset({condition}))


def _not_negative(x: Value) -> bool:
    return x.lo is not None and x.lo >= 0
