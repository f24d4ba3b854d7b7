"""Checks programs in pieces, cut where partial functions would leave few trials to compare.

A square root and a logarithm have a value in the field with probability one half, so a cell of the
result that depends on many of them is undefined in nearly every trial (or defined where a selection
passes them over, which tests the wrong thing). Where both programs compute the same ones (the
normalization of every key in an attention, the softplus of every channel, say), their arguments,
which are defined, or else their values, are shown equal on their own, in order, each with fresh
inputs in place of those before it; then the rest, with fresh inputs in place of all. Programs that
are equal for any values there are equal for the true ones, so nothing wrong is accepted; two
programs that need a cut value's own definition are tried whole where there are few partial functions,
and otherwise not shown equal, though they may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from superopt.mugraph.canonical import graph_hash
from superopt.mugraph.graph import Builder, Graph, Input, Node, Output, dense_strides, remap
from superopt.verify.bound import MOST_PATTERNS
from superopt.verify.equal import check_equal
from superopt.verify.equivalence import Equivalence, not_rewritten, same_program
from superopt.verify.partial import chosen, partial
from superopt.verify.sweep import sweep

MOST_PARTIAL = 3
"""Partial functions in one program up to which it is checked whole, unless a reduction gathers."""

MOST_WHOLE = 6
"""Partial functions up to which what is not shown equal in pieces is tried whole after all."""

WANTED = 72
"""The bound asked for of each piece, as -log2: those of 256 pieces add up to no more than 2^-64."""

Cut = tuple[int, int]
"""A node of one program and the node of the other that computes the same."""


class Checker:
    """Shows programs equal, in pieces where need be, and no pair of pieces twice.

    Candidates for one program mostly differ in a few places, so that they share their pieces.
    nan_counts, most_patterns: as for ``check_equal``; work: elements of all values computed so far.
    """

    def __init__(
        self, seed: int, nan_counts: bool = False, most_patterns: float = MOST_PATTERNS
    ) -> None:
        self.seed, self.nan_counts, self.work = seed, nan_counts, 0
        self.most_patterns = most_patterns
        self._known: dict[str, Equivalence] = {}
        self._pairs: dict[str, Equivalence] = {}

    def __call__(self, a: Graph, b: Graph) -> Equivalence:
        """Whether any two programs a and b compute the same outputs; see ``check_equal``."""
        found = self.rewritten(a, b)
        if found:
            return found
        parts = sweep(a, b, self._once, strict=False)
        swept = _joined(parts) if parts else None
        if swept is not None and not swept.cases:
            return swept
        # A cut may stand for a truth value by position, which then takes too many values to meet.
        whole = self._once(a, b)
        return whole if swept is None or (whole and not whole.cases) else swept

    def rewritten(self, a: Graph, b: Graph) -> Equivalence:
        """Whether b computes what a does, as far as that follows from the laws of the field.

        Selections, comparisons, integers and layout must be the same in both (``sweep``), so that
        nothing rests on how often their cases were met; that is how the search rewrites programs.
        """
        parts = sweep(a, b, self._once, strict=True)
        if parts is None:
            return not_rewritten(self.seed)
        return _joined(parts) if parts else same_program(self.seed)

    def _once(self, a: Graph, b: Graph) -> Equivalence:
        """As ``_whole``; a pair that is an earlier one but for names has its result."""
        pair = Builder("pair")
        outputs: list[Output] = []
        orders: list[list[int]] = []
        for graph in (a, b):
            at: dict[int, int] = {}
            for i, node in enumerate(graph.nodes):
                at[i] = pair.add(remap(node, at))
            outputs += [replace(o, node=at[o.node]) for o in graph.outputs]
            orders.append([at[i] for i, n in enumerate(graph.nodes) if isinstance(n, Input)])
        inputs = [i for i, n in enumerate(pair.nodes) if isinstance(n, Input)]
        order = [[inputs.index(i) for i in o] for o in orders]  # the hash knows them as a set
        key = graph_hash(Graph("pair", tuple(pair.nodes), tuple(outputs))) + str(order)
        if key not in self._pairs:
            self._pairs[key] = self._whole(a, b)
        return self._pairs[key]

    def _whole(self, a: Graph, b: Graph) -> Equivalence:
        """The check without a sweep."""
        cuts: list[Cut] = []
        parts: list[Equivalence] = []
        if _needs_cuts(a) or _needs_cuts(b):
            left = partial(b)
            for i in partial(a):
                for j in left:
                    part = self._below(a, b, (i, j), cuts)
                    if part:
                        cuts.append((i, j))
                        parts.append(part)
                        left.remove(j)
                        break
        if not cuts:
            return self._check(a, b)
        above = self._check(*_above(a, b, cuts))
        if not above:
            # What is equal by the definition of a root alone: 1 / (x rsqrt x) is rsqrt x.
            few = all(len(partial(g)) <= MOST_WHOLE for g in (a, b))
            whole = self._check(a, b) if few else above
            if whole:
                return whole
            return replace(above, reason=f"above shared roots and logarithms: {above.reason}")
        return _joined([*parts, above])

    def _below(self, a: Graph, b: Graph, cut: Cut, before: Sequence[Cut]) -> Equivalence | None:
        """How two nodes were shown equal, given the cuts before them or else without; or None."""
        i, j = cut
        if a.nodes[i].axes != b.nodes[j].axes or a.nodes[i].dtype != b.nodes[j].dtype:
            return None
        below = _down_to(a, [i]), _down_to(b, [j])
        few = all(len(partial(g.pruned())) <= MOST_PARTIAL for g in below)
        mine, other = a.nodes[i].args, b.nodes[j].args
        same_row = getattr(a.nodes[i], "op", "") == getattr(b.nodes[j], "op", "")
        if same_row and [a.nodes[k].axes for k in mine] == [b.nodes[k].axes for k in other]:
            below = _down_to(a, mine), _down_to(b, other)
        for cuts in (before, ()) if before and few else (before,):
            found = self._check(*_above(*below, cuts))
            if found:
                return found
        return None

    def _check(self, a: Graph, b: Graph) -> Equivalence:
        pair = f"{a}\n{b}"
        if pair not in self._known:
            self._known[pair] = check_equal(
                a,
                b,
                seed=self.seed,
                want_log2=WANTED,
                nan_counts=self.nan_counts,
                most_patterns=self.most_patterns,
            )
            self.work += self._known[pair].work
        return self._known[pair]


def _needs_cuts(graph: Graph) -> bool:
    """Whether a cell of a result may need many partial functions, or one that is not tested whole."""
    kept = {a for o in graph.outputs for a in graph.nodes[o.node].axes}
    found = partial(graph)
    return len(found) > MOST_PARTIAL or any(
        set(graph.nodes[i].axes) - kept or chosen(graph, graph.nodes[i].args) for i in found
    )


def _down_to(graph: Graph, nodes: Sequence[int]) -> Graph:
    """The same nodes with these as the outputs; numbers are kept."""
    outputs = (
        Output(f"cut{k}", i, tuple((x,) for x in graph.nodes[i].axes)) for k, i in enumerate(nodes)
    )
    return Graph(graph.name, graph.nodes, tuple(outputs))


def _above(a: Graph, b: Graph, cuts: Sequence[Cut]) -> tuple[Graph, Graph]:
    """Both programs with one fresh input in place of each cut."""
    return (
        with_inputs(a, {i: k for k, (i, _) in enumerate(cuts)}),
        with_inputs(b, {j: k for k, (_, j) in enumerate(cuts)}),
    )


def with_inputs(graph: Graph, at: Mapping[int, int], name: str = "cut") -> Graph:
    """The graph with its inputs in the order they had, and before them one for each node of at.

    at: the number of the fresh input for each node; name: of these inputs, beside the number.
    """
    fresh: list[Node] = []
    for i, k in at.items():
        node = graph.nodes[i]
        dims = tuple((x,) for x in node.axes)
        # No input of a user has such a name: equal names would be given equal values.
        fresh.append(Input(node.axes, node.dtype, f"<{name} {k}>", dims, dense_strides(dims)))
    where = [at.get(i, i + len(fresh)) for i in range(len(graph.nodes))]
    nodes = (*fresh, *(remap(node, where) for node in graph.nodes))
    outputs = tuple(replace(o, node=where[o.node]) for o in graph.outputs)
    return Graph(graph.name, nodes, outputs).pruned()


def _joined(parts: Sequence[Equivalence]) -> Equivalence:
    """One result for all pieces; their bounds add up."""
    bounds = [p.bound_log2 for p in parts]
    total = None
    if all(x is not None for x in bounds):
        total = -math.log2(sum(2.0**-x for x in bounds if x is not None))
    names = tuple(sorted({n for p in parts for n in p.assumptions}))
    return replace(
        parts[-1],
        bound_log2=total,
        kind="sampled" if total is None else "bound",
        trials=sum(p.trials for p in parts),
        tied_trials=sum(p.tied_trials for p in parts),
        clean=sum(p.clean for p in parts),
        total=sum(p.total for p in parts),
        work=sum(p.work for p in parts),
        assumptions=names,
        cases=any(p.cases for p in parts),
        reason="; ".join(dict.fromkeys(p.reason for p in parts if p.reason)),
    )
