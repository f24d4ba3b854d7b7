"""Reduced sizes: on which small axes two graphs are compared, and where an axis must stay whole.

Programs over named axes treat all positions of an axis alike, so a wrong program is wrong at small
sizes as well, unless something depends on the size itself: index arithmetic (such axes stay whole),
a literal that happens to equal a small size (hence two assignments, in which every shrunken axis
has two sizes), two axes confused (hence sizes distinct in one assignment).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.field_values import Integers
from superopt.mugraph.axes import Axis, Size, Sym
from superopt.mugraph.dims import Dims
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Const, Gather, Graph, Input, Iota, Node, Reduce, View
from superopt.verify.indices import alone, index_source, indices

PRIMES = tuple(p for p in range(2, 300) if all(p % q for q in range(2, p)))

LARGEST_LITERAL = 64
"""Integer literal up to which axes that are compared with it are shortened, to lengths beyond it."""

COMFORTABLE = 1 << 14
"""Elements of a value beyond which axes whose positions are only compared are shortened as well."""


@dataclass(frozen=True)
class Sizing:
    """One assignment: every axis's size, the ranges of integer inputs, and the largest value.

    ranges: input name -> its values; whole: axes that kept their size;
    shrunk: axes whose positions are compared, and that did not; counted: axes along which integers or
    truth values are summed, and that did not; cells: elements
    of the largest value in either graph; tied: axes that must have one size share a representative;
    moved: representatives of axes along which an index map moves values.
    """

    sizes: Mapping[Axis, int]
    ranges: Mapping[str, Integers]
    whole: tuple[str, ...]
    shrunk: tuple[str, ...]
    cells: int
    tied: Mapping[Axis, Axis]
    moved: frozenset[Axis]
    counted: tuple[str, ...] = ()


class _Classes:
    """Axes that must have one size (a rename ties them), as a union-find."""

    def __init__(self) -> None:
        self.parent: dict[Axis, Axis] = {}

    def find(self, a: Axis) -> Axis:
        self.parent.setdefault(a, a)
        while self.parent[a] != a:
            a = self.parent[a]
        return a

    def join(self, a: Axis, b: Axis) -> None:
        self.parent[self.find(a)] = self.find(b)


def assignments(a: Graph, b: Graph, max_cells: int) -> tuple[Sizing, ...]:
    """Two assignments of small sizes under which both graphs can be evaluated.

    Raises VerificationFailed where axes that must stay whole make a value of more than
    ``max_cells`` elements.
    """
    classes = _Classes()
    for axis in (*a.axes, *b.axes):
        classes.find(axis)
    _tie_dims(classes, a, b)
    hard, soft, counted = set[Axis](), set[Axis](), set[Axis]()
    _index_axes((a, b), hard, soft)
    for graph in (a, b):
        _tie_views(classes, graph, hard)
        counted |= set(_counted_axes(graph))
    hard, soft, counted = ({classes.find(x) for x in found} for found in (hard, soft, counted))
    weight: dict[Axis, int] = {}
    for graph in (a, b):
        for node in graph.nodes:
            for axis in {classes.find(x) for x in node.axes}:
                weight[axis] = weight.get(axis, 0) + len(node.axes)
    order = sorted(
        {classes.find(x) for x in classes.parent},
        key=lambda x: (-weight.get(x, 0), x.name, str(x.size)),
    )
    least = dict.fromkeys(order, 2)
    whole, out = hard | soft | counted, []
    moved = frozenset(hard)
    comfortable = min(max_cells, COMFORTABLE)
    if _cells((a, b), classes, _assign(classes, order, whole, least, {})) > comfortable:
        # Comparisons of positions look the same on shorter axes that are beyond every literal.
        whole, literal = hard, _largest_literal((a, b))
        least.update(dict.fromkeys(soft | counted, min(literal, LARGEST_LITERAL) + 2))
        if literal > LARGEST_LITERAL:
            whole = hard | soft
    before: dict[Axis, int] = {}
    for _ in range(2):
        root_size = before = _assign(classes, order, whole, least, before)
        cells = _cells((a, b), classes, root_size)
        names = tuple(sorted({x.name for x in classes.parent if classes.find(x) in whole}))
        if cells > max_cells:
            raise VerificationFailed(
                what=f"a value of {cells} elements is left when sizes are reduced",
                where=f"axes {', '.join(names)} take part in index arithmetic",
                fix=f"raise max_cells above {max_cells}, or cut the check into pieces",
            )
        tied = {x: classes.find(x) for x in classes.parent}
        sizes = {x: root_size[tied[x]] for x in tied}
        shrunk, short = (
            tuple(sorted({x.name for x in sizes if classes.find(x) in found - whole}))
            for found in (soft, counted)
        )
        ranges = integer_ranges((a, b), sizes)
        out.append(Sizing(sizes, ranges, names, shrunk, cells, tied, moved, short))
    return tuple(out)


def own_sizes(a: Graph, b: Graph) -> Sizing:
    """The sizes that the axes have: for a check of programs without symbolic ones as they are run.

    Raises VerificationFailed for a symbolic size.
    """
    symbols = sorted({x.size.name for g in (a, b) for x in g.axes if isinstance(x.size, Sym)})
    if symbols:
        raise VerificationFailed(
            what=f"the size {symbols[0]} is not known",
            where=a.name,
            fix="check at sizes that are numbers",
        )
    axes = (*a.axes, *b.axes)
    sizes = {x: concrete(x.size) for x in axes}
    tied = {x: x for x in axes}
    cells = _cells((a, b), _Classes(), sizes)
    return Sizing(sizes, integer_ranges((a, b), sizes), (), (), cells, tied, frozenset(axes))


def _tie_dims(classes: _Classes, a: Graph, b: Graph) -> None:
    mine = {n.name: n for n in a.inputs}
    for node in b.inputs:
        if node.name in mine:
            _tie(classes, mine[node.name].dims, node.dims)
    for p, q in zip(a.outputs, b.outputs, strict=False):
        _tie(classes, p.dims, q.dims)


def _tie(classes: _Classes, mine: Dims, other: Dims) -> None:
    for p, q in zip(mine, other, strict=False):
        if len(p) == len(q):
            for x, y in zip(p, q, strict=True):
                classes.join(x, y)


def _tie_views(classes: _Classes, graph: Graph, hard: set[Axis]) -> None:
    for node in graph.nodes:
        if isinstance(node, View):
            for axis, index in node.index:
                other = index.rename_of()
                if other is not None and other.size == axis.size:
                    classes.join(axis, other)
                else:
                    hard.add(axis)
                    hard.update(x for x, _ in index.terms)


def _index_axes(graphs: Sequence[Graph], hard: set[Axis], soft: set[Axis]) -> None:
    """Axes whose positions are seen as numbers: by Iota, by an index that is more than that."""
    for graph, node in ((g, n) for g in graphs for n in g.nodes):
        if isinstance(node, Iota):
            soft.update(node.axes)
        if isinstance(node, Gather):
            name = index_source(graph, node.at)
            if name is None or not alone(graphs, name):
                hard.add(node.along)


def _counted_axes(graph: Graph) -> Iterator[Axis]:
    """Axes along which values are summed that stem from integers and truth values alone.

    On a short axis such a sum takes few values, and two programs may differ at the others.
    """
    counts: list[bool] = []  # whether a value depends on inputs, and on none of floats
    for node in graph.nodes:
        read = [k for k in node.args if graph.nodes[k].args or isinstance(graph.nodes[k], Input)]
        given = isinstance(node, Input) and not is_float(node.dtype)
        counts.append(given or (bool(read) and all(counts[k] for k in read)))
        if isinstance(node, Reduce) and node.op in ("add", "mul"):
            yield from node.over if counts[-1] or not is_float(node.dtype) else ()


def _largest_literal(graphs: Iterable[Graph]) -> int:
    return max(
        (
            abs(int(n.value))
            for g in graphs
            for n in g.nodes
            if isinstance(n, Const) and not is_float(n.dtype)
        ),
        default=0,
    )


def concrete(size: Size) -> int:
    """The size at which an axis that stays whole is checked: its own, or a small one in its range."""
    return min(max(size.lo, 7), size.hi) if isinstance(size, Sym) else size


def _assign(
    classes: _Classes,
    order: list[Axis],
    whole: set[Axis],
    least: Mapping[Axis, int],
    before: Mapping[Axis, int],
) -> dict[Axis, int]:
    """A size per class: its own, or the smallest unused prime that is not the size ``before``."""
    members: dict[Axis, list[Size]] = {}
    for x in classes.parent:
        members.setdefault(classes.find(x), []).append(x.size)
    out: dict[Axis, int] = {}
    used: set[int] = set()
    for x in order:
        if x in whole:
            out[x] = max(concrete(size) for size in members[x])
            continue
        most = min(size.hi if isinstance(size, Sym) else size for size in members[x])
        prime = next(p for p in PRIMES if p not in used and p >= least[x] and p != before.get(x))
        if prime < most:
            used.add(prime)
        out[x] = min(prime, most)
    return out


def _cells(graphs: Iterable[Graph], classes: _Classes, sizes: Mapping[Axis, int]) -> int:
    return max(
        math.prod(sizes[classes.find(x)] for x in node.axes)
        for graph in graphs
        for node in graph.nodes
    )


def integer_ranges(graphs: Sequence[Graph], sizes: Mapping[Axis, int]) -> dict[str, Integers]:
    """Indices stay within the axis that they are given to; the literals in a program are met by all."""
    literals = {
        int(n.value)
        for g in graphs
        for n in g.nodes
        if isinstance(n, Const) and not is_float(n.dtype) and n.dtype != "bool"
    }
    near = {k for n in literals for k in (n - 1, n, n + 1)}
    out: dict[str, Integers] = {}
    for graph in graphs:
        for given in graph.inputs:
            if not is_float(given.dtype) and given.dtype != "bool":
                out.setdefault(given.name, Integers(more=_extremes(given.dtype)))
    for graph in graphs:
        for found in indices(graph):
            known = out[found.name]
            most = sizes[found.along] - 1
            hi = min(most, known.hi) if known.complete else most
            wraps = found.wraps and (known.lo < 0 or not known.complete)
            out[found.name] = Integers(
                -sizes[found.along] if wraps else 0, max(hi, 0), complete=True
            )
        for node in graph.nodes:
            if isinstance(node, Gather):
                for i in graph.reachable([node.at]):
                    source = graph.nodes[i]
                    if not isinstance(source, Input) or source.name not in out:
                        continue
                    if not out[source.name].complete:  # it is computed with: others may be as good
                        out[source.name] = Integers(0, max(sizes[node.along] - 1, 0))
    return {
        name: replace(v, more=tuple(sorted(k for k in near | set(v.more) if not v.lo <= k <= v.hi)))
        for name, v in out.items()
    }


def _extremes(dtype: str) -> tuple[int, ...]:
    """Where arithmetic of a width wraps round, and some large numbers."""
    bits, signed = 8 * DTYPES[dtype].bytes, dtype != "u8"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    halves = [high // 2, high // 2 + 1, low // 2 - 1] if signed else [high // 2, high // 2 + 1]
    some = [1000003 % (high + 1), 40961 % (high + 1), 97, 46]
    return tuple(k for k in (low, low + 1, *halves, high - 1, high, *some) if low <= k <= high)


def cells_of(node: Node, sizes: Mapping[Axis, int]) -> int:
    """Elements of a node's value at these sizes."""
    return math.prod(sizes[x] for x in node.axes)


def reduced_axes(graph: Graph) -> set[Axis]:
    """Axes that some reduction runs over."""
    return {x for n in graph.nodes if isinstance(n, Reduce) for x in n.over}
