"""From classes back to graph nodes: a chosen derivation for each class is added to a builder.

Element types: a leaf is read in the widest float type in which the region reads it; a class that
the source has is stored in the narrowest type that the source has for it, a target in its own; any
other class in the type that its arguments promote to. Casts between float types do not change the
value under the algebra, and 16-bit values are computed in f32 in any case, so this only decides
what a *stored* value is rounded to, never to less than the source does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce

from superopt.errors import SuperoptError
from superopt.mugraph.dtypes import DTYPES, is_float, promote
from superopt.mugraph.graph import Builder, Graph, remap
from superopt.search.enumerate import REDUCE, Derivation, Space
from superopt.search.regions import Region, is_transparent, through_casts


def rebuild(
    builder: Builder,
    graph: Graph,
    region: Region,
    space: Space,
    choice: Mapping[int, Derivation],
    at: dict[int, int],
    dtypes: Mapping[int, str] | None = None,
) -> dict[int, int]:
    """Adds the classes that the targets of ``space`` need under ``choice``; class -> new node.

    ``at`` maps nodes of ``graph`` to nodes of the builder; a leaf that is missing there is copied
    with all it reads, and entered. A class that is a target has the target's element type (the
    widest, where equal targets differ); dtypes: ``dtypes_of`` the space, if known. Raises
    SuperoptError if the choice lacks a class or is cyclic.
    """
    if dtypes is None:
        dtypes = dtypes_of(graph, region, space)
    work = _Rebuild(builder, graph, space, choice, at, dtypes)
    for c in sorted(set(space.targets.values())):
        work.make(c)
    out = dict(work.made)
    for c in set(space.targets.values()):
        widest = _widest([graph.nodes[i].dtype for i, t in space.targets.items() if t == c])
        out[c] = work.cast(
            work.made[c] if widest == builder.dtype(work.made[c]) else work.natural[c], widest
        )
    return out


@dataclass
class _Rebuild:
    builder: Builder
    graph: Graph
    space: Space
    choice: Mapping[int, Derivation]
    at: dict[int, int]
    dtypes: Mapping[int, str]
    made: dict[int, int] = field(default_factory=dict)
    natural: dict[int, int] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)

    def make(self, root: int) -> int:
        """The node of a class (iterative: derivations can be deep)."""
        todo = [root]
        while todo:
            c = todo[-1]
            if c in self.made:
                todo.pop()
                continue
            cls = self.space.classes[c]
            d = self.choice.get(c)
            if not cls.derivations or self.scalar(c):
                node = self.leaf(c)
            elif d is None:
                raise SuperoptError(
                    what=f"no derivation was chosen for class {c}",
                    where="rebuild",
                    fix="choose one for every class that a chosen one reads",
                )
            else:
                missing = [a for a in d.args if a not in self.made]
                if missing:
                    if c in self.waiting:
                        raise SuperoptError(
                            what=f"the chosen derivation of class {c} is cyclic",
                            where="rebuild",
                            fix="choose derivations without cycles",
                        )
                    self.waiting.add(c)
                    todo.extend(missing)
                    continue
                node = self.apply(d)
            todo.pop()
            self.natural[c] = node
            self.made[c] = self.cast(node, self.dtypes.get(c, self.builder.dtype(node)))
        return self.made[root]

    def scalar(self, c: int) -> bool:
        """Whether the class is a literal or a size: these take the type of what they meet."""
        return c in self.space.literals or c in self.space.sizes

    def leaf(self, c: int, dtype: str | None = None) -> int:
        if c in self.space.literals:
            value: Fraction = self.space.literals[c]
            return self.builder.const(float(value), dtype or self._scalar_dtype(c))
        if c in self.space.sizes:
            into = dtype or self._scalar_dtype(c)
            sizes = [self.builder.size_of(a, into) for a in self.space.sizes[c]]
            return reduce(lambda a, b: self.builder.map("mul", a, b), sizes)
        return self.copy(through_casts(self.graph, self.space.classes[c].nodes[0]))

    def _scalar_dtype(self, c: int) -> str:
        nodes = self.space.classes[c].nodes
        return (
            self.graph.nodes[nodes[0]].dtype if nodes else _widest(["f32", *self.dtypes.values()])
        )

    def copy(self, i: int) -> int:
        """The node ``i`` in the builder, copied if it is not there yet."""
        for j in self.graph.reachable([i]) if i not in self.at else ():
            if j not in self.at:
                self.at[j] = self.builder.add(remap(self.graph.nodes[j], self.at))
        return self.at[i]

    def apply(self, d: Derivation) -> int:
        if d.op.startswith(REDUCE):
            return self.builder.reduce(d.op.removeprefix(REDUCE), self.made[d.args[0]], d.over)
        tensors = [self.builder.dtype(self.made[a]) for a in d.args if not self.scalar(a)]
        if not tensors:
            return self.builder.map(d.op, *(self.made[a] for a in d.args))
        dtype = promote(*tensors)
        return self.builder.map(
            d.op, *(self.leaf(a, dtype) if self.scalar(a) else self.made[a] for a in d.args)
        )

    def cast(self, node: int, dtype: str) -> int:
        return self.builder.map("cast", node, dtype=dtype)


def dtypes_of(graph: Graph, region: Region, space: Space) -> dict[int, str]:
    """The element type of each class that the source has."""
    inside = set(region.nodes)
    # A cast that several regions read is in none of them; what it widens is read wide all the same.
    read = {a for i in region.nodes for a in graph.nodes[i].args}.union(region.leaves)
    out: dict[int, str] = {}
    for cls in space.classes:
        mine = [
            i
            for i in cls.nodes
            if i in inside or (not cls.derivations and (i in read or not is_transparent(graph, i)))
        ]
        names = [graph.nodes[i].dtype for i in mine if is_float(graph.nodes[i].dtype)]
        if names and cls.id not in space.literals:
            out[cls.id] = (
                _widest(names)
                if not cls.derivations
                else min(names, key=lambda n: (DTYPES[n].bytes, n))
            )
    return out


def _widest(names: list[str]) -> str:
    return max(names, key=lambda n: (DTYPES[n].bytes, n))
