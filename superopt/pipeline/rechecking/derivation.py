"""Shows the graphs of an artefact equal again, with fresh seeds, or finds where they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from superopt.errors import SuperoptError
from superopt.mugraph.algebras import floats
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.resize import symbols, with_symbols
from superopt.pipeline.making import stable
from superopt.pipeline.rechecking.outcome import BAD, DIFFERENT, EQUAL, UNDECIDED, Layer, Seeds
from superopt.pipeline.rooms import OWN_SIZES_WORK, offers
from superopt.search.carry import obligation
from superopt.search.points import too_large
from superopt.verify.alone import ALL, Inside, Sizes, gated
from superopt.verify.cuts import Checker
from superopt.verify.equivalence import Equivalence
from superopt.verify.gate import Kernel
from superopt.verify.infinite import any_value
from superopt.verify.whole import check_at_own_sizes

if TYPE_CHECKING:
    from superopt.pipeline.rechecking.parts import Parts

TRIES = 3
"""Seeds after which two graphs that were not shown equal, by too few trials, stay so."""


@dataclass(frozen=True)
class Graphs:
    """What came of the graphs.

    checks: for each program all that shows it equal, in the certificate's order; reference: the
    program with its exponentials shifted as shown, by which the binary is judged.
    """

    layers: list[Layer]
    checks: list[list[Equivalence]]
    reference: Graph


class Show:
    """Checks pairs of graphs with fresh seeds, with others where the first decide nothing.

    What is shown equal with any seed is equal but for that seed's error; a difference counts at once.
    """

    def __init__(self, seeds: Seeds) -> None:
        self._seeds = seeds
        self._checkers: list[Checker] = []

    def __call__(self, a: Graph, b: Graph) -> Equivalence:
        """As ``Checker``."""
        return self._tried(lambda c: c(a, b))

    def rewritten(self, a: Graph, b: Graph) -> Equivalence:
        """As ``Checker.rewritten``."""
        return self._tried(lambda c: c.rewritten(a, b))

    def _tried(self, check: Callable[[Checker], Equivalence]) -> Equivalence:
        for n in range(TRIES):
            if n == len(self._checkers):
                self._checkers.append(Checker(self._seeds.draw("graph")))
            found = check(self._checkers[n])
            if found or "differs" in found.reason:
                break
        return found


def check_graphs(parts: Parts, seeds: Seeds) -> Graphs:
    """The program against what was captured of it at size 1, its shifts, and each placed graph."""
    show = Show(seeds)
    program = parts.program
    before, layers = _size_one(parts, show)
    reference, shifts = stable(program, show)
    if shifts:
        text = f"exponentials shifted in {len(shifts)} checked step{'s' * (len(shifts) > 1)}"
        layers.append(Layer("shifts", EQUAL, f"{text}, {_strength(shifts)}"))
    out: list[list[Equivalence]] = []
    for n, mugraph in enumerate(parts.mugraphs):
        name = "graph" if len(parts.mugraphs) == 1 else f"graph {n}"
        checks, found = _placed(parts, mugraph, reference, show, seeds, name)
        layers += found
        out.append([*before, *shifts, *checks])
    return Graphs(layers, out, reference)


def _size_one(parts: Parts, show: Show) -> tuple[list[Equivalence], list[Layer]]:
    checks: list[Equivalence] = []
    for s in parts.size_one:
        try:
            pair = s.pair(parts.program)
        except (SuperoptError, KeyError, ValueError):
            pair = None
        if pair is None:
            what = f"what was captured where {', '.join(s.symbols)} = 1 is of another program"
            return checks, [Layer("size one", BAD, what)]
        checks.append(show(*pair))
        if not checks[-1]:
            what = f"not shown where {', '.join(s.symbols)} = 1: {checks[-1].reason}"
            return checks, [Layer("size one", UNDECIDED, what)]
    if not checks:
        return checks, []
    text = f"equal to what was captured at size 1 ({len(checks)} checks), {_strength(checks)}"
    return checks, [Layer("size one", EQUAL, text)]


def _placed(
    parts: Parts, mugraph: MuGraph, reference: Graph, show: Show, seeds: Seeds, name: str
) -> tuple[list[Equivalence], list[Layer]]:
    """One placed graph against the program, then each of its carried accumulators."""
    program = parts.program
    # It was narrowed to the sizes that it serves when it was compiled; what is shown is all sizes.
    wide = with_symbols(mugraph.graph, {s.name: s for s in symbols(program)})
    if _interface(wide) != _interface(program):
        what = "its inputs and outputs are not those of the program"
        return [], [Layer(name, BAD, what)]
    check = show.rewritten(reference, wide)
    if not check and reference is not program:
        check = show.rewritten(program, wide) or check
    if not check:
        return [check], [_refuted(program, reference, wide, seeds, name, check.reason)]
    text = f"equal to the program, {_strength([check])}"
    again = check_at_own_sizes(reference, wide, seed=seeds.draw("graph"), max_work=OWN_SIZES_WORK)
    if again is not None and not again:
        return [check], [_refuted(program, reference, wide, seeds, name, again.reason)]
    text += ", and once more at its own sizes" if again is not None else ""
    layers = [Layer(name, EQUAL, text)]
    carries = [c for k in mugraph.kernels for c in k.carries]
    given = any_value(wide) if carries else []
    moved = [show(*obligation(wide, c, given.__getitem__)) for c in carries]
    if moved:
        wrong = next((c.reason for c in moved if not c), "")
        text = f"{len(moved)} carried accumulator{'s' * (len(moved) > 1)}"
        text += f": {wrong}" if wrong else f" justified, {_strength(moved)}"
        layers.append(Layer(name.replace("graph", "carries"), UNDECIDED if wrong else EQUAL, text))
    return [check, *moved, *([] if again is None else [again])], layers


def _interface(graph: Graph) -> tuple[Any, ...]:
    """What a caller sees: names, dtypes, sizes and strides in order, and how results lie in memory."""
    inputs = [
        (n.name, n.dtype, [[a.size for a in dim] for dim in n.dims], n.strides)
        for n in graph.inputs
    ]
    outputs = [
        (graph.nodes[o.node].dtype, [[a.size for a in dim] for dim in o.dims], o.order)
        for o in graph.outputs
    ]
    return inputs, outputs


def _refuted(
    program: Graph, reference: Graph, graph: Graph, seeds: Seeds, name: str, reason: str
) -> Layer:
    """What is to be said of a graph that was not shown equal: where it differs, if it does.

    Both are run on floats: the graph in float64 must be as near to the program as a binary must be.
    """
    dtypes = [DTYPES[graph.nodes[o.node].dtype].torch for o in graph.outputs]

    def at(sizes: Sizes) -> Kernel:
        def run(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            wide = [x.double() if x.is_floating_point() else x for x in tensors]
            found = floats.run(graph, wide, sizes, algebra=Inside)
            return [y.to(d) for y, d in zip(found, dtypes, strict=True)]

        return run

    guard = tuple((s.name, s.lo, s.hi) for s in symbols(program))
    places = [p for p in offers(program, guard) if not too_large(program, p)] if guard else [{}]
    try:
        found = gated(program, reference, at, [(p, ALL) for p in places], seeds.draw("graph run"))
    except (SuperoptError, RuntimeError, IndexError) as error:
        return Layer(name, UNDECIDED, f"not shown equal ({reason}), and not run ({error})")
    if found.difference is not None:
        text = f"it is not the program: {found.difference}"
        return Layer(name, DIFFERENT, text, found.difference)
    return Layer(name, UNDECIDED, f"not shown equal ({reason}); no difference was found on floats")


def _strength(checks: Sequence[Equivalence]) -> str:
    """The error of several checks together, in words."""
    kinds = {c.kind for c in checks}
    if kinds <= {"identical"}:
        return "operator by operator"
    if "sampled" in kinds:
        return "sampled, no bound"
    total = sum(2.0**-c.bound_log2 for c in checks if c.bound_log2 is not None)
    return f"error at most 2^-{-math.log2(max(total, 1e-300)):.0f}"
