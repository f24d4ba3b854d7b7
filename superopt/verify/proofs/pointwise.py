"""Pointwise programs shown equal by Z3, for all values of what they read.

A ``Map`` takes its operands at one position, so that a cell of it is a scalar expression over one cell
each of what is no ``Map`` (inputs, reductions, views, positions, ...): the *atoms*. An atom is
any value of its type, and one unknown in both programs exactly where both have the same node there
(``_classes``). Two reductions, or views, of operands that are shown equal are one atom too.

Then the outputs are equal where both are defined if Z3 shows it of two terms: integers wrap and
divide as PyTorch's do, floats are real numbers, and of exp, log, erf, ... the laws alone are known
(``reals``). Integers are tried as bit vectors besides (``bits``). What may be infinite has no form, nor
has a rounding that is kept. Nothing is sampled, so there is no error bound: it is a proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import (
    Const,
    Dims,
    Graph,
    Input,
    Iota,
    Map,
    Node,
    Reduce,
    SizeOf,
    remap,
)
from superopt.mugraph.rewrite import dims_with_axes, in_order, with_axes
from superopt.verify.equivalence import Equivalence
from superopt.verify.infinite import infinities
from superopt.verify.probe import unfolded
from superopt.verify.proofs.bits import Bits
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.reals import Numbers
from superopt.verify.proofs.solver import Solver
from superopt.verify.proofs.values import Unwritten, Value, When, all_of
from superopt.verify.trials import interface

SECONDS = 2.0
"""Seconds that one question to Z3 may take."""

MOST_SECONDS = 6.0
"""Seconds that all questions on one pair may take."""

MOST_NODES = 300
"""Nodes of one program's term up to which it is written."""

MOST_TRIED = 8
"""Pairs of reductions or views of which it is asked whether their operands are equal."""

PARTIAL = frozenset({"recip", "sqrt", "log", "pow", "floordiv_real", "mod_real", "floordiv", "mod"})
"""Rows that have no value for some arguments."""


def proved(a: Graph, b: Graph, seed: int, own_sizes: bool = False) -> Equivalence | None:
    """That each output of b is that of a, for all inputs for which both are defined; None if not shown.

    Both programs must name their inputs alike, with their axes; an axis that has another name in the
    output of one alone is taken for the one in its place. own_sizes: whether sizes that are numbers are
    those numbers, so that the claim is of these sizes; else they are any.
    """
    if a.inputs != b.inputs or interface(a, b):
        return None
    named = _named_alike(a, b)
    if named is None or any(_unfolds_otherwise(node) for g in (a, b) for node in g.nodes):
        return None
    pair = _Pair(unfolded(a), unfolded(named), own_sizes)
    if not pair.shown():
        return None
    reason = f"{pair.solver.asked} questions to Z3 {pair.solver.version}"
    assumptions = tuple(sorted(pair.assumptions))
    return Equivalence(
        "equal",
        None,
        "proved",
        seeds=(seed,),
        assumptions=assumptions,
        reason=reason,
        evaluator="z3",
    )


def _named_alike(a: Graph, b: Graph) -> Graph | None:
    """The second program with the axes of the first in its outputs; None where that is not so simple.

    Axes that stand at one place in an output are one position. In a node that has both names of two
    axes, they cannot be one.
    """
    names: dict[Axis, Axis] = {}
    for p, q in zip(a.outputs, b.outputs, strict=True):
        if [len(d) for d in p.dims] != [len(d) for d in q.dims]:
            return None
        for x, y in zip(_flat(p.dims), _flat(q.dims), strict=True):
            if x.size != y.size or names.setdefault(y, x) != x:
                return None
    full = {y: names.get(y, y) for y in b.axes}
    for node in b.nodes:
        own = {*node.axes, *(node.over if isinstance(node, Reduce) else ())}
        moved = isinstance(node, Input) and any(full[y] != y for y in own)
        if moved or len({full[y] for y in own}) < len(own):
            return None
    if any(len({full[y] for y in _flat(q.dims)}) < len(_flat(q.dims)) for q in b.outputs):
        return None
    outputs = tuple(replace(q, dims=dims_with_axes(q.dims, full)) for q in b.outputs)
    if any(replace(p, node=q.node) != q for p, q in zip(a.outputs, outputs, strict=True)):
        return None
    return Graph(b.name, tuple(with_axes(node, full) for node in b.nodes), outputs)


def _unfolds_otherwise(node: Node) -> bool:
    """Whether a row's body is not what the row is: without a sign, max(x, -x) is not x."""
    return isinstance(node, Map) and node.op == "abs" and node.dtype == "u8"


def _flat(dims: Dims) -> list[Axis]:
    return [x for dim in dims for x in dim]


@dataclass
class _Program:
    """A graph, the class of each node, and whether a node may lack a value for some inputs."""

    graph: Graph
    classes: list[int] = field(default_factory=list)
    partial: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.infinite = infinities(self.graph)
        for node in self.graph.nodes:
            below = any(self.partial[k] for k in node.args)
            self.partial.append(below or self._partly(node))

    def _partly(self, node: Node) -> bool:
        if not isinstance(node, Map):
            return False
        if node.op == "cast":
            return not is_float(node.dtype) and is_float(self.graph.nodes[node.operands[0]].dtype)
        by = self.graph.nodes[node.operands[-1]]
        number = isinstance(by, SizeOf) or (isinstance(by, Const) and bool(by.value))
        return node.op in PARTIAL and not (number and node.op != "log")


class _Pair:
    """Two programs, and what was found of them."""

    def __init__(self, a: Graph, b: Graph, own_sizes: bool) -> None:
        self.a, self.b = _Program(a), _Program(b)
        self.own_sizes = own_sizes
        self.solver = Solver(SECONDS, MOST_SECONDS)
        self.assumptions: set[str] = set()
        self._ids: dict[tuple[Node, str], int] = {}
        self._tried = 0

    def shown(self) -> bool:
        """Whether all outputs are equal."""
        for i in range(len(self.a.graph.nodes)):
            self.a.classes.append(self._class(self.a, i))
        for j in range(len(self.b.graph.nodes)):
            self.b.classes.append(self._class(self.b, j))
        outputs = zip(self.a.graph.outputs, self.b.graph.outputs, strict=True)
        return all(self._equal(p.node, q.node, both_defined=False) for p, q in outputs)

    def _class(self, program: _Program, i: int) -> int:
        """The number of a node, equal for nodes that are equal; its arguments have theirs."""
        node = program.graph.nodes[i]
        key = _key(node, program.classes)
        if key not in self._ids:
            self._ids[key] = len(self._ids)
            if program is self.b and node.args and not isinstance(node, Map):
                for k in self._alike(node):
                    if self._operands_equal(k, i):
                        self._ids[key] = self.a.classes[k]
                        break
        return self._ids[key]

    def _alike(self, node: Node) -> Iterator[int]:
        """Nodes of the first program that do the same to other operands."""
        blank = _blank(node)
        for k, other in enumerate(self.a.graph.nodes):
            if type(other) is type(node) and _blank(other) == blank and self._tried < MOST_TRIED:
                yield k

    def _operands_equal(self, i: int, j: int) -> bool:
        self._tried += 1
        x, y = self.a.graph.nodes[i], self.b.graph.nodes[j]
        pairs = list(zip(x.args, y.args, strict=True))
        for p, q in pairs:
            mine, other = self.a.graph.nodes[p], self.b.graph.nodes[q]
            if (mine.axes, mine.dtype) != (other.axes, other.dtype):
                return False
        return all(self._equal(p, q, both_defined=True) for p, q in pairs)

    def _equal(self, i: int, j: int, both_defined: bool) -> bool:
        """Whether two nodes are equal where they are defined; both_defined: and are so alike."""
        if self.a.classes[i] == self.b.classes[j]:
            return True
        for kind, sums in ((Numbers, False), (Bits, False), (Numbers, True)):
            formula = Formula()
            writer = kind(formula)
            cells = _Cells(writer, self.own_sizes)
            try:
                x, y = cells.value(self.a, i), cells.value(self.b, j)
            except Unwritten:
                continue
            if sums and not (isinstance(writer, Numbers) and writer.functions.sums()):
                continue
            if x.sort != y.sort:
                return False
            mine, other = x.when.claimed, y.when.claimed
            goal = f"(=> (and {mine} {other}) (= {x.term} {y.term}))"
            if both_defined:
                finite = f"(= {all_of(x.when.finite)} {all_of(y.when.finite)})"
                goal = f"(and (= {mine} {other}) {finite} {goal})"
            if self.solver.holds(formula, goal):
                self.assumptions |= cells.assumptions
                always = (mine, other) == ("true", "true")
                if not always and not self.solver.holds(formula, f"(and {mine} {other})"):
                    self.assumptions.add("where-defined")
                return True
        return False


class _Cells:
    """Writes one cell of nodes of either program with one writer."""

    def __init__(self, writer: Numbers | Bits, own_sizes: bool) -> None:
        self.writer, self.own_sizes = writer, own_sizes
        self.assumptions: set[str] = set()
        self._known: dict[int, Value] = {}

    def value(self, program: _Program, root: int) -> Value:
        """The value of a node as it leaves the program; raises Unwritten where it has no form."""
        todo, written = [root], 0
        while todo:
            i = todo[-1]
            number = program.classes[i]
            if number in self._known:
                todo.pop()
                continue
            node = program.graph.nodes[i]
            waits = [k for k in node.args if program.classes[k] not in self._known]
            if isinstance(node, Map) and waits:
                todo += waits
                continue
            written += 1
            if program.infinite[i] or written > MOST_NODES:
                raise Unwritten("what may be infinite, or is too large")
            self._known[number] = self._cell(program, i)
            todo.pop()
        return self.writer.settled(self._known[program.classes[root]])

    def _cell(self, program: _Program, i: int) -> Value:
        node, writer = program.graph.nodes[i], self.writer
        if isinstance(node, Const):
            return writer.const(node)
        if isinstance(node, Map):
            args = [self._known[program.classes[k]] for k in node.operands]
            found = writer.map(node, args)
            if writer.casts:
                self.assumptions.add("casts")
            return found
        if is_float(node.dtype) and isinstance(node, Input):
            self.assumptions.add("finite-inputs")
        number = program.classes[i]
        atom = writer.atom(number, node.dtype, *_range(node, self.own_sizes))
        if program.partial[i]:
            flags = [frozenset({writer.flag((w, number))}) for w in ("defined", "finite")]
            atom = replace(atom, when=When(*flags))
        return atom


def _range(node: Node, own_sizes: bool) -> tuple[int | None, int | None]:
    """What is known of the least and greatest value of an atom."""
    if not isinstance(node, Iota | SizeOf):
        return None, None
    size = node.axes[0].size if isinstance(node, Iota) else node.axis.size
    least, most = (size.lo, size.hi) if isinstance(size, Sym) else (size, size)
    if not isinstance(size, Sym) and not own_sizes:
        return (0 if isinstance(node, Iota) else min(size, 1)), None
    return (0, most - 1) if isinstance(node, Iota) else (least, most)


def _key(node: Node, classes: Sequence[int]) -> tuple[Node, str]:
    node = in_order(remap(node, list(classes))) if node.args else node
    # A literal is told apart by its text: 1 == True.
    return node, repr(node.value) if isinstance(node, Const) else ""


def _blank(node: Node) -> Node:
    at: Mapping[int, int] = dict.fromkeys(node.args, 0)
    return remap(node, dict(at))
