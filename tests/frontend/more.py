"""Operators on small tensors, by family: what the tests of the frontend and of the decorator share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from tests.frontend.cases import EDGES, WIDE, Case, ints, r, unit
from tests.frontend.more_places import places

Tensor = torch.Tensor


_SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "alike": ((3, 8), (3, 8)),
    "row": ((3, 8), (8,)),
    "outer": ((3, 1), (1, 8)),
    "number": ((2, 3, 4), ()),
    "numbers": ((), ()),
    "one": ((1, 1), (1, 1)),
}


def losses() -> Iterator[Case]:
    """Losses of two tensors, of every reduction, also of shapes that are broadcast."""
    pairs: dict[str, Callable[..., Any]] = {
        "mse_loss": F.mse_loss,
        "l1_loss": F.l1_loss,
        "huber_loss": F.huber_loss,
        "huber_loss 0.4": lambda x, y, reduction: F.huber_loss(x, y, reduction, 0.4),
        "smooth_l1_loss": F.smooth_l1_loss,
        "smooth_l1_loss 0.4": lambda x, y, reduction: F.smooth_l1_loss(
            x, y, reduction=reduction, beta=0.4
        ),
        "smooth_l1_loss 0": lambda x, y, reduction: F.smooth_l1_loss(
            x, y, reduction=reduction, beta=0.0
        ),
    }
    for name, fn in pairs.items():
        for how in ("none", "mean", "sum"):
            for kind, (a, b) in _SHAPES.items():
                yield Case(
                    f"{name} {how} {kind}",
                    lambda x, y, fn=fn, how=how: fn(x * 2, y, reduction=how) + 1,
                    (r(*a), r(*b) + 0.25),
                )
    logits = F.binary_cross_entropy_with_logits
    signs = r(3, 8).sign()
    for how in ("none", "mean", "sum"):
        for name, fn, args in (
            ("logits", logits, (r(3, 8), unit(3, 8))),
            ("logits of numbers", logits, (r(), unit())),
            (
                "logits weighted",
                lambda x, t, w, reduction: logits(x, t, w, reduction=reduction),
                (r(3, 8) * 9, unit(3, 8), unit(8)),
            ),
            (
                "logits positive",
                lambda x, t, w, p, reduction: logits(x, t, w, reduction=reduction, pos_weight=p),
                (r(3, 8), unit(3, 8), unit(3, 1), unit(8) + 1),
            ),
            (
                "logits positive alone",
                lambda x, t, p, reduction: logits(x, t, reduction=reduction, pos_weight=p),
                (r(3, 8) * 40, unit(3, 8).round(), unit(8) + 1),
            ),
            ("kl_div", F.kl_div, (-unit(3, 8), unit(3, 8))),
            ("kl_div zeros", F.kl_div, (-unit(3, 8), unit(3, 8).round())),
            (
                "kl_div logs",
                lambda x, t, reduction: F.kl_div(x, t, reduction=reduction, log_target=True),
                (-unit(3, 8), -unit(3, 8)),
            ),
            ("soft_margin", F.soft_margin_loss, (r(3, 8), signs)),
            (
                "margin_ranking",
                lambda x, y, t, reduction: F.margin_ranking_loss(x, y, t, 0.3, reduction=reduction),
                (r(3, 8), r(1, 8) + 0.25, signs),
            ),
            ("hinge", F.hinge_embedding_loss, (r(3, 8), signs)),
            (
                "hinge other targets",
                lambda x, t, reduction: F.hinge_embedding_loss(x, t, 0.5, reduction=reduction),
                (r(3, 8), r(3, 8).round()),
            ),
        ):
            yield Case(
                f"{name} {how}",
                lambda x, *rest, fn=fn, how=how: fn(x * 1.5, *rest, reduction=how) + 1,
                args,
            )
    yield Case(
        "kl_div batchmean",
        lambda x, t: F.kl_div(x * 2, t, reduction="batchmean"),
        (-unit(3, 8), unit(3, 8)),
    )
    yield Case(
        "logits of infinities",
        lambda x: logits(x, (x > 0).to(x.dtype), reduction="none") * 2,
        (EDGES,),
    )
    yield Case("huber_loss of edges", lambda x: F.huber_loss(x, x.flip(0), "none") * 2, (EDGES,))


def distances() -> Iterator[Case]:
    """Distances and similarities along a dim."""
    for dim in (-1, 0, 1, 2):
        yield Case(
            f"cosine_similarity {dim}",
            lambda x, y, dim=dim: F.cosine_similarity(x * 2, y, dim=dim) + 1,
            (r(3, 4, 5), r(3, 4, 5) + 0.25),
        )
    broadcast = ((3, 8), (8,)), ((3, 1, 5), (1, 4, 5)), ((3, 8), (3, 1)), ((4,), (4,))
    for a, b in broadcast:
        yield Case(
            f"cosine_similarity {a} {b}",
            lambda x, y: F.cosine_similarity(x * 2, y, dim=-1) + 1,
            (r(*a), r(*b) + 0.25),
        )
        for p in (1.0, 2.0, float("inf")):
            yield Case(
                f"pairwise_distance {p} {a} {b}",
                lambda x, y, p=p: F.pairwise_distance(x * 2, y, p=p) + 1,
                (r(*a), r(*b) + 0.25),
            )
    yield Case(
        "cosine_similarity of zeros",
        lambda x: F.cosine_similarity(x * 0, x, dim=-1, eps=1e-3) + 1,
        (r(3, 8),),
    )
    yield Case(
        "pairwise_distance keepdim",
        lambda x, y: F.pairwise_distance(x * 2, y, eps=0.1, keepdim=True) + x,
        (r(3, 8), r(3, 8) + 1),
    )


def activations() -> Iterator[Case]:
    """Elementwise functions, at ordinary numbers and at the ends."""
    one: dict[str, Callable[[Tensor], Tensor]] = {
        "softshrink": F.softshrink,
        "softshrink 0.2": lambda x: F.softshrink(x, 0.2),
        "hardshrink": F.hardshrink,
        "hardshrink 0": lambda x: F.hardshrink(x, 0.0),
        "sinh": torch.sinh,
        "erfc": torch.erfc,
        "trunc": torch.trunc,
        "frac": torch.frac,
        "round": torch.round,
        "fmod number": lambda x: torch.fmod(x, 0.75),
        "fmod negative": lambda x: torch.fmod(x, -0.75),
        "div trunc number": lambda x: torch.div(x, 0.25, rounding_mode="trunc"),
        "isnan": torch.isnan,
        "isinf": torch.isinf,
        "isfinite": torch.isfinite,
        "isposinf": torch.isposinf,
        "isneginf": torch.isneginf,
        "nan_to_num": torch.nan_to_num,
        "nan_to_num given": lambda x: torch.nan_to_num(x, 1.0, 2.0, -2.0),
        "glu": lambda x: F.glu(x),
        "glu 0": lambda x: F.glu(x, 0),
        "glu -2": lambda x: F.glu(x, -2),
    }
    for name, fn in one.items():
        wide = name.split()[0] in ("hardshrink", "trunc", "frac", "round", "fmod", "div", "isinf")
        for kind, x in (("", r(4, 6)), ("wide", WIDE), ("edges", EDGES)):
            yield Case(f"{name} {kind}", lambda x, fn=fn: fn(x * 1) * 2, (x,), wide)
        if "glu" not in name:
            yield Case(f"{name} number", lambda x, fn=fn: fn(x * 1) * 2, (r(),), wide)
    for shape, count in (
        ((3, 8), 8),
        ((3, 8), 1),
        ((2, 3, 4), 3),
        ((2, 3, 4, 5), 3),
        ((6,), 1),
        ((), 1),
    ):
        yield Case(
            f"prelu {shape} {count}", lambda x, w: F.prelu(x * 2, w) + 1, (r(*shape), unit(count))
        )
    yield Case("prelu edges", lambda x, w: F.prelu(x * 2, w), (EDGES, unit(4)))
    for kind, (a, b) in _SHAPES.items():
        args = (r(*a), r(*b) + 0.25)
        yield Case(f"fmod {kind}", lambda x, y: torch.fmod(x * 5, y) + 1, args, True)
        yield Case(
            f"div trunc {kind}",
            lambda x, y: torch.div(x * 5, y, rounding_mode="trunc") + 1,
            args,
            True,
        )
    yield Case("fmod edges", lambda x: torch.fmod(x, x.flip(0)) * 2, (EDGES,), True)
    yield Case("logaddexp edges", lambda x: torch.logaddexp(x, x.flip(0)) * 2, (EDGES,))


def counts() -> Iterator[Case]:
    """Reductions of integers and booleans, tests and products: dims, keepdim, no dims."""
    mask = r(3, 4, 5) > 0
    mask[0, 1] = False
    mask[2, 3] = True
    numbers = {
        "i64": ints(3, 4, 5),
        "i32": ints(3, 4, 5, dtype=torch.int32),
        "i8": ints(3, 4, 5, dtype=torch.int8),
        "u8": ints(3, 4, 5, dtype=torch.uint8),
        "bool": mask,
        "f32": r(3, 4, 5) * (r(3, 4, 5) > -1),
    }
    for kind, x in numbers.items():
        for keep in (False, True):
            for dim in (0, -1, 1):
                for name in ("sum", "any", "all", "prod"):
                    if name == "prod" and kind == "f32":
                        x = r(3, 4, 5)
                    yield Case(
                        f"{name} {kind} {dim} {keep}",
                        lambda x, name=name, dim=dim, keep=keep: (
                            getattr(torch, name)(x, dim, keepdim=keep) * 2
                        ),
                        (x,),
                    )
            for dims in ((0, -1), (1, 2)):
                for name in ("sum", "any", "all", "amax", "amin"):
                    yield Case(
                        f"{name} {kind} {dims} {keep}",
                        lambda x, name=name, dims=dims, keep=keep: (
                            getattr(torch, name)(x, dims, keepdim=keep) * 2
                        ),
                        (x,),
                    )
        for name in ("sum", "any", "all", "prod", "count_nonzero", "max", "min"):
            yield Case(f"{name} {kind}", lambda x, name=name: getattr(torch, name)(x) * 2, (x,))
            first = x.flatten()[0]
            yield Case(
                f"{name} {kind} number", lambda x, name=name: getattr(torch, name)(x) * 2, (first,)
            )
        yield Case(f"count_nonzero {kind} 1", lambda x: x.count_nonzero(1) * 2, (x,))
        yield Case(f"count_nonzero {kind} 0 -1", lambda x: x.count_nonzero((0, -1)) * 2, (x,))
    wide = torch.tensor([[2**62, 2**62, 2**62], [-(2**63), -1, 5]])
    yield Case("sum that wraps", lambda x: x.sum(1) + 1, (wide,))
    yield Case("prod that wraps", lambda x: x.prod(1) + 1, (wide,))
    yield Case("sum to i32", lambda x: x.sum(1, dtype=torch.int32) + 1, (ints(3, 4) * 2**30,))
    yield Case("sum expanded", lambda x: x[:, None].expand(3, 5, 4).sum(1) + x, (ints(3, 4),))
    yield Case("any expanded", lambda x: ~(x[:, None].expand(3, 5, 4) > 0).any(1), (ints(3, 4),))
    yield Case("prod expanded", lambda x: x[:, None].expand(3, 5, 4).prod(1) + x, (r(3, 4),))
    yield Case("prod to f32", lambda x: x.prod(1, dtype=torch.float32) * 2, (ints(3, 4),))
    yield Case("mean to f32", lambda x: x.mean(1, dtype=torch.float32) * 2, (ints(3, 4),))
    yield Case("any of edges", lambda x: ~x.any(0), (EDGES * torch.tensor([0.0, 1, 1, 1]),))
    yield Case("share of a mask", lambda x: (x > 0).sum(-1) / x.shape[-1], (r(3, 8),))


def integers() -> Iterator[Case]:
    """Integer arithmetic, at the ends of the types too."""
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        info = torch.iinfo(dtype)
        ends = torch.tensor([info.min, info.min + 1, info.max - 1, info.max, 0, 1], dtype=dtype)
        for kind, x in (("", ints(3, 8, dtype=dtype)), ("ends", ends)):
            one: dict[str, Callable[[Tensor], Tensor]] = {
                "abs": torch.abs,
                "relu": torch.relu,
                "square": torch.square,
                "fmod 3": lambda x: torch.fmod(x, 3),
                "fmod 7": lambda x: torch.fmod(x, 7),
                "div trunc 3": lambda x: torch.div(x, 3, rounding_mode="trunc"),
                "div trunc 7": lambda x: torch.div(x, 7, rounding_mode="trunc"),
                "div floor 7": lambda x: torch.div(x, 7, rounding_mode="floor"),
            }
            if dtype != torch.uint8:
                one["fmod -3"] = lambda x: torch.fmod(x, -3)
            for name, fn in one.items():
                yield Case(f"{name} {dtype} {kind}", lambda x, fn=fn: fn(x) + 1, (x,))
    for n in (2, 7):
        for shape in ((3, 4), (5,), ()):
            at = ints(*shape).abs() % n
            yield Case(f"one_hot {n} {shape}", lambda i, n=n: F.one_hot(i, n) * 2, (at,))


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    f.__name__: f for f in (losses, distances, activations, counts, integers, places)
}
