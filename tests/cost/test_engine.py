"""The compiled cost engine against its definition in Python: the same seconds, the same order."""

from __future__ import annotations

import math
import random
from functools import partial

import pytest

from superopt.cost.devices import Device, cpu_device
from superopt.cost.held import Held
from superopt.cost.model import (
    MOST_AXES,
    KernelCost,
    KernelShape,
    Work,
    _best,
    kernel_seconds,
)
from superopt.cost.order import task_order
from superopt.mugraph.axes import Axis
from superopt.mugraph.placement import Placement, Split

pytest.importorskip("superopt._core")

KERNELS = 80


def drawn(rng: random.Random, axes: int) -> KernelShape:
    """A kernel of random works, reads, results and buffers over axes of random sizes."""
    names = [Axis(f"a{k}", rng.choice([1, 3, 7, 64, 77, 500, 4096])) for k in range(axes)]

    def some() -> frozenset[Axis]:
        return frozenset(rng.sample(names, rng.randint(0, min(axes, 4))))

    def data() -> tuple[tuple[frozenset[Axis], int], ...]:
        return tuple((some(), rng.choice([1, 2, 4, 8])) for _ in range(rng.randint(1, 4)))

    works = tuple(
        Work(some(), float(rng.randint(1, 30)), rng.choice(["map", "mul_add", "narrow"]))
        for _ in range(rng.randint(1, 6))
    )
    sizes = {a: int(a.size) for a in names}  # type: ignore[arg-type]
    parts = tuple((some(), some(), rng.choice([4, 8])) for _ in range(rng.randint(0, 3)))
    held = tuple(Held(some(), rng.choice([1, 2, 4, 8]), some()) for _ in range(rng.randint(0, 4)))
    reads, writes, tiles, factors = data(), data(), data(), data()[1:]
    steps = tuple(
        tuple((a, rng.choice([4, 64, 3 * 64, 4096, 16384])) for a in axes if rng.random() < 0.8)
        for axes, _ in reads
    )
    more = (steps, held, factors if held else ())
    return KernelShape(works, reads, writes, tiles, parts, tuple(some()), sizes, *more)


def splits(rng: random.Random, axes: list[Axis]) -> list[Split]:
    return [Split(a, rng.choice([1, 2, 16, 64, 100, 512, 5000])) for a in axes]


@pytest.mark.parametrize("seed", range(4))
def test_the_engine_is_the_definition(seed: int) -> None:
    rng, compared, beyond = random.Random(seed), 0, 0
    for _ in range(KERNELS):
        shape = drawn(rng, rng.randint(1, 6))
        device = cpu_device(
            rng.choice([frozenset(), frozenset({"avx512f"})]),
            rng.randint(1, 4),
            rng.choice([1 << 40, 1 << 20, 1 << 12]),
        )
        cost = KernelCost(shape, device)
        assert cost._engine is not None
        axes = list(shape.sizes)
        grids = [
            [Split(a, t) for t in rng.sample([1, 8, 64, 300], rng.randint(1, 3))]
            for a in rng.sample(axes, rng.randint(0, len(axes)))
        ]
        loops = [
            tuple(splits(rng, rng.sample(axes, rng.randint(0, min(2, len(axes))))))
            for _ in range(3)
        ]
        most, keep = rng.choice([1, 5, 3000]), rng.randint(1, 9)

        ordered = rng.random() < 0.6

        def defined(
            p: Placement, shape: KernelShape = shape, device: Device = device, how: bool = ordered
        ) -> float:
            return kernel_seconds(shape, p, device, ordered=how)

        mine = cost.best(grids, loops, most, keep, ordered)
        other = _best(
            defined,
            partial(task_order, shape, device.l2) if ordered else tuple,
            grids,
            loops,
            most,
            keep,
        )
        assert len(mine) == len(other) == min(keep, 3 * min(most, math.prod(len(g) for g in grids)))
        for (x, p), (y, q) in zip(mine, other, strict=True):
            assert x == pytest.approx(y, rel=1e-12)
            assert p == q or defined(p) == pytest.approx(defined(q), rel=1e-12)
            turned = Placement(tuple(rng.sample(p.grid, len(p.grid))), p.loop)
            for q in (p, turned):
                assert cost(q) == pytest.approx(kernel_seconds(shape, q, device), rel=1e-12)
            compared += 1
            beyond += math.isinf(x)
    assert compared >= 200
    assert 20 <= beyond <= compared - 100


def test_without_the_engine_the_definition_serves() -> None:
    shape = drawn(random.Random(0), MOST_AXES + 1)
    cost = KernelCost(shape, cpu_device(frozenset(), 2))
    assert cost._engine is None
    a = next(iter(shape.sizes))
    grids, loops = [[Split(a, 1), Split(a, 2)]], [()]
    found = cost.best(grids, loops, 10, 2)
    assert len(found) == 2 and found[0][0] <= found[1][0]
