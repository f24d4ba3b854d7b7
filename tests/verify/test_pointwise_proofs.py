"""Pointwise pairs are proved for all values, where they are equal, and only there."""

import json

import pytest
import torch
import torch.nn.functional as F

import superopt
from superopt.bench.identities import IDENTITIES, NEAR_MISSES
from superopt.bench.inputs import make_inputs
from superopt.errors import SuperoptError
from superopt.frontend.together import capture_together
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder
from superopt.verify.proofs.pointwise import proved

where, maximum, minimum = torch.where, torch.maximum, torch.minimum
I8, I64, X, XY, XS = "i8[6]", "i64[6]", "f32[6]", "f32[6],f32[6]", "f32[4,6]"
I8S, I64S = f"{I8},{I8}", f"{I64},{I64}"


def proof(first, second, inputs):
    both = capture_together(first, second, make_inputs(inputs, 20), None, "default")
    return proved(both.first, both.second, 20)


# fmt: off
PROVED = {
    "sum at each width": (lambda x, y: (x + y) - y, lambda x, y: x + 0, I8S),
    "binomial at each width": (lambda x, y: (x + y) * (x - y), lambda x, y: x * x - y * y, I8S),
    "doubled, modulo 256": (lambda x: x * 3, lambda x: x + x + x, "u8[6]"),
    "widened first": (lambda x, y: (x.int() + y.int()) // 2 * 2,
        lambda x, y: (x.int() + y) - (x.int() + y) % 2, I8S),
    "average of bytes": (lambda x, y: (x.int() + y) // 2,
        lambda x, y: x // 2 + y.int() // 2 + (x % 2 + y % 2) // 2, I8S),
    "digits": (lambda x: x // 10 % 10, lambda x: (x % 100) // 10, I64),
    "toward zero": (lambda x: torch.div(x, 4, rounding_mode="trunc"),
        lambda x: x // 4 + ((x < 0) & (x % 4 != 0)), "i32[6]"),
    "square modulo four": (lambda x: (x * x) % 4, lambda x: x % 2, "i32[6]"),
    "negated twice": (lambda x: 0 - (-x), lambda x: x + 0, I8),
    "abs of the minimum": (lambda x: x.abs(), lambda x: where(x < 0, 0 - x, x), I8),
    "never above": (lambda x: x > 127, lambda x: x != x, I8),
    "narrowed and widened": (lambda x: x.to(torch.int8).long() % 4, lambda x: x % 4, I64),
    "two relus": (lambda x: F.relu6(x), lambda x: F.relu(x) - F.relu(x - 6), X),
    "two relus in a sum": (lambda x: x.clamp(0, 6).sum(1), lambda x: (F.relu(x) - F.relu(x - 6)).sum(1), XS),
    "two relus in a sum, transposed": (lambda x: F.relu6(x).sum(1, keepdim=True).exp() + x,
        lambda x: (F.relu(x) - F.relu(x - 6)).sum(1, keepdim=True).exp() + x, XS),
    "maximum of a sum": (lambda x, y: maximum(x, y).amax(1), lambda x, y: (y + F.relu(x - y)).amax(1),
        "f32[4,6],f32[4,6]"),
    "root under its mask": (lambda x: where(x > 0, x.sqrt(), 0.0) ** 2, lambda x: F.relu(x), X),
    "division under its mask": (lambda x, y: where(y == 0, 0.0, x / y) * y,
        lambda x, y: where(y == 0, 0.0, x), XY),
    "quotient of a relu": (lambda x, y: F.relu(x / y), lambda x, y: where(x / y > 0, x / y, 0.0), XY),
    "floor and ceiling": (lambda x: -torch.floor(-x), lambda x: torch.ceil(x), X),
    "truncated": (lambda x: x.clamp(-3, 3).to(torch.int64),
        lambda x: where(x < 0, torch.ceil(x.clamp(-3, 3)), torch.floor(x.clamp(-3, 3))).to(torch.int64), X),
    "sigmoid is increasing": (lambda x, y: torch.sigmoid(maximum(x, y)),
        lambda x, y: maximum(torch.sigmoid(x), torch.sigmoid(y)), XY),
    "log is increasing": (lambda x, y: torch.log(maximum(x.exp(), y.exp())), maximum, XY),
    "cosine is even": (lambda x: torch.cos(x.abs()), lambda x: torch.cos(x), X),
    "another name of an axis": (lambda x: F.relu(x) * F.relu(-x), lambda x: torch.zeros_like(x), X),
    "booleans add up": (lambda a, b: (a ^ b).long(), lambda a, b: a.long() + b - 2 * a * b,
        "bool[6],bool[6]"),
    "two results": (lambda x: (x.clamp(0, 1), x.abs()),
        lambda x: (F.relu(x) - F.relu(x - 1), maximum(x, -x)), X),
}

NOT_PROVED = {
    "sum wraps": (lambda x, y: x + y > x, lambda x, y: y > 0, I8S),
    "sum of 16 bits wraps": (lambda x: x + 1 > x, lambda x: x == x, "i16[6]"),
    "sum of 32 bits wraps": (lambda x: x + 1 > x, lambda x: x == x, "i32[6]"),
    "sum of 64 bits wraps": (lambda x: x + 1 > x, lambda x: x == x, I64),
    "unsigned wraps": (lambda x: x - 1 < x, lambda x: x == x, "u8[6]"),
    "average wraps": (lambda x, y: (x + y) // 2, lambda x, y: x // 2 + y // 2 + (x % 2 + y % 2) // 2, I8S),
    "quotient of a wrapped shift": (lambda x: (x + 8) // 4, lambda x: x // 4 + 2, I64),
    "least integer negated": (lambda x: -x >= 0, lambda x: x <= 0, I8),
    "abs of the least integer": (lambda x: x.abs() >= 0, lambda x: x == x, I64),
    "floor is not trunc": (lambda x: torch.div(x, 2, rounding_mode="floor"),
        lambda x: torch.div(x, 2, rounding_mode="trunc"), I64),
    "toward zero by a negation, which wraps": (lambda x: torch.div(x, 4, rounding_mode="trunc"),
        lambda x: where(x < 0, -((-x) // 4), x // 4), "i32[6]"),
    "floor is not trunc, of floats": (lambda x: torch.floor(x.clamp(-3, 3)).to(torch.int64),
        lambda x: x.clamp(-3, 3).to(torch.int64), X),
    "remainder of a negative": (lambda x: -(x % 3), lambda x: (-x) % 3, I64),
    "square modulo eight": (lambda x: (x * x) % 8, lambda x: x % 2, "i32[6]"),
    "narrowed": (lambda x: x.to(torch.int8).long(), lambda x: x + 0, I64),
    "a tie": (lambda x, y: where(x < y, 1.0, 0.0), lambda x, y: where(x <= y, 1.0, 0.0), XY),
    "a tie at zero": (lambda x: torch.sign(x), lambda x: where(x >= 0, 1.0, -1.0), X),
    "a tie of integers": (lambda x: x > 3, lambda x: x >= 3, I64),
    "a root alone": (lambda x: where(x > -1, x.sqrt(), 0.0) ** 2,
        lambda x: where(x < 0, 0.0, x.abs()) * (x > 1), X),
    "comparison with no value": (lambda x: x.sqrt() <= x.sqrt(), lambda x: x == x, X),
    "comparison with an infinity": (lambda x: 1 / x > 0, lambda x: x > 0, X),
    "logarithm of zero": (lambda x: torch.log(F.relu(x)).clamp(min=-100),
        lambda x: where(x > 0, torch.log(F.relu(x)).clamp(min=-100), 0.0), X),
    "logarithm of zero compared": (lambda x: torch.log(F.relu(x)) + 1 > torch.log(F.relu(x)),
        lambda x: x == x, X),
    "undefined branch": (lambda x: where(x == 0, 0.0, 1 / x), lambda x: where(x == 0, 1.0, 1 / x), X),
    "exp is no sum": (lambda x: torch.exp(x), lambda x: 1 + x, X),
    "sine is no cosine": (lambda x: torch.sin(x), lambda x: torch.cos(x), X),
    "sine of the absolute value": (lambda x: torch.sin(x.abs()), lambda x: torch.sin(x), X),
    "sums of other axes": (lambda x: x.sum(0), lambda x: x.sum(1), "f32[4,4]"),
    "other rows": (lambda x: x.relu().sum(1), lambda x: x.abs().sum(1), XS),
    "an infinite mask": (lambda x: where(x > 0, x, -torch.inf),
        lambda x: where(x > 0, x, -torch.inf) * 1.0, X),
    "a kept rounding": (lambda x: x.half().float(), lambda x: x + 0, X),
    "cast out of range": (lambda x: x.to(torch.int8).float(), lambda x: torch.floor(x.abs()), X),
}
# fmt: on


@pytest.mark.parametrize("name", PROVED)
def test_equal_pairs_are_proved(name):
    found = proof(*PROVED[name])
    assert found and found.kind == "proved" and found.bound_log2 is None
    assert found.evaluator == "z3" and not found.cases


@pytest.mark.parametrize("name", NOT_PROVED)
def test_unequal_pairs_are_not(name):
    assert proof(*NOT_PROVED[name]) is None


# -- divisions by another input, which no function is captured with

AXIS = Axis("a", 6)


def integers(make, dtype="i64", axis=AXIS):
    b = Builder("integers")
    x, y = (b.input(name, ((axis,),), dtype) for name in ("x", "y"))
    return b.build([("o", make(b, x, y), ((axis,),))])


def remainder_by_hand(b, x, y):
    return b.map("sub", x, b.map("mul", y, b.map("floordiv", x, y)))


@pytest.mark.parametrize("dtype", ["i8", "u8", "i32", "i64"])
def test_a_remainder_by_another_input(dtype):
    by_hand = integers(remainder_by_hand, dtype)
    found = proved(integers(lambda b, x, y: b.map("mod", x, y), dtype), by_hand, 0)
    assert found and found.assumptions == ("where-defined",)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda b, x, y: b.map("mod", x, b.map("neg", y)),
        lambda b, x, y: b.map("abs", b.map("mod", x, y)),
        lambda b, x, y: b.map("mod", b.map("add", x, y), y),
    ],
)
def test_a_wrong_remainder_by_another_input(wrong):
    right = integers(lambda b, x, y: b.map("mod", x, y), "i8")
    assert proved(right, integers(wrong, "i8"), 0) is None


def test_the_least_integer_by_minus_one_wraps():
    def by(k):
        return integers(lambda b, x, y: b.map("floordiv", x, b.const(k, "i8")), "i8")

    negated = integers(lambda b, x, y: b.map("neg", x), "i8")
    assert proved(by(-1), negated, 0)

    def largest(b, x, y):
        return b.map("le", b.map("floordiv", x, b.const(-1, "i8")), b.const(126, "i8"))

    def above(b, x, y):  # but for -127, whose negative is 127
        return b.map("ne", x, b.const(-127, "i8"))

    assert proved(integers(largest, "i8"), integers(above, "i8"), 0)


def test_a_division_by_zero_in_a_branch_that_is_not_taken():
    def guarded(otherwise):
        def make(b, x, y):
            zero = b.const(0, "i64")
            by = b.map("floordiv", x, y)
            return b.map("where", b.map("eq", y, zero), b.const(otherwise, "i64"), by, dtype="i64")

        return integers(make)

    assert proved(guarded(0), guarded(1), 0) is None
    assert proved(guarded(1), guarded(1), 0)


def test_the_absolute_value_of_unsigned_integers_is_left_alone():
    same = integers(lambda b, x, y: x, "u8")
    assert proved(integers(lambda b, x, y: b.map("abs", x), "u8"), same, 0) is None


def test_positions_and_sizes_are_within_their_range():
    axis = Axis("a", Sym("n", 1, 64))

    def below(limit):
        return integers(
            lambda b, x, y: b.map("and", b.map("eq", x, x), limit(b, b.iota(axis))), "i64", axis
        )

    true = integers(lambda b, x, y: b.map("eq", x, x), "i64", axis)
    assert proved(below(lambda b, i: b.map("lt", i, b.const(64, "i64"))), true, 0)
    assert not proved(below(lambda b, i: b.map("lt", i, b.const(63, "i64"))), true, 0)
    assert not proved(below(lambda b, i: b.map("lt", b.const(0, "i64"), i)), true, 0)


def test_sizes_are_those_given_only_where_that_is_asked_for():
    def scaled(by):
        return integers(lambda b, x, y: b.map("mul", x, by(b)))

    size, six = scaled(lambda b: b.size_of(AXIS, "i64")), scaled(lambda b: b.const(6, "i64"))
    assert proved(size, six, 0) is None
    assert proved(size, six, 0, own_sizes=True)

    def below(b, limit):
        return b.map("lt", b.iota(AXIS), limit)

    last = integers(lambda b, x, y: below(b, b.const(6, "i64")))
    true = integers(lambda b, x, y: b.map("le", b.const(0, "i64"), b.iota(AXIS)))
    assert proved(last, true, 0) is None
    assert proved(last, true, 0, own_sizes=True)


# -- the tables


def captured(pairs):
    for pair in pairs:
        try:
            args = make_inputs(pair.inputs, 20)
            yield pair, capture_together(pair.f, pair.g, args, None, "default")
        except SuperoptError:
            continue


@pytest.mark.parametrize(
    "step, least", [(9, 45), pytest.param(1, 445, marks=pytest.mark.full, id="all")]
)
def test_no_near_miss_is_proved(step, least):
    tried = 0
    for pair, both in captured(NEAR_MISSES[::step]):
        assert proved(both.first, both.second, 20) is None, pair.name
        tried += 1
    assert tried >= least


def test_many_identities_are_proved():
    found = [bool(proved(both.first, both.second, 20)) for _, both in captured(IDENTITIES[::9])]
    assert sum(found) >= 25, (sum(found), len(found))


# -- what a user sees


def test_a_certificate_says_that_it_is_proved():
    found = superopt.equivalent(
        lambda x: (x * (x + 1)) % 2, lambda x: x * 0, make_inputs(I64, 20)[0], seed=20
    )
    assert found and found.kind == "proved" and found.bound_log2 is None
    assert "shown: proved by Z3, for all values of the inputs" in str(found)
    told = json.loads(found.to_json())
    assert told["kind"] == "proved" and told["checks"][-1]["kind"] == "proved"
    assert found.explained.keys() == set(found.assumptions)


def test_a_proof_is_better_than_a_sample():
    found = superopt.equivalent(
        lambda x, y: maximum(x, y).log(),
        lambda x, y: (y + F.relu(x - y)).log(),
        *make_inputs(XY, 20),
    )
    assert found and found.kind == "proved" and "where-defined" in found.assumptions
