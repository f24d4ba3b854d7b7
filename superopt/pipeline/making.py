"""Makes one piece of a program: search, prove, compile, measure and gate.

Imported when a kernel has to be made: a warm start does without the search, the verifier and the
code generator.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from superopt import trace
from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.codegen.packing import packing
from superopt.config import Config
from superopt.cost.devices import cpu_device
from superopt.cost.measure import Timing, interleave
from superopt.cost.model import cost_on
from superopt.errors import SuperoptError, VerificationFailed
from superopt.mugraph.dispatch import Guard, hull, within
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.resize import narrowed
from superopt.pipeline.chosen import Candidate, Source, Winner, entry_of, merged
from superopt.pipeline.rooms import Fits
from superopt.pipeline.searching import crew, search
from superopt.pipeline.why import Ledger
from superopt.runtime.build import Compiler, Job, compile_many, find_compiler
from superopt.runtime.isa import cpu_features
from superopt.runtime.kernels import Kernels
from superopt.runtime.keys import code_fingerprint
from superopt.runtime.plan import Extent, Plan, make_plan
from superopt.runtime.site import Site
from superopt.search import driver
from superopt.search.buckets import Room, divide
from superopt.search.carry import obligation
from superopt.search.figures import claim
from superopt.search.gauge import stable_steps
from superopt.search.workers import Serial
from superopt.verify.cuts import Checker
from superopt.verify.equivalence import Equivalence
from superopt.verify.infinite import any_value
from superopt.verify.proofs import Proofs, accesses
from superopt.verify.proofs.solver import Solver

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
Compiled = tuple[Kernels, str, Proofs]


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
    with crew(site, piece.graph) as who:
        return _make(piece, inputs, site, folder, who, called or piece.eager)


def _make(
    piece: Any,
    inputs: Sequence[torch.Tensor],
    site: Site,
    folder: Path,
    who: Serial,
    called: Callable[..., object],
) -> tuple[dict[str, bytes], dict[str, Any]]:
    options, config = site.options, site.config
    with trace.stage("verify") as shifting:
        show = Checker(options.seed)
        graph, shifts = stable(piece.graph, show)
        shifts = [*(s.check for s in piece.shown), *shifts]
    compiler = site.compiler or find_compiler(config)
    threads = config.threads or torch.get_num_threads()
    device = cpu_device(cpu_features(), threads, config.tile_memory)
    with trace.stage("search") as searching:
        found = search(graph, piece.graph, site, device, who)
        rooms = divide(graph, found, cost_on(device)) if found.candidates else []
    ledger = Ledger(found.rejected)
    try:
        if not found.candidates:
            raise SuperoptError(
                f"the search found no kernel: {found.why_none}",
                graph.name,
                "raise the limit that it names, or let the program run in PyTorch",
            )
        isa = cpu.Isa.of_target(options.target.arch if options.target else "native")
        build = partial(_compile, isa, config, compiler, folder, who)
        work = _Work(graph, found.candidates, show, build, ledger)
        fits = Fits(
            graph, piece.eager, called, inputs, cost_on(device), options.seed, ledger, _timed
        )
        winners = _settle(rooms, work, fits)
        if not any(w.candidate for w in winners):
            with trace.stage("gate"):
                raise VerificationFailed(
                    "no candidate passed the numeric gate", details="\n".join(fits.reasons)
                )
    except SuperoptError as error:
        ledger.explain(error)
        raise
    best, median = next((w.candidate, w.generated.median_s) for w in winners if w.candidate)
    meta = {
        "name": graph.name,
        "states": found.stats.get("states", 0),
        "search": dict(found.stats),
        "search_s": searching.seconds,
        "verify_s": shifting.seconds + work.verify_s + fits.gate_s,
        "compile_s": work.compile_s,
        "kept": driver.rejection("", best.predicted, best.mugraph, measured_s=median),
        "rejected": ledger.best(),
    }
    made = {
        "code": code_fingerprint(),
        "compiler": compiler.version,
        "flags": shlex.join(config.cxxflags),
        "isa": isa.name,
        "machine": platform.machine(),
    }
    source = Source(piece.graph, piece.shown, options.seed, made)
    files, facts = entry_of(source, merged(winners), shifts, claim(found.stats))
    return files, {**meta, **facts}


def _timed(calls: Sequence[Callable[[], object]], seconds: float) -> list[Timing]:
    return interleave(calls, seconds=seconds)


def stable(
    graph: Graph, show: Callable[[Graph, Graph], Equivalence]
) -> tuple[Graph, list[Equivalence]]:
    """The program that is searched: with its exponentials shifted where that is shown equal."""
    steps = stable_steps(graph)
    if not steps:
        return graph, []
    shifted = steps[-1].after
    checks = [show(graph, shifted)]
    if checks[0].verdict != "equal":
        checks = [show(*step.obligation()) for step in steps]
    wrong = next((c for c in checks if c.verdict != "equal"), None)
    if wrong is not None:
        trace.log("verify", f"a shift of exponentials was not shown equal: {wrong.reason}")
        return graph, []
    return shifted, checks


def _settle(rooms: Sequence[Room], work: _Work, fits: Fits) -> list[Winner]:
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
    build: Callable[[Sequence[MuGraph], int], Sequence[Compiled | SuperoptError]]
    ledger: Ledger
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
                    found = _prove_best(self.graph, mine, self.show, self.ledger, most)
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
                    rule = "refuted" if isinstance(item, VerificationFailed) else "not compiled"
                    self.ledger.lost(rule, m, c.seconds, item.what)
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
    ledger: Ledger,
    most: int | None = None,
) -> list[Proved]:
    """The first candidates whose graph, and every carried accumulator, is shown equal."""
    proved: list[Proved] = []
    reasons: list[str] = []
    looked, most = 0, most or SHORTLIST
    for candidate in candidates:
        looked += 1
        mugraph = candidate.mugraph
        checks = [show.rewritten(graph, mugraph.graph)]
        carries = [c for k in mugraph.kernels for c in k.carries]
        given = any_value(mugraph.graph) if carries else []
        checks += [show(*obligation(mugraph.graph, c, given.__getitem__)) for c in carries]
        wrong = [c for c in checks if c.verdict != "equal"]
        if wrong:
            reasons.append(wrong[0].reason)
            ledger.lost("not shown equal", mugraph, candidate.seconds, wrong[0].reason)
            trace.log("verify", f"a candidate was not shown equal: {wrong[0].reason}")
        else:
            proved.append((candidate, checks))
        if proved and (len(proved) == most or show.work > ENOUGH_WORK):
            break
        if not proved and (len(reasons) == HOPELESS or show.work > 4 * ENOUGH_WORK):
            break
    for c in candidates[looked:] if proved else ():
        ledger.lost("predicted slower", c.mugraph, c.seconds)
    if not proved:
        raise VerificationFailed(
            "no candidate was shown equal to the program",
            graph.name,
            details="\n".join(dict.fromkeys(reasons)),
        )
    return proved


def plan_of(graph: Graph, source: cpu.Source) -> Plan:
    """How what was printed of a graph is called."""
    scratch = {name: Extent(size.bytes, size.syms) for name, size in source.scratch}
    copies = [(c.name, c.source, c.bytes, c.layout) for c in source.copies]
    return make_plan(graph, source.entry, source.buffers, scratch, copies)


def _compile(
    isa: cpu.Isa,
    config: Config,
    compiler: Compiler,
    folder: Path,
    who: Serial,
    mugraphs: Sequence[MuGraph],
    rounds: int,
) -> list[Compiled | SuperoptError]:
    """Lowers, proves, prints and compiles: each one loaded, with its source, or what failed.

    rounds: how often this was done before in the folder.
    """
    printed: list[tuple[cpu.Source, Proofs] | SuperoptError] = []
    solver = Solver()
    for m in mugraphs:
        try:
            programs = lower(m)
            packed = packing(programs, isa.vector_bytes)
            lemmas = accesses(programs, m, solver, packed)
            printed.append((cpu.emit(programs, ENTRY, isa, packing=packed), lemmas))
        except SuperoptError as reason:  # too long to compile: the others may do
            printed.append(reason)
    jobs = [
        Job(s[0].text, (*s[0].flags, *compiler.openmp_flags), folder / f"candidate{rounds}-{n}.so")
        for n, s in enumerate(printed)
        if isinstance(s, tuple)
    ]
    spread = partial(who.map, note=lambda *_: None) if who.remote else None
    built = iter(compile_many(jobs, config, compiler=compiler, spread=spread))
    out: list[Compiled | SuperoptError] = []
    for mugraph, made in zip(mugraphs, printed, strict=True):
        if isinstance(made, SuperoptError):
            out.append(made)
            continue
        source, lemmas = made
        path = next(built)
        if isinstance(path, SuperoptError):
            out.append(path)
            continue
        plan = plan_of(mugraph.graph, source)
        kernels = Kernels(path, plan, config.threads, config.pack_memory)
        out.append((kernels, source.text, lemmas))
    return out
