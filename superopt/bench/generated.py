"""Small random programs of the algebra, and those that a rule is most likely to get wrong."""

from __future__ import annotations

import random

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph

A, K, N = Axis("a", 3), Axis("k", 4), Axis("n", 2)
SHAPES = ((A, K), (K,), (K, N), (A,), (A, K, N), ())
UNARY = ("exp", "recip", "rsqrt", "square", "silu", "sqrt")


def program(seed: int, ops: int, signs: bool = False, literals: bool = False) -> Graph:
    """A random program of ``ops`` operators over three axes; every operator is used.

    signs: also neg and sub; literals: also sums and products with constants.
    """
    rng = random.Random(seed)
    b = Builder(f"random{seed}")
    pool = [
        b.input(f"x{i}", tuple((a,) for a in axes), "f32")
        for i, axes in enumerate(rng.sample(SHAPES, 3))
    ]
    fresh: list[int] = []
    while len(fresh) < ops:
        # The latest value is always used, so that the last one depends on all of them.
        x = fresh[-1] if fresh else rng.choice(pool)
        y = rng.choice([*pool, *fresh])
        choice = rng.random()
        axes = [a for a in b.axes(x) if a in (K, A)]
        if choice < 0.3 and axes:
            made = b.reduce("add", x, [rng.choice(axes)])
        elif choice < 0.5:
            made = b.map(rng.choice(UNARY), x)
        elif choice < 0.75:
            made = b.map("mul", x, y)
        elif choice < 0.85 and literals:
            made = b.map(rng.choice(("add", "mul")), x, b.const(rng.choice((0.125, 2.5))))
        elif choice < 0.95 or not signs:
            made = b.map(rng.choice(("add", "div")), x, y)
        else:
            made = b.map("sub", x, y)
        if made not in fresh and made not in pool:
            fresh.append(made)
        elif rng.random() < 0.1:
            return program(seed + 100_003, ops, signs, literals)
    out = fresh[-1]
    return b.build([("o", out, tuple((a,) for a in b.axes(out)))])


def named() -> dict[str, Graph]:
    """The cases that a pruning rule is most likely to get wrong."""
    return {
        "twice": _twice(),
        "difference": _difference(),
        "double": _double(),
        "variance": _variance(),
    }


def _twice() -> Graph:
    b = Builder("twice")  # sum_a (sum_k y) (sum_k z): bound axes of one name
    y, z = (b.input(n, ((A,), (K,)), "f32") for n in "yz")
    out = b.reduce("add", b.map("mul", b.reduce("add", y, [K]), b.reduce("add", z, [K])), [A])
    return b.build([("o", out, ())])


def _difference() -> Graph:
    b = Builder("difference")  # (x - y) (x + y)
    x, y = (b.input(n, ((A,),), "f32") for n in "xy")
    return b.build([("o", b.map("mul", b.map("sub", x, y), b.map("add", x, y)), ((A,),))])


def _double() -> Graph:
    b = Builder("double")  # exp(x + x)
    x = b.input("x", ((A,),), "f32")
    return b.build([("o", b.map("exp", b.map("add", x, x)), ((A,),))])


def _variance() -> Graph:
    b = Builder("variance")
    x = b.input("x", ((A,), (K,)), "f32")
    mean = b.map("div", b.reduce("add", x, [K]), b.size_of(K))
    dev = b.map("square", b.map("sub", x, mean))
    return b.build([("o", b.map("div", b.reduce("add", dev, [K]), b.size_of(K)), ((A,),))])
