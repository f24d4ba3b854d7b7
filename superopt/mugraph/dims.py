"""The dimensions of stored tensors: merges of named axes, their strides and their text."""

from __future__ import annotations

from collections.abc import Sequence

from superopt.mugraph.axes import Axis, Stride

Dims = tuple[tuple[Axis, ...], ...]
"""The dimensions of a tensor as torch sees them: each a row-major merge of named axes."""


def dense_strides(dims: Dims, order: Sequence[int] = ()) -> tuple[Stride, ...]:
    """Strides of a dense tensor with these dims, one per torch dim, in elements.

    order: the torch dims from the outermost in memory to the innermost; row-major when empty.
    """
    out: dict[int, Stride] = {}
    stride = Stride(1)
    for d in reversed(order or range(len(dims))):
        out[d] = stride
        for axis in dims[d]:
            stride = stride.times(axis.size)
    return tuple(out[d] for d in range(len(dims)))


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
