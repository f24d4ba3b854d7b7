"""One-pass accumulators, derived: which reductions may follow a running statistic, and how.

A sum R of f(t, m) over an axis, where m is another reduction over the same axis, can run in the
same pass when f has a multiplicative character in m: f(t, m') = f(t, m) * exp(c * (m' - m)) with a
constant c. Then the accumulator built on m is moved to m' by the factor exp(c * (m' - m)), which is
the identity at m' = m and composes. With c = -1 and m a maximum this is the online softmax (Milakov
and Gimelshein, 2018), but nothing here knows softmax: c is read off the term. A summand that is a
polynomial in another sum follows it by Taylor's formula (``mugraph/moments.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from superopt.mugraph.graph import Builder, Const, Dims, Graph, Input, Map, Node, Reduce, View
from superopt.mugraph.moments import MOST_RANK, degree, summands, taylor
from superopt.mugraph.parts import build_term
from superopt.mugraph.placement import Carry
from superopt.mugraph.prefix import vanishes
from superopt.mugraph.scalars import Arg


def find_carries(graph: Graph, body: list[int], axes: frozenset[object]) -> tuple[Carry, ...]:
    """The reductions of a kernel body that can share a pass with a statistic they depend on.

    ``axes``: those that are looped or in parts. Where a reduction depends on two statistics, or on
    one along an axis that it sums over, or its dependence has no multiplicative character, or a term
    may count that comes before the first of the statistic (``mugraph/prefix.py``), it gets no carry:
    it then needs a pass of its own.
    """
    inside = set(body)
    sums = [i for i in body if isinstance(graph.nodes[i], Reduce)]
    below = _below(graph, body, sums)
    out = []
    for i in sums:
        node = graph.nodes[i]
        if not isinstance(node, Reduce) or node.op != "add":
            continue
        looped = [a for a in node.over if a in axes]
        if not looped:
            continue
        reach = [s for s in below[i] if not set(looped).isdisjoint(_over(graph, s))]
        stats = [s for s in reach if _op(graph, s) in ("max", "min")]
        others = [s for s in reach if s not in stats]
        if any(not set(graph.nodes[s].axes) <= set(node.axes) for s in reach):
            continue  # it has an axis that is summed over: no one factor moves the sum
        if not stats and len(others) == 1 and _op(graph, others[0]) == "add":
            rank = degree(graph, node.operand, others[0])
            if rank is not None and 0 < rank <= MOST_RANK:
                out.append(Carry(i, others[0], 1.0, rank))
        if len(stats) != 1 or any(stats[0] in below[o] for o in others):
            continue
        c = character(graph, node.operand, stats[0], inside)
        if c and vanishes(graph, node.operand, stats[0]):
            out.append(Carry(i, stats[0], factor(c)))
    return tuple(out)


def factor(c: float) -> object:
    """exp(c * (new - old)) as a term over Arg(0) = old, Arg(1) = new; one where nothing moved.

    The test for equality also covers the empty prefix: -inf moved to -inf is no move, not NaN.
    """
    old, new = Arg(0), Arg(1)
    shift = ("sub", old, new) if c == -1 else ("mul", float(c), ("sub", new, old))
    return ("where", ("eq", old, new), 1.0, ("exp", shift))


def character(graph: Graph, i: int, stat: int, inside: set[int]) -> float | None:
    """The constant c with value(m') = value(m) * exp(c * (m' - m)); 0 if independent, else None."""
    node = graph.nodes[i]
    if not _depends(graph, i, stat, inside):
        return 0.0
    if isinstance(node, Reduce):
        return character(graph, node.operand, stat, inside) if node.op == "add" else None
    if isinstance(node, View):
        return None
    if not isinstance(node, Map):
        return None
    if node.op == "exp":
        return slope(graph, node.operands[0], stat, inside)
    if node.op == "cast":
        return character(graph, node.operands[0], stat, inside)
    if node.op in ("mul", "div"):
        parts = [character(graph, a, stat, inside) for a in node.operands]
        if parts[0] is None or parts[1] is None:
            return None
        return parts[0] + parts[1] if node.op == "mul" else parts[0] - parts[1]
    if node.op in ("add", "sub"):
        parts = [character(graph, a, stat, inside) for a in node.operands]
        return parts[0] if parts[0] is not None and parts[0] == parts[1] else None
    if node.op == "neg":
        return character(graph, node.operands[0], stat, inside)
    if node.op == "where":
        # A choice that does not depend on the statistic keeps a character that both sides have;
        # zero has every character.
        if _depends(graph, node.operands[0], stat, inside):
            return None
        parts = [
            None if _zero(graph, a) else character(graph, a, stat, inside)
            for a in node.operands[1:]
        ]
        kept = [p for a, p in zip(node.operands[1:], parts, strict=True) if not _zero(graph, a)]
        return kept[0] if kept and all(p == kept[0] for p in kept) else None
    return None


def slope(graph: Graph, i: int, stat: int, inside: set[int]) -> float | None:
    """The constant c with value(m') = value(m) + c * (m' - m), else None."""
    node = graph.nodes[i]
    if i == stat:
        return 1.0
    if not _depends(graph, i, stat, inside):
        return 0.0
    if not isinstance(node, Map):
        return None
    parts = [slope(graph, a, stat, inside) for a in node.operands]
    if node.op == "cast":
        return parts[0]
    if node.op == "neg":
        return None if parts[0] is None else -parts[0]
    if node.op in ("add", "sub") and parts[0] is not None and parts[1] is not None:
        return parts[0] + parts[1] if node.op == "add" else parts[0] - parts[1]
    if node.op == "mul":
        for a, b in ((0, 1), (1, 0)):
            literal = graph.nodes[node.operands[a]]
            moved = parts[b]
            if isinstance(literal, Const) and moved is not None:
                return float(literal.value) * moved
    return None


def obligation(
    graph: Graph, carry: Carry, given: Callable[[int], bool] = lambda _: False
) -> tuple[Graph, Graph]:
    """The two graphs whose equality justifies a carry: f(t, m') and f(t, m) * h(m, m').

    Both read two free statistics "old" and "new", so that the proof holds whatever the statistic
    is. given: which nodes may be any value; those that do not depend on the statistic become inputs
    as well, so that what lies below them takes no part.
    """
    reduce = graph.nodes[carry.reduce]
    stat = graph.nodes[carry.stat]
    if not isinstance(reduce, Reduce):
        raise TypeError("a carry belongs to a reduction")
    keep, edge = _above(graph, reduce.operand, carry.stat, given)

    def dims(i: int) -> Dims:
        return tuple((a,) for a in graph.nodes[i].axes)

    def side(moved: bool) -> Graph:
        b = Builder("carry")
        old = b.input("old", dims(carry.stat), stat.dtype)
        new = b.input("new", dims(carry.stat), stat.dtype)
        at: dict[int, int] = {carry.stat: old if moved else new}
        for k, i in enumerate(edge):
            node, name = graph.nodes[i], f"given{k}"
            if isinstance(node, Input):
                at[i] = b.add(replace(node, name=name))
            else:
                at[i] = b.input(name, dims(i), node.dtype)
        for i in keep:
            at[i] = b.add(_remap(graph.nodes[i], at))
        value = at[reduce.operand]
        if moved and carry.rank:
            more = summands(b, value, old, carry.rank, reduce.over)
            value = taylor(b, value, more, b.map("sub", new, old))
        elif moved:
            value = b.map("mul", value, build_term(b, carry.factor, [old, new]))
        axes = tuple((a,) for a in b.axes(value))
        return b.build([("f", value, axes)])

    return side(False), side(True)


def _above(
    graph: Graph, root: int, stat: int, given: Callable[[int], bool]
) -> tuple[list[int], list[int]]:
    """The nodes of a summand down to the statistic and to what is given; and the given ones."""
    inside = set(graph.reachable([root]))
    depends: dict[int, bool] = {}
    for i in sorted(inside):
        depends[i] = i == stat or any(depends[a] for a in graph.nodes[i].args)
    keep, edge = set[int](), set[int]()
    todo = [root]
    while todo:
        i = todo.pop()
        if i in keep or i in edge or i == stat:
            continue
        if not depends[i] and not isinstance(graph.nodes[i], Input) and given(i):
            edge.add(i)
        else:
            keep.add(i)
            todo.extend(graph.nodes[i].args)
    # An input of the program must not be taken for one of these.
    inputs = {i for i in keep if isinstance(graph.nodes[i], Input)}
    return sorted(keep - inputs), sorted(edge | inputs)


def _remap(node: Node, at: dict[int, int]) -> Node:
    from superopt.mugraph.graph import remap

    return remap(node, at)


def _zero(graph: Graph, i: int) -> bool:
    node = graph.nodes[i]
    return isinstance(node, Const) and node.value == 0


def _over(graph: Graph, i: int) -> tuple[object, ...]:
    node = graph.nodes[i]
    return node.over if isinstance(node, Reduce) else ()


def _op(graph: Graph, i: int) -> str:
    node = graph.nodes[i]
    return node.op if isinstance(node, Reduce) else ""


def _depends(graph: Graph, i: int, stat: int, inside: set[int]) -> bool:
    seen: set[int] = set()
    todo = [i]
    while todo:
        j = todo.pop()
        if j == stat:
            return True
        if j in seen or j < stat or j not in inside:
            continue
        seen.add(j)
        todo.extend(graph.nodes[j].args)
    return False


def _below(graph: Graph, body: list[int], sums: list[int]) -> dict[int, list[int]]:
    """For each reduction of a kernel, those that lie below it, ascending."""
    bit = {s: 1 << k for k, s in enumerate(sums)}
    masks: dict[int, int] = {}
    for i in body:  # ascending, so what is read comes first
        mask = 0
        for a in graph.nodes[i].args:
            if a in masks:
                mask |= masks[a] | bit.get(a, 0)
        masks[i] = mask
    return {s: [t for t in sums if masks[s] & bit[t]] for s in sums}
