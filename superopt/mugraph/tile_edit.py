"""Edits of tile programs: statements addressed by their place, expressions and buffers replaced."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from superopt.mugraph.tile_analysis import loads, parts
from superopt.mugraph.tile_shared import unrolled
from superopt.mugraph.tileir import (
    Apply,
    Buffer,
    Compute,
    Expr,
    Load,
    Loop,
    Program,
    Stmt,
)

Path = tuple[int, ...]
"""Where a statement stands: its position in the body of the program, then in that of a loop, ..."""


@dataclass(frozen=True)
class Place:
    """A statement of a program, where it stands, and the loops around it, the outermost first."""

    path: Path
    stmt: Stmt
    loops: tuple[Loop, ...]


def places(body: Sequence[Stmt], path: Path = (), loops: tuple[Loop, ...] = ()) -> Iterator[Place]:
    """Every statement of a body, loops included (before what they hold), in order."""
    for k, stmt in enumerate(body):
        yield Place((*path, k), stmt, loops)
        if isinstance(stmt, Loop):
            yield from places(stmt.body, (*path, k), (*loops, stmt))


def replaced(program: Program, path: Path, stmts: Sequence[Stmt]) -> Program:
    """The program with the statement at ``path`` replaced by others; a loop left empty goes too."""
    return replace(program, body=_spliced(program.body, path, stmts))


def _spliced(body: tuple[Stmt, ...], path: Path, stmts: Sequence[Stmt]) -> tuple[Stmt, ...]:
    k, rest = path[0], path[1:]
    if not rest:
        return (*body[:k], *stmts, *body[k + 1 :])
    loop = body[k]
    if not isinstance(loop, Loop):
        raise IndexError(f"no loop at {path}")
    inner = _spliced(loop.body, rest, stmts)
    kept = (replace(loop, body=inner),) if inner else ()
    return (*body[:k], *kept, *body[k + 1 :])


def expressions(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The expression with ``change`` applied to each of its distinct parts, the innermost first."""
    done: dict[Expr, Expr] = {}

    def rebuilt(old: Expr) -> Generator[Expr, Expr, Expr]:
        if old not in done:
            new = old
            if isinstance(old, Apply):
                args = []
                for a in old.args:
                    args.append((yield a))
                new = Apply(old.op, tuple(args), old.dtype, old.attr)
            elif isinstance(old, Load):
                index = []
                for i in old.index:
                    index.append((yield i))
                new = Load(old.buffer, tuple(index), old.dtype, old.clamp)
            done[old] = change(new)
        return done[old]

    return unrolled(rebuilt, expr)


def substituted(expr: Expr, old: Expr, new: Expr) -> Expr:
    """The expression with one of its parts replaced wherever it is used."""
    return expressions(expr, lambda e: new if e is old else e)


def with_buffer(program: Program, old: Buffer, new: Buffer) -> Program:
    """The program with a buffer replaced wherever it is declared, read and written."""

    def load(e: Expr) -> Expr:
        if isinstance(e, Load) and e.buffer == old:
            return Load(new, e.index, e.dtype, e.clamp)
        return e

    def stmt(s: Stmt) -> Stmt:
        if isinstance(s, Loop):
            return replace(s, body=tuple(stmt(x) for x in s.body))
        return replace(s, dst=new if s.dst == old else s.dst, expr=expressions(s.expr, load))

    def declared(buffers: tuple[Buffer, ...]) -> tuple[Buffer, ...]:
        return tuple(new if b == old else b for b in buffers)

    return replace(
        program,
        buffers=declared(program.buffers),
        tiles=declared(program.tiles),
        body=tuple(stmt(s) for s in program.body),
    )


def updates_itself(stmt: Compute) -> bool:
    """Whether a statement stores a new value made from the old one (``acc = acc * factor``)."""
    return any(load.buffer.name == stmt.dst.name for load in loads(stmt.expr))


def starts(stmt: Stmt, name: str) -> bool:
    """Whether a statement stores to a buffer what does not depend on its old content."""
    return (
        isinstance(stmt, Compute)
        and stmt.dst.name == name
        and not stmt.accumulate
        and not updates_itself(stmt)
    )


def parts_in_order(expr: Expr) -> list[Expr]:
    """The distinct parts of an expression, in an order that is the same in every process."""
    return list(parts(expr))
