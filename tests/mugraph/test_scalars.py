"""Every row of the scalar table: its float meaning against its body and against numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from superopt.mugraph.scalars import REDUCTIONS, SCALARS, Arg, Scalar, inline
from tests.mugraph.reference import SCALAR

LEAST = 50  # a test on fewer usable points would prove little
BOOLS = ("not", "and", "or")
INTS = ("floordiv", "mod")
BY_NODE = ("cast", "round")
ROWS = [row for row in SCALARS.values() if row.name not in BY_NODE]


def sample(row: Scalar) -> list[torch.Tensor]:
    """Points of a row's domain: ordinary, tiny, large, equal in pairs, special."""
    gen = torch.Generator().manual_seed(len(row.name))
    n = 400
    if row.name in BOOLS:
        return [torch.rand(n, generator=gen) < 0.5 for _ in range(row.arity)]
    if row.name in INTS:
        a, b = (torch.randint(-9, 9, (n,), generator=gen) for _ in range(2))
        return [a, torch.where(b == 0, 5, b)]
    out = []
    for _ in range(row.arity):
        x = torch.randn(n, generator=gen, dtype=torch.float64)
        x[:60] *= 1e-6
        x[60:120] *= 30
        x[120:160] = x[120:160].round()
        x[160:166] = torch.tensor([0.0, -0.0, 1.0, -1.0, 700.0, -700.0], dtype=torch.float64)
        out.append(x)
    if row.arity > 1:
        out[-1][200:260] = out[-2][200:260]  # ties
    if row.name == "where":
        out[0] = out[0] > 0
    return out


def expanded(row: Scalar, args: list[Any]) -> Any:
    """The row by its body alone, down to primitives."""
    if row.body is None:
        return row.fn(*args)
    return inline(
        row.body,
        args,
        lambda op, xs: expanded(SCALARS[op], xs),
        lambda v: torch.tensor(v, dtype=torch.float64),
    )


def agree(have: torch.Tensor, want: torch.Tensor, rtol: float) -> int:
    """Asserts agreement where both are finite; returns at how many points."""
    assert have.dtype == want.dtype and have.shape == want.shape
    if have.dtype.is_floating_point:
        usable = have.isfinite() & want.isfinite()
        torch.testing.assert_close(have[usable], want[usable], rtol=rtol, atol=1e-14)
        return int(usable.sum())
    assert torch.equal(have, want)
    return have.numel()


@pytest.mark.parametrize("row", [r for r in ROWS if r.body is not None], ids=lambda r: r.name)
def test_a_composite_means_its_body(row):
    args = sample(row)
    have = row.fn(*args)
    # A body such as 1 - 2/(1 + exp 2x) cancels near zero, so the tolerance is absolute there.
    want = expanded(row, args)
    usable = have.isfinite() & want.isfinite() if have.dtype.is_floating_point else have == have
    if have.dtype.is_floating_point:
        torch.testing.assert_close(have[usable], want[usable], rtol=1e-9, atol=1e-12)
    else:
        assert torch.equal(have, want)
    assert int(usable.sum()) >= LEAST


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_a_row_means_what_numpy_says(row):
    args = sample(row)
    with np.errstate(all="ignore"):
        want = torch.as_tensor(SCALAR[row.name](*(a.numpy() for a in args)))
    assert agree(row.fn(*args), want, 1e-9) >= LEAST


def test_the_reference_covers_the_table():
    assert set(SCALAR) | set(BY_NODE) == set(SCALARS)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_the_laws_hold(row):
    args = sample(row)
    if "commutative" in row.laws:
        assert agree(row.fn(*args), row.fn(*reversed(args)), 0) >= LEAST
    if "associative" in row.laws:
        a, b, c = args[0], args[1], args[1].roll(7)
        if not a.dtype.is_floating_point:
            a, b, c = a.to(torch.bool), b.to(torch.bool), c.to(torch.bool)
        left, right = row.fn(row.fn(a, b), c), row.fn(a, row.fn(b, c))
        if left.dtype.is_floating_point:
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
        else:
            assert torch.equal(left, right)
    if "idempotent" in row.laws:
        assert torch.equal(row.fn(args[0], args[0]), args[0])


@pytest.mark.parametrize("row", REDUCTIONS.values(), ids=lambda r: r.name)
def test_an_identity_is_one(row):
    args = sample(row)
    unit = torch.tensor(row.identity, dtype=args[0].dtype)
    assert torch.equal(row.fn(args[0], unit), args[0])
    assert torch.equal(row.fn(unit, args[0]), args[0])
    assert {"commutative", "associative"} <= row.laws


@pytest.mark.parametrize("row", SCALARS.values(), ids=lambda r: r.name)
def test_rows_are_complete(row):
    assert (row.body is None) != (row.field is None), "a meaning in the field, once"
    assert row.c is not None or row.body is not None or row.name in BY_NODE
    assert row.result in ("same", "bool", "attr")
    if row.c is not None:
        assert all(f"{{{k}}}" in row.c for k in range(row.arity))
    seen: set[int] = set()

    def walk(term: object) -> None:
        if isinstance(term, Arg):
            seen.add(term.index)
        elif isinstance(term, tuple):
            assert SCALARS[term[0]].arity == len(term) - 1
            for part in term[1:]:
                walk(part)
        else:
            assert isinstance(term, float) and math.isfinite(term)

    if row.body is not None:
        walk(row.body)
        assert seen == set(range(row.arity))
