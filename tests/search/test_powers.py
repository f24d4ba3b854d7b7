"""High powers of sums: their factors are alike, and are not matched in every order."""

from __future__ import annotations

import pytest

from superopt.bench.generated import program
from superopt.search.enumerate import explore
from superopt.search.regions import regions
from tests.verify.terms import K, P, V
from tests.verify.terms import program as written


@pytest.mark.parametrize("power", [8, 12, 24])
def test_a_power_of_a_sum_is_searched(power: int) -> None:
    def make(p: P) -> V:
        total = p.g.sum(K)
        out = total
        for _ in range(power - 1):
            out = out * total
        return out.sqrt()

    graph = written(make)
    for region in regions(graph):
        space = explore(graph, region, seed=0, engine="cpp", candidates=300)
        assert space.stats["states"] > 0


def test_a_random_program_of_a_high_power() -> None:
    graph = program(1078, 3 + 1078 % 6, signs=True, literals=False)
    spaces = [explore(graph, r, seed=1078, engine="cpp", candidates=3000) for r in regions(graph)]
    assert spaces and all(s.stats["derivations"] > 0 for s in spaces)
