"""Single mutations of graphs: each is one mistake that a rewriting, or its author, could make.

A check that accepts one that computes something else is broken (DeMillo, Lipton and Sayward, Hints
on Test Data Selection, 1978). Here are the mistakes at the boundary of a program and in its axes;
``mutant_nodes`` holds those in one operator.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from superopt.errors import IllFormedGraph
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.graph import Builder, Graph, Input, Node, Output, Reduce, remap
from superopt.mugraph.mutant_nodes import Make, node_edits, rebuilt, rederived
from superopt.mugraph.rewrite import with_axes
from superopt.mugraph.wellformed import check_graph


@dataclass(frozen=True)
class Edit:
    """One mutation that has not been made yet; ``at`` names the node, axis or output."""

    kind: str
    at: str
    make: Callable[[], Graph]


def mutations(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """Each graph that one mutation makes of this one, and that is still well-formed."""
    for edit in edits(graph):
        made = mutant(edit)
        if made is not None:
            yield edit.kind, made


def sampled(graph: Graph, count: int, seed: int) -> list[tuple[str, Graph]]:
    """At most ``count`` mutants that differ in text, of all kinds in turn; the same for a seed.

    A kind with few mutants (the masks of a program) would hardly be met in a plain sample.
    """
    rng = random.Random(seed)
    kinds: dict[str, list[Edit]] = {}
    for edit in edits(graph):
        kinds.setdefault(edit.kind, []).append(edit)
    for of_kind in kinds.values():
        rng.shuffle(of_kind)
    turns = list(kinds)
    rng.shuffle(turns)  # a small sample is one of few kinds, which should not always be the first
    kinds = {k: kinds[k] for k in turns}
    out: list[tuple[str, Graph]] = []
    seen = {_text(graph.pruned())}
    while kinds and len(out) < count:
        for kind in list(kinds):
            if not kinds[kind]:
                del kinds[kind]
                continue
            made = mutant(kinds[kind].pop())
            if made is None or (text := _text(made)) in seen or len(out) == count:
                continue
            seen.add(text)
            out.append((kind, made))
    return out


def _text(graph: Graph) -> str:
    return repr((graph.nodes, graph.outputs))


def mutant(edit: Edit) -> Graph | None:
    """The graph that an edit makes; None where it is not well-formed."""
    try:
        made = edit.make()
        check_graph(made)
    except IllFormedGraph:
        return None
    return made.pruned()


def edits(graph: Graph) -> Iterator[Edit]:
    """Every mutation of a graph, in a fixed order."""
    for i in range(len(graph.nodes)):
        for kind, new in node_edits(graph, i):
            yield Edit(kind, f"%{i}", _in_place(graph, i, new))
    yield from _axis_edits(graph)
    yield from _dtype_edits(graph)
    for k, out in enumerate(graph.outputs):
        for kind, changed in _output_edits(graph, out):
            outs = (*graph.outputs[:k], changed, *graph.outputs[k + 1 :])
            yield Edit(kind, f"output {k}", partial(Graph, graph.name, graph.nodes, outs))
    yield from _boundary_edits(graph)


def _in_place(graph: Graph, i: int, new: Node | Make) -> Callable[[], Graph]:
    if isinstance(new, Node):
        nodes = (*graph.nodes[:i], new, *graph.nodes[i + 1 :])
        return lambda: Graph(graph.name, nodes, graph.outputs)
    return lambda: rebuilt(graph, {i: new})


# -- axes ----------------------------------------------------------------------------------------


def renamed_axes(graph: Graph, f: Callable[[Axis], Axis]) -> Graph:
    """The graph with each axis replaced; ``f`` must not merge axes."""
    names = {a: f(a) for a in _all_axes(graph)}
    nodes = tuple(with_axes(n, names) for n in graph.nodes)
    outs = tuple(
        replace(o, dims=tuple(tuple(names[a] for a in dim) for dim in o.dims))
        for o in graph.outputs
    )
    return Graph(graph.name, nodes, outs)


def _all_axes(graph: Graph) -> set[Axis]:
    """Every axis, those that only an index names among them."""
    found = set(graph.axes)
    for node in graph.nodes:
        for axis, index in getattr(node, "index", ()):
            found |= {axis, *(a for a, _ in index.terms)}
    return found


def _axis_edits(graph: Graph) -> Iterator[Edit]:
    strides = any(s.syms for n in graph.inputs for s in n.strides)
    for axis in graph.axes:
        for step in (1, -1):
            if isinstance(axis.size, Sym):
                if strides:
                    continue
                size: object = replace(axis.size, hi=axis.size.hi + step)
            else:
                size = axis.size + step
            other = Axis(axis.name, size)  # type: ignore[arg-type]
            yield Edit("size", axis.name, partial(_resized, graph, axis, other))
    reduced = sorted({a for n in graph.nodes if isinstance(n, Reduce) for a in n.over}, key=_name)
    for axis in reduced:
        for other in graph.axes:
            if other != axis and other.size == axis.size:
                yield Edit(
                    "reductions over another axis",
                    f"{axis.name} {other.name}",
                    partial(_reduced_over, graph, axis, other),
                )


def _resized(graph: Graph, axis: Axis, other: Axis) -> Graph:
    return renamed_axes(graph, lambda a: other if a == axis else a)


def _reduced_over(graph: Graph, axis: Axis, other: Axis) -> Graph:
    """Every reduction over one axis goes over another one of its size instead."""

    def made(b: Builder, node: Node) -> int:
        if not isinstance(node, Reduce):
            return rederived(b, node)
        both = axis in b.axes(node.operand) and other in b.axes(node.operand)
        if not both or axis not in node.over or other in node.over:
            return rederived(b, node)
        over = [other if a == axis else a for a in node.over]
        return b.rename(b.reduce(node.op, node.operand, over), {axis: other})

    moved = [i for i, n in enumerate(graph.nodes) if isinstance(n, Reduce) and axis in n.over]
    return rebuilt(graph, dict.fromkeys(moved, made))


def _name(axis: Axis) -> str:
    return axis.name


def _dtype_edits(graph: Graph) -> Iterator[Edit]:
    for dtype in sorted({n.dtype for n in graph.nodes if is_float(n.dtype)}):
        other = "f64" if dtype != "f64" else "f32"
        nodes = tuple(replace(n, dtype=other) if n.dtype == dtype else n for n in graph.nodes)
        yield Edit("dtype", dtype, partial(Graph, graph.name, nodes, graph.outputs))


# -- the boundary --------------------------------------------------------------------------------


def _output_edits(graph: Graph, out: Output) -> Iterator[tuple[str, Output]]:
    if len(out.dims) > 1:
        yield "output dims", replace(out, dims=out.dims[::-1])
        merged = (out.dims[0] + out.dims[1], *out.dims[2:])
        yield "output merged", replace(out, dims=merged, order=())
        turned = tuple(reversed(range(len(out.dims))))
        yield "output order", replace(out, order=() if out.order == turned else turned)
    yield "output dim of one", replace(out, dims=(*out.dims, ()), order=())
    mine = graph.nodes[out.node]
    for j, node in enumerate(graph.nodes):
        if j != out.node and node.axes == mine.axes and node.dtype == mine.dtype:
            yield "output node", replace(out, node=j)


def _boundary_edits(graph: Graph) -> Iterator[Edit]:
    outs = graph.outputs
    if len(outs) > 1:
        yield Edit("outputs reordered", "all", lambda: replace(graph, outputs=outs[::-1]))
        yield Edit("output dropped", "last", lambda: replace(graph, outputs=outs[:-1]))
    for k, l in _pairs(len(outs)):  # noqa: E741
        if _alike(graph, outs[k], outs[l]):
            changed = list(outs)
            changed[k], changed[l] = (
                replace(outs[l], name=outs[k].name),
                replace(outs[k], name=outs[l].name),
            )
            yield Edit(
                "outputs permuted", f"{k} {l}", partial(replace, graph, outputs=tuple(changed))
            )
    inputs = [i for i, n in enumerate(graph.nodes) if isinstance(n, Input)]
    for i, j in itertools.pairwise(inputs):
        if j == i + 1:
            yield Edit("inputs reordered", f"%{i} %{j}", partial(_inputs_reordered, graph, i))
    for p, q in _pairs(len(inputs)):
        i, j = inputs[p], inputs[q]
        x, y = graph.nodes[i], graph.nodes[j]
        if x.dtype == y.dtype and _shape(graph, i) == _shape(graph, j):
            yield Edit("inputs exchanged", f"%{i} %{j}", partial(_exchanged, graph, i, j))


def _pairs(n: int) -> Iterator[tuple[int, int]]:
    return ((k, m) for k in range(n) for m in range(k + 1, n))


def _alike(graph: Graph, a: Output, b: Output) -> bool:
    """Whether two outputs have one shape, so that a caller would not see them exchanged."""
    sizes = [[[x.size for x in dim] for dim in o.dims] for o in (a, b)]
    return sizes[0] == sizes[1] and graph.nodes[a.node].dtype == graph.nodes[b.node].dtype


def _shape(graph: Graph, i: int) -> list[list[object]]:
    node = graph.nodes[i]
    return [[a.size for a in dim] for dim in node.dims] if isinstance(node, Input) else []


def _inputs_reordered(graph: Graph, i: int) -> Graph:
    nodes = (*graph.nodes[:i], graph.nodes[i + 1], graph.nodes[i], *graph.nodes[i + 2 :])
    at = [*range(i), i + 1, i, *range(i + 2, len(nodes))]
    moved = tuple(remap(n, at) for n in nodes)
    return Graph(graph.name, moved, tuple(replace(o, node=at[o.node]) for o in graph.outputs))


def _exchanged(graph: Graph, i: int, j: int) -> Graph:
    """What reads one input reads the other, at the same coordinates of its shape."""
    x, y = graph.nodes[i], graph.nodes[j]
    if not (isinstance(x, Input) and isinstance(y, Input)):
        raise IllFormedGraph("not two inputs", graph.name, "exchange inputs")

    def reading(of: Input, like: Input) -> Make:
        flat = [a for dim in of.dims for a in dim], [a for dim in like.dims for a in dim]
        names = dict(zip(*flat, strict=True))

        def made(b: Builder, _: Node) -> int:
            return b.rename(b.add(of), names)

        return made

    made: dict[int, Make] = {i: reading(y, x), j: reading(x, y)}
    return rebuilt(graph, made, first=[n for n in graph.nodes if isinstance(n, Input)])


def twice(graph: Graph, count: int, seed: int) -> list[tuple[str, Graph]]:
    """At most ``count`` mutants of mutants, whose kinds are joined by a plus sign."""
    rng = random.Random(seed)
    first = sampled(graph, count, seed)
    out: list[tuple[str, Graph]] = []
    seen = {_text(graph.pruned()), *(_text(m) for _, m in first)}
    for turn in range(8 * len(first)):
        if len(out) == count:
            break
        kind, one = first[turn % len(first)]
        second = list(edits(one))
        for edit in rng.sample(second, min(4, len(second))):
            made = mutant(edit)
            if made is not None and (text := _text(made)) not in seen:
                seen.add(text)
                out.append((f"{kind} + {edit.kind}", made))
                break
    return out


def interface(a: Graph, b: Graph) -> str:
    """What of inputs and outputs a caller would see differ, or the empty string.

    Names, dtypes and shapes; strides and orders in memory are no part of a value.
    """

    def seen(graph: Graph) -> tuple[object, object]:
        inputs = [
            (n.name, n.dtype, [[a.size for a in dim] for dim in n.dims]) for n in graph.inputs
        ]
        outputs = [
            (graph.nodes[o.node].dtype, [[a.size for a in dim] for dim in o.dims])
            for o in graph.outputs
        ]
        return inputs, outputs

    mine, theirs = seen(a), seen(b)
    if mine[0] != theirs[0]:
        return "the inputs are others"
    return "" if mine[1] == theirs[1] else "the outputs are of other types or shapes"
