"""A place in the loop nest of a kernel that is being lowered."""

from __future__ import annotations

from dataclasses import dataclass, field

from superopt.codegen.expressions import NotLowerable
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Reduce
from superopt.mugraph.tileir import Buffer, Stmt


@dataclass
class Scope:
    """The statements at one place of the loop nest, and what has a tile buffer there."""

    parent: Scope | None
    open: frozenset[Axis]
    running: frozenset[int] = frozenset()
    body: list[Stmt] = field(default_factory=list)
    after: list[Stmt] = field(default_factory=list)  # of the loop that is being made
    tiles: dict[int, Buffer] = field(default_factory=dict)
    partial: dict[int, Buffer] = field(default_factory=dict)
    added: set[int] = field(default_factory=set)

    def begin(self, node: Reduce) -> Reduce:
        """A reduction that begins here: inside a loop over its axis it would see one step alone."""
        inside = [a.name for a in node.over if a in self.open]
        if inside:
            raise NotLowerable(f"a reduction over {inside[0]!r} is needed inside a loop over it")
        return node

    def find(self, i: int) -> Buffer | None:
        """The tile buffer of a node, here or in an enclosing scope."""
        scope: Scope | None = self
        while scope is not None:
            if i in scope.tiles:
                return scope.tiles[i]
            scope = scope.parent
        return None
