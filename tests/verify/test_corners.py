"""Programs that differ in a corner alone: at ties, at infinities, where integers wrap, at one integer."""

import math

import numpy as np
import pytest

from superopt.mugraph.algebras.chain import CHAINS, trial_keys
from superopt.mugraph.algebras.field_values import NEG, Draw, Integers
from superopt.mugraph.axes import Axis
from superopt.verify.cuts import Checker
from superopt.verify.equal import check_equal
from superopt.verify.evaluators import evaluator
from superopt.verify.sizes import assignments
from tests.verify.terms import B, K, V, program
from tests.verify.test_evaluators import plan

INF = math.inf


def where(p, cond, x, y) -> V:
    return p.map("where", cond, x, y, dtype="f32")


def masked(p, other) -> V:
    return where(p, p.input("mask", B, K, dtype="bool"), p.x, other)


def integer(p, dtype="i64") -> V:
    return p.input("i", K, dtype=dtype)


def wide(p, value) -> V:
    return p.map("cast", value, dtype="i64")


def real(p, value) -> V:
    return p.map("cast", value, dtype="f32")


WRONG = {
    "strict against zero": (
        lambda p: where(p, p.x.lt(0.0), p.y, p.z),
        lambda p: where(p, p.x.le(0.0), p.y, p.z),
    ),
    "strict against a literal": (
        lambda p: where(p, p.x.lt(2.5), p.y, p.z),
        lambda p: where(p, p.x.le(2.5), p.y, p.z),
    ),
    "strict against a shifted value": (
        lambda p: where(p, (p.x + 1.0).lt(p.g), p.y, p.z),
        lambda p: where(p, (p.x + 1.0).le(p.g), p.y, p.z),
    ),
    "strict of a difference": (
        lambda p: where(p, (p.x - p.y).lt(0.0), p.y, p.z),
        lambda p: where(p, (p.x - p.y).le(0.0), p.y, p.z),
    ),
    "strict of a sum": (
        lambda p: where(p, p.x.sum(K).lt(p.h), p.y, p.z),
        lambda p: where(p, p.x.sum(K).le(p.h), p.y, p.z),
    ),
    "equal at a tie alone": (lambda p: where(p, p.x.eq(p.y), p.z, p.g), lambda p: p.g + 0.0 * p.x),
    "zero as a truth value": (
        lambda p: where(p, p.map("cast", p.x, dtype="bool"), p.z, p.g),
        lambda p: p.z + 0.0 * p.g,
    ),
    "an infinity scaled by an input": (
        lambda p: masked(p, -INF) * p.y,
        lambda p: masked(p, INF) * p.y,
    ),
    "an infinity scaled by the negative": (
        lambda p: masked(p, -INF) * p.y,
        lambda p: where(p, p.input("mask", B, K, dtype="bool"), p.x * p.y, INF * p.y),
    ),
    "where a sum is a number": (
        lambda p: where(p, p.x.sum(K).eq(77.5), p.const(0.0), p.h),
        lambda p: where(p, p.x.sum(K).eq(77.5), p.const(5.0), p.h),
    ),
    "strict where rows of zeros agree": (
        lambda p: where(p, p.x.sum(K).le(0.0), p.x, p.const(0.0)),
        lambda p: where(p, p.x.sum(K).lt(0.0), p.x, p.const(0.0)),
    ),
    "between two comparisons": (
        lambda p: where(p, p.x.lt(p.y), p.z, where(p, p.y.lt(p.x), p.g, p.const(0.5))),
        lambda p: where(p, p.x.lt(p.y), p.z, where(p, p.y.lt(p.x), p.g, p.const(9.0))),
    ),
    "a number that is zero nowhere else": (
        lambda p: where(p, p.map("cast", p.x.sum(K) - 7.5, dtype="bool"), p.h, p.const(0.0)),
        lambda p: where(p, p.map("cast", p.x.sum(K) - 7.5, dtype="bool"), p.h, p.const(3.0)),
    ),
    "a function of an infinity": (lambda p: masked(p, -INF).erf(), lambda p: masked(p, INF).erf()),
    "a logarithm of zero": (lambda p: masked(p, -INF).exp().log(), lambda p: masked(p, 0.0)),
    "a narrow sum": (
        lambda p: wide(p, p.map("add", integer(p, "i8"), integer(p, "i8"))),
        lambda p: p.map("add", wide(p, integer(p, "i8")), wide(p, integer(p, "i8"))),
    ),
    "a narrow reduction": (
        lambda p: wide(p, integer(p, "i8").reduce("mul", K)),
        lambda p: wide(p, integer(p, "i8")).reduce("mul", K),
    ),
    "integers beyond a literal": (
        lambda p: p.map("min", integer(p), p.const(1000, "i64")),
        lambda p: p.map("min", integer(p), p.const(100000, "i64")),
    ),
    "the root of one integer": (
        lambda p: p.map("mul", real(p, integer(p)), 1.0).sqrt(),
        lambda p: where(
            p,
            p.map("eq", integer(p), p.const(2, "i64")),
            p.const(7.0),
            real(p, integer(p)).sqrt(),
        ),
    ),
}
RIGHT = {
    "log of exp of a mask": (lambda p: masked(p, -INF).exp().log(), lambda p: masked(p, -INF)),
    "a mask scaled": (
        lambda p: (masked(p, -INF) * 0.125).exp(),
        lambda p: where(p, p.input("mask", B, K, dtype="bool"), p.x * 0.125, -INF).exp(),
    ),
    "scales of an infinity": (
        lambda p: (masked(p, -INF) * p.y) * p.z,
        lambda p: masked(p, -INF) * (p.y * p.z),
    ),
    "an infinity scaled by a square": (
        lambda p: masked(p, -INF) * (p.y * p.y),
        lambda p: where(p, p.input("mask", B, K, dtype="bool"), p.x * p.y * p.y, -INF),
    ),
    "greater as less": (
        lambda p: where(p, p.map("gt", p.x, 0.0), p.y, p.z),
        lambda p: where(p, p.x.le(0.0), p.z, p.y),
    ),
    "relu as a choice": (
        lambda p: p.x.relu(),
        lambda p: where(p, p.map("gt", p.x, 0.0), p.x, 0.0),
    ),
    "not less is at least": (
        lambda p: where(p, p.x.lt(p.y), p.y, p.z),
        lambda p: where(p, p.x.ge(p.y), p.z, p.y),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_difference_in_a_corner_is_found(name):
    a, b = (program(make) for make in WRONG[name])
    for seed in (1, 2, 3):
        assert not Checker(seed)(a, b)
        assert not Checker(seed)(b, a)


@pytest.mark.parametrize("name", RIGHT)
def test_corners_that_agree_are_accepted(name):
    a, b = (program(make) for make in RIGHT[name])
    for seed in (1, 2, 3):
        found = Checker(seed)(a, b)
        assert found, found.reason


def test_a_comparison_that_never_ties_is_not_shown_strict():
    a, b = (
        program(lambda p, op=op: where(p, p.map(op, p.x.exp() * p.y, 3.25), p.y, p.z))
        for op in ("lt", "le")
    )
    shifted = program(lambda p: where(p, p.map("lt", p.y * p.x.exp(), 3.25), p.y, p.z))
    assert check_equal(a, shifted, seed=1)  # both make the same comparison
    for one, other in ((a, b), (b, a)):
        assert not check_equal(one, other, seed=1)


def test_no_bound_where_integers_take_some_values():
    a = program(lambda p: real(p, integer(p)) * p.x)
    b = program(lambda p: p.x * real(p, integer(p)))
    assert check_equal(a, a, seed=1).kind == "sampled"
    assert check_equal(a, b, seed=1)
    cast = program(lambda p: real(p, p.map("cast", p.x, dtype="i64")) * p.y)
    found = check_equal(cast, cast, seed=1)
    assert found.kind == "sampled"
    assert "keyed:cast:i64" in found.assumptions


def test_comparisons_that_share_values_have_no_pattern_of_their_own():
    def pairs(p):  # 6 comparisons of 2 + 3 values: a pattern may be as rare as 1/5!
        return p.map("max", p.h, p.g).sum(B, K)

    found = check_equal(program(pairs), program(pairs), seed=1)
    assert found
    assert found.kind == "sampled"
    assert "patterns" in found.reason


def test_the_evaluators_agree_on_literals_and_infinities():
    clean = infinite = 0
    for make, _ in (*WRONG.values(), *RIGHT.values()):
        graph = program(make)
        wanted, levels = plan(graph, CHAINS[0])
        sizing = assignments(graph, graph, 1 << 20)[0]
        keys = trial_keys(4, range(96))
        ranges = sizing.ranges or {"i": Integers()}
        draw = Draw(keys, np.arange(96) % 2 == 1, ranges, (-3.0, 0.0, 1.0, 2.5))
        for x, y in zip(
            *(
                evaluator(u).outputs(graph, wanted, levels, CHAINS[0], draw, sizing.sizes)
                for u in ("python", "core")
            ),
            strict=True,
        ):
            np.testing.assert_array_equal(x.status, y.status)
            np.testing.assert_array_equal(x.data.astype(np.uint64), y.data.astype(np.uint64))
            clean += int((x.status == 0).sum())
            infinite += int((x.status >= NEG).sum())
    assert clean >= 8000, clean
    assert infinite >= 500, infinite


@pytest.mark.parametrize("size", [40, 1 << 15])
def test_counts_are_not_taken_for_their_values_on_a_short_axis(size: int) -> None:
    """A polynomial of a count that is zero for the small ones: each short axis has no others."""
    long = Axis("long", size)

    def make(zero: bool):
        def terms(p):
            count = real(p, p.input("mask", B, long, dtype="bool")).sum(long)
            out = count
            for k in range(1, 9):
                out = out * (count - float(k))
            return 0.0 * count if zero else out

        return program(terms)

    found = check_equal(make(False), make(True), seed=1, most_patterns=2000.0)
    assert not found or found.cases, found
