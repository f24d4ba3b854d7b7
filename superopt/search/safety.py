"""Which derivations may be ranked: the field says that they are equal, not that they round alike.

Five conservative rules, checked against the source program (design: a derivation whose exp, division
or difference is less safe than the source's is dropped before it is ranked):

* a nonlinear function (exp, log, a reciprocal, a root, ...) is applied only to values to which the
  source applies a function of that name: exp(s) is not used where the source has exp(s - max s);
* a sum that the source does not have is used only in regions without subtraction, so that no new
  cancellation (a variance as E[x^2] - E[x]^2) appears;
* where there is a subtraction, a sum of the source, or a multiple of one, is not made of other terms
  along the same axes: that these cancel is true of real numbers, as in sum x (x - m) for a
  variance sum (x - m)^2;
* what the source scales before it multiplies is not multiplied first, nor is anything multiplied by
  a number of elements that it has (``guards``): either may leave the range of the numbers;
* a sum of plain values is scaled once, not value by value: sum(x / n) rounds each addend, all to the
  same side where they are alike, and sum(x) / n none. Products are rounded in any case.
"""

from __future__ import annotations

from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Const, Graph, Map, Reduce
from superopt.search.enumerate import REDUCE, Derivation, Space, ValueClass
from superopt.search.guards import Guards

LINEAR = ("mul", "add")


def safe_derivations(graph: Graph, space: Space) -> tuple[list[list[Derivation]], int]:
    """For each class, the derivations that may be ranked; and how many were dropped."""
    by_node = {n: c.id for c in space.classes for n in c.nodes}
    source: set[tuple[str, tuple[int, ...]]] = set()
    subtracts = False
    for i in by_node:
        node = graph.nodes[i]
        if isinstance(node, Map):
            args = tuple(by_node[a] for a in node.operands if a in by_node)
            source |= _applications(node.op, args)
            subtracts |= node.op in ("sub", "neg")
        if isinstance(node, Const) and not isinstance(node.value, bool) and node.value < 0:
            subtracts = True
    constants = _constants(space)
    sums = _sums(graph, space, by_node) if subtracts else {}
    guards = Guards(graph, space, by_node, constants)
    kept, dropped = [], 0
    for cls in space.classes:
        own = {by_node[a] for i in cls.nodes for a in graph.nodes[i].args if a in by_node}
        good = []
        for d in cls.derivations:
            if d.op.startswith(REDUCE):
                terms = sums.get((cls.id, d.over))
                other_terms = terms is not None and d.args[0] not in terms
                ok = d.args[0] in own or not (other_terms or _scales(space, cls, d, constants))
            elif d.op in LINEAR or not d.args:
                new_sum = d.op == "add" and not set(d.args) <= own
                absorbs = any(not space.classes[a].axes for a in d.args)
                ok = not guards.removes(cls, d) and not (new_sum and (subtracts or absorbs))
            else:
                ok = (d.op, d.args) in source
            if ok:
                good.append(d)
            else:
                dropped += 1
        kept.append(good)
    return kept, dropped


def _constants(space: Space) -> set[int]:
    """The classes that are made of literals and sizes alone."""
    out = {*space.literals, *space.sizes}
    moved = True
    while moved:
        more = {c.id for c in space.classes if any(out.issuperset(d.args) for d in c.derivations)}
        moved = not more <= out
        out |= more
    return out


def _sums(
    graph: Graph, space: Space, by_node: dict[int, int]
) -> dict[tuple[int, tuple[Axis, ...]], set[int]]:
    """The classes that are sums of the source, or multiples of one: what they may sum.

    By class and axes: the summed classes of the source, and their multiples. A factor is a value
    without the axes that are summed, which may be inside the sum or outside.
    """
    products: dict[int, list[tuple[int, int]]] = {}
    for c in space.classes:
        for d in c.derivations:
            if d.op == "mul":
                for of, by in (d.args, d.args[::-1]):
                    products.setdefault(of, []).append((c.id, by))

    def multiples(root: int, over: tuple[Axis, ...]) -> set[int]:
        def factor(i: int) -> bool:
            return not {*over} & {*space.classes[i].axes}

        pairs = [d.args for d in space.classes[root].derivations if d.op == "mul"]
        todo = [root]
        todo += [of for a, b in pairs for of, by in ((a, b), (b, a)) if factor(by)]
        found = set[int]()
        while todo:
            i = todo.pop()
            if i not in found:
                found.add(i)
                todo += [c for c, by in products.get(i, ()) if factor(by)]
        return found

    out: dict[tuple[int, tuple[Axis, ...]], set[int]] = {}
    for c in space.classes:
        for i in c.nodes:
            node = graph.nodes[i]
            if isinstance(node, Reduce) and node.operand in by_node:
                terms = multiples(by_node[node.operand], node.over)
                for m in multiples(c.id, node.over):
                    out.setdefault((m, node.over), set()).update(terms)
    return out


def _scales(space: Space, cls: ValueClass, total: Derivation, constants: set[int]) -> bool:
    """Whether a sum is one of plain values times a constant, and the class has it the other way too."""
    for d in space.classes[total.args[0]].derivations:
        if d.op != "mul" or constants.isdisjoint(d.args):
            continue
        (plain,) = {*d.args} - constants or {-1}
        if plain < 0 or any(e.op == "mul" for e in space.classes[plain].derivations):
            continue
        sums = {
            c.id
            for c in space.classes
            if any(
                (e.op, e.args, e.over) == (total.op, (plain,), total.over) for e in c.derivations
            )
        }
        if any(e.op == "mul" and {*e.args} & sums for e in cls.derivations):
            return True
    return False


def _applications(op: str, args: tuple[int, ...]) -> set[tuple[str, tuple[int, ...]]]:
    """The nonlinear applications that a source node stands for, composite rows seen through."""
    out = {(op, args)}
    if op == "div" and len(args) == 2:
        out.add(("recip", args[1:]))
    if op == "rsqrt":
        out.add(("sqrt", args))
    return out
