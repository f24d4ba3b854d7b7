"""Lemmas "initialised" and "complete": what is read was stored, and whole, on every path.

A statement stores all of the spans that its buffer's axes have where it stands. So what a buffer
holds is told by the loops that were open over its axes when it was stored (its *key*): as long as
none of them has gone on, equal keys mean equal bases and extents. Statements are followed in order:

* a store that starts a buffer leaves it valid at its key; a store elsewhere spoils what it held;
* reading it, adding to it or updating it (``acc = acc * factor``) needs it valid at the key here;
* when a loop takes its next step, what has this loop in its key is valid no more;
* a body is entered from before its loop and from its own end: valid is what is valid on both. After
  the loop, valid is what is valid at its end, and before it too unless it has a step for all sizes
  (``lo < hi``, by Z3).

Initialised: each such need is met. A global buffer that the program stores is treated alike. What
starts as a literal is read only once something else was stored or added, unless a result of the
kernel is that literal.

Complete: from a read of an accumulator, no statement that adds to it can be reached before it is
started anew. Read while it runs, inside the loop over the reduced axis, it is a statistic that the
kernel carries; what is built on it and added up in that loop is updated there before. What is added
can be read before the accumulator is started anew, or is that of a global buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from superopt.mugraph.tile_analysis import loads, reads
from superopt.mugraph.tile_edit import Path, starts, updates_itself
from superopt.mugraph.tileir import Compute, Expr, Lit, Stmt
from superopt.verify.proofs.lemma import PROVED, REFUTED, Lemma
from superopt.verify.proofs.nest import Key, Nest, Point, some_step
from superopt.verify.proofs.solver import Solver


@dataclass(frozen=True)
class Held:
    """What a buffer holds: valid at a key, started by one of these statements."""

    key: Key
    since: frozenset[Path]


State = dict[str, Held]


@dataclass
class Flow:
    """Follows the statements of one program.

    constants: literals that the kernel stores as results; since: what started each buffer that is
    added to or updated.
    """

    nest: Nest
    solver: Solver
    constants: frozenset[str] = frozenset()
    since: dict[Path, frozenset[Path]] = field(default_factory=dict)

    def initialised(self) -> list[Lemma]:
        """The lemmas of every read; fills ``since``."""
        out: list[Lemma] = []
        self._body(self.nest.program.body, (), {}, out)
        return out

    # -- following ---------------------------------------------------------------------------------

    def _body(
        self, body: tuple[Stmt, ...], path: Path, state: State, out: list[Lemma] | None
    ) -> State:
        """The state at the end of a body; ``out`` takes the lemmas, if they are wanted."""
        for k, stmt in enumerate(body):
            here = (*path, k)
            if isinstance(stmt, Compute):
                state = self._statement(self.nest.by_path[here], state, out)
                continue
            entry = state
            while True:
                end = _gone_on(self._body(stmt.body, here, entry, None), here)
                both = _meet(entry, end)
                if both == entry:
                    break
                entry = both
            end = _gone_on(self._body(stmt.body, here, entry, out), here)
            state = end if self._runs(stmt.body, here) else _meet(state, end)
        return state

    def _runs(self, body: tuple[Stmt, ...], path: Path) -> bool:
        """Whether a loop has a step whatever the sizes are."""
        point = next((p for p in self.nest.points if p.path[: len(path)] == path), None)
        return point is not None and self.solver.holds(*some_step(self.nest, point, path))

    def _statement(self, point: Point, state: State, out: list[Lemma] | None) -> State:
        stmt = point.stmt
        needed = {x.buffer.name: x.buffer for x in loads(stmt.expr)}
        if stmt.accumulate:
            needed[stmt.dst.name] = stmt.dst
        kept = stmt.dst.name in needed
        for name, buffer in needed.items():
            if buffer.space != "tile" and name not in self.nest.stored:
                continue  # of the caller, or of an earlier program
            held = state.get(name)
            valid = held is not None and held.key == point.key(buffer)
            if out is not None:
                words = self._fault(held, valid, name)
                subject = self.nest.name(f"{name} in {point}")
                out.append(Lemma("initialised", subject, REFUTED if words else PROVED, words))
            if name == stmt.dst.name and held is not None and valid:
                self.since[point.path] = self.since.get(point.path, frozenset()) | held.since
            kept = kept and (valid or name != stmt.dst.name)
        if kept:
            return state
        return {**state, stmt.dst.name: Held(point.key(stmt.dst), frozenset({point.path}))}

    def _fault(self, held: Held | None, valid: bool, name: str) -> str:
        """Why a read is not of a value that was stored; empty when it is."""
        if held is None:
            return "on some path nothing was stored there before"
        if not valid:
            return "it was stored at another tile of its axes"
        added = any(p.stmt.dst.name == name and p.stmt.accumulate for p in self.nest.points)
        first = [self.nest.by_path[path].stmt for path in held.since]
        if not added and all(s.reduce is None and self._is_start(s.expr) for s in first):
            return "it holds the literal that it was started with, and nothing else"
        return ""

    def _is_start(self, expr: Expr) -> bool:
        """Whether a value is a literal, and none that the graph has as a result."""
        return isinstance(expr, Lit) and repr(expr.value) not in self.constants


def _meet(a: State, b: State) -> State:
    return {
        name: Held(held.key, held.since | b[name].since)
        for name, held in a.items()
        if name in b and b[name].key == held.key
    }


def _gone_on(state: State, loop: Path) -> State:
    """What is still valid when a loop takes its next step, or ends."""
    return {n: h for n, h in state.items() if all(loop not in paths for paths in h.key)}


# -- complete --------------------------------------------------------------------------------------


def complete(nest: Nest, carried: bool) -> Iterator[Lemma]:
    """The lemmas of every read of an accumulator. carried: whether the kernel has carries."""
    after = _edges(nest)
    added = {p.stmt.dst.name for p in nest.points if p.stmt.accumulate}
    running: dict[Path, set[str]] = {}  # of each loop, what is read while it is added to
    for point in nest.points:
        for name in sorted(reads(point.stmt.expr) & added - {point.stmt.dst.name}):
            late = [
                p
                for p in _next(nest, point, name, after)
                if p.stmt.dst.name == name and p.stmt.accumulate
            ]
            shared = [_shared(point, p) for p in late]
            fault = (
                ""
                if not late
                else "more is added to it later"
                if not all(shared)
                else ""
                if carried
                else "it is read while it runs, in a kernel without carries"
            )
            for path in (p for some in shared for p in some):
                running.setdefault(path, set()).add(name)
            yield Lemma(
                "complete",
                nest.name(f"{name} in {point}"),
                REFUTED if fault else PROVED,
                fault,
            )
        if point.stmt.accumulate and point.stmt.dst.space == "tile":
            name = point.stmt.dst.name
            found = any(name in reads(p.stmt.expr) for p in _next(nest, point, name, after))
            yield Lemma(
                "complete",
                nest.name(f"what is added in {point}"),
                PROVED if found else REFUTED,
                "" if found else "it is lost: nothing reads it before it is started anew",
            )
    for path, names in running.items():
        yield from _moved(nest, path, names)


def _shared(read: Point, add: Point) -> list[Path]:
    """The loops over a reduced axis which two statements are both in."""
    mine = {p for p, _ in read.loops}
    return [p for p, loop in add.loops if p in mine and loop.axis in add.stmt.over]


def _moved(nest: Nest, loop: Path, names: set[str]) -> Iterator[Lemma]:
    """What is added up in a loop and built on what runs in it is updated in it as well."""
    inside = [p for p in nest.points if any(path == loop for path, _ in p.loops)]
    built = set(names)
    while True:
        more = {
            p.stmt.dst.name
            for p in inside
            if reads(p.stmt.expr) & built and not p.stmt.accumulate and not updates_itself(p.stmt)
        }
        if more <= built:
            break
        built |= more
    for point in inside:
        name = point.stmt.dst.name
        if not point.stmt.accumulate or not reads(point.stmt.expr) & built:
            continue
        if any(starts(p.stmt, name) for p in inside):
            continue  # made anew in each step
        found = any(
            p.stmt.dst.name == name and updates_itself(p.stmt) and p.path < point.path
            for p in inside
        )
        yield Lemma(
            "complete",
            nest.name(f"{name} follows what runs, in {point}"),
            PROVED if found else REFUTED,
            "" if found else "it is added up from what still moves, and not updated before",
        )


Edges = dict[Path, set[Path]]


def _edges(nest: Nest) -> Edges:
    """Which statement or loop may be next after each; a loop stands for its test."""
    out: Edges = {}

    def follow(body: tuple[Stmt, ...], path: Path, before: Path) -> Path:
        for k, stmt in enumerate(body):
            here = (*path, k)
            out.setdefault(before, set()).add(here)
            before = here
            if not isinstance(stmt, Compute):
                last = follow(stmt.body, here, here)
                out.setdefault(last, set()).add(here)
        return before

    follow(nest.program.body, (), ())
    return out


def _next(nest: Nest, point: Point, name: str, after: Edges) -> list[Point]:
    """The statements that may come next, up to those which start a buffer anew."""
    seen: set[Path] = set()
    todo = list(after.get(point.path, ()))
    out = []
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        here = nest.by_path.get(path)
        if here is not None and starts(here.stmt, name):
            continue
        if here is not None:
            out.append(here)
        todo.extend(after.get(path, ()))
    return out
