"""Contractions cut into chunks: every block is indexed from where it starts."""

from __future__ import annotations

import pytest
import torch

from superopt.codegen.backends.cpu import Isa, emit
from superopt.mugraph.axes import Axis
from superopt.mugraph.tileir import Compute, Program
from tests.codegen.harness import ap, at, buf, check, lit


def test_nested_chunks() -> None:
    """A result larger than its block and a factor that is turned, both cut along the same axes."""
    m, n, k = Axis("m", 140), Axis("n", 700), Axis("k", 48)
    x, w, o = (
        buf("x", "input", (m, k)),
        buf("w", "input", (n, k)),
        buf("out0", "output", (m, n), "bf16"),
    )
    stmt = Compute(o, (m, n), ap("mul", at(x), at(w)), "add", (k,))
    p = Program("nested", (x, w, o), (), (), (stmt,))
    assert "so_transpose(" in emit([p], "f", Isa.named("avx512")).text.split("f_k0(")[1]
    tx, tw = torch.randn(140, 48), torch.randn(700, 48)
    check(p, {"x": tx, "w": tw}, {"out0": tx.double() @ tw.double().T})


@pytest.mark.parametrize("n,k", [(200, 40), (40, 600), (200, 600)])
def test_chunks_of_tiles(n: int, k: int) -> None:
    """Tiles longer than a chunk: as result (cut along columns) and as factor (cut along the sum)."""
    m, an, ak = Axis("m", 40), Axis("n", n), Axis("k", k)
    x, w, o = (
        buf("x", "input", (m, ak)),
        buf("w", "input", (an, ak)),
        buf("out0", "output", (m, an)),
    )
    left, acc = buf("left", "tile", (m, ak)), buf("acc", "tile", (m, an))
    body = (
        Compute(left, (m, ak), ap("mul", at(x), lit(0.5))),
        Compute(acc, (m, an), lit(1.0)),
        Compute(acc, (m, an), ap("mul", at(left), at(w)), "add", (ak,), True),
        Compute(o, (m, an), at(acc)),
    )
    p = Program("tiles", (x, w, o), (left, acc), (), body)
    tx, tw = torch.randn(40, k), torch.randn(n, k)
    check(p, {"x": tx, "w": tw}, {"out0": 0.5 * tx.double() @ tw.double().T + 1})
