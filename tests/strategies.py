"""Hypothesis strategies for random well-typed graphs over named axes, with tensors to run them on.

``graphs()`` draws a graph; ``sizes_for`` and ``tensors_for`` give symbol values and inputs that it
takes. Every drawn graph is well-formed, has no dead node, and reads no index outside its axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st

from superopt.mugraph.axes import Axis, Size, Sym, extent
from superopt.mugraph.dtypes import DTYPES, is_float
from superopt.mugraph.graph import Builder, Graph, Index, Input, Output, dense_strides

UNARY = (
    "neg",
    "square",
    "exp",
    "sigmoid",
    "silu",
    "tanh",
    "relu",
    "abs",
    "gelu",
    "sin",
    "cos",
    "erf",
    "expm1",
)
RANGED = ("recip", "sqrt", "rsqrt", "log", "log1p")
"""Functions that are undefined somewhere: drawn on an argument that was made positive."""
BINARY = ("add", "mul", "sub", "div", "max", "min")
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
LOGIC = ("and", "or")
CONSTS = (0.0, 1.0, -1.0, 0.5, 2.0, 0.1, -0.0, 1e-6)
MOST_AXES = 4


@dataclass
class _Drawing:
    """A graph in the making: the builder, its axes, and the ids drawn so far."""

    draw: st.DrawFn
    axes: list[Axis]
    dtype: str
    b: Builder = field(default_factory=lambda: Builder("drawn"))
    ids: list[int] = field(default_factory=list)

    def pick(self, *kinds: str) -> int | None:
        """An id of a value whose dtype is of one of these kinds, None when there is none."""
        fit = [i for i in self.ids if DTYPES[self.b.dtype(i)].kind in kinds]
        # The latest first, twice over: a fair choice gives shallow graphs of unread values.
        fit = [*fit[:-5:-1], *fit[::-1]]
        return self.draw(st.sampled_from(fit)) if fit else None

    def fits(self, *args: int) -> bool:
        return len({a for i in args for a in self.b.axes(i)}) <= MOST_AXES

    def fresh(self, size: Size) -> Axis:
        """A new axis, or now and then one of the pool with this size."""
        same = [a for a in self.axes if a.size == size]
        if same and self.draw(st.integers(0, 3)) == 0:
            return self.draw(st.sampled_from(same))
        axis = Axis(f"v{len(self.axes)}", size)
        self.axes.append(axis)
        return axis


@st.composite
def graphs(
    draw: st.DrawFn,
    *,
    max_steps: int = 10,
    symbolic: bool = True,
    layout: bool = True,
    dtypes: tuple[str, ...] = ("f32",),
    max_outputs: int = 3,
) -> Graph:
    """A random well-typed graph.

    max_steps: the most operators tried (at least half as many are); symbolic: some graphs have
    a run-time size s in 1..5; layout: with views, gathers and iotas; dtypes: of
    float inputs, one for each graph; sizes are 1..5.
    """
    names = list("bhkmnq")[: draw(st.integers(2, 5))]
    sizes: list[Size] = [draw(st.integers(1, 5)) for _ in names]
    if symbolic and draw(st.integers(0, 3)) == 0:
        sizes[0] = Sym("s", 1, 5)
    d = _Drawing(
        draw, [Axis(n, s) for n, s in zip(names, sizes, strict=True)], draw(st.sampled_from(dtypes))
    )
    for k in range(draw(st.integers(1, 3))):
        _input(d, f"x{k}", d.dtype)
    if layout and draw(st.integers(0, 2)) == 0:
        _input(d, "ids", "i64")
    kinds = [
        "unary",
        "ranged",
        "binary",
        "binary",
        "compare",
        "where",
        "reduce",
        "reduce",
        "const",
        "size_of",
        "to_float",
        "logic",
    ]
    kinds += ["view", "view", "gather", "iota"] if layout else []
    for _ in range(draw(st.integers((max_steps + 1) // 2, max_steps))):
        made = _STEPS[draw(st.sampled_from(kinds))](d)
        if made is not None and made not in d.ids:
            d.ids.append(made)
    return d.b.build(_outputs(d, max_outputs))


def _input(d: _Drawing, name: str, dtype: str) -> None:
    chosen = d.draw(st.lists(st.sampled_from(d.axes), unique=True, max_size=3))
    dims: list[tuple[Axis, ...]] = [(a,) for a in chosen]
    if len(dims) > 1 and d.draw(st.integers(0, 3)) == 0:
        dims[:2] = [dims[0] + dims[1]]
    strides = list(dense_strides(tuple(dims)))
    if strides and d.draw(st.integers(0, 3)) == 0:  # every second element: not contiguous
        strides = [s.times(2) for s in strides]
    d.ids.append(d.b.input(name, tuple(dims), dtype, strides))


def _unary(d: _Drawing) -> int | None:
    x = d.pick("float")
    return None if x is None else d.b.map(d.draw(st.sampled_from(UNARY)), x)


def _ranged(d: _Drawing) -> int | None:
    x = d.pick("float")
    if x is None:
        return None
    positive = d.b.map("add", d.b.map("square", x), d.b.const(0.5, d.b.dtype(x)))
    return d.b.map(d.draw(st.sampled_from(RANGED)), positive)


def _binary(d: _Drawing) -> int | None:
    x, y = d.pick("float"), d.pick("float")
    if x is None or y is None or not d.fits(x, y):
        return None
    op = d.draw(st.sampled_from(BINARY))
    if op == "div":
        y = d.b.map("add", d.b.map("square", y), d.b.const(0.5, d.b.dtype(y)))
    return d.b.map(op, x, y)


def _compare(d: _Drawing) -> int | None:
    kind = d.draw(st.sampled_from(("float", "int")))
    x, y = d.pick(kind), d.pick(kind)
    if x is None or y is None or not d.fits(x, y):
        return None
    return d.b.map(d.draw(st.sampled_from(COMPARE)), x, y)


def _logic(d: _Drawing) -> int | None:
    x, y = d.pick("bool"), d.pick("bool")
    if x is None or y is None or not d.fits(x, y):
        return None
    if d.draw(st.booleans()):
        return d.b.map("not", x)
    return d.b.map(d.draw(st.sampled_from(LOGIC)), x, y)


def _where(d: _Drawing) -> int | None:
    c, x, y = d.pick("bool"), d.pick("float"), d.pick("float")
    if c is None or x is None or y is None or not d.fits(c, x, y):
        return None
    return d.b.map("where", c, x, y)


def _reduce(d: _Drawing) -> int | None:
    x = d.pick("float", "bool")
    if x is None or not d.b.axes(x):
        return None
    over = d.draw(st.lists(st.sampled_from(d.b.axes(x)), unique=True, min_size=1, max_size=2))
    ops = ("add", "max", "min", "add", "mul") if is_float(d.b.dtype(x)) else LOGIC
    return d.b.reduce(d.draw(st.sampled_from(ops)), x, over)


def _const(d: _Drawing) -> int | None:
    return d.b.const(d.draw(st.sampled_from(CONSTS)), d.dtype)


def _size_of(d: _Drawing) -> int | None:
    return d.b.size_of(d.draw(st.sampled_from(d.axes)), d.dtype)


def _to_float(d: _Drawing) -> int | None:
    x = d.pick("bool", "int")
    return None if x is None else d.b.map("cast", x, dtype=d.dtype)


def _iota(d: _Drawing) -> int | None:
    return d.b.iota(d.draw(st.sampled_from(d.axes)))


def _gather(d: _Drawing) -> int | None:
    x, at = d.pick("float"), d.pick("int")
    if x is None or at is None or not d.b.axes(x):
        return None
    along = d.draw(st.sampled_from(d.b.axes(x)))
    if len({*d.b.axes(x), *d.b.axes(at)}) > MOST_AXES:
        return None
    return d.b.gather(x, along, d.b.map("mod", at, d.b.size_of(along, "i64")))


def _view(d: _Drawing) -> int | None:
    x = d.pick("float", "int", "bool")
    if x is None or not d.b.axes(x) or len(d.b.axes(x)) >= MOST_AXES:
        return None
    a = d.draw(st.sampled_from(d.b.axes(x)))
    if isinstance(a.size, Sym):
        t = d.fresh(a.size)
        if d.draw(st.booleans()):
            return _made(d, x, (a, Index(((t, 1),))))
        return _made(d, x, (a, Index(((t, 1),), -1, lo=0)))
    n = a.size
    kind = d.draw(
        st.sampled_from(
            (
                "slice",
                "stride",
                "reverse",
                "split",
                "merge",
                "clamp",
                "diagonal",
                "select",
                "spread",
                "wrap",
            )
        )
    )
    if kind == "slice":
        off = d.draw(st.integers(0, n - 1))
        m = d.fresh(d.draw(st.integers(1, n - off)))
        return _made(d, x, (a, Index(((m, 1),), off)))
    if kind == "stride":
        off = d.draw(st.integers(0, n - 1))
        return _made(d, x, (a, Index(((d.fresh((n - 1 - off) // 2 + 1), 2),), off)))
    if kind == "reverse":
        return _made(d, x, (a, Index(((d.fresh(n), -1),), n - 1)))
    if kind == "split":
        q = d.draw(st.sampled_from([q for q in range(1, n + 1) if n % q == 0]))
        i, j = d.fresh(n // q), d.fresh(q)
        return None if i == j else _made(d, x, (a, Index(((i, q), (j, 1)))))
    others = [o for o in d.b.axes(x) if o != a and isinstance(o.size, int)]
    if kind == "merge" and others:
        o = d.draw(st.sampled_from(others))
        m = d.fresh(n * int(str(o.size)))
        return _made(
            d,
            x,
            (a, Index(((m, 1),), div=int(str(o.size)))),
            (o, Index(((m, 1),), mod=int(str(o.size)))),
        )
    if kind == "diagonal" and any(extent(o.size) <= n for o in others):
        o = d.draw(st.sampled_from([o for o in others if extent(o.size) <= n]))
        return _made(d, x, (a, Index(((o, 1),))))
    if kind == "select":
        return _made(d, x, (a, Index((), d.draw(st.integers(0, n - 1)))))
    if kind == "spread":
        m = d.fresh(d.draw(st.integers(1, 5)))
        return _made(d, x, (a, Index(((m, 0),), d.draw(st.integers(0, n - 1)))))
    m = d.fresh(d.draw(st.integers(1, 5)))
    if kind == "wrap":
        return _made(d, x, (a, Index(((m, 1),), d.draw(st.integers(-3, 3)), mod=n)))
    coef = d.draw(st.sampled_from((-2, 1, 3)))
    return _made(d, x, (a, Index(((m, coef),), d.draw(st.integers(-3, 3)), lo=0, hi=n - 1)))


def _made(d: _Drawing, x: int, *index: tuple[Axis, Index]) -> int:
    return d.b.view(x, index)


_STEPS = {
    "unary": _unary,
    "ranged": _ranged,
    "binary": _binary,
    "compare": _compare,
    "where": _where,
    "reduce": _reduce,
    "const": _const,
    "size_of": _size_of,
    "view": _view,
    "gather": _gather,
    "iota": _iota,
    "to_float": _to_float,
    "logic": _logic,
}


def _outputs(d: _Drawing, most: int) -> list[Output]:
    # The latest values are the deepest; a random choice alone gives mostly shallow graphs.
    picks = [d.ids[-1], *d.draw(st.lists(st.sampled_from(d.ids), max_size=most - 1))]
    out = []
    for k, i in enumerate(dict.fromkeys(picks)):
        axes = list(d.draw(st.permutations(d.b.axes(i))))
        extra = [a for a in d.axes if a not in axes]
        if extra and d.draw(st.integers(0, 9)) == 0:
            axes.append(d.draw(st.sampled_from(extra)))  # broadcast
        dims: list[tuple[Axis, ...]] = [(a,) for a in axes]
        if len(dims) > 1 and d.draw(st.integers(0, 3)) == 0:
            dims[:2] = [dims[0] + dims[1]]
        order = tuple(d.draw(st.permutations(range(len(dims)))))
        straight = order == tuple(range(len(dims))) or d.draw(st.booleans())
        out.append(Output(f"y{k}", i, tuple(dims), () if straight else order))
    return out


def sizes_for(graph: Graph, seed: int = 0) -> dict[str, int]:
    """A value for each symbol of a graph, within its range."""
    syms = sorted({a.size for a in graph.axes if isinstance(a.size, Sym)})
    return {s.name: s.lo + (seed * 7 + k) % (s.hi - s.lo + 1) for k, s in enumerate(syms)}


def tensors_for(
    graph: Graph, seed: int = 0, sizes: dict[str, int] | None = None
) -> list[torch.Tensor]:
    """Random inputs in call order, with the dtypes, shapes and strides that the graph declares."""
    gen = torch.Generator().manual_seed(seed)
    sizes = sizes_for(graph, seed) if sizes is None else sizes
    return [_tensor(n, gen, sizes) for n in graph.inputs]


def _tensor(node: Input, gen: torch.Generator, sizes: dict[str, int]) -> torch.Tensor:
    shape = [math.prod(extent(a.size, sizes) for a in dim) for dim in node.dims]
    strides = [s.value(sizes) for s in node.strides]
    span = 1 + sum(max(n - 1, 0) * s for n, s in zip(shape, strides, strict=True))
    dtype = DTYPES[node.dtype].torch
    if is_float(node.dtype):
        flat = torch.randn(span, generator=gen, dtype=torch.float64).to(dtype)
    else:
        high = 2 if node.dtype == "bool" else 8
        flat = torch.randint(0, high, (span,), generator=gen).to(dtype)
    return flat.as_strided(shape, strides)
