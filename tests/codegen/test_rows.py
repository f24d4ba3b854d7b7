"""Statements over the same rows share the loops over these, where a tile is larger than the first cache."""

from __future__ import annotations

import pytest
import torch

from superopt.codegen.backends.cpu import Isa, emit
from superopt.mugraph.axes import Axis
from superopt.mugraph.tileir import Compute, Program
from tests.codegen.harness import ap, at, buf, check, lit

MARK = "// row by row"


def softmax(rows: int, columns: int) -> Program:
    """A softmax of scaled rows, all of them one task: two pairs of a map and a reduction."""
    m, n = Axis("m", rows), Axis("n", columns)
    x, o = buf("x", "input", (m, n)), buf("out0", "output", (m, n))
    t, e = buf("t", "tile", (m, n)), buf("e", "tile", (m, n))
    top, total = buf("top", "tile", (m,)), buf("total", "tile", (m,))
    body = (
        Compute(t, (m, n), ap("mul", at(x), lit(0.5))),
        Compute(top, (m,), at(t), "max", (n,)),
        Compute(e, (m, n), ap("exp", ap("sub", at(t), at(top)))),
        Compute(total, (m,), at(e), "add", (n,)),
        Compute(o, (m, n), ap("div", at(e), at(total))),
    )
    return Program("softmax", (x, o), (t, e, top, total), (), body)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
@pytest.mark.parametrize("rows, columns", [(37, 131), (5, 1000), (64, 256)])
def test_large_tiles_go_row_by_row(rows: int, columns: int, isa: str) -> None:
    program = softmax(rows, columns)
    assert MARK in emit([program], "f", Isa.named(isa)).text
    x = torch.randn(rows, columns)
    check(program, {"x": x}, {"out0": torch.softmax(x.double() * 0.5, -1)}, isa=Isa.named(isa))


@pytest.mark.parametrize("rows, columns", [(4, 64), (400, 24), (1, 9000)])
def test_what_stays_near_or_has_short_rows_or_none_to_share_does_not(
    rows: int, columns: int
) -> None:
    program = softmax(rows, columns)
    assert MARK not in emit([program], "f", Isa.named("avx512")).text
    x = torch.randn(rows, columns)
    check(program, {"x": x}, {"out0": torch.softmax(x.double() * 0.5, -1)})


def test_a_sum_over_the_rows_is_made_as_a_whole() -> None:
    """What one row gives and another reads: the second statement keeps none of the first one's rows."""
    m, n = Axis("m", 64), Axis("n", 200)
    x, o = buf("x", "input", (m, n)), buf("out0", "output", (n,))
    t = buf("t", "tile", (m, n))
    body = (
        Compute(t, (m, n), ap("mul", at(x), at(x))),
        Compute(o, (n,), at(t), "add", (m,)),
    )
    program = Program("columns", (x, o), (t,), (), body)
    assert MARK not in emit([program], "f", Isa.named("avx512")).text
    tx = torch.randn(64, 200)
    check(program, {"x": tx}, {"out0": tx.double().square().sum(0)})
