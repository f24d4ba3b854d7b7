"""Rows of reductions that test or multiply: any, all, how many are not zero, products."""

from __future__ import annotations

import math
from typing import Any

import torch

from superopt.frontend.context import Context
from superopt.frontend.rows import ROWS, Row, row
from superopt.frontend.tensors import NotSupported, Tensor, floating
from superopt.mugraph import ops


def _test(op: str) -> Row:
    def convert(
        cx: Context, out: torch.dtype, x: Tensor, dim: Any = None, keepdim: bool = False
    ) -> Tensor:
        x = cx.cast(x, torch.bool)
        dims = cx.dims(x, dim)
        node = ops.extreme(cx.b, x.node, cx.axes(x, dims), op)
        # Of bytes PyTorch gives a byte.
        return cx.cast(cx.reduced(x, node, dims, keepdim, torch.bool), out)

    return convert


ROWS["any"], ROWS["all"] = _test("or"), _test("and")


@row("count_nonzero")
def _count_nonzero(cx: Context, out: torch.dtype, x: Tensor, dim: Any = None) -> Tensor:
    result: Tensor = ROWS["sum"](cx, out, cx.cast(x, torch.bool), dim)
    return result


@row("prod")
def _prod(
    cx: Context, out: torch.dtype, x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Tensor:
    if out == torch.bool:
        raise NotSupported("a product that is a boolean")
    x = cx.cast(x, out)
    dims = cx.dims(x, dim)
    over = cx.axes(x, dims)
    own = [a for a in over if a in cx.b.axes(x.node)]
    node = cx.b.reduce("mul", x.node, own)
    times = math.prod(cx.t.size((a,)) for a in over if a not in own)
    if times > 1:
        if not floating(out):
            raise NotSupported("a product of integers along an expanded dimension")
        node = cx.b.map("pow", node, cx.b.const(float(times), cx.b.dtype(node)))
    return cx.reduced(x, node, dims, keepdim, out)
