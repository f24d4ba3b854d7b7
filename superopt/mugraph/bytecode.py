"""Flat programs for the compiled field evaluator: a graph and its scalar rows as one array of ints.

The evaluator knows field primitives and nothing of operators: composite rows are unfolded here,
conversions between exact and float values are made explicit, and names become hashes. A program is

    [version, registers, levels], then per register [real, mask, cells], then the instructions,

each ``[opcode, length, operands...]`` (``length`` counts the operands). ``dims`` stands for
``n, size_1..size_n`` and ``strides`` for one element stride per dim (0 where a value lacks it):

    INPUT  dst name lo hi dtype  dims strides        cell numbers of the caller's layout
    CONST  dst status value_per_level... | value
    IOTA   dst
    APPLY  op dst mask low salt dtype sign_a sign_b nargs  dims (reg strides)...
    REDUCE op dst src mask low  n (size, over)...    over: 1 where the dim is reduced
    INDEX  dst src pool                              pool[i]: the cell of src that cell i reads
    GATHER dst src at along_size along_stride  dims strides_src strides_at
    OUTPUT reg level  dims strides
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from superopt.mugraph.algebras import chain as ch
from superopt.mugraph.algebras.chain import Chain
from superopt.mugraph.algebras.levels import (
    EXACT,
    ORDERED,
    Info,
    Levels,
    keyed_move,
    lowest,
    node_term,
    term_info,
    term_wants,
    wants,
)
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.evaluate import index_values
from superopt.mugraph.graph import Const, Gather, Graph, Input, Iota, Map, Reduce, SizeOf, View
from superopt.mugraph.scalars import SCALARS, Arg, Scalar, Term

VERSION = 1


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


_PRIM = {
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
_EXACT_OPS = frozenset({"add", "mul", "max", "min", "lt", "le", "eq", "floordiv", "mod"})


@dataclass(frozen=True, eq=False)
class Program:
    """A flat program: ``code`` and ``pool`` are int64; outputs tells for each whether it is float."""

    code: np.ndarray
    pool: np.ndarray
    outputs: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class _Reg:
    """A register while compiling; literal: a whole-number literal that may still become a float."""

    id: int
    real: bool
    mask: int
    axes: tuple[Axis, ...]
    sign: int = 0
    literal: int | None = None


@dataclass
class _Compiler:
    graph: Graph
    plan: Levels
    chain: Chain
    sizes: Mapping[Axis, int]
    ranges: Mapping[str, tuple[int, int]]
    regs: list[tuple[int, int, int]] = field(default_factory=list)
    code: list[int] = field(default_factory=list)
    pool: list[np.ndarray] = field(default_factory=list)
    pooled: int = 0

    # -- registers and instructions

    def reg(
        self, real: bool, mask: int, axes: Sequence[Axis], sign: int = 0, literal: int | None = None
    ) -> _Reg:
        self.regs.append((int(real), mask if real else 0, math.prod(self.sizes[a] for a in axes)))
        return _Reg(len(self.regs) - 1, real, mask, tuple(axes), sign, literal)

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
        args: Sequence[_Reg],
        *,
        low: int = 0,
        salt: str = "",
        dtype: str = "",
        sign: int = 0,
    ) -> _Reg:
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
            _level(low),
            _word(salt),
            _width(dtype),
            signs[0],
            signs[1],
            len(args),
            *self.dims(axes),
            *operands,
        )
        return dst

    def number(self, value: float | int | bool, real: bool, want: int) -> _Reg:
        if not real:
            dst = self.reg(False, 0, (), literal=int(value))
            self.emit(Op.CONST, dst.id, 0, int(value))
            return dst
        inf = isinstance(value, float) and math.isinf(value)
        sign = 0 if inf or value == 0 else (1 if value > 0 else -1)
        dst = self.reg(True, want, (), sign)
        residues = [0 if inf else ch.dyadic(value, p) for p in self.chain.primes]
        self.emit(Op.CONST, dst.id, (3 if value > 0 else 2) if inf else 0, *residues)
        return dst

    def real(self, a: _Reg, want: int) -> _Reg:
        if a.real:
            return a
        sign = 0 if a.literal is None else (a.literal > 0) - (a.literal < 0)
        return self.apply(Prim.TO_REAL, True, want, a.axes, [a], sign=sign)

    def truth(self, a: _Reg) -> _Reg:
        if not a.real:
            return a
        return self.apply(Prim.TO_BOOL, False, 0, a.axes, [a], low=lowest(a.mask))

    # -- nodes

    def node(self, i: int, done: dict[int, _Reg]) -> _Reg:
        node, want = self.graph.nodes[i], self.plan.want[i]
        match node:
            case Input():
                flat = [a for dim in node.dims for a in dim]
                real = is_float(node.dtype)
                lo, hi = (0, 1) if node.dtype == "bool" else self.ranges.get(node.name, (-4, 4))
                dst = self.reg(real, want, node.axes)
                self.emit(
                    Op.INPUT,
                    dst.id,
                    _word(node.name),
                    lo,
                    hi,
                    _width(node.dtype),
                    *self.dims(node.axes),
                    *self.strides(flat, node.axes),
                )
                return dst
            case Const():
                return self.number(node.value, is_float(node.dtype), want)
            case SizeOf():
                return self.number(self.sizes[node.axis], is_float(node.dtype), want)
            case Iota():
                dst = self.reg(False, 0, node.axes)
                self.emit(Op.IOTA, dst.id)
                return dst
            case Map():
                return self.map(node, want, [done[j] for j in node.operands])
            case Reduce():
                return self.reduce(node, want, done[node.operand])
            case View():
                return self.view(node, done[node.operand])
            case Gather():
                return self.gather(node, done[node.operand], self.truth(done[node.at]))
        raise TypeError(f"unknown node {node!r}")

    def map(self, node: Map, want: int, args: list[_Reg]) -> _Reg:
        info = [self.plan.info[j] for j in node.operands]
        out = self.term(node_term(node), want, args, info, node)
        if is_float(node.dtype):
            return self.real(out, want)
        if out.real or node.dtype == "i64":
            return out
        return self.apply(Prim.WRAP, False, 0, out.axes, [out], dtype=node.dtype)

    def term(self, term: Term, want: int, args: list[_Reg], info: list[Info], node: Map) -> _Reg:
        full = self.chain.full
        if isinstance(term, Arg):
            return args[term.index]
        if not isinstance(term, tuple):
            whole = not isinstance(term, float) or term.is_integer()
            return self.number(int(term) if whole else term, not whole, want)
        inner = [term_info(t, info, node.dtype, full) for t in term[1:]]
        row = SCALARS[term[0]]
        if row.body is not None:
            parts = [0] * len(inner)
            term_wants(row.body, want, inner, node.dtype, full, parts)
        else:
            parts = wants(row.name, want, inner, node.dtype, full)
        regs = [self.term(t, w, args, info, node) for t, w in zip(term[1:], parts, strict=True)]
        if row.body is not None:
            return self.term(row.body, want, regs, inner, node)
        return self.primitive(row, want, regs, inner, parts, node)

    def primitive(
        self,
        row: Scalar,
        want: int,
        args: list[_Reg],
        info: list[Info],
        parts: list[int],
        node: Map,
    ) -> _Reg:
        kind, axes, dtype = row.field or "", _union(args, node.axes), node.dtype
        if kind == "where":
            cond = self.truth(args[0])
            if not args[1].real and not args[2].real:
                return self.apply(Prim.WHERE, False, 0, axes, [cond, *args[1:]])
            rest = [self.real(a, want) for a in args[1:]]
            return self.apply(Prim.WHERE, True, want, axes, [cond, *rest])
        if kind == "cast":
            return self.cast(want, args[0], dtype)
        if kind in ("not", "and", "or"):
            return self.apply(_PRIM[kind], False, 0, axes, [self.truth(a) for a in args])
        if kind in _EXACT_OPS and not any(a.real for a in args):
            return self.apply(_PRIM[kind], False, 0, axes, args)
        real = [self.real(a, w) for a, w in zip(args, parts, strict=True)]
        moved = kind in ("exp", "log") and not keyed_move(row.name, info[0], self.chain.full)
        if moved or kind in ("add", "mul", "recip", "sqrt"):
            sign = {
                "mul": real[0].sign * real[-1].sign,
                "recip": real[0].sign,
                "sqrt": max(real[0].sign, 0),
            }.get(kind, 0)
            return self.apply(_PRIM[kind], True, want, axes, real, sign=sign)
        low = lowest(parts[0])
        if kind in ORDERED:
            truth = kind in EXACT
            return self.apply(
                _PRIM[kind], not truth, 0 if truth else want | low, axes, real, low=low
            )
        name = row.name + (f":{dtype}" if row.name == "round" else "")
        return self.apply(Prim.KEYED, True, want, axes, real, salt=name)

    def cast(self, want: int, a: _Reg, dtype: str) -> _Reg:
        if is_float(dtype):
            return self.real(a, want)
        if not a.real:
            return self.apply(Prim.WRAP, False, 0, a.axes, [a], dtype=dtype)
        if dtype == "bool":
            return self.apply(Prim.TO_BOOL, False, 0, a.axes, [a], low=lowest(a.mask))
        return self.apply(Prim.KEYED_INT, False, 0, a.axes, [a], salt=f"cast:{dtype}", dtype=dtype)

    def reduce(self, node: Reduce, want: int, a: _Reg) -> _Reg:
        axes = self.graph.nodes[node.operand].axes
        if a.axes != axes:  # a body that ignored an argument has fewer axes than its node
            a = self.apply(Prim.COPY, a.real, a.mask, axes, [a], sign=a.sign)
        dst = self.reg(a.real, want, node.axes)
        over = [x for a_ in axes for x in (self.sizes[a_], int(a_ in node.over))]
        self.emit(
            Op.REDUCE,
            int(_PRIM[SCALARS[node.op].field or ""]),
            dst.id,
            a.id,
            want,
            _level(lowest(want)),
            len(axes),
            *over,
        )
        return dst

    def view(self, node: View, a: _Reg) -> _Reg:
        index = dict(node.index)
        names = [index[x].rename_of() for x in a.axes]
        plain = tuple(n for n in names if n is not None)
        same = [self.sizes[x] for x in a.axes] == [self.sizes[n] for n in plain]
        if len(set(plain)) == len(names) and same:
            return replace(a, axes=plain)  # a renaming moves no cell
        shape = tuple(self.sizes[x] for x in node.axes)
        cell = np.zeros((1,) * len(shape), dtype=np.int64)
        for x, stride in zip(a.axes, self.strides(a.axes, a.axes), strict=True):
            cell = cell + index_values(index[x], node.axes, shape) * stride
        table = np.ascontiguousarray(np.broadcast_to(cell, shape)).reshape(-1)
        dst = self.reg(a.real, a.mask, node.axes, a.sign)
        self.emit(Op.INDEX, dst.id, a.id, self.pooled)
        self.pool.append(table)
        self.pooled += len(table)
        return dst

    def gather(self, node: Gather, a: _Reg, at: _Reg) -> _Reg:
        dst = self.reg(a.real, a.mask, node.axes, a.sign)
        along = self.strides(a.axes, [node.along])[0]
        kept = self.strides(a.axes, [x if x != node.along else Axis("", 0) for x in node.axes])
        self.emit(
            Op.GATHER,
            dst.id,
            a.id,
            at.id,
            self.sizes[node.along],
            along,
            *self.dims(node.axes),
            *kept,
            *self.strides(at.axes, node.axes),
        )
        return dst


def _union(args: Sequence[_Reg], order: Sequence[Axis]) -> tuple[Axis, ...]:
    have = {x for a in args for x in a.axes}
    return tuple(x for x in order if x in have)


def _level(mask: int) -> int:
    return max(mask.bit_length() - 1, 0)


def _word(text: str) -> int:
    """A name's hash as a signed 64-bit word."""
    h = ch.text_hash(text) if text else 0
    return h - (1 << 64) if h >> 63 else h


def _width(dtype: str) -> int:
    """How exact values wrap: 0 not at all, 1 to truth values, else bytes, negative if unsigned."""
    if not dtype or is_float(dtype):
        return 0
    kind = DTYPES[dtype]
    if kind.kind == "bool":
        return 1
    return {1: 9, 2: 2, 4: 4, 8: 0}[kind.bytes] * (-1 if dtype == "u8" else 1)


def compile_graph(
    graph: Graph,
    plan: Levels,
    levels: Sequence[int],
    chain: Chain,
    sizes: Mapping[Axis, int],
    ranges: Mapping[str, tuple[int, int]],
) -> Program:
    """The flat program of a graph's outputs, each at the level (one-bit mask) given for it."""
    c = _Compiler(graph, plan, chain, sizes, ranges)
    done: dict[int, _Reg] = {}
    for i in graph.reachable([o.node for o in graph.outputs]):
        done[i] = c.node(i, done)
    kinds = []
    for out, level in zip(graph.outputs, levels, strict=True):
        flat = [a for dim in out.dims for a in dim]
        reg = done[out.node]
        c.emit(Op.OUTPUT, reg.id, _level(level), *c.dims(flat), *c.strides(reg.axes, flat))
        kinds.append(reg.real)
    head = [VERSION, len(c.regs), chain.depth, *(x for r in c.regs for x in r)]
    pool = np.concatenate(c.pool) if c.pool else np.zeros(0, dtype=np.int64)
    return Program(np.array(head + c.code, dtype=np.int64), pool, tuple(kinds))
