"""The memory of packed buffers: how many elements they take, and where the axes beside their panels lie."""

from __future__ import annotations

import math

from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.tileir import Buffer, Panels

STALE = 4
"""Part of the status of a call that was given a packed buffer which is not a copy of its input any more;
it has stored nothing."""


def panel_elements(panels: Panels) -> int:
    """Elements of one panel: all steps, in whole groups, of ``width`` columns."""
    return -(-fixed(panels.steps) // panels.group) * panels.group * panels.width


def packed_elements(buffer: Buffer) -> int:
    """Elements of a packed buffer, zeros beyond its axes included."""
    return math.prod(fixed(a) for a in outer_axes(buffer)) * block_elements(buffer)


def block_elements(buffer: Buffer) -> int:
    """Elements of all panels at one place of the outer axes."""
    panels = _panels(buffer)
    return -(-fixed(panels.columns) // panels.width) * panel_elements(panels)


def outer_axes(buffer: Buffer) -> tuple[Axis, ...]:
    """The axes of a packed buffer that lie outside its panels."""
    panels = _panels(buffer)
    return tuple(a for a in buffer.axes if a not in (panels.columns, panels.steps))


def packed_strides(buffer: Buffer) -> tuple[Stride, ...]:
    """Elements between neighbours along each axis; 0 for those inside panels, which have no one stride."""
    step, found = block_elements(buffer), dict[Axis, Stride]()
    for axis in reversed(outer_axes(buffer)):
        found[axis] = Stride(step)
        step *= fixed(axis)
    return tuple(found.get(a, Stride(0)) for a in buffer.axes)


def fixed(axis: Axis) -> int:
    """The size of an axis of a packed buffer, which is known."""
    if isinstance(axis.size, Sym):
        raise ValueError(f"the axis {axis.name} of a packed buffer has no fixed size")
    return axis.size


def _panels(buffer: Buffer) -> Panels:
    if buffer.panels is None:
        raise ValueError(f"the buffer {buffer.name} is not packed")
    return buffer.panels
