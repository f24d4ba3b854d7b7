"""Prints contractions (a sum of products of two factors) as register-blocked C++."""

from __future__ import annotations

from superopt.codegen.backends.cpu_expr import Scope
from superopt.codegen.tileir import Compute
from superopt.mugraph.placement import Lane


def print_contraction(scope: Scope, stmt: Compute, lane: Lane, vector_bytes: int,
                      bf16: bool) -> list[str] | None:
    """The statement as a contraction, or None when it is not one."""
    return None
