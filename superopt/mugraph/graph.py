"""The immutable graph: nodes over named axes in topological order, and the builder that makes it.

There are three kinds of operator (map-reduce, layout, opaque); a map-reduce is written as ``Map``
nodes (a scalar function applied pointwise, broadcasting by axis name) and ``Reduce`` nodes (a
reduction over named axes), a layout operator as a ``View`` (each axis of the argument is read at
an index computed from the result's axes) or a ``Gather`` (read at an index held in a tensor).
One class serves the kernel, block and thread levels: which level an axis lives on is said by the
placement (``placement.py``), not by another kind of graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from superopt.errors import IllFormedGraph
from superopt.mugraph.axes import Axis, Stride, sort_axes
from superopt.mugraph.dims import Dims as Dims
from superopt.mugraph.dims import axis_strides as axis_strides
from superopt.mugraph.dims import dense_strides as dense_strides
from superopt.mugraph.dims import dims_text as dims_text
from superopt.mugraph.dtypes import is_float, promote
from superopt.mugraph.scalars import REDUCTIONS, SCALARS


@dataclass(frozen=True, slots=True)
class Index:
    """Where an axis is read: ``clamp(((sum coef*axis + offset) // div) % mod, lo, hi)``.

    ``mod``, ``lo`` and ``hi`` are None when absent; ``div`` floors. The result must lie within the
    axis it indexes for every value of the axes in ``terms`` (the well-formedness rules check it).
    """

    terms: tuple[tuple[Axis, int], ...] = ()
    offset: int = 0
    div: int = 1
    mod: int | None = None
    lo: int | None = None
    hi: int | None = None

    def rename_of(self) -> Axis | None:
        """The axis this index simply renames (coefficient one, nothing else), else None."""
        plain = (self.offset, self.div, self.mod, self.lo, self.hi) == (0, 1, None, None, None)
        return (
            self.terms[0][0] if plain and len(self.terms) == 1 and self.terms[0][1] == 1 else None
        )


@dataclass(frozen=True, slots=True)
class Node:
    """Common to all nodes: the axes of the value (by name order) and its element type."""

    axes: tuple[Axis, ...]
    dtype: str

    @property
    def args(self) -> tuple[int, ...]:
        """The ids of the nodes this one reads."""
        return ()


@dataclass(frozen=True, slots=True)
class Input(Node):
    """A tensor given by the caller; ``dims`` is its torch shape, ``strides`` one per torch dim."""

    name: str
    dims: Dims
    strides: tuple[Stride, ...]


@dataclass(frozen=True, slots=True)
class Const(Node):
    """A scalar literal; a float stands for its exact dyadic value, and may be +-inf, never NaN."""

    value: float | int | bool


@dataclass(frozen=True, slots=True)
class SizeOf(Node):
    """The number of elements along ``axis``, as a float scalar (the n of a mean's 1/n)."""

    axis: Axis


@dataclass(frozen=True, slots=True)
class Iota(Node):
    """The index along its one axis: 0, 1, ..., as i64."""


@dataclass(frozen=True, slots=True)
class Map(Node):
    """A scalar row applied pointwise; the axes are the union of the arguments' axes."""

    op: str
    operands: tuple[int, ...]

    @property
    def args(self) -> tuple[int, ...]:
        return self.operands


@dataclass(frozen=True, slots=True)
class Reduce(Node):
    """A reduction row applied along ``over``; the value no longer has those axes."""

    op: str
    operand: int
    over: tuple[Axis, ...]

    @property
    def args(self) -> tuple[int, ...]:
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class View(Node):
    """A layout operator: ``value[axes] = operand[a := index_a(axes) for each axis a of operand]``."""

    operand: int
    index: tuple[tuple[Axis, Index], ...]

    @property
    def args(self) -> tuple[int, ...]:
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class Gather(Node):
    """A layout operator with a run-time index: axis ``along`` of ``operand`` is read at ``at``.

    An index outside the axis is a caller's error, as in PyTorch; it is clamped by generated code.
    """

    operand: int
    along: Axis
    at: int

    @property
    def args(self) -> tuple[int, ...]:
        return (self.operand, self.at)


@dataclass(frozen=True, slots=True)
class Output:
    """A named result: node and torch dims (each a merge of axes); dense in memory.

    order: the torch dims from the outermost in memory to the innermost; row-major when empty.
    """

    name: str
    node: int
    dims: Dims
    order: tuple[int, ...] = ()

    @property
    def strides(self) -> tuple[Stride, ...]:
        """One per torch dim, in elements."""
        return dense_strides(self.dims, self.order)


@dataclass(frozen=True)
class Graph:
    """A program: nodes in topological order (arguments before users) and its outputs."""

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The input nodes, in the order in which the caller passes them."""
        return tuple(n for n in self.nodes if isinstance(n, Input))

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis that occurs, by name."""
        seen: set[Axis] = set()
        for node in self.nodes:
            seen.update(node.axes)
            if isinstance(node, Reduce):
                seen.update(node.over)
            if isinstance(node, SizeOf):
                seen.add(node.axis)
            if isinstance(node, Input):
                seen.update(a for dim in node.dims for a in dim)
        for out in self.outputs:
            seen.update(a for dim in out.dims for a in dim)
        return sort_axes(seen)

    def users(self) -> list[list[int]]:
        """For each node, the ids of the nodes that read it (once per reading)."""
        out: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for a in node.args:
                out[a].append(i)
        return out

    def reachable(self, roots: Iterable[int]) -> list[int]:
        """The ids of ``roots`` and all they depend on, ascending (hence topological)."""
        seen, todo = set(), list(roots)
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                todo.extend(self.nodes[i].args)
        return sorted(seen)

    def pruned(self) -> Graph:
        """The graph without nodes that no output needs; inputs stay, since callers pass them."""
        keep = self.reachable([o.node for o in self.outputs])
        keep = sorted({*keep, *(i for i, n in enumerate(self.nodes) if isinstance(n, Input))})
        at = {old: new for new, old in enumerate(keep)}
        nodes = tuple(remap(self.nodes[i], at) for i in keep)
        return Graph(self.name, nodes, tuple(replace(o, node=at[o.node]) for o in self.outputs))

    def __str__(self) -> str:
        from superopt.mugraph.text import print_graph

        return print_graph(self)


def remap(node: Node, at: dict[int, int] | Sequence[int]) -> Node:
    """The node with its argument ids replaced: ``i -> at[i]``."""
    match node:
        case Map():
            return replace(node, operands=tuple(at[i] for i in node.operands))
        case Reduce() | View():
            return replace(node, operand=at[node.operand])
        case Gather():
            return replace(node, operand=at[node.operand], at=at[node.at])
    return node


@dataclass
class Builder:
    """Makes graphs node by node; equal nodes are made once (hash-consing). Methods return ids."""

    name: str = "graph"
    nodes: list[Node] = field(default_factory=list)
    _ids: dict[tuple[Node, str], int] = field(default_factory=dict)
    _fresh: int = 0

    def add(self, node: Node) -> int:
        """Adds a node, or finds the equal one."""
        # 0.0 == -0.0, but their reciprocals differ: literals are told apart by their text.
        key = (node, repr(node.value) if isinstance(node, Const) else "")
        if key not in self._ids:
            self._ids[key] = len(self.nodes)
            self.nodes.append(node)
        return self._ids[key]

    def fresh_axis(self, size: object, base: str = "a") -> Axis:
        """An axis of this size whose name no other call returned."""
        self._fresh += 1
        return Axis(f"{base}{self._fresh}", size)  # type: ignore[arg-type]

    def axes(self, i: int) -> tuple[Axis, ...]:
        """The axes of node ``i``."""
        return self.nodes[i].axes

    def dtype(self, i: int) -> str:
        """The dtype name of node ``i``."""
        return self.nodes[i].dtype

    def input(
        self, name: str, dims: Dims, dtype: str, strides: Sequence[Stride] | None = None
    ) -> int:
        """A caller's tensor; dense row-major strides unless given (elements, one per torch dim)."""
        flat = [a for dim in dims for a in dim]
        if len(set(flat)) != len(flat):
            raise IllFormedGraph(
                what=f"input {name!r} has one axis twice",
                where=f"dims {dims_text(dims)}",
                fix="give each dimension its own axis and rename with a view",
            )
        return self.add(
            Input(
                sort_axes(set(flat)),
                dtype,
                name,
                dims,
                tuple(strides) if strides is not None else dense_strides(dims),
            )
        )

    def const(self, value: float | int | bool, dtype: str = "f32") -> int:
        """A literal scalar."""
        if isinstance(value, float) and value != value:
            raise IllFormedGraph(
                what="a NaN literal",
                where=self.name,
                fix="a program with NaN constants is left to PyTorch",
            )
        exact: float | int | bool = value
        if is_float(dtype) or dtype == "bool":
            exact = bool(value) if dtype == "bool" else float(value)
        elif value == value // 1:  # an integer, perhaps given as 2.0; the rules reject 2.5
            exact = int(value)
        return self.add(Const((), dtype, exact))

    def size_of(self, axis: Axis, dtype: str = "f32") -> int:
        """The number of elements along an axis, as a scalar."""
        return self.add(SizeOf((), dtype, axis))

    def iota(self, axis: Axis) -> int:
        """The index along an axis (i64)."""
        return self.add(Iota((axis,), "i64"))

    def map(self, op: str, *args: int, dtype: str | None = None) -> int:
        """A scalar row applied pointwise; ``dtype`` is needed by rows whose result is "attr"."""
        row = SCALARS.get(op)
        if row is None or row.arity != len(args):
            raise IllFormedGraph(
                what=f"no scalar function {op!r} of {len(args)} arguments",
                where=self.name,
                fix="see mugraph/scalars.py for the table",
            )
        axes = sort_axes(frozenset().union(*(self.axes(a) for a in args)))
        if row.result == "bool":
            dtype = "bool"
        elif dtype is None:
            values = args[1:] if op == "where" else args
            dtype = promote(*(self.dtype(a) for a in values))
        if op == "cast" and dtype == self.dtype(args[0]):
            return args[0]
        if "commutative" in row.laws:
            args = tuple(sorted(args))
        return self.add(Map(axes, dtype, op, tuple(args)))

    def reduce(self, op: str, arg: int, over: Iterable[Axis]) -> int:
        """A reduction along ``over``, every axis of which the argument must have."""
        over = sort_axes(set(over))
        if not over:
            return arg
        missing = [a.name for a in over if a not in self.axes(arg)]
        if op not in REDUCTIONS or missing:
            raise IllFormedGraph(
                what=f"{op!r} cannot reduce axes {missing or [a.name for a in over]}",
                where=f"operand axes {[a.name for a in self.axes(arg)]}",
                fix="reduce axes that the operand has, by a row with an identity",
            )
        kept = tuple(a for a in self.axes(arg) if a not in over)
        return self.add(Reduce(kept, self.dtype(arg), op, arg, over))

    def view(self, arg: int, index: Sequence[tuple[Axis, Index]]) -> int:
        """A layout operator; axes of ``arg`` that ``index`` leaves out keep their place."""
        given = dict(index)
        full = tuple((a, given.get(a, Index(((a, 1),)))) for a in self.axes(arg))
        if all(ix.rename_of() == a for a, ix in full):
            return arg
        axes = sort_axes({a for _, ix in full for a, _ in ix.terms})
        return self.add(View(axes, self.dtype(arg), arg, full))

    def rename(self, arg: int, names: dict[Axis, Axis]) -> int:
        """The same value with axes renamed (sizes must agree)."""
        return self.view(
            arg, [(a, Index(((b, 1),))) for a, b in names.items() if a in self.axes(arg)]
        )

    def gather(self, arg: int, along: Axis, at: int) -> int:
        """Reads axis ``along`` of ``arg`` at the run-time index ``at`` (an integer node)."""
        axes = sort_axes((set(self.axes(arg)) - {along}) | set(self.axes(at)))
        return self.add(Gather(axes, self.dtype(arg), arg, along, at))

    def build(self, outputs: Sequence[Output | tuple[str, int, Dims]]) -> Graph:
        """The finished graph, without nodes that no output needs; well-formedness is checked."""
        from superopt.mugraph.wellformed import check_graph

        outs = tuple(o if isinstance(o, Output) else Output(*o) for o in outputs)
        graph = Graph(self.name, tuple(self.nodes), outs).pruned()
        check_graph(graph)
        return graph


def walk(graph: Graph, kind: type) -> Iterator[tuple[int, Node]]:
    """The nodes of one kind with their ids, in order."""
    return ((i, n) for i, n in enumerate(graph.nodes) if isinstance(n, kind))


def read_from(graph: Graph, i: int) -> str | None:
    """The dtype of the input that a value is read straight from, through casts and views; else None."""
    node = graph.nodes[i]
    while isinstance(node, View) or (isinstance(node, Map) and node.op == "cast"):
        node = graph.nodes[node.args[0]]
    return node.dtype if isinstance(node, Input) else None
