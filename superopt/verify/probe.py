"""Graphs made ready for probing: composite rows unfolded, and evaluated at chosen points."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import U64, Chain, trial_keys
from superopt.mugraph.algebras.field import FieldAlgebra
from superopt.mugraph.algebras.field_values import Draw, Integers, Real, Value
from superopt.mugraph.algebras.levels import ORDERED, analyse
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.evaluate import evaluate
from superopt.mugraph.graph import Builder, Graph, Input, Map, Reduce, remap
from superopt.mugraph.scalars import SCALARS, inline
from superopt.verify.sizes import Sizing, cells_of, reduced_axes


def unfolded(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """The same program with every composite row, but those to keep, replaced by its body."""
    b = Builder(graph.name)
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Map) and node.op not in keep:
            at[i] = _map(b, node, at, keep)
        else:
            at[i] = b.add(remap(node, at))
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    return Graph(graph.name, tuple(b.nodes), outputs).pruned()


def _map(b: Builder, node: Map, at: Mapping[int, int], keep: Collection[str]) -> int:
    def apply(name: str, args: list[int]) -> int:
        row = SCALARS[name]
        if row.body is not None and name not in keep:
            return int(inline(row.body, args, apply, const))
        # Only a cast or a rounding needs the node's dtype; a choice takes that of its values.
        return b.map(name, *args, dtype=node.dtype if name in ("cast", "round") else None)

    def const(value: float) -> int:
        return b.const(value, dtype)

    dtype = b.dtype(at[node.operands[0]])
    dtype = node.dtype if is_float(node.dtype) else dtype
    return apply(node.op, [at[j] for j in node.operands])


def selects(graph: Graph, roots: Sequence[int]) -> bool:
    """Whether a value that these nodes depend on is chosen by comparing floats."""
    for i in graph.reachable(roots):
        node = graph.nodes[i]
        ordered = isinstance(node, Map | Reduce) and SCALARS[node.op].field in ORDERED
        if ordered and any(is_float(graph.nodes[j].dtype) for j in node.args):
            return True
    return False


def pointwise(a: Graph, b: Graph, sizing: Sizing) -> set[Axis]:
    """Axes along which every value depends on its arguments at the same position alone.

    No reduction runs over them and no index map moves values along them.
    """
    bound = {sizing.tied[x] for g in (a, b) for x in reduced_axes(g)}
    return {x for x in sizing.tied if sizing.tied[x] not in bound | sizing.moved}


def one_cell(a: Graph, b: Graph, sizing: Sizing) -> dict[Axis, int]:
    """Sizes at which little more than one output cell is left.

    A pointwise axis only repeats the program, on other inputs: it gets size one, unless its
    positions are compared with others.
    """
    named = set(sizing.whole) | set(sizing.shrunk)
    repeats = {x for x in pointwise(a, b, sizing) if x.name not in named}
    return {x: 1 if x in repeats else n for x, n in sizing.sizes.items()}


MOST_WORK = 1 << 26
"""Elements of all values at all points of one probing, at most: about a second of this numpy."""


class Probe:
    """Evaluates some nodes of a graph at random points, or near one random point.

    Raises VerificationFailed where that would take more than MOST_WORK: what is looked for by
    probing (a bound) may be done without.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[int],
        level: int,
        chain: Chain,
        sizes: Mapping[Axis, int],
        ranges: Mapping[str, Integers],
        seed: int,
        literals: tuple[float, ...] = (),
    ) -> None:
        self.graph, self.nodes, self.level, self.chain = graph, list(nodes), level, chain
        self.sizes, self.ranges, self.seed, self.literals = sizes, ranges, seed, literals
        self.plan = analyse(graph, chain.full, dict.fromkeys(nodes, 1 << level))

    def inputs(self) -> list[tuple[str, int]]:
        """Float inputs with a residue at the level, each with its number of elements."""
        out = []
        for node, want in zip(self.graph.nodes, self.plan.want, strict=True):
            if isinstance(node, Input) and is_float(node.dtype) and want >> self.level & 1:
                out.append((node.name, int(np.prod([self.sizes[x] for x in node.axes]))))
        return out

    def points(self, trials: range) -> tuple[np.ndarray, np.ndarray]:
        """(residues, status) of all cells of the nodes, [trials, cells]."""
        return self._run(trial_keys(self.seed, trials), {})

    def around(
        self, trial: int, moves: Sequence[tuple[str, int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``points``, at one point: unmoved first, then once for each (input, element, step)."""
        key = trial_keys(self.seed, range(trial, trial + 1))
        by_input: dict[str, list[tuple[int, int, int]]] = {}
        for k, (name, cell, step) in enumerate(moves):
            by_input.setdefault(name, []).append((k + 1, cell, step))
        return self._run(np.repeat(key, len(moves) + 1), by_input)

    def _run(
        self, keys: np.ndarray, moves: Mapping[str, list[tuple[int, int, int]]]
    ) -> tuple[np.ndarray, np.ndarray]:
        wanted = self.graph.reachable(self.nodes)
        cells = sum(cells_of(self.graph.nodes[i], self.sizes) for i in wanted)
        if len(keys) * cells > MOST_WORK:
            raise VerificationFailed(
                what=f"{len(keys)} points of a program of {cells} elements are too many to probe",
                where=self.graph.name,
                fix="cut the check into pieces",
            )
        draw = Draw(keys, np.zeros(len(keys), dtype=bool), self.ranges, self.literals)
        algebra = FieldAlgebra(self.graph, self.chain, draw, self.sizes, self.plan)
        given: dict[int, Value] = {}
        for i, node in enumerate(self.graph.nodes):
            if isinstance(node, Input) and node.name in moves:
                p = self.chain.primes[self.level]
                given[i] = moved(algebra.input(node), moves[node.name], self.level, p)
        env = evaluate(self.graph, algebra, given, self.nodes)
        res: list[np.ndarray] = []
        status: list[np.ndarray] = []
        for i in self.nodes:
            value = env[i] if isinstance(env[i], Real) else algebra.real(env[i], 1 << self.level)
            shape = (len(keys), *(self.sizes[x] for x in self.graph.nodes[i].axes))
            for out, x in ((res, value.res[self.level]), (status, value.status)):
                out.append(np.broadcast_to(x, shape).reshape(len(keys), -1))
        return np.concatenate(res, 1), np.concatenate(status, 1)


def moved(value: Value, steps: Iterable[tuple[int, int, int]], level: int, p: int) -> Value:
    """An input with steps taken, (trial, element, step) each, in its residues at one level."""
    if not isinstance(value, Real) or level not in value.res:
        return value
    res = np.array(value.res[level], order="C")
    flat = res.reshape(len(res), -1)
    for trial, element, step in steps:
        flat[trial, element] = (flat[trial, element] + U64(step)) % U64(p)
    return replace(value, res={**value.res, level: res})
