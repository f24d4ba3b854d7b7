"""The enumeration in plain Python: slow and obvious, the living definition of the C++ engine.

Bottom-up enumeration of values in a fixed order. An *item* is a class together with one abstract
form that it was reached by; items are processed in the order of their making, each combined with
itself and all earlier ones. A candidate is kept if its abstract form can be part of a source term;
its value then says which class it belongs to. Source terms are classes from the start and are
never pruned. A class that is reached by another form comes back as a new item (at most
``MAX_FORMS`` forms a class; past that the space is not called closed).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from superopt.search.abstract import ONE, UNIT, Algebra, Poly, TooLarge
from superopt.search.part import Targets
from superopt.search.problem import Problem
from superopt.search.values import Field, Value

MAX_FORMS = 6

Made = tuple[str, int, tuple[int, ...]]
"""How a class was made: ("mul" | "add" | "fn" | "reduce", function or axis number, classes)."""


Candidate = tuple[str, int, tuple[int, ...]]
"""A term to try: kind, function or axis number, and items."""


@dataclass
class Raw:
    """What an engine returns: classes by number, in the order in which they were found."""

    axes: list[tuple[int, ...]]
    derivations: list[list[Made]]
    class_of: list[int]  # per source term
    closed: bool
    states: int
    queries: int
    removed: dict[str, int]
    keyed_roots: int = 0
    held: int = 0  # bytes, counted by the C++ engine alone
    source_held: int = 0
    full: bool = False
    # Under a limit of operators: up to which all terms were tried, and how many terms there are to
    # try of what was found (the states of a run that was not stopped, at least these of one that was).
    operators: int | None = None
    due: int = 0


@dataclass(frozen=True)
class Limits:
    """When to stop, and what to leave out.

    candidates tried, seconds from now; ``stop`` is polled between candidates; memory: bytes that the
    C++ engine may hold; it tells ``watch`` its states and classes now and then. Without ``prune`` no
    term is asked whether it can be part of a source term, and without ``share`` each term is a class
    of its own (both to measure what they are worth; such spaces close for the smallest programs
    only). operators: of a term, counted as a tree; all terms of one are tried before those of two,
    and source terms are reached like all others, so that what pruning removes can be compared at one
    size of term. Such a space is never called closed.
    """

    candidates: int | None = None
    seconds: float | None = None
    stop: Callable[[], bool] | None = None
    prune: bool = True
    share: bool = True
    memory: int | None = None
    operators: int | None = None
    watch: Callable[[int, int], None] | None = None


class Unsupported(Exception):
    """The source itself has no value or normal form here; the region is kept as it is written."""


def source_forms(problem: Problem, algebra: Algebra) -> list[Poly]:
    """The normal forms of all source terms."""
    forms: list[Poly] = []
    for step in problem.steps:
        if step.kind == "leaf":
            form: Poly | None = algebra.leaf(step.index, problem.leaves[step.index])
        elif step.kind == "size":
            form = algebra.size(step.index)
        elif step.kind == "const":
            form = algebra.const(step.value)
        else:
            form = combine(problem, algebra, step.kind, step.index, [forms[a] for a in step.args])
        if form is None:
            raise Unsupported("a source term divides by zero")
        forms.append(form)
    return forms


def combine(
    problem: Problem, algebra: Algebra, kind: str, index: int, args: list[Poly]
) -> Poly | None:
    """The normal form of an operator applied to normal forms; None at a pole."""
    if kind == "mul":
        return algebra.mul(args[0], args[1])
    if kind == "add":
        return algebra.add(args[0], args[1])
    if kind == "reduce":
        return algebra.reduce(args[0], index)
    form: Poly | None = args[0]
    for law, name in problem.functions[index]:
        form = None if form is None else algebra.apply(law, name, form)
    return form


@dataclass
class _Engine:
    problem: Problem
    numbers: Field
    algebra: Algebra
    targets: Targets
    values: list[Value] = field(default_factory=list)
    forms: list[list[Poly]] = field(default_factory=list)
    derivations: list[list[Made]] = field(default_factory=list)
    items: list[tuple[int, Poly]] = field(default_factory=list)
    by_value: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = field(default_factory=dict)
    made: dict[Made, int | None] = field(default_factory=dict)
    removed: dict[str, int] = field(
        default_factory=lambda: {
            "abstract": 0,
            "rank": 0,
            "undefined": 0,
            "identity": 0,
            "forms": 0,
        }
    )
    states: int = 0
    prune: bool = True
    share: bool = True
    by_operators: list[list[int]] | None = None  # items, where operators are limited
    one: Poly = frozenset({(UNIT, ONE)})  # nothing needs to be multiplied by one

    def class_of(self, value: Value) -> int:
        """The class of a value."""
        key = (value.axes, value.fingerprint())
        c = self.by_value.get(key) if self.share else None
        if c is None:
            c = len(self.values)
            self.by_value.setdefault(key, c)
            self.values.append(value)
            self.forms.append([])
            self.derivations.append([])
        return c

    def add_form(self, c: int, form: Poly) -> None:
        """Notes that a class is also reached by this form."""
        if not self.prune:
            form = self.one  # forms are there for pruning alone
        if form not in self.forms[c]:
            if len(self.forms[c]) >= MAX_FORMS:
                self.removed["forms"] += 1
            else:
                self.forms[c].append(form)
                if self.by_operators is not None:
                    self.by_operators[-1].append(len(self.items))
                self.items.append((c, form))

    def record(self, made: Made, c: int) -> None:
        if made in self.made:
            return
        self.made[made] = c
        if c in made[2]:
            self.removed["identity"] += 1
        else:
            self.derivations[c].append(made)

    def seed(self) -> list[int]:
        """Makes the classes of all source terms."""
        forms = source_forms(self.problem, self.algebra)
        class_of: list[int] = []
        for n, value in enumerate(self.numbers.source()):
            if value is None:
                raise Unsupported("a source term has no value")
            c = self.class_of(value)
            class_of.append(c)
            step = self.problem.steps[n]
            if self.by_operators is None or not step.args:
                self.add_form(c, forms[n])
            if step.args:
                self.record(
                    (
                        step.kind,
                        step.index if step.kind in ("fn", "reduce") else 0,
                        tuple(sorted(class_of[a] for a in step.args)),
                    ),
                    c,
                )
        return class_of

    def candidates(self) -> Iterator[Candidate]:
        """What each item gives with itself and the earlier ones, while there are items."""
        i = 0
        while i < len(self.items):
            yield from self.unary(i)
            for j in range(i + 1):
                yield from self.binary(j, i)
            i += 1

    def candidates_of(self, operators: int) -> Iterator[Candidate]:
        """All terms of so many operators, those of fewer having been tried."""
        levels = self.by_operators or []
        levels.append([])
        below = operators - 1
        for i in levels[below]:
            yield from self.unary(i)
        for few in range(below // 2 + 1):
            for i in levels[below - few]:
                for j in levels[few]:
                    if 2 * few < below or j <= i:
                        yield from self.binary(j, i)

    def due(self, operators: int) -> int:
        """How many terms of at most so many operators the items found give."""
        levels = self.by_operators or []
        removed = dict(self.removed)
        alone = [i for level in levels[:operators] for i in level]
        pairs = (
            (j, i)
            for a, one in enumerate(levels)
            for b, other in enumerate(levels[: max(min(a + 1, operators - a), 0)])
            for i in one
            for j in other
            if b < a or j <= i
        )
        count = sum(1 for i in alone for _ in self.unary(i))
        count += sum(1 for j, i in pairs for _ in self.binary(j, i))
        self.removed = removed
        return count

    def unary(self, i: int) -> Iterator[Candidate]:
        """All functions and sums of an item."""
        c, _ = self.items[i]
        for f in range(len(self.problem.functions)):
            yield "fn", f, (i,)
        for axis in self.values[c].axes:
            if axis in self.problem.reducible:
                yield "reduce", axis, (i,)

    def binary(self, j: int, i: int) -> Iterator[Candidate]:
        """Product and sum of two items."""
        axes = [self.values[self.items[k][0]].axes for k in (j, i)]
        if len({*axes[0], *axes[1]}) > self.problem.rank:
            self.removed["rank"] += 1
            return
        yield "mul", 0, (j, i)
        if self.problem.sums:
            yield "add", 0, (j, i)

    def attempt(self, kind: str, index: int, items: tuple[int, ...]) -> None:
        """Tries one candidate."""
        self.states += 1
        form = self.part(kind, index, items) if self.prune else self.one
        if form is None:
            self.removed["abstract"] += 1
            return
        made: Made = (kind, index, tuple(sorted(self.items[i][0] for i in items)))
        if made in self.made:
            c = self.made[made]
            if c is not None and c not in made[2]:
                self.add_form(c, form)
            return
        value = self.evaluate(kind, index, [self.values[a] for a in made[2]])
        if value is None:
            self.made[made] = None
            self.removed["undefined"] += 1
            return
        key = (value.axes, value.fingerprint())
        if self.by_value.get(key) in made[2]:
            self.record(made, self.by_value[key])
            return
        c = self.class_of(value)
        self.add_form(c, form)
        self.record(made, c)

    def part(self, kind: str, index: int, items: tuple[int, ...]) -> Poly | None:
        """The normal form of a candidate that can be part of a source term, else None."""
        try:
            args = [self.items[i][1] for i in items]
            form = combine(self.problem, self.algebra, kind, index, args)
            part = form is not None and form != self.one and self.targets.is_part(form)
        except TooLarge:
            return None
        return form if part else None

    def evaluate(self, kind: str, index: int, args: list[Value]) -> Value | None:
        if kind == "mul":
            return self.numbers.mul(args[0], args[1])
        if kind == "add":
            return self.numbers.add(args[0], args[1])
        if kind == "reduce":
            return self.numbers.reduce(args[0], index)
        return self.numbers.apply(self.problem.functions[index], args[0])


def literals_of(problem: Problem, forms: list[Poly]) -> tuple[list[Fraction], int]:
    """The rational factors that the source consumes (once per use), and its changes of sign.

    Those that a function makes are among them: 1 / (x / 64) is 64 times 1 / x.
    """
    out = list(problem.literals)
    for step, form in zip(problem.steps, forms, strict=True):
        if step.kind == "fn" and len(form) == 1:
            ((mono, c),) = form
            out.append(c if mono == UNIT else abs(c))
    return [c for c in out if c and abs(c) != 1], sum(c < 0 for c in out)


def enumerate_values(problem: Problem, seed: int, limits: Limits) -> Raw:
    """Enumerates the values of one region; raises Unsupported if the source cannot be evaluated."""
    algebra = Algebra()
    try:
        forms = source_forms(problem, algebra)
    except TooLarge as error:
        raise Unsupported("the normal form of a source term is too large") from error
    literals, negations = literals_of(problem, forms)
    targets = Targets(algebra, forms, literals)
    targets.allow_negations(negations)
    engine = _Engine(
        problem, Field(problem, seed), algebra, targets, prune=limits.prune, share=limits.share
    )
    if limits.operators is not None:
        engine.by_operators = [[]]
    class_of = engine.seed()
    end = None if limits.seconds is None else time.perf_counter() + limits.seconds

    def tried(candidates: Iterator[Candidate]) -> bool:
        for kind, index, items in candidates:
            spent = limits.candidates is not None and engine.states >= limits.candidates
            late = end is not None and time.perf_counter() > end
            if spent or late or (limits.stop is not None and limits.stop()):
                return False
            engine.attempt(kind, index, items)
        return True

    operators = None
    if limits.operators is None:
        closed = tried(engine.candidates())
    else:
        operators, closed = 0, False  # whether there are larger terms is not known
        while operators < limits.operators and tried(engine.candidates_of(operators + 1)):
            operators += 1
    return Raw(
        [v.axes for v in engine.values],
        engine.derivations,
        class_of,
        closed and not engine.removed["forms"],
        engine.states,
        targets.queries,
        engine.removed,
        engine.numbers.keyed_roots,
        operators=operators,
        due=0 if operators is None else engine.due(limits.operators or 0),
    )
