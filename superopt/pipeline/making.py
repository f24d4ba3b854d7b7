"""Makes one piece of a program: search, prove, compile, measure and gate.

Imported when a kernel has to be made: a warm start does without the search, the verifier and the
code generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from superopt import trace
from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.config import Config
from superopt.cost.devices import cpu_device
from superopt.cost.measure import Timing, interleave
from superopt.errors import SuperoptError, VerificationFailed
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import print_mugraph
from superopt.pipeline.searching import crew, search
from superopt.pipeline.why import Ledger
from superopt.runtime.build import Compiler, Job, compile_many, find_compiler
from superopt.runtime.isa import cpu_features
from superopt.runtime.kernels import Kernels
from superopt.runtime.plan import Extent, Plan, make_plan
from superopt.runtime.site import Site
from superopt.search import driver
from superopt.search.carry import obligation
from superopt.search.figures import claim
from superopt.search.gauge import stabilized
from superopt.search.workers import Serial
from superopt.verify import certificate, gate
from superopt.verify.admit import admit
from superopt.verify.cuts import Checker
from superopt.verify.equivalence import Equivalence
from superopt.verify.infinite import any_value

SHORTLIST = 5
"""Candidates that are compiled, gated and timed."""

HOPELESS = 4
"""Candidates that were not shown equal, and none that was, after which none is expected to be."""

ENOUGH_WORK = 1 << 32
"""Elements computed in checks (about ten seconds) after which one proved candidate is enough."""

ENTRY = "superopt_entry"


@dataclass(frozen=True)
class Candidate:
    """A placed graph on its way: proved, compiled, gated."""

    mugraph: MuGraph
    predicted: float
    checks: list[Equivalence]
    kernels: Kernels
    source: str
    gate: gate.Gate | None = None


Proved = tuple[driver.Candidate, list[Equivalence]]


def make(
    piece: Any, inputs: Sequence[torch.Tensor], site: Site, folder: Path
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Search, prove, compile, measure and gate one piece: the files and facts of its cache entry."""
    with crew(site, piece.graph) as who:
        return _make(piece, inputs, site, folder, who)


def _make(
    piece: Any, inputs: Sequence[torch.Tensor], site: Site, folder: Path, who: Serial
) -> tuple[dict[str, bytes], dict[str, Any]]:
    eager, options, config = piece.eager, site.options, site.config
    show = Checker(options.seed)
    graph, shifts = _stable(piece.graph, show)
    compiler = site.compiler or find_compiler(config)
    device = cpu_device(cpu_features(), config.threads or torch.get_num_threads())
    with trace.stage("search") as searching:
        found = search(graph, piece.graph, site, device, who)
    ledger = Ledger(found.rejected)
    try:
        if not found.candidates:
            raise SuperoptError("the search found no kernel", graph.name, found.why_none)
        with trace.stage("verify") as verifying:
            proved = _prove_best(graph, found.candidates, show, ledger)
        with trace.stage("compile") as compiling:
            isa = cpu.Isa.of_target(options.target.arch if options.target else "native")
            made = _compile([c.mugraph for c, _ in proved], isa, config, compiler, folder, who)
        with trace.stage("measure"):
            ready, times = _measure(proved, made, inputs, eager, config, ledger)
        with trace.stage("gate") as gating:
            winner, time = _gate(graph, ready, times, inputs, eager, options.seed, ledger)
    except SuperoptError as error:
        ledger.explain(error)
        raise
    binary = winner.kernels.path.read_bytes()
    # The loader takes two files of one path for one library, so the name tells the content.
    library = f"kernel-{hashlib.sha256(binary).hexdigest()[:16]}.so"
    meta = {
        "name": graph.name,
        "library": library,
        "states": found.stats.get("states", 0),
        "search": dict(found.stats),
        "search_s": searching.seconds,
        "verify_s": verifying.seconds + gating.seconds,
        "compile_s": compiling.seconds,
        "generated_median_s": time.median_s,
        "eager_median_s": times[-1].median_s,
        "predicted_s": winner.predicted,
        "kept": driver.rejection("", winner.predicted, winner.mugraph, measured_s=time.median_s),
        "rejected": ledger.best(),
    }
    checks = [*shifts, *winner.checks]
    proof = certificate.build(
        piece.graph, winner.mugraph, checks, winner.gate, search=claim(found.stats)
    )
    return {
        library: binary,
        "kernel.cpp": winner.source.encode(),
        "plan.json": winner.kernels.plan.to_json().encode(),
        "mugraph.txt": print_mugraph(winner.mugraph).encode(),
        "certificate.json": certificate.dumps(proof).encode(),
    }, meta


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


def _prove_best(
    graph: Graph, candidates: Sequence[driver.Candidate], show: Checker, ledger: Ledger
) -> list[Proved]:
    """The first candidates whose graph, and every carried accumulator, is shown equal."""
    proved: list[Proved] = []
    reasons: list[str] = []
    looked = 0
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
        if proved and (len(proved) == SHORTLIST or show.work > ENOUGH_WORK):
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


def _compile(
    mugraphs: Sequence[MuGraph],
    isa: cpu.Isa,
    config: Config,
    compiler: Compiler,
    folder: Path,
    who: Serial,
) -> list[tuple[Path, Plan, str] | SuperoptError]:
    """Lowers, prints and compiles: each one's shared object, plan and source, or what failed."""
    printed: list[cpu.Source | SuperoptError] = []
    for m in mugraphs:
        try:
            printed.append(cpu.emit(lower(m), ENTRY, isa))
        except SuperoptError as reason:  # too long to compile: the others may do
            printed.append(reason)
    jobs = [
        Job(s.text, (*s.flags, *compiler.openmp_flags), folder / f"candidate{n}.so")
        for n, s in enumerate(printed)
        if isinstance(s, cpu.Source)
    ]
    spread = partial(who.map, note=lambda *_: None) if who.remote else None
    built = iter(compile_many(jobs, config, compiler=compiler, spread=spread))
    out: list[tuple[Path, Plan, str] | SuperoptError] = []
    for mugraph, source in zip(mugraphs, printed, strict=True):
        if isinstance(source, SuperoptError):
            out.append(source)
            continue
        path = next(built)
        if isinstance(path, SuperoptError):
            out.append(path)
            continue
        scratch = {name: Extent(size.bytes, size.syms) for name, size in source.scratch}
        out.append(
            (path, make_plan(mugraph.graph, source.entry, source.buffers, scratch), source.text)
        )
    return out


def _measure(
    proved: Sequence[Proved],
    made: Sequence[tuple[Path, Plan, str] | SuperoptError],
    inputs: Sequence[torch.Tensor],
    eager: Callable[..., Sequence[torch.Tensor]],
    config: Config,
    ledger: Ledger,
) -> tuple[list[Candidate], list[Timing]]:
    """The candidates that compiled, and their timings; eager's timing comes last."""
    ready = []
    for (candidate, checks), item in zip(proved, made, strict=True):
        if isinstance(item, SuperoptError):
            trace.log("build", f"a candidate was dropped: {item.report()}")
            ledger.lost("not compiled", candidate.mugraph, candidate.seconds, item.what)
            continue
        path, plan, source = item
        kernels = Kernels(path, plan, config.threads)
        ready.append(Candidate(candidate.mugraph, candidate.seconds, checks, kernels, source))
    if not ready:
        raise next(item for item in made if isinstance(item, SuperoptError))
    calls: list[Callable[[], object]] = [partial(c.kernels, inputs) for c in ready]
    return ready, interleave([*calls, lambda: eager(*inputs)], seconds=0.3 * (len(calls) + 1))


def _gate(
    graph: Graph,
    ready: Sequence[Candidate],
    times: Sequence[Timing],
    inputs: Sequence[torch.Tensor],
    eager: Callable[..., Sequence[torch.Tensor]],
    seed: int,
    ledger: Ledger,
) -> tuple[Candidate, Timing]:
    """The fastest candidate whose binary is as accurate as eager PyTorch, with its timing."""
    reasons = []
    known: dict[str, gate.Known] = {}
    order = sorted(range(len(ready)), key=lambda k: (times[k].median_s, k))
    for n, k in enumerate(order):
        kernels = ready[k].kernels
        sizes = kernels.plan.sizes(inputs)
        report = admit(graph, kernels.checked, eager, inputs, sizes, seed=seed, known=known)
        mugraph, predicted, median = ready[k].mugraph, ready[k].predicted, times[k].median_s
        if report.passed:
            for j in order[n + 1 :]:
                c, slower = ready[j], times[j].median_s
                ledger.lost("measured slower", c.mugraph, c.predicted, "", slower)
            return replace(ready[k], gate=report), times[k]
        reasons.append(report.reason)
        ledger.lost("gate failed", mugraph, predicted, report.reason, median)
        trace.log("verify", f"the numeric gate rejected a candidate: {report.reason}")
        trace.log("verify", print_mugraph(ready[k].mugraph), 2)
    raise VerificationFailed("no candidate passed the numeric gate", details="\n".join(reasons))
