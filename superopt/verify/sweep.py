"""A program and one rewritten from it compared value by value, with fresh inputs for what is equal.

As SAT sweeping does for circuits (Kuehlmann and Krohm, DAC'97): both programs are run once on
floats, values that agree there are candidates, and in topological order each candidate is shown
equal over the field, in a piece that reaches down to the nearest values that are known to be equal
already. Values that apply one operator to equal arguments are equal without a check. Programs that
are equal for any values at the cuts are equal for the true ones, and each piece is small, however
deep the program; the floats only suggest what is worth checking.

Pieces of a *strict* sweep hold the operators whose laws the field has: sums, products, and functions
of one value. Everything else (selections, comparisons, integers, layout) is not sampled: where both programs
have the same, it is a fresh input of both, and where only one has it, a fresh input of that one.
So what is shown does not rest on ties, winners or index ranges met at random. A value that may be
infinite (a mask) is not replaced, since a fresh input is drawn finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from superopt.errors import VerificationFailed
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
    Builder,
    Const,
    Graph,
    Input,
    Map,
    Reduce,
    SizeOf,
    dense_strides,
    remap,
)
from superopt.mugraph.rewrite import in_order
from superopt.mugraph.scalars import SCALARS, adds
from superopt.verify.domains import domain
from superopt.verify.equivalence import Equivalence
from superopt.verify.float_run import Near, Value, values_of
from superopt.verify.infinite import infinities
from superopt.verify.trials import interface

ATTEMPTS = 3
"""Times that one pair is checked, each reaching further down than the one before it."""

LARGE = 200
"""Nodes of a pair of pieces that are not made larger still."""

Check = Callable[[Graph, Graph], Equivalence]


def sweep(
    a: Graph, b: Graph, check: Check, *, strict: bool, max_cells: int = 1 << 24
) -> list[Equivalence] | None:
    """The checks that show b equal to a, or None where some output could not be shown equal.

    Both programs must name their inputs and axes alike. check: decides one small pair of programs;
    strict: whether pieces hold nothing but sums, products and functions of one value.
    """
    if a.inputs != b.inputs or interface(a, b):
        return None
    # Before the floats: dims that differ have no sizes in common at which both could run.
    if any(replace(p, node=q.node) != q for p, q in zip(a.outputs, b.outputs, strict=True)):
        return None
    try:
        run = _Sweep(a, b, check, strict, values_of(a, b, max_cells))
    except VerificationFailed:
        return None
    run.match()
    for p, q in zip(a.outputs, b.outputs, strict=True):
        if not run.same(p.node, q.node):
            return None
    return list(run.parts.values())


@dataclass
class _Sweep:
    """The classes of equal values found so far: a node of either program -> the number of its class."""

    a: Graph
    b: Graph
    check: Check
    strict: bool
    values: tuple[list[Value], list[Value]]
    mine: dict[int, int] = field(default_factory=dict)
    other: dict[int, int] = field(default_factory=dict)
    made: dict[object, list[int]] = field(default_factory=dict)
    infinite: set[int] = field(default_factory=set)
    cuts: set[int] = field(default_factory=set)
    parts: dict[int, Equivalence] = field(default_factory=dict)

    def same(self, i: int, j: int) -> bool:
        """Whether node i of a and node j of b are known to be equal."""
        return i in self.mine and self.mine[i] == self.other.get(j)

    def match(self) -> None:
        """Finds what is equal, from the inputs to the outputs."""
        near = Near(self.values[1])
        worth = _worth_a_cut(self.a)
        for i in self.a.reachable([o.node for o in self.a.outputs]):
            x = self.a.nodes[i]
            applied = self._applied(self.a, i, self.mine)
            alike = [] if applied is None else self.made.get(applied, [])
            for j in dict.fromkeys((*alike, *near.to(self.values[0][i]))):
                y = self.b.nodes[j]
                placed = i in self.mine and j in self.other
                if placed or (x.axes, x.dtype) != (y.axes, y.dtype):
                    continue
                if not self._joinable(i, j) or (j not in alike and not self._shown(i, j)):
                    continue
                number = self._join(i, j)
                if self.signs[0][i]:
                    self.infinite.add(number)
                elif i in worth:
                    self.cuts.add(number)

    def __post_init__(self) -> None:
        self.users = self.b.users()
        self.signs = infinities(self.a), infinities(self.b)
        for j, node in enumerate(self.b.nodes):
            if not node.args:
                self._learn(j)

    def _learn(self, j: int) -> None:
        """Enters node j of b, whose arguments all have a class now."""
        self.made.setdefault(self._applied(self.b, j, self.other), []).append(j)

    def _join(self, i: int, j: int) -> int:
        """Makes two nodes one class, and enters what that makes ready; its number."""
        number = self.other.get(j, self.mine.get(i, i))
        self.mine[i] = number
        if j not in self.other:
            self.other[j] = number
            for user in dict.fromkeys(self.users[j]):
                if all(k in self.other for k in self.b.nodes[user].args):
                    self._learn(user)
        return number

    def _joinable(self, i: int, j: int) -> bool:
        """Whether what two nodes give, if it is equal where both are defined, may become one class.

        A third value must be defined only where the one is that it is compared with, so that all of a
        class are equal where they are defined (each is, along the values between any two). Pieces of a
        strict sweep are continuous in what they read, and so equal at poles too where they have a value.
        """
        if self.strict or not (i in self.mine or j in self.other):
            return True
        first = domain(self.a, i, lambda k: self.mine.get(k, ("a", k)))
        second = domain(self.b, j, lambda k: self.other.get(k, ("b", k)))
        return first <= second if i in self.mine else second <= first

    def _shown(self, i: int, j: int) -> bool:
        if self.strict and not (is_algebraic(self.a, i) and is_algebraic(self.b, j)):
            return False
        opened: frozenset[int] = frozenset()
        for _ in range(ATTEMPTS):
            mine = self._piece(self.a, i, self.mine, opened)
            other = self._piece(self.b, j, self.other, opened)
            if any(self.signs[0][k] for k in mine.own) or any(self.signs[1][k] for k in other.own):
                break  # a fresh input is finite
            found = self.check(*_with_fresh_inputs(mine, other))
            if found:
                self.parts[id(found)] = found
                return True
            met = {*mine.shared.values(), *other.shared.values()}
            met &= self.cuts if self.strict else met
            if not met or len(mine.inside) + len(other.inside) > LARGE:
                break
            opened |= met  # what is equal may need the definition of a value at the edge
        return False

    def _piece(
        self, graph: Graph, root: int, known: Mapping[int, int], opened: frozenset[int]
    ) -> _Piece:
        inside, shared, own = set[int](), dict[int, int](), set[int]()
        todo = [root]
        while todo:
            i = todo.pop()
            if i in inside or i in shared or i in own:
                continue
            number = known.get(i)
            leaf = not is_algebraic(graph, i) and not isinstance(graph.nodes[i], Input)
            if i == root or number in self.infinite:
                edge = False
            elif number is None:
                edge = leaf and self.strict
            elif number in opened:
                edge = self.strict and leaf
            else:
                edge = leaf or number in self.cuts
            if not edge:
                inside.add(i)
                todo.extend(graph.nodes[i].args)
            elif number is None:
                own.add(i)
            else:
                shared[i] = number
        return _Piece(graph, root, sorted(inside), shared, sorted(own))

    def _applied(self, graph: Graph, i: int, known: Mapping[int, int]) -> object:
        """What a node is over classes, or None while an argument has none."""
        node = graph.nodes[i]
        if any(k not in known for k in node.args):
            return None
        node = remap(node, {k: known[k] for k in node.args})
        node = in_order(node)
        # 0.0 == -0.0, but their reciprocals differ.
        return node, repr(getattr(node, "value", ""))


def is_algebraic(graph: Graph, i: int) -> bool:
    """Whether a node is a literal, a sum, a product or a function of floats, which pieces may hold."""
    node = graph.nodes[i]
    if not is_float(node.dtype) or any(not is_float(graph.nodes[k].dtype) for k in node.args):
        return False
    if isinstance(node, Reduce):
        return SCALARS[node.op].abstract == "add"
    if isinstance(node, Map):
        return SCALARS[node.op].abstract != "atom"
    return isinstance(node, Const | SizeOf)


def _worth_a_cut(graph: Graph) -> set[int]:
    """The algebraic values to stop at: those that rewriting leaves whole, and that depend on an input.

    Reductions, results of functions, and sums that are read more than once (the residual stream);
    other sums and products are taken apart by the search.
    """
    out: set[int] = set()
    depends: list[bool] = []
    users = graph.users()
    for i, node in enumerate(graph.nodes):
        depends.append(isinstance(node, Input) or any(depends[k] for k in node.args))
        if not depends[i] or not is_algebraic(graph, i):
            continue
        if isinstance(node, Map):
            kind = SCALARS[node.op].abstract
            if kind == "fn" or (adds(node.op) and len(users[i]) > 1):
                out.add(i)
        elif isinstance(node, Reduce):
            out.add(i)
    return out


@dataclass(frozen=True)
class _Piece:
    """One node down to the cuts.

    inside: the nodes of the piece; shared: those at its edge that have a class, with their class;
    own: those at its edge that only this program has.
    """

    graph: Graph
    root: int
    inside: list[int]
    shared: dict[int, int]
    own: list[int]


def _with_fresh_inputs(a: _Piece, b: _Piece) -> tuple[Graph, Graph]:
    """Both pieces as programs of the same inputs: those of the user, and fresh ones at the edges."""
    labels: dict[tuple[str, int], Input] = {}
    for side, piece in (("a", a), ("b", b)):
        edge = [*((i, ("", k)) for i, k in sorted(piece.shared.items()))]
        edge += [(i, (side, i)) for i in piece.own]
        for i, key in edge:
            node = piece.graph.nodes[i]
            dims = tuple((x,) for x in node.axes)
            # No input of a user has such a name: equal names would be given equal values.
            name = f"<cut {len(labels)}>"
            labels.setdefault(key, Input(node.axes, node.dtype, name, dims, dense_strides(dims)))
    given: dict[str, Input] = {}
    for piece in (a, b):
        for i in piece.inside:
            if isinstance(node := piece.graph.nodes[i], Input):
                given.setdefault(node.name, node)
    made = []
    for side, piece in (("a", a), ("b", b)):
        builder = Builder("piece")
        for node in (*given.values(), *labels.values()):
            builder.add(node)
        at = {i: builder.add(labels["", k]) for i, k in piece.shared.items()}
        at.update({i: builder.add(labels[side, i]) for i in piece.own})
        for i in piece.inside:
            at[i] = builder.add(remap(piece.graph.nodes[i], at))
        axes = tuple((x,) for x in builder.axes(at[piece.root]))
        made.append(builder.build([("value", at[piece.root], axes)]))
    return made[0], made[1]
