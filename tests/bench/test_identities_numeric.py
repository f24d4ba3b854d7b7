"""Identities agree, and near misses differ, in float64 on ordinary, small, tied and special values."""

import contextlib
import functools

import pytest
import torch
from torch.overrides import TorchFunctionMode

from superopt.bench.identities import IDENTITIES, NEAR_MISSES, NearMiss
from superopt.bench.inputs import parse_inputs

DRAWS = ("normal", "large", "small", "pool", "zero", "one", "ascending", "positive")
"""How floats are drawn: a pool is of a few values, so that ties and zeros occur."""

POOL = (-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0)
SINGLE = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = 1e-9


class Wide(TorchFunctionMode):
    """Every float is a double, so that a difference is not one of rounding."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("float", "half", "bfloat16"):
            return func.__objclass__.double(*args)
        wide = [torch.float64 if a in SINGLE else a for a in args]
        named = {k: torch.float64 if v in SINGLE else v for k, v in (kwargs or {}).items()}
        return func(*wide, **named)


@contextlib.contextmanager
def doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Wide():
            yield
    finally:
        torch.set_default_dtype(before)


def floats(shape, draw, g):
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    if draw == "ascending":
        return torch.arange(x.numel(), dtype=torch.float64).reshape(shape) / 4 - 1
    made = {
        "large": 8 * x,
        "small": x / 64,
        "pool": torch.tensor(POOL)[torch.randint(len(POOL), shape, generator=g)].double(),
        "zero": torch.zeros_like(x),
        "one": torch.ones_like(x),
        "positive": x.exp(),
    }
    return made.get(draw, x)


def integers(dtype, shape, draw, below, g):
    if dtype == torch.bool:
        fixed = {"zero": torch.zeros, "one": torch.ones}.get(draw)
        x = torch.randint(2, shape, generator=g)
        return (fixed(shape) if fixed else x).bool()
    if below:
        return torch.randint(below, shape, generator=g).to(dtype)
    span = {"small": 3, "pool": 3, "zero": 1, "large": 2**40}.get(draw, 200)
    info = torch.iinfo(dtype)
    low, high = max(-span, info.min), min(span, info.max)
    return torch.randint(low, high + 1, shape, generator=g).to(dtype)


def drawn(entry, draw, seed):
    """Inputs of an entry's type, floats in float64."""
    g = torch.Generator().manual_seed(seed)
    below = entry.below or (0,) * len(parse_inputs(entry.inputs))
    return [
        floats(s.shape, draw, g)
        if s.dtype.is_floating_point
        else integers(s.dtype, s.shape, draw, n, g)
        for s, n in zip(parse_inputs(entry.inputs), below, strict=True)
    ]


def witness(entry):
    """The inputs that a near miss names."""
    wide = [
        torch.tensor(value, dtype=torch.float64 if s.dtype.is_floating_point else s.dtype).expand(
            s.shape
        )
        for s, value in zip(parse_inputs(entry.inputs), entry.at, strict=True)
    ]
    return [x.clone() for x in wide]


def results(fn, inputs):
    """The outputs of a function, as a list of tensors."""
    with doubles():
        out = fn(*inputs)
    return list(out) if isinstance(out, tuple | list) else [out]


def apart(a, b, partial=False):
    """Where two results differ: by more than rounding, in NaN or infinity, or (if partial) where finite."""
    a, b = a.double(), b.double()
    size = (
        1 + torch.maximum(*(x.nan_to_num(0, 0, 0).abs().amax() for x in (a, b))) if a.numel() else 1
    )
    near = (a - b).abs() <= TOLERANCE * size
    both = a.isfinite() & b.isfinite()
    if partial:
        return both & ~near
    return ~((both & near) | (a == b) | (a.isnan() & b.isnan()))


@functools.cache
def trials(kind):
    return {e.name: e for e in (IDENTITIES if kind == "identity" else NEAR_MISSES)}


def test_there_are_enough_of_both():
    assert len(IDENTITIES) >= 600 and len(NEAR_MISSES) >= 450
    for table in (IDENTITIES, NEAR_MISSES):
        assert len({e.name for e in table}) == len(table)
        assert all(e.note for e in table)


@pytest.mark.parametrize("name", trials("identity"))
def test_identities_agree(name):
    entry, compared, finite = trials("identity")[name], 0, 0
    for k, draw in enumerate(DRAWS):
        inputs = drawn(entry, draw, k)
        f, g = results(entry.f, inputs), results(entry.g, inputs)
        assert len(f) == len(g)
        for a, b in zip(f, g, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            wrong = apart(a, b, entry.partial)
            assert not wrong.any(), (draw, inputs, a[wrong], b[wrong])
            compared += a.numel()
            finite += int((a.double().isfinite() & b.double().isfinite()).sum())
    assert finite * 4 >= compared > 0


@pytest.mark.parametrize("name", trials("near miss"))
def test_near_misses_differ(name):
    entry = trials("near miss")[name]
    assert isinstance(entry, NearMiss)
    tried = [witness(entry)] if entry.at else [drawn(entry, "normal", s) for s in range(3)]
    for inputs in tried:
        f, g = results(entry.f, inputs), results(entry.g, inputs)
        assert [x.shape for x in f] == [x.shape for x in g]
        assert [x.dtype for x in f] == [x.dtype for x in g]
        assert any(apart(a, b).any() for a, b in zip(f, g, strict=True)), inputs


@pytest.mark.parametrize("kind", ["identity", "near miss"])
def test_types_are_those_of_the_inputs_given(kind):
    """In the dtypes that are written, both functions give tensors of one shape and dtype."""
    for entry in trials(kind).values():
        wide = witness(entry) if getattr(entry, "at", ()) else drawn(entry, "normal", 0)
        inputs = [x.to(s.dtype) for x, s in zip(wide, parse_inputs(entry.inputs), strict=True)]
        f, g = entry.f(*inputs), entry.g(*inputs)
        f, g = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (f, g))
        assert [(x.shape, x.dtype) for x in f] == [(x.shape, x.dtype) for x in g], entry.name


def test_a_wrong_pair_is_noticed():
    """The comparison sees a difference of 1e-6, of NaN and of infinity, and no rounding."""
    x = torch.tensor([1.0, torch.inf, torch.nan, 2.0], dtype=torch.float64)
    assert not apart(x, x.clone()).any()
    assert apart(x, x + torch.tensor([1e-6, 0, 0, 0])).tolist() == [True, False, False, False]
    assert apart(x, x.nan_to_num(0, 0)).tolist() == [False, True, True, False]
    assert not apart(x, x + 1e-12).any()
