"""What the suite that tests the verifier does with the stages: pieces, checks of pairs, rewrites."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from superopt.codegen.lower import why_not_lowerable
from superopt.cost.devices import cpu_device
from superopt.cost.model import cost_on
from superopt.errors import SuperoptError
from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from superopt.mugraph.graph import Graph
from superopt.mugraph.mutants import interface
from superopt.mugraph.placement import MuGraph
from superopt.runtime.isa import cpu_features
from superopt.search import driver
from superopt.search.carry import obligation
from superopt.search.enumerate import Space, explore
from superopt.search.extract import Choice, Extractor, needs
from superopt.search.gauge import stabilized
from superopt.search.regions import regions
from superopt.verify.cuts import Checker
from superopt.verify.equivalence import Equivalence
from superopt.verify.infinite import any_value
from superopt.verify.whole import check_at_own_sizes


@dataclass(frozen=True)
class Piece:
    """A piece of a captured program: its graph, the same run in PyTorch, and its inputs."""

    graph: Graph
    eager: Callable[..., Sequence[torch.Tensor]]
    inputs: tuple[torch.Tensor, ...]


def pieces(
    fn: Callable[..., Any],
    args: tuple[torch.Tensor, ...],
    precision: str = "default",
    dynamic: dict[str, dict[int, Any]] | None = None,
) -> list[Piece]:
    """The pieces of a function that have a graph, with what they are given on these arguments.

    dynamic: as torch.export takes it. Raises SuperoptError where the function cannot be captured.
    """
    program = partition(capture(fn, args, {}, dynamic), precision)
    found: list[Piece] = []

    def run(piece: Any, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        found.append(Piece(piece.graph, piece.eager, tuple(inputs)))
        return list(piece.eager(*inputs))

    with torch.no_grad():
        program.run(args, {}, run)
    return found


# -- pairs of graphs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """What the verifier said of a pair of graphs, in so many seconds.

    layer: what refused them, or how they were shown equal; rewritten: whether the second is shown to
    be the first by the laws of the field alone, which is what a candidate of the search must be.
    """

    accepted: bool
    rewritten: bool
    layer: str
    seconds: float
    bound_log2: float | None
    kind: str
    reason: str


@dataclass
class Pairs:
    """Checks pairs of graphs as the pipeline does."""

    seed: int
    _checker: Checker = field(init=False)

    def __post_init__(self) -> None:
        self._checker = Checker(self.seed)

    def rewritten(self, a: Graph, b: Graph) -> Checked:
        """As a candidate of the search is checked."""
        begun = time.perf_counter()
        found = self._checker.rewritten(a, b)
        layer = "shown by the laws of the field" if found else _of_rewriting(a, b)
        return self._again(a, b, found, bool(found), layer, begun)

    def any(self, a: Graph, b: Graph) -> Checked:
        """As any pair is checked: by rewriting, in pieces, and whole."""
        begun = time.perf_counter()
        found = self._checker(a, b)
        rewritten = bool(found) and bool(self._checker.rewritten(a, b))
        return self._again(a, b, found, rewritten, _layer(a, b, found), begun)

    def _again(
        self, a: Graph, b: Graph, found: Equivalence, rewritten: bool, layer: str, begun: float
    ) -> Checked:
        """The result, with the second check that what was shown equal has to pass before it is used."""
        second = check_at_own_sizes(a, b, seed=self.seed) if found else None
        seconds = time.perf_counter() - begun
        if second is not None and not second:
            layer = "second check, at the sizes themselves"
            return Checked(False, rewritten, layer, seconds, None, second.kind, second.reason)
        bound = found.bound_log2
        return Checked(bool(found), rewritten, layer, seconds, bound, found.kind, found.reason)


def _of_rewriting(a: Graph, b: Graph) -> str:
    return "interface" if a.inputs != b.inputs or interface(a, b) else "not the same by its laws"


def _layer(a: Graph, b: Graph, found: Equivalence) -> str:
    if found:
        return {"identical": "operator by operator", "bound": "field, with a bound"}.get(
            found.kind, "field, sampled"
        )
    if interface(a, b) or [n.name for n in a.inputs] != [n.name for n in b.inputs]:
        return "interface"
    if "differs at" in found.reason:
        return "field: another value"
    return "not comparable: undefined in nearly every trial, or another form"


# -- what the algebra holds equal --------------------------------------------------------------------


def rewrites(graph: Graph, count: int, seed: int, states: int = 20_000) -> Iterator[Graph]:
    """Graphs that the search holds equal to this one, at most ``count``, all unlike in text.

    Every class that the program uses is derived in turn in each way that the algebra found for it,
    those that are left out for their rounding among them, and several are changed one after the
    other. states: terms tried in one region.
    """
    found = [(r, explore(graph, r, seed=seed, candidates=states)) for r in regions(graph)]
    if not found:
        return
    extractor = Extractor(graph, found)
    rng = random.Random(seed)
    seen = {str(extractor.as_written().pruned())}
    start = extractor.seed()
    choices, tried, made = start, 0, 0
    while made < count and tried < 4 * count + 16:
        tried += 1
        if tried % 8 == 0:
            choices = start
        moved = _moved(found, choices, rng)
        if moved is None:
            return
        try:
            other = extractor.build(moved).pruned()
        except SuperoptError:  # a choice that lacks a class
            continue
        choices = moved
        if (text := str(other)) not in seen:
            seen.add(text)
            made += 1
            yield other


def _moved(
    found: list[tuple[Any, Space]], choices: tuple[Choice, ...], rng: random.Random
) -> tuple[Choice, ...] | None:
    """The choices with one class that is used derived in another way; None where there is no other."""
    ways = []
    for r, (_, space) in enumerate(found):
        todo, used = list(space.targets.values()), set[int]()
        while todo:
            c = todo.pop()
            if c in used:
                continue
            used.add(c)
            todo += choices[r][c].args if c in choices[r] else ()
        for c in sorted(used):
            for d in space.classes[c].derivations:
                known = all(a in choices[r] or not space.classes[a].derivations for a in d.args)
                if known and d != choices[r].get(c) and not needs(choices[r], d, c):
                    ways.append((r, c, d))
    if not ways:
        return None
    r, c, d = rng.choice(ways)
    return (*choices[:r], {**choices[r], c: d}, *choices[r + 1 :])


# -- placed graphs -----------------------------------------------------------------------------------


def placed(graph: Graph, count: int, cores: int, tile_memory: int) -> list[MuGraph]:
    """Candidates of a search that differ in form, at most ``count``, best first.

    Two of one form have as many kernels, loops, parts and carried accumulators. cores and
    tile_memory (bytes): of the machine that is searched for, so that small sizes are split too.
    """
    device = cpu_device(cpu_features(), cores, tile_memory)
    budget = driver.Budget(None, 40)
    program = stabilized(graph) or graph
    found = driver.search(program, cost_on(device), budget, lowerable=why_not_lowerable)
    forms: dict[object, MuGraph] = {}
    for c in found.candidates:
        kernels = c.mugraph.kernels
        form = tuple(
            (len(k.placement.loop), len(k.carries), len(k.placement.grid)) for k in kernels
        )
        forms.setdefault((form, len(c.mugraph.graph.nodes)), c.mugraph)
    return list(forms.values())[:count]


def carried(mugraph: MuGraph) -> list[tuple[Graph, Graph]]:
    """The equations that justify the carried accumulators of a placed graph."""
    carries = [c for k in mugraph.kernels for c in k.carries]
    given = any_value(mugraph.graph) if carries else []
    return [obligation(mugraph.graph, c, given.__getitem__) for c in carries]
