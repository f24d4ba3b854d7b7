"""Converts a run of exported operators into one graph over named axes.

Operators are rows of one table, ``ROWS``, keyed by the name of the ATen overload packet; the modules
``rows_*`` fill it, one per family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from superopt.errors import StaysWhole, SuperoptError
from superopt.frontend import (
    rows_contract,
    rows_count,
    rows_index,
    rows_layout,
    rows_losses,
    rows_reduce,
    rows_scalar,
    rows_windows,
)
from superopt.frontend.cleanup import op_name
from superopt.frontend.concat import in_parts
from superopt.frontend.context import Context
from superopt.frontend.logs import quotients
from superopt.frontend.maxima import one_maximum
from superopt.frontend.numbers import free, hint_of, stride_of
from superopt.frontend.rows import ROWS
from superopt.frontend.tensors import NotSupported, Tensor, Tensors, compute_name, floating
from superopt.mugraph.axes import Stride, Sym
from superopt.mugraph.dtypes import from_torch
from superopt.mugraph.graph import (
    Builder,
    Dims,
    Gather,
    Graph,
    Input,
    Map,
    Output,
    Reduce,
    SizeOf,
    remap,
)
from superopt.mugraph.merge import merge_axes
from superopt.mugraph.rewrite import absorb_renames
from superopt.mugraph.share import share

TABLES = (
    rows_scalar,
    rows_reduce,
    rows_contract,
    rows_layout,
    rows_index,
    rows_count,
    rows_losses,
    rows_windows,
)
"""The modules that fill ROWS; importing them is what registers their rows."""


@dataclass(frozen=True)
class Piece:
    """A converted run: its graph, the FX values it reads (in input order) and gives (in output order)."""

    graph: Graph
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def refusal(node: fx.Node, devices: Collection[torch.device]) -> str | None:
    """Why an operator cannot be converted by looking at it alone, or None when it may.

    devices: those of the program's inputs; a graph runs on one device.
    """
    if node.op != "call_function":
        return f"{node.op} nodes have no meaning in a graph"
    name = op_name(node)
    if name not in ROWS:
        return REASONS.get(name, f"{name} is outside the supported set")
    values = _values(node)
    if not values:
        return f"empty: {name} gives no tensors"
    for value in values:
        if not isinstance(value, torch.Tensor):
            return f"{name} gives a {type(value).__name__}"
        if value.dtype not in _KNOWN:
            return f"{name} gives elements of {value.dtype}"
        if value.layout != torch.strided:
            return f"{name} gives a tensor of layout {value.layout}"
        if empty(value):
            return f"empty: {name} gives a tensor without elements"
        if len(devices) > 1 or value.device not in (devices or (torch.device("cpu"),)):
            return f"{name} gives a tensor on {value.device}, and the inputs are elsewhere"
    return None


REASONS: dict[str, str] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose2d", "_convolution"),
        "convolution is outside the supported set for now",
    ),
    **dict.fromkeys(
        ("topk", "sort", "argsort", "kthvalue", "msort"), "ordering elements is opaque"
    ),
    **dict.fromkeys(("argmax", "argmin"), "the position of an extreme has no scalar meaning"),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp", "cummax"), "a scan is no reduction"),
    **dict.fromkeys(
        ("scatter", "scatter_add", "index_put", "index_add", "scatter_reduce"),
        "a write at run-time indices is opaque",
    ),
    **dict.fromkeys(
        ("rand", "randn", "randint", "rand_like", "randn_like", "bernoulli", "normal"),
        "random numbers are drawn",
    ),
    **dict.fromkeys(("nonzero", "masked_select", "unique"), "the result's size depends on data"),
    **dict.fromkeys(("item", "_local_scalar_dense"), "a number is read out of a tensor"),
    "binary_cross_entropy": "it refuses probabilities that are not between 0 and 1",
    "hypot": "its guard against overflow has no scalar meaning",
    "cond": "control flow depends on the data of a tensor",
}
"""Reasons worth more words than that the operator has no row."""


def empty(value: torch.Tensor) -> bool:
    """Whether a tensor certainly has no elements."""
    return any(isinstance(n, int) and n == 0 for n in value.shape)


def computes(graph: Graph) -> bool:
    """Whether a graph does more than move, copy and convert elements."""
    return any(
        isinstance(n, Reduce | Gather) or (isinstance(n, Map) and n.op != "cast")
        for n in graph.nodes
    )


_KNOWN = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}


def _read_results(node: fx.Node) -> frozenset[int]:
    """Which results of an operator that gives several are read."""
    picks = (u for u in node.users if op_name(u) == "getitem" and u.users)
    return frozenset(u.args[1] for u in picks if isinstance(u.args[1], int))


def _values(node: fx.Node) -> list[Any]:
    value = node.meta.get("val")
    return list(value) if isinstance(value, list | tuple) else [value]


class Converter:
    """Converts FX nodes one by one; ``add`` raises NotSupported and leaves no trace but dead nodes.

    given: the inputs of the program, whose strides are known; other values that a run reads come
    row-major. literals: tensor literals of the user's code, by the input that stands for them.
    """

    def __init__(
        self,
        name: str,
        eager: bool,
        symbols: Mapping[str, Sym],
        given: Collection[fx.Node] = (),
        literals: Mapping[fx.Node, torch.Tensor] | None = None,
    ) -> None:
        self.b = Builder(name)
        self.cx = Context(self.b, Tensors(self.b), eager, symbols=dict(symbols))
        self.env: dict[fx.Node, Any] = {}
        self.inputs: list[fx.Node] = []
        self.given, self.literals = given, literals or {}

    def add(self, node: fx.Node) -> None:
        """Converts one operator, reading values outside the run as new inputs."""
        name = op_name(node)
        if name == "getitem":
            source, at = node.args
            self.env[node] = self.read(source)[at]
            return
        value = node.meta["val"]
        first = value[0] if isinstance(value, list | tuple) else value
        self.cx.name = name
        self.cx.read = _read_results(node)
        self.cx.result_shape = (
            [list(v.shape) for v in value] if isinstance(value, list | tuple) else list(value.shape)
        )
        args = fx.map_arg(tuple(node.args), self.read)
        kwargs = {
            k: v for k, v in fx.map_arg(dict(node.kwargs), self.read).items() if k not in _IGNORED
        }
        try:
            result = ROWS[name](self.cx, first.dtype, *args, **kwargs)
        except (NotSupported, StaysWhole):
            raise
        except (SuperoptError, TypeError, ValueError, IndexError, KeyError, AttributeError) as e:
            raise NotSupported(f"this use of {name} ({e})") from e
        self._check(name, result, value)
        self.env[node] = result

    def _check(self, name: str, result: Any, value: Any) -> None:
        """The tensor must have the shape and dtype that PyTorch says; else a row has a bug."""
        pairs = zip(result, value, strict=True) if isinstance(result, list) else [(result, value)]
        for t, v in pairs:
            if t is None:  # which nothing reads
                continue
            want = [n if isinstance(n, int) else str(n) for n in v.shape]
            want = [str(self.cx.symbols[n].name) if n in self.cx.symbols else n for n in want]
            if self.cx.shape_of(t) != want:
                raise NotSupported(f"this use of {name} (shape {self.cx.shape_of(t)}, not {want})")
            if t.dtype != v.dtype:
                raise NotSupported(f"this use of {name} (dtype {t.dtype}, not {v.dtype})")

    def read(self, node: fx.Node) -> Any:
        if node not in self.env:
            self.env[node] = self._input(node)
        return self.env[node]

    def _input(self, node: fx.Node) -> Any:
        value = node.meta["val"]
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) and not free(node):
            raise NotSupported("it takes a number that was read out of a tensor")
        if isinstance(value, torch.SymInt | int | float | bool | str | None):
            return value
        if not isinstance(value, torch.Tensor):
            raise NotSupported(
                f"an argument that is a {type(value).__name__} known only at run time"
            )
        if empty(value):
            raise NotSupported("empty: an argument has no elements")
        if value.dtype not in _KNOWN or value.layout != torch.strided:
            raise NotSupported(f"an argument of {value.dtype}, {value.layout}")
        literal = self.literals.get(node)
        if literal is not None and literal.dim() == 0:
            return self.cx.value(literal.item(), literal.dtype)
        dims = tuple(self.cx.t.axis(self.cx.axis_size(n)) for n in value.shape)
        strides: list[Stride | None] | None = None
        if node in self.given:
            strides = [stride_of(s, self.cx.symbols) for s in value.stride()]
            if None in strides:
                raise NotSupported(f"an argument of strides {tuple(value.stride())}")
        name = from_torch(value.dtype).name
        i = self.b.input(f"x{len(self.inputs)}", dims, name, strides)
        self.inputs.append(node)
        if floating(value.dtype):
            i = self.b.map("cast", i, dtype=compute_name(value.dtype))
        return Tensor(i, dims, value.dtype, exact=True)

    def finish(self, outputs: Sequence[fx.Node]) -> Piece:
        """The graph of everything added so far; inputs that no output needs are left out."""
        results = []
        for k, node in enumerate(outputs):
            t: Tensor = self.env[node]
            out = from_torch(t.dtype).name
            value = t.node if self.b.dtype(t.node) == out else self.b.map("cast", t.node, dtype=out)
            results.append(Output(f"y{k}", value, t.dims, _order(node.meta["val"])))
        carriers = self._carriers([o.node for o in results], [o.dims for o in results])
        graph = one_maximum(in_parts(self.b.build(results)))
        graph = merge_axes(share(absorb_renames(graph)))
        graph = share(quotients(graph))
        graph, kept = _needed(graph, carriers, self._ranks())
        return Piece(graph, tuple(self.inputs[k] for k in kept), tuple(outputs))

    def _ranks(self) -> list[int]:
        """The place of each input: the caller's own in call order, then those of other pieces.

        Programs that use two like arguments the other way round are so told apart by their graphs.
        """
        order = {node: k for k, node in enumerate(self.given)}
        return [order.get(node, len(order) + k) for k, node in enumerate(self.inputs)]

    def _carriers(self, roots: Sequence[int], dims: Sequence[Dims]) -> set[str]:
        """Names of inputs that are read only to learn a size at run time; they are added here."""
        draft = Graph("draft", tuple(self.b.nodes), ())
        used = draft.reachable(roots)
        axes = {a for d in dims for dim in d for a in dim}
        read: set[str] = set()
        for i in used:
            node = self.b.nodes[i]
            axes.update(node.axes)
            axes.update(node.over if isinstance(node, Reduce) else ())
            if isinstance(node, SizeOf):
                axes.add(node.axis)
            if isinstance(node, Input):
                read.update(a.size.name for d in node.dims for a in d if isinstance(a.size, Sym))
        names: set[str] = set()
        for sym in sorted({a.size for a in axes if isinstance(a.size, Sym)}):
            if sym.name in read:
                continue
            for given in self.given:
                value = given.meta.get("val")
                shape = value.shape if isinstance(value, torch.Tensor) else ()
                if any(self.cx.symbols.get(str(n)) == sym for n in shape if not _is_int(n)):
                    self.read(given)
                    names.add(f"x{self.inputs.index(given)}")
                    break
            else:
                raise NotSupported(f"the size {sym.name} of no input")
        return names


def _order(value: torch.Tensor) -> tuple[int, ...]:
    """The dims as PyTorch's result has them in memory, from the outermost in; empty for row-major.

    An expanded result, which overlaps itself in PyTorch, is made row-major.
    """
    strides = [hint_of(s) for s in value.stride()]
    long = [d for d, n in enumerate(value.shape) if hint_of(n) > 1]  # of the others it says nothing
    order = sorted(long, key=lambda d: -strides[d])
    if order == long or any(strides[d] == 0 for d in long):
        return ()
    places = dict(zip(long, order, strict=True))
    return tuple(places.get(d, d) for d in range(value.dim()))


def _is_int(n: Any) -> bool:
    return isinstance(n, int)


def _needed(
    graph: Graph, carriers: Collection[str], ranks: Sequence[int]
) -> tuple[Graph, list[int]]:
    """The graph without inputs that nothing reads, and the numbers of the inputs that stay.

    The inputs come first, in the order of their ranks.
    """
    live = set(graph.reachable([o.node for o in graph.outputs]))
    keep = [
        i
        for i, n in enumerate(graph.nodes)
        if i in live or (isinstance(n, Input) and n.name in carriers)
    ]
    read = [i for i in keep if isinstance(graph.nodes[i], Input)]
    read.sort(key=lambda i: ranks[_number(graph.nodes[i])])
    keep = [*read, *(i for i in keep if i not in set(read))]
    at = {old: new for new, old in enumerate(keep)}
    outputs = tuple(replace(o, node=at[o.node]) for o in graph.outputs)
    nodes = [remap(graph.nodes[i], at) for i in keep]
    numbers: list[int] = []
    for i, n in enumerate(nodes):
        if isinstance(n, Input):
            numbers.append(_number(n))
            nodes[i] = replace(n, name=f"x{len(numbers) - 1}")
    return Graph(graph.name, tuple(nodes), outputs), numbers


def _number(node: Any) -> int:
    return int(node.name.removeprefix("x"))


_IGNORED = frozenset(
    {
        "dtype",
        "layout",
        "device",
        "pin_memory",
        "memory_format",
        "non_blocking",
        "copy",
        "requires_grad",
        "implicit",
    }
)
