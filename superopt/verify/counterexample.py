"""Looks for inputs on which two functions differ by more than rounding, by running them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt.mugraph.algebras.field_values import Integers
from superopt.verify.decision import Counterexample
from superopt.verify.rounding import Narrowest, copied, noise

Function = Callable[[Sequence[Any]], Any]
"""Takes the flat arguments, gives a result; what it raises means that it has none."""

NEAR = {torch.float64: 1e-7, torch.float32: 4e-3}
"""How far apart two results may be by rounding, of a row's largest element; 16 bits: a quarter."""

TINY = 1e-6
"""Of results that are smaller, differences are measured as of one of this size: what cancels is noise."""

GIVEN = "as given"
"""The draw that is the user's own arguments."""

OVERFLOWING = frozenset({"large", "of many sizes", GIVEN})
"""Draws on which intermediate values may be beyond the range of the type."""

MOST_PAIRS = 6
"""Literals of which sums, products and quotients are tried as well."""

SPARSE = 48
"""Draws of zeros but for one element in each row."""

MOST_ELEMENTS = 1 << 26
"""Elements of arguments in all draws, about, after which no more are made."""


@dataclass(frozen=True)
class Draw:
    """Flat arguments, how they were drawn, and whether no two values are equal by design.

    Where values tie, or lie at the edge of a type, rounding decides comparisons. If the programs were
    shown equal, a difference there counts only where double precision shows it, and errors do not move it.
    """

    name: str
    leaves: list[Any]
    generic: bool


def draws(
    leaves: Sequence[Any],
    ranges: Mapping[int, Integers],
    literals: Sequence[float],
    seed: int,
) -> Iterator[Draw]:
    """Arguments like the given ones: themselves, then of one kind after another.

    ranges: by position, the values that an integer argument may take where it is an index;
    literals: numbers of the programs, which some draws take.
    """
    yield Draw(GIVEN, list(leaves), True)
    size = 1 + sum(x.numel() for x in leaves if isinstance(x, torch.Tensor))
    made = size
    special = torch.tensor(_near(literals), dtype=torch.float64)
    kinds: list[tuple[str, bool, Callable[..., torch.Tensor]]] = [
        ("standard normal", True, lambda x: x),
        ("positive", True, lambda x: x.abs() + 0.1),
        ("standard normal", True, lambda x: x),
        ("negative", True, lambda x: -x.abs() - 0.1),
        ("small integers", False, lambda x: (x * 1.5).round()),
        ("numbers of the programs", False, lambda x: _picked(special, x)),
        ("of many sizes", True, lambda x: x * torch.exp2((x * 1e4).round() % 13 - 6)),
        ("large", True, lambda x: x * 32),
        ("zeros", False, torch.zeros_like),
        ("ones", False, torch.ones_like),
        ("numbers of the programs", False, lambda x: _picked(special, x)),
        ("signs", False, torch.sign),
        ("ascending", True, lambda x: _ascending(x)),
        ("descending", True, lambda x: -_ascending(x)),
        (
            "equal along the last dimension",
            False,
            lambda x: x[..., :1].expand_as(x) if x.dim() else x,
        ),
    ]
    for k, (name, generic, fill) in enumerate(kinds * 2):
        if made > MOST_ELEMENTS and k >= 2:
            return
        generator = torch.Generator().manual_seed(seed + k)
        out: list[Any] = []
        for at, x in enumerate(leaves):
            if not isinstance(x, torch.Tensor):
                out.append(x)
                continue
            value = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            if x.is_complex():
                out.append(
                    torch.complex(value, value.flip(0) if value.dim() else value).to(x.dtype)
                )
            elif x.dtype == torch.bool:
                out.append(value > (0.0, -1.0, 1.0)[k % 3])
            elif x.dtype.is_floating_point:
                largest = torch.finfo(x.dtype).max  # what is claimed is of finite inputs
                out.append(_as_laid(fill(value).clamp(-largest, largest).to(x.dtype), x))
            else:
                out.append(_as_laid(_integers(x, ranges.get(at), k, generator), x))
        made += size
        yield Draw(name, out, generic)
    for k in range(SPARSE):
        if made > MOST_ELEMENTS:
            return
        made += size
        yield Draw(
            "a number of the programs in each row, and zeros",
            _sparse(leaves, literals, ranges, k),
            False,
        )


def _sparse(
    leaves: Sequence[Any], literals: Sequence[float], ranges: Mapping[int, Integers], k: int
) -> list[Any]:
    """Zeros, but for one element in each row of one argument: sums of the row are then that number.

    The elements are, in turn, the literals, their roots, and what has a literal for its mean.
    """
    tensors = [at for at, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.numel()]
    out = list(leaves)
    for turn, at in enumerate(tensors):
        x = leaves[at]
        value = torch.zeros(x.shape, dtype=torch.float64)
        if turn == k % len(tensors):
            length = x.shape[-1] if x.dim() else 1
            rows = value.reshape(-1, length)
            found = [v for n in literals for v in (n, -n, math.sqrt(abs(n)), n * length) if v]
            several = torch.tensor(found or [1.0], dtype=torch.float64)
            start = (k // len(tensors)) * len(rows)
            rows[:, 0] = several[(start + torch.arange(len(rows))) % len(several)]
            value = rows.reshape(x.shape)
        if x.is_complex() or x.dtype == torch.bool:
            out[at] = value.to(x.dtype)
            continue
        info = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
        known = ranges.get(at)
        lo, hi = (known.lo, known.hi) if known and known.complete else (info.min, info.max)
        out[at] = _as_laid(value.clamp(lo, hi).to(x.dtype), x)
    return out


def _near(literals: Sequence[float]) -> list[float]:
    """Numbers at which programs with these literals decide: themselves, and what simple equations give."""
    found = [0.0, 1.0, -1.0]
    for x in literals:
        root = math.sqrt(abs(x))
        found += [x, -x, 2 * x, x / 2, x + 1, x - 1, 10 * x, root, x * x]
    for x in literals[:MOST_PAIRS]:
        for y in literals[:MOST_PAIRS]:
            found += [x + y, x - y, x * y, *((x / y,) if y else ())]
    return [x for x in dict.fromkeys(found) if math.isfinite(x)]


def _picked(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values[((x * 1e4).round().long()) % len(values)]


def _ascending(x: torch.Tensor) -> torch.Tensor:
    return x.sort(-1).values if x.dim() else x


def _as_laid(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The value in the strides of another tensor, where these are its own."""
    if any(s == 0 and n > 1 for n, s in zip(like.shape, like.stride(), strict=True)):
        return value
    out = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    return out.copy_(value)


def _integers(
    x: torch.Tensor, known: Integers | None, k: int, generator: torch.Generator
) -> torch.Tensor:
    if known is not None and known.complete:
        low, high = known.lo, known.hi
        return torch.randint(low, high + 1, x.shape, generator=generator).to(x.dtype)
    info = torch.iinfo(x.dtype)
    if k % 2 == 0:
        low, high = max(-4, info.min), 4
        return torch.randint(low, high + 1, x.shape, generator=generator).to(x.dtype)
    edges = [info.min, info.min + 1, info.max - 1, info.max, info.max // 2 + 1, 0, 1, 2, 97]
    if known is not None:
        edges += [v for v in known.more if info.min <= v <= info.max]
        edges += [
            v for x in known.more for v in (x // 2, x // 3, x // 7, math.isqrt(abs(x)), 2 * x)
        ]
    edges = [v for v in dict.fromkeys(edges) if info.min <= v <= info.max]
    table = torch.tensor(edges, dtype=torch.int64)
    return table[torch.randint(0, len(edges), x.shape, generator=generator)].to(x.dtype)


def differing(
    first: Function,
    second: Function,
    draw: Draw,
    nan_counts: bool = False,
    masks: bool = False,
    shown: bool = False,
) -> Counterexample | None:
    """The two results on one draw, if they differ by more than rounding explains.

    Double precision decides where both functions run in it; the result is told in the types given
    where it shows there as well. shown: whether the functions were shown equal.
    """
    steady = shown and not draw.generic
    wide = [_wide(x) for x in draw.leaves]
    found, ran = _on(first, second, wide, draw, nan_counts, masks, steady)
    if all(a is b for a, b in zip(wide, draw.leaves, strict=True)) or (ran and found is None):
        return found  # what double precision does not show is rounding
    if steady and not ran:
        return None
    if found and _rounds_as_given(first, second, draw.leaves, wide):
        return (
            None if steady else _on(first, second, draw.leaves, draw, nan_counts, masks, False)[0]
        )
    own = _on(first, second, draw.leaves, draw, nan_counts, masks, False)[0]
    return own or (found and replace(found, note="in double precision"))


def _rounds_as_given(
    first: Function, second: Function, leaves: Sequence[Any], wide: Sequence[Any]
) -> bool:
    """Whether a function that is run in double precision still rounds to a type that it was given.

    It casts by the type's name, and where the other leaves that to PyTorch, double precision is none.
    """
    given = [
        x.dtype.itemsize for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()
    ]
    with Narrowest() as seen:
        _results(first, second, wide)
    return min(given, default=8) <= seen.least < 8


def _results(first: Function, second: Function, leaves: Sequence[Any]) -> tuple[Any, Any] | None:
    """What both functions give, with the same random numbers; None where one raises."""
    out = []
    for fn in (first, second):
        try:
            with torch.no_grad():
                torch.manual_seed(0)
                out.append(fn([copied(x) for x in leaves]))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
    return out[0], out[1]


def nan_in_one(first: Function, second: Function, draw: Draw) -> Counterexample | None:
    """The two results on one draw, if one alone is NaN somewhere."""
    results = _results(first, second, draw.leaves)
    if results is None:
        return None
    mine, other = (pytree.tree_leaves(r) for r in results)
    for k, (x, y) in enumerate(zip(mine, other, strict=False)):
        if (place := _nan_apart(x, y)) is not None:
            return _found(draw.leaves, results, k, place, draw)
    return None


def _on(
    first: Function,
    second: Function,
    leaves: Sequence[Any],
    draw: Draw,
    nan_counts: bool,
    masks: bool,
    steady: bool,
) -> tuple[Counterexample | None, bool]:
    """Where the results differ on these arguments, and whether both functions run there.

    steady: whether what errors of each operation move is no difference, and no infinity in one alone is.
    """
    results = _results(first, second, leaves)
    if results is None:
        return None, False
    mine, other = (pytree.tree_leaves(r) for r in results)
    precise = all(_is_double(x) for x in (*mine, *other))
    overflows = not (precise and masks) or steady or draw.name.split(",")[0] in OVERFLOWING
    for k, (x, y) in enumerate(zip(mine, other, strict=False)):
        place = _nan_apart(x, y) if nan_counts and not steady else None
        if place is not None:
            return _found(leaves, results, k, place, draw), True
        place = _apart(x, y, overflows, None)
        if place is not None:
            unsure = [noise(f, leaves, k, r, draw.generic) for f, r in ((first, x), (second, y))]
            place = _apart(x, y, overflows, unsure[0] + unsure[1])
        if place is not None:
            return _found(leaves, results, k, place, draw), True
    return None, True


def _found(
    leaves: Sequence[Any], results: Sequence[Any], k: int, place: tuple[int, ...], draw: Draw
) -> Counterexample:
    first, second = results
    mine, other = (_item(pytree.tree_leaves(r)[k], place) for r in results)
    given = tuple(copied(x) for x in leaves)
    return Counterexample(given, first, second, k, place, (mine, other), draw.name)


def _nan_apart(x: Any, y: Any) -> tuple[int, ...] | None:
    """Where one result alone is NaN."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return None
    return _first(x.isnan() != y.isnan())


def _is_double(x: Any) -> bool:
    """Whether a result shows no rounding but that to double precision."""
    return not isinstance(x, torch.Tensor) or x.dtype not in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
    )


def _wide(x: Any) -> Any:
    if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64:
        return x.double()
    return x


def _item(x: Any, place: tuple[int, ...]) -> Any:
    return x[place].item() if isinstance(x, torch.Tensor) else x


def _apart(
    x: Any, y: Any, overflows: bool, unsure: torch.Tensor | float | None
) -> tuple[int, ...] | None:
    """Where two results differ most, if by more than rounding; results that are NaN are undefined.

    unsure: of each element, a difference that is none; overflows: whether an infinity may have come of values
    beyond the type, and is none either.
    """
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return None if type(x) is type(y) and x == y else ()
    if x.shape != y.shape or not x.numel():
        return None
    if not (x.is_floating_point() and y.is_floating_point()):
        return _first(x != y if unsure is None else (x != y) & (torch.as_tensor(unsure) == 0.0))
    near = max(NEAR.get(t.dtype, 0.25) for t in (x, y))
    u, v = x.double(), y.double()
    one = (u.isinf() | v.isinf()) & (u != v) & ~(u.isnan() | v.isnan())
    if not overflows and (place := _first(one)) is not None:
        return place
    both = u.isfinite() & v.isfinite()
    rows = [t.reshape(-1, t.shape[-1] if t.dim() else 1) for t in (u, v, both)]
    less = torch.as_tensor(0.0 if unsure is None else unsure).expand_as(u).reshape(rows[0].shape)
    off = torch.where(rows[2], (rows[0] - rows[1]).abs() - less, 0.0)
    scale = torch.where(rows[2], torch.maximum(rows[0].abs(), rows[1].abs()), 0.0)
    share = off / scale.amax(-1, keepdim=True).clamp_min(TINY)
    if not float(share.max()) > near:
        return None
    at = torch.tensor(int(share.argmax()))
    return tuple(int(i) for i in torch.unravel_index(at, x.shape))


def _first(wrong: torch.Tensor) -> tuple[int, ...] | None:
    found = wrong.nonzero()
    return tuple(int(i) for i in found[0]) if len(found) else None
