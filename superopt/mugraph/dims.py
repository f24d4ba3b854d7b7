"""The dimensions of stored tensors: merges of named axes, their strides and their text."""

from __future__ import annotations

from collections.abc import Sequence

from superopt.mugraph.axes import Axis, Stride

Dims = tuple[tuple[Axis, ...], ...]
"""The dimensions of a tensor as torch sees them: each a row-major merge of named axes."""


def dense_strides(dims: Dims) -> tuple[Stride, ...]:
    """Row-major strides of a dense tensor with these dims, one per torch dim, in elements."""
    out: list[Stride] = []
    stride = Stride(1)
    for dim in reversed(dims):
        out.append(stride)
        for axis in dim:
            stride = stride.times(axis.size)
    return tuple(reversed(out))


def axis_strides(dims: Dims, strides: Sequence[Stride]) -> dict[Axis, Stride]:
    """The stride of each named axis of a stored tensor, in elements."""
    out: dict[Axis, Stride] = {}
    for dim, stride in zip(dims, strides, strict=True):
        for axis in reversed(dim):
            out[axis] = stride
            stride = stride.times(axis.size)
    return out


def dims_text(dims: Dims) -> str:
    """``[b,(h d)]``: merged axes in parentheses."""
    parts = [d[0].name if len(d) == 1 else "(" + " ".join(a.name for a in d) + ")" for d in dims]
    return "[" + ",".join(parts) + "]"
