"""Flattens a graph into a program for the compiled field evaluator: one register per value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from superopt.mugraph.algebras.chain import Chain, dyadic
from superopt.mugraph.algebras.field_values import Integers, integers, reach
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
from superopt.mugraph.bytecode import (
    EXACT_OPS,
    PRIM,
    VERSION,
    Assembler,
    Op,
    Prim,
    Program,
    Reg,
    level_of,
    width,
    word,
)
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.evaluate import index_values
from superopt.mugraph.graph import Const, Gather, Graph, Input, Iota, Map, Reduce, SizeOf, View
from superopt.mugraph.scalars import SCALARS, Arg, Scalar, Term


@dataclass(kw_only=True)
class _Flattener(Assembler):
    """Emits the instructions of a graph's nodes."""

    graph: Graph
    plan: Levels

    # -- nodes

    def node(self, i: int, done: dict[int, Reg]) -> Reg:
        node, want = self.graph.nodes[i], self.plan.want[i]
        match node:
            case Input():
                flat = [a for dim in node.dims for a in dim]
                real = is_float(node.dtype)
                values = integers(self.ranges, node)
                dst = self.reg(real, want, node.axes)
                self.emit(
                    Op.INPUT,
                    dst.id,
                    word(node.name),
                    values.lo,
                    values.hi,
                    width(node.dtype),
                    *self.dims(node.axes),
                    *self.strides(flat, node.axes),
                    *(() if real else values.more),
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

    def map(self, node: Map, want: int, args: list[Reg]) -> Reg:
        info = [self.plan.info[j] for j in node.operands]
        out = self.term(node_term(node), want, args, info, node)
        if is_float(node.dtype):
            return self.real(out, want)
        if out.real or node.dtype == "i64":
            return out
        return self.apply(Prim.WRAP, False, 0, out.axes, [out], dtype=node.dtype)

    def term(self, term: Term, want: int, args: list[Reg], info: list[Info], node: Map) -> Reg:
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
        args: list[Reg],
        info: list[Info],
        parts: list[int],
        node: Map,
    ) -> Reg:
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
            return self.apply(PRIM[kind], False, 0, axes, [self.truth(a) for a in args])
        if kind in EXACT_OPS and not any(a.real for a in args):
            return self.apply(PRIM[kind], False, 0, axes, args)
        real = [self.real(a, w) for a, w in zip(args, parts, strict=True)]
        moved = kind in ("exp", "log") and not keyed_move(row.name, info[0], self.chain.full)
        if moved or kind in ("add", "mul", "recip", "sqrt"):
            sign = {
                "mul": real[0].sign * real[-1].sign,
                "recip": real[0].sign,
                "sqrt": max(real[0].sign, 0),
            }.get(kind, 0)
            return self.apply(PRIM[kind], True, want, axes, real, sign=sign)
        low = lowest(parts[0])
        if kind in ORDERED:
            truth = kind in EXACT
            return self.apply(
                PRIM[kind], not truth, 0 if truth else want | low, axes, real, low=low
            )
        name = row.name + (f":{dtype}" if row.name == "round" else "")
        keeps = 2 if row.keeps_infinities else 1  # bit 1 of the field that else holds a level
        return self.apply(Prim.KEYED, True, want, axes, real, salt=name, low=keeps)

    def cast(self, want: int, a: Reg, dtype: str) -> Reg:
        if is_float(dtype):
            return self.real(a, want)
        if not a.real:
            return self.apply(Prim.WRAP, False, 0, a.axes, [a], dtype=dtype)
        if dtype == "bool":
            return self.apply(Prim.TO_BOOL, False, 0, a.axes, [a], low=lowest(a.mask))
        return self.apply(Prim.KEYED_INT, False, 0, a.axes, [a], salt=f"cast:{dtype}", dtype=dtype)

    def reduce(self, node: Reduce, want: int, a: Reg) -> Reg:
        axes = self.graph.nodes[node.operand].axes
        if a.axes != axes:  # a body that ignored an argument has fewer axes than its node
            a = self.apply(Prim.COPY, a.real, a.mask, axes, [a], sign=a.sign)
        dst = self.reg(a.real, want, node.axes)
        over = [x for a_ in axes for x in (self.sizes[a_], int(a_ in node.over))]
        self.emit(
            Op.REDUCE,
            int(PRIM[SCALARS[node.op].field or ""]),
            dst.id,
            a.id,
            want,
            level_of(lowest(want)),
            len(axes),
            *over,
        )
        if not a.real and node.dtype not in ("i64", "bool"):
            return self.apply(Prim.WRAP, False, 0, node.axes, [dst], dtype=node.dtype)
        return dst

    def view(self, node: View, a: Reg) -> Reg:
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

    def gather(self, node: Gather, a: Reg, at: Reg) -> Reg:
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
            reach(node.along, self.sizes),
            *self.dims(node.axes),
            *kept,
            *self.strides(at.axes, node.axes),
        )
        return dst


def _union(args: Sequence[Reg], order: Sequence[Axis]) -> tuple[Axis, ...]:
    have = {x for a in args for x in a.axes}
    return tuple(x for x in order if x in have)


def compile_graph(
    graph: Graph,
    plan: Levels,
    levels: Sequence[int],
    chain: Chain,
    sizes: Mapping[Axis, int],
    ranges: Mapping[str, Integers],
    literals: Sequence[float] = (),
) -> Program:
    """The flat program of a graph's outputs, each at the level (one-bit mask) given for it.

    literals: as in ``Draw``.
    """
    c = _Flattener(chain, sizes, ranges, graph=graph, plan=plan)
    done: dict[int, Reg] = {}
    for i in graph.reachable([o.node for o in graph.outputs]):
        done[i] = c.node(i, done)
    kinds = []
    for out, level in zip(graph.outputs, levels, strict=True):
        flat = [a for dim in out.dims for a in dim]
        reg = done[out.node]
        c.emit(Op.OUTPUT, reg.id, level_of(level), *c.dims(flat), *c.strides(reg.axes, flat))
        kinds.append(reg.real)
    numbers = [dyadic(x, p) for p in chain.primes for x in literals]
    head = [VERSION, len(c.regs), chain.depth, len(literals), *numbers]
    head += [x for r in c.regs for x in r]
    pool = np.concatenate(c.pool) if c.pool else np.zeros(0, dtype=np.int64)
    return Program(np.array(head + c.code, dtype=np.int64), pool, tuple(kinds))
