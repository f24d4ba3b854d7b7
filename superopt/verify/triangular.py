"""Two facts a bound rests on, found by probing: exponents in triangular form, roots independent."""

from __future__ import annotations

from superopt.mugraph.algebras.chain import Chain
from superopt.mugraph.graph import Graph
from superopt.verify.sizes import Sizing


def exponent_error(a: Graph, b: Graph, sizing: Sizing, chain: Chain, seed: int) -> float | None:
    return None


def independent_roots(a: Graph, b: Graph, sizing: Sizing, chain: Chain, seed: int) -> bool:
    return False
