"""Programs behind a rule: each size reaches its own program, and a rule of other programs is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from superopt.errors import CacheCorrupt, ShapeMismatch
from superopt.mugraph.dispatch import ORIGINAL, Bucket, Dispatch, Guard
from superopt.runtime.bucketed import Bucketed
from superopt.runtime.plan import Extent, Plan, Shape

DOMAIN: Guard = (("m", 2, 40), ("n", 3, 50))
RULE = Dispatch(
    DOMAIN,
    (
        Bucket((("m", 2, 9), ("n", 3, 20)), 0),
        Bucket((("m", 10, 40), ("n", 3, 20)), 1, slower=True),
        Bucket((("m", 2, 40), ("n", 21, 29)), ORIGINAL),
        Bucket((("m", 2, 40), ("n", 30, 50)), 1),
    ),
)


def program(name: str, m: tuple[int, int], n: tuple[int, int]) -> Any:
    shape = Shape((Extent(1, ("m",)), Extent(2, ("n",))), "f32")
    plan = Plan("entry", (shape,), (), (), (), (("m", 0, 0, 1, *m), ("n", 0, 1, 2, *n)))
    return SimpleNamespace(plan=plan, at=lambda xs, sizes: [name, dict(sizes)])


PROGRAMS = [program("a", (2, 9), (3, 50)), program("b", (2, 40), (3, 50))]


@pytest.mark.parametrize("eager_may_win", [False, True])
def test_every_size_reaches_the_program_of_its_bucket(eager_may_win: bool) -> None:
    run = Bucketed(RULE, PROGRAMS).runner(lambda xs: ["original", None], eager_may_win)
    tried: dict[str, int] = {}
    for m in range(2, 41):
        for n in range(3, 51):
            got, sizes = run([torch.empty(m, 2 * n)])
            (bucket,) = [
                b
                for b in RULE.buckets
                if b.guard[0][1] <= m <= b.guard[0][2] and b.guard[1][1] <= n <= b.guard[1][2]
            ]
            eager = bucket.program == ORIGINAL or (bucket.slower and eager_may_win)
            assert got == ("original" if eager else "ab"[bucket.program])
            assert sizes in (None, {"m": m, "n": n})
            tried[got] = tried.get(got, 0) + 1
    assert sum(tried.values()) == 39 * 48 and len(tried) == 3


@pytest.mark.parametrize("shape", [(1, 20), (41, 20), (5, 4), (5, 102), (5, 21)])
def test_sizes_outside_the_domain_are_refused(shape: tuple[int, int]) -> None:
    run = Bucketed(RULE, PROGRAMS).runner(lambda xs: [], True)
    with pytest.raises(ShapeMismatch):
        run([torch.empty(shape)])


def test_one_bucket_for_all_sizes() -> None:
    rule = Dispatch(DOMAIN, (Bucket(DOMAIN, 0),))
    run = Bucketed(rule, [PROGRAMS[1]]).runner(lambda xs: [], True)
    assert run([torch.empty(5, 20)]) == ["b", {"m": 5, "n": 10}]
    with pytest.raises(ShapeMismatch):
        run([torch.empty(41, 20)])


@pytest.mark.parametrize(
    "programs",
    [
        [PROGRAMS[0]],  # the second is missing
        [PROGRAMS[1], PROGRAMS[0]],  # it was compiled for fewer sizes than it would serve
        [program("a", (2, 8), (3, 50)), PROGRAMS[1]],
        [PROGRAMS[0], SimpleNamespace(plan=Plan("entry", (), (), (), (), ()))],
    ],
)
def test_a_rule_of_other_programs_is_a_damaged_entry(programs: list[Any]) -> None:
    with pytest.raises(CacheCorrupt):
        Bucketed(RULE, programs)
