"""Operators that move elements or read them in windows, on small tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from tests.frontend.cases import EDGES, Case, ints, r


def places() -> Iterator[Case]:
    """Layout: broadcasts, differences, shuffles, windows and pools."""
    yield Case(
        "broadcast_tensors",
        lambda x, y, z: [p * 2 for p in torch.broadcast_tensors(x, y, z)],
        (r(3, 1), r(4), r()),
    )
    yield Case(
        "broadcast with itself",
        lambda x: torch.add(*torch.broadcast_tensors(x[:, None], x)) * 2,
        (r(4),),
    )
    for n, dim in ((1, -1), (2, 0), (3, 1), (0, 0)):
        yield Case(f"diff {n} {dim}", lambda x, n=n, dim=dim: (x * 2).diff(n, dim) + 1, (r(4, 5),))
    yield Case("diff ints", lambda x: x.diff() + 1, (ints(3, 4),))
    yield Case("diff of a mask", lambda x: ~(x > 0).diff(), (ints(3, 4),))
    yield Case("diff prepend", lambda x, y: x.diff(1, 0, prepend=y) * 2, (r(3, 4), r(1, 4)))
    yield Case(
        "diff append", lambda x, y: x.diff(2, -1, prepend=x, append=y) * 2, (r(3, 4), r(3, 2))
    )
    for shape in ((3, 4), (2, 3, 4), (5,), (1, 3), (1,)):
        for by in (1, -2, 9):
            yield Case(f"roll {by} {shape}", lambda x, by=by: (x * 2).roll(by) + 1, (r(*shape),))
    at = ints(2, 5).abs() % 4
    # Row-major: torch.export cannot flatten other tensors here.
    yield Case(
        "take_along_dim flat",
        lambda x, i: (x * 2).contiguous().take_along_dim(i.contiguous()) + 1,
        (r(3, 4), at),
    )
    yield Case("take_along_dim 1", lambda x, i: x.take_along_dim(i, 1) * 2, (r(2, 4), at))
    yield Case("take_along_dim rows", lambda x, i: x.take_along_dim(i[:1], -1) * 2, (r(3, 4), at))
    yield Case("take_along_dim one", lambda x, i: x[:1].take_along_dim(i, 1) * 2, (r(3, 4), at))
    yield Case("take", lambda x, i: (x * 2).take(i - 3) + 1, (r(3, 4), at))
    yield Case("pixel_shuffle", lambda x: F.pixel_shuffle(x * 2, 2) + 1, (r(2, 8, 3, 4),))
    yield Case("pixel_shuffle 3", lambda x: F.pixel_shuffle(x * 2, 3) + 1, (r(9, 1, 2),))
    yield Case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x * 2, 2) + 1, (r(2, 3, 6, 4),))
    yield Case("channel_shuffle", lambda x: F.channel_shuffle(x * 2, 2) + 1, (r(2, 6, 3, 4),))
    yield from _windows()


def _windows() -> Iterator[Case]:
    for dim, size, step in ((-1, 3, 2), (0, 2, 1), (1, 3, 3), (1, 9, 1), (-1, 1, 4), (0, 4, 1)):
        yield Case(
            f"unfold {dim} {size} {step}",
            lambda x, dim=dim, size=size, step=step: (x * 2).unfold(dim, size, step) + 1,
            (r(4, 9),),
        )
    yield Case("unfold twice", lambda x: (x * 2).unfold(0, 2, 2).unfold(1, 3, 1) + 1, (r(4, 9),))
    yield Case("unfold merged", lambda x: (x * 2).reshape(-1).unfold(0, 3, 2) + 1, (r(3, 4),))
    for rank, shape in ((1, (2, 3, 9)), (2, (2, 3, 9, 6)), (3, (2, 1, 6, 7, 4))):
        average = getattr(F, f"avg_pool{rank}d")
        largest = getattr(F, f"max_pool{rank}d")
        for how in ((2,), (3,), (3, 2), (2, 3), (1, 2)):
            for name, fn in (("avg_pool", average), ("max_pool", largest)):
                for x in (r(*shape), r(*shape[1:])):
                    yield Case(
                        f"{name}{rank}d {how} {tuple(x.shape)}",
                        lambda x, fn=fn, how=how: fn(x * 2, *how) + 1,
                        (x,),
                        rank == 3,
                    )
    yield Case("avg_pool2d uneven", lambda x: F.avg_pool2d(x * 2, (3, 2)) + 1, (r(2, 3, 7, 6),))
    yield Case(
        "avg_pool2d divisor",
        lambda x: F.avg_pool2d(x * 2, 2, divisor_override=3) + 1,
        (r(2, 3, 8, 6),),
    )
    yield Case("max_pool2d whole", lambda x: F.max_pool2d(x * 2, (8, 6)) + 1, (r(2, 3, 8, 6),))
    yield Case(
        "max_pool1d dilated", lambda x: F.max_pool1d(x * 2, 3, 2, dilation=2) + 1, (r(2, 3, 9),)
    )
    yield Case("max_pool1d NaN", lambda x: F.max_pool1d(x[None] * 2, 2) + 1, (EDGES,))
    yield Case(
        "max_pool1d ceil", lambda x: F.max_pool1d(x * 2, 3, ceil_mode=True) + 1, (r(2, 3, 9),)
    )
    for count in (1, (2, 3), (8, 6)):
        yield Case(
            f"adaptive_avg_pool2d {count}",
            lambda x, count=count: F.adaptive_avg_pool2d(x * 2, count) + 1,
            (r(2, 3, 8, 6),),
        )
    yield Case("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x * 2, 3) + 1, (r(2, 3, 9),))
