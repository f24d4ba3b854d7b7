"""Which derivations may be ranked: what rounds worse than the program itself is dropped."""

from __future__ import annotations

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph
from superopt.search.enumerate import REDUCE, Space, explore
from superopt.search.regions import regions
from superopt.search.safety import safe_derivations

B, K = Axis("b", 5), Axis("k", 37)


def mean(scale_first: bool, squared: bool) -> Graph:
    """sum(x / n), or sum(x) / n, of x[b,k] or its squares."""
    b = Builder("mean")
    x = b.input("x", ((B,), (K,)), "f32")
    x = b.map("mul", x, x) if squared else x
    n = b.map("recip", b.size_of(K))
    out = (
        b.reduce("add", b.map("mul", x, n), [K])
        if scale_first
        else b.map("mul", b.reduce("add", x, [K]), n)
    )
    return b.build([("o", out, ((B,),))])


def ways(graph: Graph) -> tuple[Space, set[str]]:
    """The space, and the operators by which the target may be computed."""
    (region,) = regions(graph)
    space = explore(graph, region)
    assert space.closed
    safe, _ = safe_derivations(graph, space)
    return space, {d.op for d in safe[space.targets[region.targets[0]]]}


def test_a_sum_of_plain_values_is_scaled_once() -> None:
    space, found = ways(mean(scale_first=False, squared=False))
    target = space.classes[next(iter(space.targets.values()))]
    assert {d.op for d in target.derivations} >= {"mul", REDUCE + "add"}  # the space has both
    assert found == {"mul"}


def test_what_the_author_wrote_stays() -> None:
    assert ways(mean(scale_first=True, squared=False))[1] == {"mul", REDUCE + "add"}


def test_products_are_rounded_in_any_case() -> None:
    assert ways(mean(scale_first=False, squared=True))[1] == {"mul", REDUCE + "add"}
