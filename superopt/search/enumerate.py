"""Exploration of one region: every value that can be part of its targets, with all its derivations.

The work is done by an engine (C++ in ``_core``, or the Python oracle) on plain data; here the graph
is translated to that data and the classes back to graph terms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from superopt.errors import BadOption
from superopt.mugraph.axes import Axis, sort_axes
from superopt.mugraph.graph import Graph, Map, Reduce
from superopt.mugraph.scalars import SCALARS
from superopt.search.oracle import Limits, Made, Raw, Unsupported, enumerate_values
from superopt.search.problem import Problem, problem
from superopt.search.regions import Region, is_number, is_transparent, through_casts

REDUCE = "reduce:"


@dataclass(frozen=True, slots=True)
class Derivation:
    """One way to compute a class: a scalar row, or ``reduce:`` and a row, over classes by id.

    ``over`` holds the axes of a reduction (by name); it is empty for a scalar row.
    """

    op: str
    args: tuple[int, ...]
    over: tuple[Axis, ...] = ()


@dataclass(frozen=True, slots=True)
class ValueClass:
    """All terms found that compute one value.

    A class without derivations is a leaf: a node of ``nodes``, or a number of the space (one of
    its ``literals`` or ``sizes``).
    ``nodes`` are the graph's nodes (leaves, source terms, casts of them) that denote the value.
    """

    id: int
    axes: tuple[Axis, ...]
    derivations: tuple[Derivation, ...]
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """The explored space of one region.

    classes:  position = id; those on derivations of source terms of the region
    targets:  graph node -> class
    closed:   nothing was left out under the axioms (``abstract``, ``part``) and the rank bound
    stats:    states, classes, queries, removed (per rule), seconds, engine, rank, why (not closed),
              operators (up to which every term was tried, where that is known: under a limit of
              operators, or without pruning, see ``operators_tried``),
              due (under a limit of operators: the states of a run to the end, of one that was
              stopped at least so many),
              held, source_held (bytes in the C++ engine at the end, and for the source terms alone)
    literals: class -> exact value, for the classes that are literals
    sizes:    class -> axes, for the classes that are the product of the sizes of some axes
    """

    classes: tuple[ValueClass, ...]
    targets: dict[int, int]
    closed: bool
    stats: dict[str, Any]
    literals: dict[int, Fraction] = field(default_factory=dict)
    sizes: dict[int, tuple[Axis, ...]] = field(default_factory=dict)


def explore(
    graph: Graph,
    region: Region,
    budget: Any = None,
    *,
    seed: int = 0,
    seconds: float | None = None,
    candidates: int | None = None,
    extra_rank: int = 0,
    engine: str = "auto",
    stop: Callable[[], bool] | None = None,
    prune: bool = True,
    share: bool = True,
    memory: int | None = None,
    operators: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Space:
    """Explores one region.

    budget: anything with ``seconds`` and ``candidates`` (either may be None), or give them by name.
    engine: "auto" (C++ if built), "cpp" or "python". ``stop`` is polled; when it returns True, or
    the budget ends, what was found so far is returned with ``closed=False``. Source terms and their
    own derivations are in the space whatever the budget. For a seed and a budget in candidates the
    result is the same on every machine and from both engines. ``prune`` to ``watch``: see ``Limits``.
    """
    if engine not in ("auto", "cpp", "python"):
        raise BadOption(
            what=f"no search engine {engine!r}",
            where="explore(engine=...)",
            fix="give 'auto', 'cpp' or 'python'",
        )
    if budget is not None:
        seconds = budget.seconds if seconds is None else seconds
        candidates = budget.candidates if candidates is None else candidates
    started = time.perf_counter()
    task = problem(graph, region, extra_rank)
    run = None if engine == "python" else _native()
    if run is None and engine == "cpp":
        raise BadOption(
            what="the C++ engine is not built",
            where="explore(engine='cpp')",
            fix="build the extension, or give engine='python'",
        )
    limits = Limits(candidates, seconds, stop, prune, share, memory, operators, watch)
    why = ""
    try:
        raw = enumerate_values(task, seed, limits) if run is None else run(task, seed, limits)
    except Unsupported as error:
        raw, why = _as_written(task), str(error)
    if not raw.closed and not why:
        why = "memory" if raw.full else "forms" if raw.removed.get("forms") else "budget"
        if raw.operators is not None and raw.operators == operators:
            why = "operators"
    stats = {
        "states": raw.states,
        "classes": len(raw.axes),
        "queries": raw.queries,
        "derivations": sum(map(len, raw.derivations)),
        "removed": dict(raw.removed),
        "rank": task.rank,
        "engine": "python" if run is None else "cpp",
        "why": why,
        "keyed_roots": raw.keyed_roots,
        "held": raw.held,
        "source_held": raw.source_held,
    }
    if raw.operators is not None:
        stats["operators"], stats["due"] = raw.operators, raw.due
    elif not (prune or raw.closed):
        stats["operators"] = operators_tried(task, raw)
    space = _translate(graph, region, task, raw, stats)
    stats["seconds"] = time.perf_counter() - started
    return space


def operators_tried(task: Problem, raw: Raw) -> int:
    """The number of operators up to which every term had been tried when an enumeration ended.

    For enumerations without pruning, whose items are the classes in the order of their making: a
    term is tried when the later of its arguments is expanded, so all terms are tried whose
    arguments have fewer operators than the smallest class that was not expanded. Operators are
    counted in the smallest tree of a class.
    """
    many = 1 << 60
    least = [many] * len(raw.axes)
    for k, step in enumerate(task.steps):
        if not step.args:
            least[raw.class_of[k]] = 0
    moved = True
    while moved:
        moved = False
        for c, made in enumerate(raw.derivations):
            for _, _, args in made:
                here = 1 + sum(least[a] for a in args)
                if here < least[c]:
                    least[c], moved = here, True
    expanding = max((max(args) for made in raw.derivations for _, _, args in made), default=0)
    return min(least[expanding:], default=0)


def _native() -> Callable[[Problem, int, Limits], Raw] | None:
    """The C++ engine, or None where the extension is not built."""
    try:
        from superopt.search import native
    except ImportError:
        return None
    return native.enumerate_values


def _as_written(task: Problem) -> Raw:
    """The space that holds the source's own derivations and nothing else."""
    axes: list[tuple[int, ...]] = []
    derivations: list[list[Made]] = []
    for s in task.steps:
        if s.kind == "leaf":
            axes.append(tuple(sorted(task.leaves[s.index])))
        else:
            own = {a for x in s.args for a in axes[x]} - (
                {s.index} if s.kind == "reduce" else set()
            )
            axes.append(tuple(sorted(own)))
        index = s.index if s.kind in ("fn", "reduce") else 0
        derivations.append([(s.kind, index, tuple(sorted(s.args)))] if s.args else [])
    return Raw(axes, derivations, list(range(len(task.steps))), False, 0, 0, {})


def _translate(
    graph: Graph, region: Region, task: Problem, raw: Raw, stats: dict[str, Any]
) -> Space:
    class_of = {i: raw.class_of[t] for i, t in task.term_of.items()}
    for i, node in enumerate(graph.nodes):  # casts that others read too
        if is_transparent(graph, i) and i not in class_of and node.args:
            base = through_casts(graph, i)
            if base in class_of:
                class_of[i] = class_of[base]
    own = _own_derivations(graph, region, class_of)
    # Without pruning, most classes lie on no derivation of a source term.
    needed = set(_reachable([[m[2] for m in ms] for ms in raw.derivations], class_of.values()))
    made = [
        [_derivation(task, m) for m in ms] if c in needed else []
        for c, ms in enumerate(raw.derivations)
    ]
    for c, d in own:
        if d not in made[c] and c not in d.args:
            made[c].insert(0, d)
    _join_sums(graph, region, made)
    kept = _reachable([[d.args for d in ds] for ds in made], class_of.values())
    at = {c: n for n, c in enumerate(kept)}
    nodes: dict[int, list[int]] = {}
    for i, c in sorted(class_of.items()):
        nodes.setdefault(c, []).append(i)
    leaf_terms = {
        raw.class_of[t] for t, s in enumerate(task.steps) if s.kind in ("leaf", "size", "const")
    }
    classes = tuple(
        ValueClass(
            at[c],
            sort_axes({a for n in raw.axes[c] for a in task.axes[n]}),
            ()
            if c in leaf_terms
            else tuple(Derivation(d.op, tuple(at[a] for a in d.args), d.over) for d in made[c]),
            tuple(nodes.get(c, ())),
        )
        for c in kept
    )
    literals = {
        at[raw.class_of[t]]: s.value
        for t, s in enumerate(task.steps)
        if s.kind == "const" and raw.class_of[t] in at
    }
    sizes = {
        at[raw.class_of[t]]: task.axes[s.index]
        for t, s in enumerate(task.steps)
        if s.kind == "size" and raw.class_of[t] in at
    }
    stats["kept"] = len(classes)
    targets = {i: at[class_of[i]] for i in region.targets}
    return Space(classes, targets, raw.closed, stats, literals, sizes)


def _derivation(task: Problem, made: Made) -> Derivation:
    kind, index, args = made
    if kind == "reduce":
        return Derivation(REDUCE + "add", args, task.axes[index])
    if kind == "fn":
        return Derivation(task.names[index], args)
    return Derivation(kind, args)


def _own_derivations(
    graph: Graph, region: Region, class_of: dict[int, int]
) -> list[tuple[int, Derivation]]:
    """Each node of the region as its author wrote it (composite rows, sums over several axes)."""
    out = []
    for i in region.nodes:
        node = graph.nodes[i]
        reads = [through_casts(graph, a) for a in node.args]
        # A product of sizes may be one size to the algebra, which its factors are not part of.
        if is_transparent(graph, i) or i not in class_of or not class_of.keys() >= {*reads}:
            continue
        args = tuple(class_of[a] for a in reads)
        if isinstance(node, Reduce):
            out.append((class_of[i], Derivation(REDUCE + node.op, args, node.over)))
        elif isinstance(node, Map):
            if "commutative" in SCALARS[node.op].laws:
                args = tuple(sorted(args))
            out.append((class_of[i], Derivation(node.op, args)))
    return out


def _join_sums(graph: Graph, region: Region, made: list[list[Derivation]]) -> None:
    """Where the source sums over several axes at once, sums of sums are also one sum."""
    joint = [
        set(n.over)
        for n in (graph.nodes[i] for i in region.nodes)
        if isinstance(n, Reduce) and len(n.over) > 1
    ]
    moved = bool(joint)
    while moved:
        moved = False
        for c, ds in enumerate(made):
            for d in [d for d in ds if d.over]:
                for inner in [e for e in made[d.args[0]] if e.over]:
                    over = {*d.over, *inner.over}
                    one = Derivation(d.op, inner.args, sort_axes(over))
                    if any(over <= j for j in joint) and one not in ds and c not in one.args:
                        ds.append(one)
                        moved = True


def _reachable(made: list[list[tuple[int, ...]]], roots: Iterable[int]) -> list[int]:
    """The classes on derivations of the roots, ascending; made: the arguments of each derivation."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        c = todo.pop()
        if c not in seen:
            seen.add(c)
            todo.extend(a for args in made[c] for a in args)
    return sorted(seen)


__all__ = ["REDUCE", "Derivation", "Space", "ValueClass", "explore", "is_number"]
