"""Axes that a region only has together, which for the algebra are one.

A statistic over three axes has the space of one over a single axis, and its count of elements, a
product of three sizes, is the size of that one. Taken singly, each sum and each size could be had
in any order, in parts, and the space of a variance over three axes would not close.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from superopt.mugraph.axes import Axis, sort_axes
from superopt.mugraph.graph import Graph, Map, Reduce, SizeOf
from superopt.search.regions import Region, through_casts


@dataclass(frozen=True)
class Joint:
    """The axes of a region as the algebra has them.

    axes: number -> axes that every term of the region has, and every sum is over, or none;
    number: of each axis; counts: products of sizes that anything but such a product reads: node ->
    the numbers whose sizes it multiplies; inner: the other sizes and products of them
    """

    axes: tuple[tuple[Axis, ...], ...]
    number: Mapping[Axis, int]
    counts: Mapping[int, tuple[int, ...]]
    inner: frozenset[int]


def joint(graph: Graph, region: Region) -> Joint:
    """The joint axes of a region."""
    products, read = _products(graph, region)
    counts = {i: axes for i, axes in products.items() if i in read}
    where: dict[Axis, list[tuple[int, str]]] = {}
    for i in (*region.leaves, *region.nodes):
        node = graph.nodes[i]
        uses = [(a, "has") for a in node.axes] + [(a, "size") for a in counts.get(i, ())]
        if isinstance(node, Reduce) and i in region.nodes:
            uses += [(a, "sum") for a in node.over]
        for axis, how in uses:
            where.setdefault(axis, []).append((i, how))
    together: dict[tuple[tuple[int, str], ...], list[Axis]] = {}
    for axis in sort_axes(set(where)):
        together.setdefault(tuple(where[axis]), []).append(axis)
    axes = tuple(map(tuple, together.values()))
    number = {a: n for n, one in enumerate(axes) for a in one}
    sizes = {
        i: tuple(
            n for n, k in Counter(number[a] for a in own).items() for _ in range(k // len(axes[n]))
        )
        for i, own in counts.items()
    }
    return Joint(axes, number, sizes, frozenset(products.keys() - read))


def _products(graph: Graph, region: Region) -> tuple[dict[int, tuple[Axis, ...]], set[int]]:
    """The sizes of a region and all products of them, with their axes; and what others read."""
    products: dict[int, tuple[Axis, ...]] = {}
    read = {through_casts(graph, i) for i in region.targets}
    for i in (*region.leaves, *region.nodes):
        node = graph.nodes[i]
        args = [through_casts(graph, a) for a in node.args]
        if isinstance(node, SizeOf):
            products[i] = (node.axis,)
        elif i not in region.nodes:
            continue
        elif isinstance(node, Map) and node.op == "mul" and all(a in products for a in args):
            products[i] = tuple(axis for a in args for axis in products[a])
        else:
            read.update(args)
    return products, read
