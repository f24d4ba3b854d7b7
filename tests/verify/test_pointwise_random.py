"""Random pointwise programs and their rewrites, right and wrong: what is proved has equal values."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superopt.mugraph.algebras.floats import FloatAlgebra
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.evaluate import evaluate
from superopt.mugraph.graph import Builder
from superopt.verify.proofs import pointwise
from superopt.verify.proofs.pointwise import proved

A = Axis("a", 7)
COUNT = Counter()


def built(term, dtype):
    """A term (nested tuples of rows, "x", "y" and literals) as a graph of two inputs."""
    b = Builder("random")
    inputs = {name: b.input(name, ((A,),), dtype) for name in ("x", "y")}

    def go(t):
        if isinstance(t, str):
            return inputs[t]
        if not isinstance(t, tuple):
            return b.const(t % 256 if dtype == "u8" else t, dtype)
        op, *rest = t
        if op == "through":
            return b.map("cast", b.map("cast", go(rest[1]), dtype=rest[0]), dtype=dtype)
        if op == "number":
            return b.map("cast", go(rest[0]), dtype=dtype)
        args = [go(r) for r in rest]
        return b.map(op, *args, dtype=dtype if op == "where" else None)

    root = go(term)
    return b.build([("o", root, tuple((x,) for x in (A,)))])


HIDES = ("max", "min", "relu", "recip", "div", "exp", "erf", "floor", "log")
JUMPS = ("lt", "le", "eq", "floor", "ceil", "mod_real")


def values(graph, x, y):
    """The output, and where it is not looked at.

    That is where an infinity is made finite again (a zero divisor below a minimum), and where rounding
    may have crossed a jump.
    """
    env = evaluate(graph, FloatAlgebra({"x": x, "y": y}))
    aside = torch.zeros(x.shape, dtype=torch.bool)
    for i in graph.reachable([o.node for o in graph.outputs]):
        node = graph.nodes[i]
        op, args = getattr(node, "op", ""), [env[k] for k in node.args]
        if not args or not args[-1].is_floating_point():
            continue
        if op in HIDES:
            for value in args:
                aside |= ~value.isfinite()
        if op in JUMPS:
            at = args[0] / args[1] if op == "mod_real" else args[0]
            jump = at.round() if op in ("floor", "ceil", "mod_real") else args[1]
            aside |= (at != jump) & ((at - jump).abs() < 1e-9 * (1 + at.abs()))
    return env[graph.outputs[0].node].expand(x.shape), aside


def differs(first, second, x, y):
    """Whether the outputs differ at a point where both are defined."""
    (mine, lost), (other, gone) = values(first, x, y), values(second, x, y)
    if not mine.is_floating_point():
        return bool(((mine != other) & ~lost & ~gone).any())
    both = mine.isfinite() & other.isfinite() & ~lost & ~gone
    scale = torch.maximum(mine.abs(), other.abs()) + 1
    return bool((((mine - other).abs() > 1e-6 * scale) & both & (scale < 1e8)).any())


# -- rewrites, right and wrong: what stands for (op, *arguments)


def integer_rewrites(op, a, b=1, c=1):
    match op:
        case "add":
            yield ("sub", a, ("neg", b))
            yield ("add", ("max", a, b), ("min", b, a))
            yield ("sub", b, a)
        case "sub":
            yield ("add", ("mul", -1, b), a)
            yield ("neg", ("sub", b, a))
            yield ("sub", b, a)
        case "mul":
            yield ("where", ("lt", a, 0), ("neg", ("mul", ("neg", a), b)), ("mul", b, a))
            yield ("max", ("mul", a, b), 0)
        case "max":
            yield ("where", ("lt", a, b), b, a)
            yield ("neg", ("min", ("neg", a), ("neg", b)))
            yield ("add", b, ("relu", ("sub", a, b)))
        case "min":
            yield ("sub", ("add", a, b), ("max", a, b))
            yield ("where", ("le", a, b), b, a)
        case "mod":
            yield ("sub", a, ("mul", b, ("floordiv", a, b)))
            yield ("mod", ("mod", a, b), b)
            yield ("mod", ("add", a, b), b)
            yield ("mod", a, ("neg", b))
        case "floordiv":
            quotient = ("floordiv", a, b)
            yield ("where", ("lt", a, 0), ("neg", ("floordiv", ("neg", a), b)), quotient)
            yield ("add", ("floordiv", ("sub", a, b), b), 1)
            yield ("floordiv", ("sub", a, ("mod", a, b)), b)
        case "lt":
            yield ("not", ("le", b, a))
            yield ("lt", ("sub", a, b), 0)
            yield ("le", ("add", a, 1), b)
            yield ("le", a, b)
        case "le":
            yield ("not", ("lt", b, a))
            yield ("lt", a, ("add", b, 1))
        case "eq":
            yield ("and", ("le", a, b), ("le", b, a))
            yield ("eq", ("sub", a, b), 0)
        case "where":
            yield ("where", ("not", a), c, b)
            yield ("where", ("not", a), b, c)
        case "abs":
            yield ("max", a, ("neg", a))
            yield ("where", ("lt", a, 0), ("neg", a), a)
        case "x":
            yield ("sub", ("add", "x", "y"), "y")
            yield ("floordiv", ("mul", "x", 2), 2)
            yield ("add", ("mul", ("floordiv", "x", 4), 4), ("mod", "x", 4))
            yield ("mul", ("floordiv", "x", 4), 4)
            yield ("through", "i64", "x")
            yield ("through", "i8", "x")
            yield ("through", "u8", "x")
        case _ if isinstance(op, int):
            yield op + 1 or 5  # nothing is divided by the literal zero


def float_rewrites(op, a, b=1.0, c=1.0):
    match op:
        case "add":
            yield ("add", ("max", a, b), ("min", a, b))
            yield ("sub", b, a)
        case "sub":
            yield ("neg", ("sub", b, a))
        case "mul":
            yield ("div", a, ("div", 1.0, b))
            yield ("mul", ("abs", a), ("abs", b))
        case "div":
            yield ("mul", ("div", 1.0, b), a)
            yield ("where", ("eq", b, 0.0), 1.0, ("div", a, b))
            yield ("div", b, a)
        case "max":
            yield ("add", b, ("relu", ("sub", a, b)))
            yield ("mul", 0.5, ("add", ("add", a, b), ("abs", ("sub", a, b))))
            yield ("where", ("le", a, b), a, b)
        case "min":
            yield ("where", ("lt", a, b), a, b)
            yield ("neg", ("max", ("neg", b), ("neg", a)))
        case "abs":
            yield ("sqrt", ("square", a))
            yield ("relu", a)
        case "relu":
            yield ("where", ("lt", 0.0, a), a, 0.0)
            yield ("mul", a, ("number", ("le", 0.0, a)))
            yield ("square", ("sqrt", a))
        case "floor":
            yield ("neg", ("ceil", ("neg", a)))
            yield ("sub", ("floor", ("add", a, 1.0)), 1.0)
            yield ("ceil", a)
        case "sqrt":
            yield ("where", ("lt", 0.0, a), ("sqrt", a), 0.0)
            yield ("sqrt", ("abs", a))
        case "exp":
            yield ("div", 1.0, ("exp", ("neg", a)))
            yield ("max", ("exp", a), 1.0)
            yield ("square", ("exp", ("mul", 0.5, a)))
        case "log":
            yield ("where", ("lt", 0.0, a), ("log", a), 0.0)
            yield ("neg", ("log", ("div", 1.0, a)))
            yield ("add", 1.0, ("log", a))
        case "erf":
            yield ("neg", ("erf", ("neg", a)))
            yield ("erf", ("neg", a))
        case "lt":
            yield ("lt", ("exp", a), ("exp", b))
            yield ("not", ("le", b, a))
            yield ("le", a, b)
            yield ("lt", ("sqrt", a), ("sqrt", b))
            yield ("lt", ("div", 1.0, b), ("div", 1.0, a))
        case "le":
            yield ("le", ("sub", a, b), 0.0)
            yield ("le", ("square", a), ("square", b))
        case "eq":
            yield ("eq", ("sub", a, b), 0.0)
            yield ("and", ("le", a, b), ("le", b, a))
        case "where":
            yield ("where", ("not", a), c, b)
        case "x":
            yield ("mul", "y", ("div", "x", "y"))
            yield ("sub", ("relu", "x"), ("relu", ("neg", "x")))
            yield ("sqrt", ("square", "x"))
        case _ if isinstance(op, float):
            yield op + 0.5


def places(term, path=()):
    """The places of a term at which something else could stand."""
    yield path, term
    if isinstance(term, tuple):
        for k, t in enumerate(term[1:], 1):
            yield from places(t, (*path, k))


def put(term, path, new):
    if not path:
        return new
    k, *rest = path
    return (*term[:k], put(term[k], rest, new), *term[k + 1 :])


@st.composite
def pairs(draw, leaves, unary, binary, divided, rewrites):
    """A term and what one rewrite somewhere makes of it."""

    def number(depth):
        if depth == 0 or draw(st.integers(0, 5)) == 0:
            return draw(st.sampled_from(["x", "x", "y", *leaves]))
        kind = draw(st.integers(0, 9))
        if kind < 5:
            return (draw(st.sampled_from(binary)), number(depth - 1), number(depth - 1))
        if kind < 7:
            return (draw(st.sampled_from(unary)), number(depth - 1))
        if kind < 8:
            return ("where", truth(depth - 1), number(depth - 1), number(depth - 1))
        by = draw(st.sampled_from(["y", *(k for k in leaves if k)]))
        return (draw(st.sampled_from(divided)), number(depth - 1), by)

    def truth(depth):
        return (draw(st.sampled_from(["lt", "le", "eq"])), number(depth), number(depth))

    depth = draw(st.integers(1, 3))
    term = truth(depth) if draw(st.integers(0, 3)) == 0 else number(depth)
    options = []
    for path, t in places(term):
        new = rewrites(*t) if isinstance(t, tuple) else rewrites(t, t)
        options += [put(term, path, n) for n in new]
    return (term, draw(st.sampled_from(options))) if options else (term, term)


INTEGERS = pairs(
    [0, 1, 2, 3, 4, 7, 100, -1, -3],
    ["neg", "abs", "relu", "square"],
    ["add", "sub", "mul", "max", "min"],
    ["floordiv", "mod"],
    integer_rewrites,
)
FLOATS = pairs(
    [0.0, 1.0, -1.0, 0.5, 2.0, -2.0],
    ["neg", "abs", "relu", "floor", "sqrt", "exp", "erf", "log", "square"],
    ["add", "sub", "mul", "max", "min"],
    ["div", "div", "mod_real"],
    float_rewrites,
)
MANY = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def grid(points):
    x, y = zip(*itertools.product(points, points), strict=True)
    return torch.tensor(x), torch.tensor(y)


BYTES, UNSIGNED, WIDE = range(-128, 128), range(256), (0, 1, -1, 2, 3, 7, 100, 181, -182, 2**15 - 1)
POINTS = {
    "i8": grid(BYTES),
    "u8": grid(UNSIGNED),
    "i16": grid((*range(-40, 40, 3), *WIDE, 2**14, -(2**14), -(2**15), 1 - 2**15)),
    "f32": grid(
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.25, 3.0, 4.0, math.pi, 7.3, -7.3]
        + [-0.25, -0.5, -0.75, -1.0, -1.5, -2.0, -2.5, -3.0, -4.0, -math.e, 1e-3, -1e-3]
    ),
}


def _check(pair, dtype):
    first, second = (built(t, dtype) for t in pair)
    found = proved(first, second, 0)
    x, y = (p.to(DTYPES[dtype].torch) for p in POINTS[dtype])
    if dtype != "f32":
        x, y = x[y != 0], y[y != 0]  # PyTorch raises where an integer is divided by zero
    different = differs(first, second, x, y)
    COUNT[dtype, "different"] += different
    COUNT[dtype, "proved"] += bool(found)
    COUNT[dtype, "all"] += 1
    assert not (found and different), pair


@pytest.mark.parametrize(
    "dtype, strategy", [("i8", INTEGERS), ("u8", INTEGERS), ("i16", INTEGERS), ("f32", FLOATS)]
)
def test_what_is_proved_of_random_programs_is_so(dtype, strategy, monkeypatch):
    monkeypatch.setattr(pointwise, "SECONDS", 0.3)
    monkeypatch.setattr(pointwise, "MOST_SECONDS", 0.6)

    @MANY
    @given(strategy)
    def run(pair):
        if dtype != "u8" or "abs" not in str(pair):
            _check(pair, dtype)

    run()
    counts = {k: n for (d, k), n in COUNT.items() if d == dtype}
    assert counts["proved"] >= 60, counts
    assert counts["different"] >= 30, counts
    print(dtype, counts)
