"""Where a value is defined, as the set of conditions that the structure of a program sets for it.

"Equal where both are defined" is no equivalence: 1 / x equals both ``where(x == 0, 0, 1 / x)`` and
``where(x == 0, 1, 1 / x)`` where it is defined, and these differ. It is one among values each of which
is defined only where the one that it was compared with is; whether that is so is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from superopt.mugraph.graph import Gather, Graph, Map, Reduce, View, remap
from superopt.mugraph.scalars import uses

Domain = frozenset[Hashable]
"""Conditions that all hold where a value is defined; empty: it is defined everywhere."""


def domain(graph: Graph, i: int, key: Callable[[int], Hashable]) -> Domain:
    """The conditions under which node i has a value.

    key: of a node, the class of values equal to it where they are defined, or the node itself. If the
    conditions of a value hold all those of another one, it is defined at most where that one is: of one
    class, a condition's arguments are equal as soon as they are defined, and their conditions are
    among the value's own.
    """
    found: dict[int, Domain] = {}
    for j in graph.reachable([i]):
        node = graph.nodes[j]
        below = tuple(found[k] for k in node.args)
        every = frozenset[Hashable]().union(*below)
        given = tuple(key(k) for k in node.args)
        whole = (remap(node, dict.fromkeys(node.args, 0)), given, below)
        if isinstance(node, Gather) or (isinstance(node, View) and every):
            found[j] = frozenset((whole,))  # some cells of its operand, or a missing one
        elif isinstance(node, Map) and uses(node.op, "where") and every:
            found[j] = frozenset((whole,))  # one of its operands
        elif isinstance(node, Map) and uses(node.op, "recip", "sqrt", "log"):
            found[j] = every | {(node.op, given)}
        elif isinstance(node, Reduce):
            found[j] = frozenset((node.over, condition) for condition in every)
        else:
            found[j] = every
    return found[i]
