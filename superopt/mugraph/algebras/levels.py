"""Static level analysis: which levels of the prime chain a value has, and which are wanted of it.

A set of levels is a bit mask (bit i: the residue mod p_i). exp needs level i+1 to give level i and
log needs level i to give level i+1, so a value's levels are known before anything is computed, and
only the wanted ones are. That matters beyond speed: a root poisons a cell at each level at which it
is taken. Both evaluators follow this page, which is the meaning of "depth" in design section 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from superopt.errors import VerificationFailed
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Gather, Graph, Input, Map, Reduce, View
from superopt.mugraph.scalars import SCALARS, Arg, Term

EXACT = frozenset({"lt", "le", "eq", "not", "and", "or"})
"""Field primitives whose result is a truth value."""

ORDERED = frozenset({"max", "min", "lt", "le", "eq"})
"""Field primitives that look at the order (or identity) of residues at one level."""


def lowest(mask: int) -> int:
    """The mask of the lowest level in ``mask`` (0 for none): where residues are told apart."""
    return mask & -mask


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a value beforehand: a float (``real``) or exact, and the levels it has."""

    real: bool
    mask: int


@dataclass(frozen=True)
class Levels:
    """The analysis of one graph: per node id its Info, and the levels wanted of it.

    named: the assumptions that the analysis itself brings in (a keyed exp or log).
    """

    info: tuple[Info, ...]
    want: tuple[int, ...]
    named: frozenset[str] = field(default_factory=frozenset)


def literal(value: float | int | bool, full: int) -> Info:
    """A literal in a body: whole numbers stay exact until they meet a float."""
    return Info(isinstance(value, float) and not value.is_integer(), full)


def common(args: Sequence[Info], full: int) -> int:
    """The levels that all arguments have (exact ones have every level)."""
    out = full
    for a in args:
        out &= a.mask if a.real else full
    if not out:
        raise VerificationFailed(
            what="an operator's arguments have no level of the prime chain in common",
            where="exponentials nested deeper than the chain",
            fix="cut the check at a value inside that both programs share",
        )
    return out


def primitive(op: str, args: Sequence[Info], dtype: str, full: int) -> Info:
    """The Info of a field primitive's result; ``dtype`` is the node's, used by casts alone."""
    kind = SCALARS[op].field
    if kind == "cast":
        if not is_float(dtype):
            return Info(False, full)
        return Info(True, args[0].mask if args[0].real else full)
    if kind in EXACT:
        return Info(False, full)
    if kind == "keyed":
        return Info(True, full)
    if kind in ("exp", "log"):
        mask = args[0].mask if args[0].real else full
        moved = mask >> 1 if kind == "exp" else (mask << 1) & full
        return Info(True, moved or full)
    if kind == "where":
        args = args[1:]
    real = any(a.real for a in args) or kind in ("recip", "sqrt")
    if kind in ("floordiv", "mod"):
        return Info(real, full)
    return Info(real, common(args, full) if real else full)


def keyed_move(op: str, arg: Info, full: int) -> bool:
    """Whether this exp or log has no level to come from, and is a keyed random function."""
    mask = arg.mask if arg.real else full
    return not (mask >> 1 if SCALARS[op].field == "exp" else (mask << 1) & full)


def wants(op: str, want: int, args: Sequence[Info], dtype: str, full: int) -> list[int]:
    """The levels wanted of each argument of a primitive when ``want`` is wanted of its result."""
    kind = SCALARS[op].field
    if kind in ("exp", "log"):
        mask = args[0].mask if args[0].real else full
        if keyed_move(op, args[0], full):
            return [lowest(mask)]
        return [(want << 1 if kind == "exp" else want >> 1) & mask]
    if kind == "keyed" or (kind == "cast" and not is_float(dtype)):
        return [lowest(a.mask) for a in args]
    if kind in ("floordiv", "mod"):
        return [lowest(a.mask) for a in args]
    if kind in ORDERED:
        low = lowest(common(args, full))
        return [low | want if kind in ("max", "min") else low] * len(args)
    if kind == "where":
        return [lowest(args[0].mask), want, want]
    return [want] * len(args)


def term_info(term: Term, args: Sequence[Info], dtype: str, full: int) -> Info:
    """The Info of a body term; composite rows inside it are unfolded."""
    if isinstance(term, Arg):
        return args[term.index]
    if not isinstance(term, tuple):
        return literal(term, full)
    inner = [term_info(t, args, dtype, full) for t in term[1:]]
    body = SCALARS[term[0]].body
    if body is not None:
        return term_info(body, inner, dtype, full)
    return primitive(term[0], inner, dtype, full)


def term_wants(
    term: Term, want: int, args: Sequence[Info], dtype: str, full: int, out: list[int]
) -> None:
    """Adds to ``out`` (one mask per argument) what a body term wants of its arguments."""
    if isinstance(term, Arg):
        out[term.index] |= want & (args[term.index].mask if args[term.index].real else full)
        return
    if not isinstance(term, tuple):
        return
    inner = [term_info(t, args, dtype, full) for t in term[1:]]
    body = SCALARS[term[0]].body
    if body is None:
        each = wants(term[0], want, inner, dtype, full)
    else:
        each = [0] * len(inner)
        term_wants(body, want, inner, dtype, full, each)
    for sub, mask in zip(term[1:], each, strict=True):
        term_wants(sub, mask, args, dtype, full, out)


def node_term(node: Map) -> Term:
    """A Map node as a term over its operands."""
    return (node.op, *(Arg(i) for i in range(len(node.operands))))


def information(
    graph: Graph, full: int, given: Mapping[str, Info] | None = None
) -> tuple[Info, ...]:
    """The Info of every node, in order. ``given``: inputs (by name) that lack some levels."""
    out: list[Info] = []
    for node in graph.nodes:
        match node:
            case Input() if given and node.name in given:
                out.append(given[node.name])
            case Map():
                info = term_info(node_term(node), [out[i] for i in node.operands], node.dtype, full)
                # An exact result under a float dtype is turned into a float at the end.
                out.append(
                    Info(True, info.mask if info.real else full)
                    if is_float(node.dtype)
                    else Info(info.real, info.mask)
                )
            case Reduce() | View() | Gather():
                out.append(out[node.operand])
            case _:
                out.append(Info(is_float(node.dtype), full))
    return tuple(out)


def analyse(
    graph: Graph, full: int, roots: Mapping[int, int], given: Mapping[str, Info] | None = None
) -> Levels:
    """Levels of a graph when the levels ``roots[node]`` of some nodes are wanted."""
    info = information(graph, full, given)
    want = [0] * len(graph.nodes)
    for i, mask in roots.items():
        want[i] |= mask & info[i].mask
    for i in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[i]
        if not want[i]:
            continue
        match node:
            case Map():
                args = [info[j] for j in node.operands]
                each = [0] * len(args)
                term_wants(node_term(node), want[i], args, node.dtype, full, each)
                for j, mask in zip(node.operands, each, strict=True):
                    want[j] |= mask
            case Reduce():
                if node.op in ("max", "min"):
                    want[i] |= lowest(info[i].mask)
                want[node.operand] |= want[i]
            case View():
                want[node.operand] |= want[i]
            case Gather():
                want[node.operand] |= want[i]
                want[node.at] |= lowest(info[node.at].mask)
    return Levels(info, tuple(want), frozenset(_keyed_moves(graph, info, want, full)))


def _keyed_moves(
    graph: Graph, info: Sequence[Info], want: Sequence[int], full: int
) -> Iterator[str]:
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Map) and want[i]:
            yield from _keyed_in(
                node_term(node), [info[j] for j in node.operands], node.dtype, full
            )


def _keyed_in(term: Any, args: Sequence[Info], dtype: str, full: int) -> Iterator[str]:
    if isinstance(term, Arg) or not isinstance(term, tuple):
        return
    for sub in term[1:]:
        yield from _keyed_in(sub, args, dtype, full)
    row = SCALARS[term[0]]
    inner = [term_info(t, args, dtype, full) for t in term[1:]]
    if row.body is not None:
        yield from _keyed_in(row.body, inner, dtype, full)
    elif row.field in ("exp", "log") and keyed_move(row.name, inner[0], full):
        yield f"keyed:{row.name}"
    elif row.field == "keyed" or (row.name in ("floordiv", "mod") and any(a.real for a in inner)):
        yield f"keyed:{row.name}" + (f":{dtype}" if row.name == "round" else "")
    elif row.field == "cast" and not is_float(dtype) and dtype != "bool" and inner[0].real:
        yield f"keyed:{row.name}:{dtype}"
