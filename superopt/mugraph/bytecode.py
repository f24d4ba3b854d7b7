"""Flat programs for the compiled field evaluator: a graph and its scalar rows as one array of ints.

The evaluator knows field primitives and nothing of operators: composite rows are unfolded here,
conversions between exact and float values are made explicit, and names become hashes. A program is

    [version, registers, levels, literals], the residues of the literals level by level, then per
    register [real, mask, cells], then the instructions,

each ``[opcode, length, operands...]`` (``length`` counts the operands). ``dims`` stands for
``n, size_1..size_n`` and ``strides`` for one element stride per dim (0 where a value lacks it):

    INPUT  dst name lo hi dtype  dims strides more...  cell numbers of the caller's layout
    CONST  dst status value_per_level... | value
    IOTA   dst
    APPLY  op dst mask low salt dtype sign_a sign_b nargs  dims (reg strides)...
           low, of KEYED: 1 where infinities are their own images
    REDUCE op dst src mask low  n (size, over)...    over: 1 where the dim is reduced
    INDEX  dst src pool                              pool[i]: the cell of src that cell i reads
    GATHER dst src at along_size along_stride reach  dims strides_src strides_at
           reach: beyond it an index is undefined, between along_size and it reads the end
    OUTPUT reg level  dims strides
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from superopt.mugraph.algebras import chain as ch
from superopt.mugraph.algebras.chain import Chain
from superopt.mugraph.algebras.field_values import NEG, OK, POS, Integers
from superopt.mugraph.algebras.levels import lowest
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, is_float

VERSION = 2


class Op(IntEnum):
    """Instructions."""

    INPUT, CONST, IOTA, APPLY, REDUCE, INDEX, GATHER, OUTPUT = range(8)


class Prim(IntEnum):
    """Field primitives of APPLY and REDUCE, on floats and exact values alike where both have it."""

    (
        ADD,
        MUL,
        RECIP,
        SQRT,
        EXP,
        LOG,
        MAX,
        MIN,
        LT,
        LE,
        EQ,
        KEYED,
        WHERE,
        NOT,
        AND,
        OR,
        FLOORDIV,
        MOD,
        TO_REAL,
        TO_BOOL,
        KEYED_INT,
        WRAP,
        COPY,
    ) = range(23)


PRIM = {
    name: Prim[name.upper()]
    for name in (
        "add",
        "mul",
        "recip",
        "sqrt",
        "exp",
        "log",
        "max",
        "min",
        "lt",
        "le",
        "eq",
        "where",
        "not",
        "and",
        "or",
        "floordiv",
        "mod",
    )
}
EXACT_OPS = frozenset({"add", "mul", "max", "min", "lt", "le", "eq", "floordiv", "mod"})


@dataclass(frozen=True, eq=False)
class Program:
    """A flat program: ``code`` and ``pool`` are int64; outputs tells for each whether it is float."""

    code: np.ndarray
    pool: np.ndarray
    outputs: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Reg:
    """A register while compiling; literal: a whole-number literal that may still become a float."""

    id: int
    real: bool
    mask: int
    axes: tuple[Axis, ...]
    sign: int = 0
    literal: int | None = None


@dataclass
class Assembler:
    """Emits instructions and keeps the registers; knows no graph."""

    chain: Chain
    sizes: Mapping[Axis, int]
    ranges: Mapping[str, Integers]
    regs: list[tuple[int, int, int]] = field(default_factory=list)
    code: list[int] = field(default_factory=list)
    pool: list[np.ndarray] = field(default_factory=list)
    pooled: int = 0

    # -- registers and instructions

    def reg(
        self, real: bool, mask: int, axes: Sequence[Axis], sign: int = 0, literal: int | None = None
    ) -> Reg:
        self.regs.append((int(real), mask if real else 0, math.prod(self.sizes[a] for a in axes)))
        return Reg(len(self.regs) - 1, real, mask, tuple(axes), sign, literal)

    def emit(self, op: Op, *operands: int) -> None:
        self.code += [int(op), len(operands), *operands]

    def strides(self, axes: Sequence[Axis], dims: Sequence[Axis]) -> list[int]:
        """Element strides, along ``dims``, of a dense value on ``axes``."""
        out: dict[Axis, int] = {}
        step = 1
        for a in reversed(axes):
            out[a] = step
            step *= self.sizes[a]
        return [out.get(a, 0) for a in dims]

    def dims(self, dims: Sequence[Axis]) -> list[int]:
        return [len(dims), *(self.sizes[a] for a in dims)]

    def apply(
        self,
        prim: Prim,
        real: bool,
        mask: int,
        axes: Sequence[Axis],
        args: Sequence[Reg],
        *,
        low: int = 0,
        salt: str = "",
        dtype: str = "",
        sign: int = 0,
    ) -> Reg:
        dst = self.reg(real, mask, axes, sign)
        signs = [a.sign for a in args[:2]] + [0, 0]
        operands: list[int] = []
        for a in args:
            operands += [a.id, *self.strides(a.axes, axes)]
        self.emit(
            Op.APPLY,
            int(prim),
            dst.id,
            mask,
            level_of(low),
            word(salt),
            width(dtype),
            signs[0],
            signs[1],
            len(args),
            *self.dims(axes),
            *operands,
        )
        return dst

    def number(self, value: float | int | bool, real: bool, want: int) -> Reg:
        if not real:
            dst = self.reg(False, 0, (), literal=int(value))
            self.emit(Op.CONST, dst.id, 0, int(value))
            return dst
        inf = isinstance(value, float) and math.isinf(value)
        sign = 0 if inf or value == 0 else (1 if value > 0 else -1)
        dst = self.reg(True, want, (), sign)
        residues = [0 if inf else ch.dyadic(value, p) for p in self.chain.primes]
        self.emit(Op.CONST, dst.id, (POS if value > 0 else NEG) if inf else OK, *residues)
        return dst

    def real(self, a: Reg, want: int) -> Reg:
        if a.real:
            return a
        sign = 0 if a.literal is None else (a.literal > 0) - (a.literal < 0)
        return self.apply(Prim.TO_REAL, True, want, a.axes, [a], sign=sign)

    def truth(self, a: Reg) -> Reg:
        if not a.real:
            return a
        return self.apply(Prim.TO_BOOL, False, 0, a.axes, [a], low=lowest(a.mask))


def level_of(mask: int) -> int:
    return max(mask.bit_length() - 1, 0)


def word(text: str) -> int:
    """A name's hash as a signed 64-bit word."""
    h = ch.text_hash(text) if text else 0
    return h - (1 << 64) if h >> 63 else h


def width(dtype: str) -> int:
    """How exact values wrap: 0 not at all, 1 to truth values, else bytes, negative if unsigned."""
    if not dtype or is_float(dtype):
        return 0
    kind = DTYPES[dtype]
    if kind.kind == "bool":
        return 1
    return {1: 9, 2: 2, 4: 4, 8: 0}[kind.bytes] * (-1 if dtype == "u8" else 1)
