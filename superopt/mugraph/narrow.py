"""Values that are unpacked from integers of few bits, in so few steps that it is done where they are read."""

from __future__ import annotations

from collections.abc import Sequence

from superopt.mugraph.axes import Axis, hint
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Input, Map, Node, View
from superopt.mugraph.scalars import SCALARS

MOST_STEPS, MOST_READINGS = 8, 16
"""Scalar operations of such a value, and how often each is made anew, beyond which it is kept."""


def steps_of(node: Node, before: Sequence[int]) -> int:
    """The operations that unpack a value, -1 where it is not one; before: the same of its arguments."""
    if isinstance(node, Input):
        kind = DTYPES[node.dtype]
        return 0 if kind.kind == "int" and kind.bytes < 4 else -1
    if not isinstance(node, Map | View) or max(before, default=-1) < 0:
        return -1
    steps = sum(n for n in before if n > 0)
    steps += SCALARS[node.op].flops if isinstance(node, Map) else 0
    return steps if steps <= MOST_STEPS else -1


def made_anew(steps: int, axes: Sequence[Axis], space: frozenset[Axis]) -> bool:
    """Whether a value over ``axes`` is unpacked again at each reading from ``space``."""
    readings = 1
    for axis in space.difference(axes):
        readings *= hint(axis.size)
    return steps >= 0 and readings <= MOST_READINGS
