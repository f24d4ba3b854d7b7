"""The stages in order: capture, search, prove, lower, build, gate, measure, store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower, why_not_lowerable
from superopt.config import Config, Options
from superopt.cost.devices import cpu_device
from superopt.cost.measure import Timing, interleave
from superopt.cost.model import cost_on
from superopt.errors import SuperoptError, UnsupportedDevice, VerificationFailed
from superopt.frontend.identity import identity
from superopt.frontend.live import plain_key as plain_key
from superopt.frontend.live import signature as signature
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import print_mugraph
from superopt.runtime.build import (
    Compiler,
    Job,
    compile_many,
    find_compiler,
)
from superopt.runtime.cache import Cache
from superopt.runtime.doctor import doctor as machine_doctor
from superopt.runtime.isa import cpu_features
from superopt.runtime.kernels import Kernels
from superopt.runtime.plan import Extent, Plan, make_plan
from superopt.runtime.site import Built, Site
from superopt.search import driver
from superopt.search.carry import obligation
from superopt.verify import certificate, gate
from superopt.verify.admit import admit
from superopt.verify.cuts import check_with_cuts
from superopt.verify.equivalence import Equivalence

SHORTLIST = 5
"""Candidates that are compiled, gated and timed."""

ENTRY = "superopt_entry"


@dataclass(frozen=True)
class Result:
    """What came of one function at one signature.

    call: the winner, with the function's own calling convention; generated: the generated kernels
    alone (None if nothing was generated); winner: "generated", "eager" or "inductor"; timings in
    seconds; states: values and kernels that the search looked at; cache: "warm" when every kernel
    came from the cache; boundaries: what was left to PyTorch, and why; pieces: what was built.
    """

    call: Callable[..., Any]
    generated: Callable[..., Any] | None
    winner: str
    mugraph: MuGraph | None
    certificate: dict[str, Any] | None
    timings: dict[str, float]
    states: int
    cache: str
    boundaries: tuple[Any, ...] = ()
    pieces: tuple[Built, ...] = field(default=(), repr=False)


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


def optimize(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options | None = None,
    config: Config | None = None,
) -> Result:
    """Runs every stage for one function at one signature; see ``Result``.

    Raises SuperoptError when nothing could be generated; the caller then runs the original.
    """
    options, config = options or Options(), config or Config.from_env()
    _check_devices(args, kwargs, options)
    site = Site.of(options, config)
    with trace.stage("optimize") as span:
        shortcut = site.shortcut(identity(fn), args, kwargs)
        program: Any = site.recall(shortcut)
        if program is None:
            with trace.stage("frontend"):
                from superopt.frontend.capture import capture
                from superopt.frontend.partition import partition

                wishes = options.dynamic_shapes() or None
                program = partition(capture(fn, args, kwargs, wishes), options.precision)
            for b in program.boundaries:
                trace.log("fallback", f"{b.op} at {b.where}: {b.reason}")
        if not program.supported:
            reasons = "; ".join(f"{b.op} ({b.reason})" for b in program.boundaries[:3])
            raise SuperoptError("nothing in the program can be optimized", reasons)
        built: dict[int, Built] = {}

        def build(piece: Any, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            def make(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
                return _make(piece, inputs, site, folder)

            built[id(piece)] = site.kernels(piece, make)
            return built[id(piece)].kernels(inputs)

        # One run on the example, piece by piece: each piece sees the tensors it will be given.
        program.run(args, kwargs, build)
        site.remember(shortcut, program, [b.key for b in built.values()])
        calls = {piece: b.kernels for piece, b in built.items()}

        def generated(*args: Any, **kwargs: Any) -> Any:
            return program.run(args, kwargs, lambda piece, xs: calls[id(piece)](xs))

        pieces = tuple(built.values())
        whole = not program.boundaries
        winner, call, timings = _choose(fn, generated, args, kwargs, options, pieces, whole)
    timings["total_s"] = span.seconds
    states = sum(int(b.meta.get("states", 0)) for b in pieces)
    warm = "warm" if all(b.warm for b in pieces) else "cold"
    return Result(
        call,
        generated,
        winner,
        pieces[0].mugraph,
        pieces[0].certificate,
        timings,
        states,
        warm,
        program.boundaries,
        pieces,
    )


def _make(
    piece: Any, inputs: Sequence[torch.Tensor], site: Site, folder: Path
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Search, prove, compile, measure and gate one piece: the files and facts of its cache entry."""
    graph, eager, options, config = piece.graph, piece.eager, site.options, site.config
    compiler = site.compiler or find_compiler(config)
    device = cpu_device(cpu_features(), config.threads or torch.get_num_threads())
    with trace.stage("search") as searching:
        budget = driver.Budget(options.budget.seconds, options.budget.candidates)
        found = driver.search(
            graph,
            cost_on(device),
            budget,
            seed=options.seed,
            lowerable=why_not_lowerable,
            progress=lambda stage, done: trace.report(stage, done.get("graphs", 0)),
        )
    if not found.candidates:
        raise SuperoptError("the search found no kernel", graph.name, found.why_none)
    with trace.stage("verify") as verifying:
        proved = _prove_best(graph, found.candidates, options.seed)
    with trace.stage("compile") as compiling:
        isa = cpu.Isa.of_target(options.target.arch if options.target else "native")
        made = _compile([c.mugraph for c, _ in proved], isa, config, compiler, folder)
    with trace.stage("measure"):
        ready, times = _measure(proved, made, inputs, eager, config)
    with trace.stage("gate") as gating:
        winner, time = _gate(graph, ready, times, inputs, eager, options.seed)
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
    }
    proof = certificate.build(graph, winner.mugraph, winner.checks, winner.gate)
    return {
        library: binary,
        "kernel.cpp": winner.source.encode(),
        "plan.json": winner.kernels.plan.to_json().encode(),
        "mugraph.txt": print_mugraph(winner.mugraph).encode(),
        "certificate.json": certificate.dumps(proof).encode(),
    }, meta


def _prove_best(graph: Graph, candidates: Sequence[driver.Candidate], seed: int) -> list[Proved]:
    """The first candidates whose graph, and every carried accumulator, is shown equal."""
    proved: list[Proved] = []
    reasons: list[str] = []
    known: dict[str, Equivalence] = {}

    def show(a: Graph, b: Graph) -> Equivalence:
        pair = f"{a}\n{b}"
        if pair not in known:
            known[pair] = check_with_cuts(a, b, seed=seed)
        return known[pair]

    for candidate in candidates:
        mugraph = candidate.mugraph
        checks = [show(graph, mugraph.graph)]
        checks += [show(*obligation(mugraph.graph, c)) for k in mugraph.kernels for c in k.carries]
        wrong = [c for c in checks if c.verdict != "equal"]
        if wrong:
            reasons.append(wrong[0].reason)
            trace.log("verify", f"a candidate was not shown equal: {wrong[0].reason}")
        else:
            proved.append((candidate, checks))
        if len(proved) == SHORTLIST:
            break
    if not proved:
        raise VerificationFailed(
            "no candidate was shown equal to the program", graph.name, details="\n".join(reasons)
        )
    return proved


def _compile(
    mugraphs: Sequence[MuGraph], isa: cpu.Isa, config: Config, compiler: Compiler, folder: Path
) -> list[tuple[Path, Plan, str] | SuperoptError]:
    """Lowers, prints and compiles: each one's shared object, plan and source, or what failed."""
    sources = [cpu.emit(lower(m), ENTRY, isa) for m in mugraphs]
    jobs = [
        Job(s.text, (*s.flags, *compiler.openmp_flags), folder / f"candidate{n}.so")
        for n, s in enumerate(sources)
    ]
    out: list[tuple[Path, Plan, str] | SuperoptError] = []
    built = compile_many(jobs, config, compiler=compiler)
    for mugraph, source, path in zip(mugraphs, sources, built, strict=True):
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
) -> tuple[list[Candidate], list[Timing]]:
    """The candidates that compiled, and their timings; eager's timing comes last."""
    ready = []
    for (candidate, checks), item in zip(proved, made, strict=True):
        if isinstance(item, SuperoptError):
            trace.log("build", f"a candidate was dropped: {item.report()}")
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
) -> tuple[Candidate, Timing]:
    """The fastest candidate whose binary is as accurate as eager PyTorch, with its timing."""
    reasons = []
    known: dict[str, gate.Known] = {}
    for k in sorted(range(len(ready)), key=lambda k: (times[k].median_s, k)):
        kernels = ready[k].kernels
        sizes = kernels.plan.sizes(inputs)
        report = admit(graph, kernels.checked, eager, inputs, sizes, seed=seed, known=known)
        if report.passed:
            return replace(ready[k], gate=report), times[k]
        reasons.append(report.reason)
        trace.log("verify", f"the numeric gate rejected a candidate: {report.reason}")
    raise VerificationFailed("no candidate passed the numeric gate", details="\n".join(reasons))


def _choose(
    fn: Callable[..., Any],
    generated: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    built: Sequence[Built],
    whole: bool,
) -> tuple[str, Callable[..., Any], dict[str, float]]:
    """The fastest of the generated kernels and the fallbacks, each as the user would call it."""
    timings = {
        k: sum(float(b.meta.get(k, 0.0)) for b in built)
        for k in ("search_s", "verify_s", "compile_s")
    }
    names, calls = ["generated"], [generated]
    if "eager" in options.fallbacks:
        names, calls = [*names, "eager"], [*calls, fn]
    if "inductor" in options.fallbacks:
        names, calls = [*names, "inductor"], [*calls, torch.compile(fn)]
    if whole and names == ["generated", "eager"] and all(b.warm for b in built):
        # Measured when it was made; a warm start does not measure again.
        medians = [
            sum(float(b.meta[k]) for b in built) for k in ("generated_median_s", "eager_median_s")
        ]
    else:
        with trace.stage("choose"), torch.no_grad():
            runs = interleave(
                [partial(c, *args, **kwargs) for c in calls], seconds=0.3 * len(calls)
            )
            medians = [t.median_s for t in runs]
    for name, median in zip(names, medians, strict=True):
        timings[f"{name}_median_s"] = median
    best = min(range(len(names)), key=lambda k: (medians[k], k))
    return names[best], calls[best], timings


def _check_devices(args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> None:
    if options.target is not None and options.target.kind != "cpu":
        raise UnsupportedDevice(
            f"there is no code generator for {options.target} yet",
            "option target",
            "use target='cpu'",
        )
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu":
            raise UnsupportedDevice(
                f"a tensor lives on {leaf.device}", "an argument", "move it to the CPU"
            )


def cache(config: Config | None = None) -> Cache:
    """The kernel cache in use (for the command line)."""
    return Cache.open(config)


def doctor(config: Config | None = None) -> list[dict[str, str]]:
    """What this machine offers and lacks (for the command line)."""
    return machine_doctor(config or Config.from_env())
