"""Makes one piece of a program: search, prove, compile, measure and gate.

Imported when a kernel has to be made: a warm start does without the search, the verifier and the
code generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from superopt import trace
from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower, why_not_lowerable
from superopt.config import Config
from superopt.cost.devices import cpu_device
from superopt.cost.measure import Timing, interleave
from superopt.cost.model import cost_on
from superopt.errors import SuperoptError, VerificationFailed
from superopt.mugraph.dispatch import Guard, hull, within
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.resize import narrowed
from superopt.mugraph.text import print_mugraph
from superopt.pipeline.chosen import Candidate, Winner, entry_of, merged
from superopt.pipeline.rooms import Stand, stand
from superopt.runtime.build import Compiler, Job, compile_many, find_compiler
from superopt.runtime.isa import cpu_features
from superopt.runtime.kernels import Kernels
from superopt.runtime.plan import Extent, make_plan
from superopt.runtime.site import Site
from superopt.search import driver
from superopt.search.buckets import Room, divide, seconds_at
from superopt.search.carry import obligation
from superopt.search.cut import KernelSeconds
from superopt.search.figures import claim
from superopt.search.gauge import stabilized
from superopt.search.points import points
from superopt.verify import gate
from superopt.verify.admit import admit
from superopt.verify.cuts import Checker
from superopt.verify.equivalence import Equivalence
from superopt.verify.infinite import any_value

SHORTLIST = 5
"""Candidates that are compiled, gated and timed."""

EACH_ROOM = 3
"""Of a program with symbolic sizes, those of each bucket."""

ROUNDS = 3
"""Times that a bucket looks for a program whose binary is admitted."""

HOPELESS = 4
"""Candidates that were not shown equal, and none that was, after which none is expected to be."""

ENOUGH_WORK = 1 << 32
"""Elements computed in checks (about ten seconds) after which one proved candidate is enough."""

ENTRY = "superopt_entry"


Proved = tuple[driver.Candidate, list[Equivalence]]


def make(
    piece: Any,
    inputs: Sequence[torch.Tensor],
    site: Site,
    folder: Path,
    called: Callable[..., object] | None = None,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Search, prove, compile, measure and gate one piece: the files and facts of its cache entry.

    called: runs the user's own function on other inputs of the piece, to be timed beside the
    kernels; the piece in PyTorch when there is none.
    """
    options, config = site.options, site.config
    with trace.stage("verify") as shifting:
        show = Checker(options.seed)
        graph, shifts = _stable(piece.graph, show)
    compiler = site.compiler or find_compiler(config)
    cost = cost_on(cpu_device(cpu_features(), config.threads or torch.get_num_threads()))
    with trace.stage("search") as searching:
        budget = driver.Budget(options.budget.seconds, options.budget.candidates)
        found = driver.search(
            graph,
            cost,
            budget,
            seed=options.seed,
            lowerable=why_not_lowerable,
            progress=lambda stage, done: trace.report(stage, done.get("graphs", 0)),
            points=points(graph),
        )
        rooms = divide(graph, found, cost) if found.candidates else []
    if not found.candidates:
        raise SuperoptError("the search found no kernel", graph.name, found.why_none)
    isa = cpu.Isa.of_target(options.target.arch if options.target else "native")
    work = _Work(graph, found.candidates, show, partial(_compile, isa, config, compiler, folder))
    fits = _Fits(graph, piece.eager, called or piece.eager, inputs, cost, options.seed)
    winners = _settle(rooms, work, fits)
    if not any(w.candidate for w in winners):
        with trace.stage("gate"):
            raise VerificationFailed(
                "no candidate passed the numeric gate", details="\n".join(fits.reasons)
            )
    meta = {
        "name": graph.name,
        "states": found.stats.get("states", 0),
        "search": dict(found.stats),
        "search_s": searching.seconds,
        "verify_s": shifting.seconds + work.verify_s + fits.gate_s,
        "compile_s": work.compile_s,
    }
    files, facts = entry_of(piece.graph, merged(winners), shifts, claim(found.stats))
    return files, {**meta, **facts}


def _stable(graph: Graph, show: Checker) -> tuple[Graph, list[Equivalence]]:
    """The program that is searched: with its exponentials shifted where that is shown equal."""
    shifted = stabilized(graph)
    if shifted is None:
        return graph, []
    check = show(graph, shifted)
    if check.verdict != "equal":
        trace.log("verify", f"a shift of exponentials was not shown equal: {check.reason}")
        return graph, []
    return shifted, [check]


def _settle(rooms: Sequence[Room], work: _Work, fits: _Fits) -> list[Winner]:
    """The winner of every room.

    Of several rooms, one in which no binary is admitted is tried again with what serves the others,
    and then with what comes next in its own order.
    """
    winners = [Winner(room) for room in rooms]
    todo = {k: list(room.order) for k, room in enumerate(rooms)}
    for again in range(ROUNDS if len(rooms) > 1 else 1):
        try:
            proved = work.proved(list(todo.values()), len(rooms))
        except VerificationFailed:
            if not again:
                raise
            break
        here = [rooms[k] for k in todo]
        ready = work.compiled(here, proved)
        for k, mine in zip(todo, proved, strict=True):
            own = [ready[id(c)] for c, _ in mine if id(c) in ready]
            rest = [c for c in ready.values() if c not in own and within(rooms[k].guard, c.guard)]
            winners[k] = fits.winner(rooms[k], own, rest)
        serve = {w.candidate.origin for w in winners if w.candidate is not None}
        tried = zip(todo.items(), proved, strict=True)
        left = {k: _next(order, mine, work, serve) for (k, order), mine in tried}
        todo = {k: order for k, order in left.items() if order and winners[k].failed}
        if not todo:
            break
    return winners


def _next(order: list[int], tried: Sequence[Proved], work: _Work, serve: set[int]) -> list[int]:
    """What a room tries next: what serves elsewhere, then what comes after what it has tried."""
    done = {id(c) for c, _ in tried}
    last = max((n for n, c in enumerate(order) if id(work.candidates[c]) in done), default=-1)
    first = [c for c, x in enumerate(work.candidates) if id(x) in serve and id(x) not in done]
    return list(dict.fromkeys([*first, *order[last + 1 :]]))


@dataclass
class _Work:
    """Proves and compiles the candidates of one piece, for the rooms that want them."""

    graph: Graph
    candidates: Sequence[driver.Candidate]
    show: Checker
    build: Callable[[Sequence[MuGraph], int], Sequence[tuple[Kernels, str] | SuperoptError]]
    rounds: int = 0
    verify_s: float = 0.0
    compile_s: float = 0.0

    def proved(self, orders: Sequence[Sequence[int]], rooms: int) -> list[list[Proved]]:
        """For each order of candidates, the first that are shown equal.

        Where none is left, what was shown for the others, in this order. Raises VerificationFailed
        when there is nothing at all.
        """
        most = SHORTLIST if rooms == 1 else min(SHORTLIST, EACH_ROOM)
        known: dict[int, Proved] = {}
        out: list[list[Proved]] = []
        failed: VerificationFailed | None = None
        with trace.stage("verify") as verifying:
            for order in orders:
                mine = [self.candidates[c] for c in order]
                try:
                    found = _prove_best(self.graph, mine, self.show, most)
                except VerificationFailed as error:
                    found, failed = [], failed or error
                known.update((id(c), (c, checks)) for c, checks in found)
                out.append(found)
            if failed is not None and not known:
                raise failed
            for order, found in zip(orders, out, strict=True):
                if not found:
                    mine = [self.candidates[c] for c in order]
                    found += [known[id(c)] for c in mine if id(c) in known] or known.values()
        self.verify_s += verifying.seconds
        return out

    def compiled(
        self, rooms: Sequence[Room], proved: Sequence[Sequence[Proved]]
    ) -> dict[int, Candidate]:
        """The candidates that compiled, loaded, by the identity of what the search found.

        Each is compiled once, for the sizes of the rooms that it may serve.
        """
        guards: dict[int, list[Guard]] = {}
        pool: dict[int, Proved] = {}
        for room, some in zip(rooms, proved, strict=True):
            for candidate, checks in some:
                pool[id(candidate)] = candidate, checks
                guards.setdefault(id(candidate), []).append(room.guard)
        mugraphs = [narrowed(c.mugraph, hull(guards[n])) for n, (c, _) in pool.items()]
        ready: dict[int, Candidate] = {}
        with trace.stage("compile") as compiling:
            made = self.build(mugraphs, self.rounds)
            for (n, (c, checks)), m, item in zip(pool.items(), mugraphs, made, strict=True):
                if isinstance(item, SuperoptError):
                    trace.log("build", f"a candidate was dropped: {item.report()}")
                else:
                    ready[n] = Candidate(m, c.seconds, checks, *item, origin=n)
            if not ready:
                raise next(item for item in made if isinstance(item, SuperoptError))
        self.compile_s += compiling.seconds
        self.rounds += 1
        return ready


def _prove_best(
    graph: Graph,
    candidates: Sequence[driver.Candidate],
    show: Checker,
    most: int | None = None,
) -> list[Proved]:
    """The first candidates whose graph, and every carried accumulator, is shown equal."""
    proved: list[Proved] = []
    reasons: list[str] = []
    most = most or SHORTLIST
    for candidate in candidates:
        mugraph = candidate.mugraph
        checks = [show.rewritten(graph, mugraph.graph)]
        carries = [c for k in mugraph.kernels for c in k.carries]
        given = any_value(mugraph.graph) if carries else []
        checks += [show(*obligation(mugraph.graph, c, given.__getitem__)) for c in carries]
        wrong = [c for c in checks if c.verdict != "equal"]
        if wrong:
            reasons.append(wrong[0].reason)
            trace.log("verify", f"a candidate was not shown equal: {wrong[0].reason}")
        else:
            proved.append((candidate, checks))
        if proved and (len(proved) == most or show.work > ENOUGH_WORK):
            break
        if not proved and (len(reasons) == HOPELESS or show.work > 4 * ENOUGH_WORK):
            break
    if not proved:
        raise VerificationFailed(
            "no candidate was shown equal to the program",
            graph.name,
            details="\n".join(dict.fromkeys(reasons)),
        )
    return proved


def _compile(
    isa: cpu.Isa,
    config: Config,
    compiler: Compiler,
    folder: Path,
    mugraphs: Sequence[MuGraph],
    rounds: int,
) -> list[tuple[Kernels, str] | SuperoptError]:
    """Lowers, prints and compiles: each one loaded, with its source, or what failed.

    rounds: how often this was done before in the folder.
    """
    printed: list[cpu.Source | SuperoptError] = []
    for m in mugraphs:
        try:
            printed.append(cpu.emit(lower(m), ENTRY, isa))
        except SuperoptError as reason:  # too long to compile: the others may do
            printed.append(reason)
    jobs = [
        Job(s.text, (*s.flags, *compiler.openmp_flags), folder / f"candidate{rounds}-{n}.so")
        for n, s in enumerate(printed)
        if isinstance(s, cpu.Source)
    ]
    built = iter(compile_many(jobs, config, compiler=compiler))
    out: list[tuple[Kernels, str] | SuperoptError] = []
    for mugraph, source in zip(mugraphs, printed, strict=True):
        if isinstance(source, SuperoptError):
            out.append(source)
            continue
        path = next(built)
        if isinstance(path, SuperoptError):
            out.append(path)
            continue
        scratch = {name: Extent(size.bytes, size.syms) for name, size in source.scratch}
        plan = make_plan(mugraph.graph, source.entry, source.buffers, scratch)
        out.append((Kernels(path, plan, config.threads), source.text))
    return out


@dataclass
class _Fits:
    """Times and gates the candidates of one piece, room by room."""

    graph: Graph
    eager: Callable[..., Sequence[torch.Tensor]]
    called: Callable[..., object]
    inputs: Sequence[torch.Tensor]
    cost: KernelSeconds
    seed: int
    reasons: list[str] = field(default_factory=list)
    gate_s: float = 0.0

    def winner(self, room: Room, own: list[Candidate], rest: list[Candidate]) -> Winner:
        """The fastest candidate of a room whose binary is as accurate as eager PyTorch.

        own: those that are timed; rest: those of other rooms, tried when none of its own is
        admitted. Where none is, or the program has no answer, the original runs.
        """
        if not (own or rest):
            return Winner(room)
        mugraph = (own or rest)[0].mugraph

        def seconds(there: Mapping[str, int]) -> float:
            return seconds_at(mugraph, self.cost, there)

        here = stand(self.graph, room, self.inputs, self.eager, seconds)
        if here is None:
            return Winner(room)
        known: dict[str, gate.Known] = {}
        for some in filter(None, (own, rest)):
            with trace.stage("measure"):
                times = self._times(some, here)
            for k in sorted(range(len(some)), key=lambda k: (times[k].median_s, k)):
                verdict = self._verdict(some[k], here, known)
                if verdict.passed:
                    return Winner(room, some[k], verdict, times[k], times[-1], here.sizes)
        return Winner(room, sizes=here.sizes)

    def _times(self, some: Sequence[Candidate], here: Stand) -> list[Timing]:
        """The timing of each candidate; eager PyTorch's comes last."""
        calls: list[Callable[[], object]] = [partial(c.kernels, here.inputs) for c in some]
        called = self.called
        try:
            called(*here.inputs)
        except (RuntimeError, IndexError):  # what else it is given does not fit these sizes
            called = self.eager
        calls.append(lambda: called(*here.inputs))
        return interleave(calls, seconds=0.3 * len(calls))

    def _verdict(self, c: Candidate, here: Stand, known: dict[str, gate.Known]) -> gate.Gate:
        with trace.stage("gate") as gating:
            verdict = admit(
                self.graph,
                c.kernels.checked,
                self.eager,
                here.inputs,
                here.sizes,
                seed=self.seed,
                known=known,
                others=here.others,
                classes=here.classes,
            )
        self.gate_s += gating.seconds
        if not verdict.passed:
            self.reasons.append(verdict.reason)
            trace.log("verify", f"the numeric gate rejected a candidate: {verdict.reason}")
            trace.log("verify", print_mugraph(c.mugraph), 2)
        return verdict
