"""Concatenations: what is read part by part is never made, what is not stays, answers are PyTorch's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from superopt.frontend.partition import Program
from superopt.mugraph.graph import Graph, Iota, Map, Reduce
from tests.frontend.harness import check

Fn = Callable[..., Tensor]


def _low_rank(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return F.linear(torch.cat([x, F.linear(x, a)], -1), torch.cat([w, b], -1))


def _ones_column(s: Tensor, v: Tensor) -> Tensor:
    o = torch.softmax(s, -1) @ torch.cat([v, torch.ones_like(v[:, :1])], -1)
    return o[:, :-1] / o[:, -1:]


def _sink(s: Tensor, v: Tensor, t: Tensor) -> Tensor:
    scores = torch.cat([s, t[:, None]], -1)
    scores = scores - scores.max(-1, keepdim=True).values
    return torch.softmax(scores, -1)[:, :-1] @ v


def _sink_first(s: Tensor, v: Tensor, t: Tensor) -> Tensor:
    return torch.softmax(torch.cat([t[:, None], s], -1), -1)[:, 1:] @ v


def _one_weight(x: Tensor, w: Tensor, u: Tensor, y: Tensor) -> Tensor:
    a, b = F.linear(x, torch.cat([w, u])).split([w.shape[0], u.shape[0]], -1)
    return F.silu(a) * b * y


PARTS: dict[str, tuple[Fn, tuple[tuple[int, ...], ...]]] = {
    "low rank": (_low_rank, ((3, 10), (7, 10), (2, 10), (7, 2))),
    "three inputs": (
        lambda x, y, z, w: F.linear(torch.cat([x, y, z], -1), w),
        ((3, 4), (3, 5), (3, 1), (6, 10)),
    ),
    "by rows": (lambda x, y: torch.cat([x, y]).sum(0), ((3, 4), (5, 4))),
    "largest": (lambda x, y: torch.cat([x, y], 1).amax(1), ((3, 4), (3, 5))),
    "mean": (lambda x, y: torch.cat([x, y], 1).mean(1), ((3, 4), (3, 5))),
    "stacked": (lambda x, y: torch.stack([x, y]).sum(0), ((3, 4), (3, 4))),
    "broadcast": (lambda x, y: (torch.cat([x, y], 1) * 2).sum((0, 1)), ((3, 4), (3, 1))),
    "padded": (lambda x: F.pad(x, (0, 3), value=2.0).sum(-1), ((3, 4),)),
    "rows of a constant": (lambda x: F.pad(x, (0, 2), value=1.0).mean(0).sum(), ((5, 4),)),
    "rows that are spread": (
        lambda x, c: torch.cat([x, c.expand(5, 4)], 1).amax(0).sum(),
        ((5, 3), (1, 4)),
    ),
    "columns of ones": (
        lambda x: torch.cat([x, torch.ones(5, 4)], 1).mean(0).sum(),
        ((5, 3),),
    ),
    "ones column": (_ones_column, ((3, 9), (9, 4))),
    "sink": (_sink, ((3, 9), (9, 4), (3,))),
    "sink first": (_sink_first, ((3, 9), (9, 4), (3,))),
    "one weight": (_one_weight, ((3, 4), (6, 4), (6, 4), (3, 6))),
    "sliced": (lambda x, y: torch.cat([x, y], 1)[:, 1:3] * 2, ((3, 4), (3, 5))),
    "sliced twice": (
        lambda x, y: torch.cat([x, y], 1)[:, :4].exp() + torch.cat([y, x], 1)[:, 5:],
        ((3, 4), (3, 5)),
    ),
}


def _rotated(q: Tensor, k: Tensor, c: Tensor, s: Tensor) -> Tensor:
    def turn(x: Tensor) -> Tensor:
        return x * c + torch.cat([-x[..., 2:], x[..., :2]], -1) * s

    return turn(q) @ turn(k).T


def _one_more_key(q: Tensor, k: Tensor, w: Tensor, v: Tensor) -> Tensor:
    keys = torch.cat([k, (q[:1] @ w).exp()])
    return torch.softmax(q @ keys.T, -1) @ v


WHOLE: dict[str, tuple[Fn, tuple[tuple[int, ...], ...]]] = {
    "an output": (lambda x, y: torch.cat([x, y], 1).exp(), ((3, 4), (3, 5))),
    "halves that change places": (_rotated, ((3, 4), (5, 4), (4,), (4,))),
    "halves of a product": (
        lambda x, w, k, c: _rotated(x @ w, k, c, c),
        ((3, 6), (6, 4), (5, 4), (4,)),
    ),
    "keys of a softmax": (
        lambda x, y, v: torch.softmax(torch.cat([x, y], 1), 1) @ v,
        ((3, 4), (3, 5), (9, 4)),
    ),
    "a key that is made": (_one_more_key, ((3, 4), (8, 4), (4, 4), (9, 5))),
    "many": (lambda *xs: torch.cat(xs, 1).sum(1), ((3, 2),) * 6),
    "across the end": (lambda x, y: torch.cat([x, y], 1)[:, 1:6].exp(), ((3, 4), (3, 5))),
}


def drawn(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    gen = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=gen) for s in shapes]


def graph_of(made: Program) -> Graph:
    (piece,) = made.supported
    return piece.graph


def choices(graph: Graph) -> int:
    """How many values depend on a position."""
    return sum(isinstance(n, Iota) or getattr(n, "op", "") == "where" for n in graph.nodes)


@pytest.mark.parametrize("name", PARTS)
def test_what_is_read_in_parts_is_not_made(name: str) -> None:
    fn, shapes = PARTS[name]
    assert choices(graph_of(check(fn, *drawn(shapes)))) == 0


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_read_as_a_whole_stays(name: str) -> None:
    fn, shapes = WHOLE[name]
    assert choices(graph_of(check(fn, *drawn(shapes)))) > 0


def test_parts_of_one_concatenation_have_one_loop() -> None:
    """Both sums of a softmax with a sink run over the same axis, after one maximum."""
    graph = graph_of(check(_sink, *drawn(PARTS["sink"][1])))
    sums = [n for n in graph.nodes if isinstance(n, Reduce)]
    assert [n.op for n in sums].count("max") == 1 and len({n.over for n in sums}) == 1


def test_a_comparison_that_is_always_so_is_no_choice() -> None:
    def fn(x: Tensor) -> Tensor:
        at = torch.arange(4)
        return torch.where((at < 4) & True, x, 0.0) + torch.where(at - 9 >= -4, 1.0, x * 2)

    made = check(fn, *drawn(((3, 4),)))
    assert not any(isinstance(n, Map) and n.op in ("lt", "ge") for n in graph_of(made).nodes)


READERS: dict[str, Fn] = {
    "sum": lambda x, w: x.sum(1),
    "amin": lambda x, w: x.amin(1),
    "linear": lambda x, w: x @ w,
    "squares": lambda x, w: (x * x) @ w,
    "softmax": lambda x, w: torch.softmax(x, 1) @ w,
    "norm": lambda x, w: F.rms_norm(x, x.shape[1:]) @ w,
    "slice": lambda x, w: x[:, w.shape[0] // 3 :] * 2,
    "log-sum-exp": lambda x, w: torch.logsumexp(x, 1),
    "twice": lambda x, w: torch.cat([x, x @ w], 1).sum(1),
}


def many(count: int) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(st.data())
    def each(data: st.DataObject) -> None:
        draw = data.draw
        torch.manual_seed(draw(st.integers(0, 2**31)))
        sizes = draw(st.lists(st.sampled_from([1, 1, 2, 3, 7]), min_size=2, max_size=4))
        kinds = [draw(st.sampled_from(["own", "first", "made", "constant"])) for _ in sizes]
        name = draw(st.sampled_from(list(READERS)))
        rows = draw(st.sampled_from([1, 2, 5]))
        xs = [torch.randn(rows, n) for n in sizes]
        w = torch.randn(sum(sizes), 3)

        def part(k: int, xs: tuple[Tensor, ...]) -> Tensor:
            n, kind = xs[k].shape[1], kinds[k]
            if kind == "first" and xs[0].shape[1] >= n:
                return -xs[0][:, :n]
            if kind == "made":
                return xs[k] * xs[k].sum(1, keepdim=True)
            return torch.full_like(xs[k], 0.5) if kind == "constant" else xs[k]

        def fn(w: Tensor, *xs: Tensor) -> Tensor:
            return READERS[name](torch.cat([part(k, xs) for k in range(len(xs))], 1), w)

        made = check(fn, w, *xs)
        seen["tried"] += 1
        seen["in parts"] += sum(choices(p.graph) for p in made.supported) == 0

    each()
    assert seen["tried"] >= 0.9 * count, seen
    assert seen["in parts"] >= count // 4, seen


def test_any_concatenation() -> None:
    many(60)


@pytest.mark.full
def test_many_concatenations() -> None:
    many(1500)
