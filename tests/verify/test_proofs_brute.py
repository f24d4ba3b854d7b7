"""The formulas of the lemmas against counting: all sizes, coordinates, tasks and steps in turn."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.mugraph.axes import Axis, Sym, extent
from superopt.mugraph.graph import Index
from superopt.mugraph.placement import Split
from superopt.mugraph.tileir import Buffer, Compute, Coord, Lit, Loop, Part, Program, index_expr
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.lemma import Lemma
from superopt.verify.proofs.nest import Nest, one_step, one_task, parts, some_step, steps
from superopt.verify.proofs.solver import Solver

SOLVER = Solver()


def verdict(formula: Formula, goal: str) -> str:
    return decided(formula, goal).verdict


def decided(formula: Formula, goal: str) -> Lemma:
    return SOLVER.lemma("in bounds", "it", formula, goal)


def counter_model(lemma: Lemma) -> dict[str, int]:
    pairs = lemma.words.removeprefix("fails at ").split(", ")
    return {name: int(value) for name, value in (p.split(" = ") for p in pairs)}


def range_of(axis: Axis) -> range:
    size = axis.size
    return range(size.lo, size.hi + 1) if isinstance(size, Sym) else range(size, size + 1)


# -- index maps ------------------------------------------------------------------------------------


@st.composite
def indexed(draw: st.DrawFn) -> tuple[Axis, Index]:
    """An axis and an index into it, sizes small, some of them run-time sizes that they share."""
    sizes = st.one_of(
        st.integers(1, 6),
        st.sampled_from([Sym("N", 1, 6), Sym("M", 2, 5)]),
    )
    axis = Axis("t", draw(sizes))
    over = [Axis(name, draw(sizes)) for name in "ab"[: draw(st.integers(1, 2))]]
    terms = tuple((a, draw(st.sampled_from([1, 1, 2, -1]))) for a in over)
    return axis, Index(
        terms,
        draw(st.integers(-3, 3)),
        draw(st.integers(1, 3)),
        draw(st.one_of(st.none(), st.integers(1, 6))),
        draw(st.one_of(st.none(), st.just(0))),
        draw(st.one_of(st.none(), st.integers(0, 4))),
    )


def at(index: Index, place: dict[Axis, int]) -> int:
    value = (sum(c * place[a] for a, c in index.terms) + index.offset) // index.div
    if index.mod is not None:
        value %= index.mod
    if index.lo is not None:
        value = max(value, index.lo)
    return value if index.hi is None else min(value, index.hi)


def leaves(axis: Axis, index: Index) -> bool:
    """Whether the index leaves its axis for some sizes and coordinates."""
    names = sorted(
        {a.size for a, _ in index.terms if isinstance(a.size, Sym)}
        | {s for s in [axis.size] if isinstance(s, Sym)}
    )
    for values in itertools.product(*(range(s.lo, s.hi + 1) for s in names)):
        sizes = {s.name: v for s, v in zip(names, values, strict=True)}
        ranges = [range(extent(a.size, sizes)) for a, _ in index.terms]
        for point in itertools.product(*ranges):
            place = {a: x for (a, _), x in zip(index.terms, point, strict=True)}
            if not 0 <= at(index, place) < extent(axis.size, sizes):
                return True
    return False


SEEN: Counter[str] = Counter()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(indexed())
def test_an_index_stays_inside_exactly_where_counting_says_so(case: tuple[Axis, Index]) -> None:
    axis, index = case
    f = Formula()
    text = f.value(index_expr(index, Coord))
    lemma = decided(f, f"(and (<= 0 {text}) (< {text} {f.size(axis)}))")
    SEEN[lemma.verdict] += 1
    assert lemma.verdict == ("refuted" if leaves(axis, index) else "proved")
    if lemma.verdict == "refuted":  # the counter-model is one
        model = counter_model(lemma)
        place = {a: model.get(a.name, 0) for a, _ in index.terms}
        sizes = {"N": model.get("N", 1), "M": model.get("M", 2)}
        assert all(0 <= x < extent(a.size, sizes) for a, x in place.items())
        assert not 0 <= at(index, place) < extent(axis.size, sizes)


def test_there_were_indices_of_both_kinds() -> None:
    assert SEEN["proved"] >= 40 and SEEN["refuted"] >= 40, SEEN


# -- cuts ------------------------------------------------------------------------------------------


def test_steps_divide_every_span() -> None:
    for tile in (1, 2, 3, 7, 16, 64, 1000):
        assert verdict(*steps(tile)) == "proved"
        for n in range(70):
            count = Counter(x for b in range(0, n, tile) for x in range(b, min(b + tile, n)))
            assert count == Counter(range(n))


def nest(
    axis: Axis, part: int | None, number: Axis, grid: int, loops: list[int]
) -> tuple[Nest, Program]:
    """A program that stores an axis inside loops over it, in parts or tiles of the grid."""
    out = Buffer("out0", "output", (axis,), "f32", ())
    body: tuple[Compute | Loop, ...] = (Compute(out, (axis,), Lit(1.0, "f32")),)
    for tile in reversed(loops):
        body = (Loop(axis, tile, body),)
    on_grid = Split(number, grid) if part else Split(axis, grid)
    made = Program(
        "k0", (out,), (), (on_grid,), body, parts=(Part(axis, part, number),) if part else ()
    )
    return Nest(made), made


def spans(
    program: Program, n: int, m: int, loops: list[int]
) -> list[tuple[tuple[int, ...], range]]:
    """The span that the innermost statement sees, for every task and all steps."""
    out = []
    tile = program.grid[0].tile
    for task, first in enumerate(range(0, m if program.parts else n, tile)):
        lo, hi = first, min(first + tile, n)
        if program.parts:
            lo = min(first * program.parts[0].tile, n)
            hi = min(lo + program.parts[0].tile, n)
        found = [((task,), range(lo, hi))]
        for step in loops:
            found = [
                ((*at, s), range(b, min(b + step, r.stop)))
                for at, r in found
                for s, b in enumerate(range(r.start, r.stop, step))
            ]
        out += found
    return out


def test_parts_divide_their_axis_exactly_where_counting_says_so() -> None:
    rng, seen = random.Random(0), Counter[str]()
    for _ in range(150):
        low = rng.randint(0, 20)
        axis = Axis("t", rng.choice([low, Sym("T", low, low + rng.randint(0, 12))]))
        tile, grid = rng.randint(1, 9), rng.choice([1, 1, 1, 2])
        number = Axis("p", max(-(-range_of(axis)[-1] // tile) + rng.choice([-1, 0, 0, 1]), 1))
        made, text = nest(axis, tile, number, grid, [])
        found = verdict(*parts(made, text.parts[0]))
        whole = all(
            Counter(x for _, r in spans(text, n, number.size, []) for x in r) == Counter(range(n))
            for n in range_of(axis)
        )
        assert found == ("proved" if whole else "refuted"), (axis, tile, grid, number)
        seen[found] += 1
    assert min(seen["proved"], seen["refuted"]) >= 30, seen


def test_the_number_of_steps_and_tasks() -> None:
    rng, seen = random.Random(1), Counter[tuple[str, str]]()
    for _ in range(200):
        low = rng.randint(0, 12)
        axis = Axis("t", rng.choice([low, Sym("T", low, low + rng.randint(0, 5))]))
        part = rng.choice([None, rng.randint(1, 9)])
        grid = 1 if part else rng.choice([1, 4, 9, 20])
        number = Axis("p", max(-(-range_of(axis)[-1] // (part or 1)), 1))
        loops = [rng.choice([1, 3, 8, 20]) for _ in range(rng.randint(1, 2))]
        made, text = nest(axis, part, number, grid, loops)
        point = made.points[0]
        path = point.loops[-1][0]
        outer = [r for n in range_of(axis) for _, r in spans(text, n, number.size, loops[:-1])]
        counts = [len(range(r.start, r.stop, loops[-1])) for r in outer]
        for name, formula, holds in (
            ("one", one_step(made, point, path), all(c == 1 for c in counts)),
            ("at most one", one_step(made, point, path, True), all(c <= 1 for c in counts)),
            ("some", some_step(made, point, path), all(c >= 1 for c in counts)),
            (
                "one task",
                one_task(made, text.grid[0].axis),
                all(len(range(0, number.size if part else n, grid)) == 1 for n in range_of(axis)),
            ),
        ):
            assert verdict(*formula) == ("proved" if holds else "refuted"), (name, text)
            seen[name, "proved" if holds else "refuted"] += 1
    assert len(seen) == 8 and min(seen.values()) >= 10, seen
