"""The table of operators: ATen overload packet name -> conversion, filled by the ``rows_*`` modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = Callable[..., Any]
"""``(context, out_dtype, *args, **kwargs) -> Tensor`` (or a list of them), the operator's own arguments."""

ROWS: dict[str, Row] = {}


def row(*names: str) -> Callable[[Row], Row]:
    """Registers a conversion under ATen names."""

    def add(fn: Row) -> Row:
        ROWS.update(dict.fromkeys(names, fn))
        return fn

    return add
