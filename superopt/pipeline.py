"""The stages in order: capture, search, prove, lower, build, gate, measure, store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower, why_not_lowerable
from superopt.config import Config, Options
from superopt.cost.devices import cpu_device
from superopt.cost.measure import interleave
from superopt.cost.model import cost_on
from superopt.errors import SuperoptError, UnsupportedDevice, VerificationFailed
from superopt.frontend import Boundary, Supported, capture, partition
from superopt.mugraph.canonical import graph_hash
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import parse_mugraph, print_mugraph
from superopt.runtime.build import (
    Compiler,
    Job,
    compile_many,
    find_compiler,
    toolchain_fingerprint,
)
from superopt.runtime.cache import Cache, code_fingerprint, key
from superopt.runtime.isa import cpu_features
from superopt.runtime.kernels import Kernels
from superopt.runtime.plan import Extent, Plan, make_plan
from superopt.search import driver
from superopt.search.carry import obligation
from superopt.verify import certificate, equal, gate

POLICY = 1
"""Raised whenever what a kernel is checked for, before it is kept, changes."""

SHORTLIST = 4
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
    boundaries: tuple[Boundary, ...] = ()
    pieces: tuple[Built, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Built:
    """The kernels of one piece of a program: verified, measured, loaded."""

    kernels: Kernels
    mugraph: MuGraph
    certificate: dict[str, Any]
    meta: Mapping[str, Any]
    warm: bool


@dataclass(frozen=True)
class Candidate:
    """A placed graph on its way: proved, compiled, gated."""

    mugraph: MuGraph
    predicted: float
    checks: list[equal.Equivalence]
    kernels: Kernels
    source: str
    gate: gate.Gate


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
    with trace.stage("optimize") as span:
        with trace.stage("frontend"):
            program = partition(
                capture(fn, args, kwargs, options.dynamic_shapes() or None), options.precision
            )
        boundaries = tuple(p for p in program.pieces if isinstance(p, Boundary))
        for b in boundaries:
            trace.log("fallback", f"{b.op} at {b.where}: {b.reason}")
        if all(isinstance(p, Boundary) for p in program.pieces):
            raise SuperoptError(
                "nothing in the program can be optimized",
                "; ".join(f"{b.op} ({b.reason})" for b in boundaries[:3]),
            )
        cache = Cache.open(config)
        built: list[Built] = []

        def build(piece: Supported, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            built.append(build_graph(piece.graph, inputs, piece.eager, options, config, cache))
            return built[-1].kernels(inputs)

        # One run on the example, piece by piece: each piece sees the tensors it will be given.
        program.run(args, kwargs, build)
        calls = {
            id(p): b.kernels
            for p, b in zip(
                [p for p in program.pieces if isinstance(p, Supported)], built, strict=True
            )
        }

        def generated(*args: Any, **kwargs: Any) -> Any:
            return program.run(args, kwargs, lambda piece, xs: calls[id(piece)](xs))

        warm = all(b.warm for b in built)
        winner, call, timings = _choose(fn, generated, args, kwargs, options, built, not boundaries)
    timings["total_s"] = span.seconds
    return Result(
        call,
        generated,
        winner,
        built[0].mugraph,
        built[0].certificate,
        timings,
        sum(int(b.meta.get("states", 0)) for b in built),
        "warm" if warm else "cold",
        boundaries,
        tuple(built),
    )


def build_graph(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    eager: Callable[..., Sequence[torch.Tensor]],
    options: Options,
    config: Config,
    cache: Cache,
) -> Built:
    """Verified kernels for one graph, from the cache or made now; ``eager`` computes it in PyTorch."""
    compiler = find_compiler(config)
    arch = options.target.arch if options.target is not None else "native"
    threads = config.threads or torch.get_num_threads()
    entry_key = key(
        {
            "graph": graph_hash(graph),
            "options": options.key(),
            "device": sorted(cpu_features()),
            "threads": threads,
            "toolchain": toolchain_fingerprint(compiler, arch),
            "flags": list(config.cxxflags),
            "torch": torch.__version__,
            "policy": POLICY,
            "code": code_fingerprint(),
        }
    )
    with cache.lock(entry_key):
        entry = cache.get(entry_key)
        warm = entry is not None
        if entry is None:
            with tempfile.TemporaryDirectory(prefix="superopt-") as folder:
                files, meta = _make(graph, inputs, eager, options, config, compiler, Path(folder))
            entry = cache.put(entry_key, files, meta)
        with trace.stage("load"):
            plan = Plan.from_json(entry.read("plan.json").decode())
            return Built(
                Kernels(entry.file("kernel.so"), plan, config.threads),
                parse_mugraph(entry.read("mugraph.txt").decode()),
                certificate.loads(entry.read("certificate.json").decode()),
                entry.meta,
                warm,
            )


def _make(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    eager: Callable[..., Sequence[torch.Tensor]],
    options: Options,
    config: Config,
    compiler: Compiler,
    folder: Path,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Search, prove, compile, gate and measure one graph: the files and facts of a cache entry."""
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
        isa = _isa(options)
        made = _compile([c.mugraph for c, _ in proved], isa, config, compiler, folder)
    with trace.stage("gate") as gating:
        passed = _gate(proved, made, inputs, eager, options, config)
    with trace.stage("measure"):
        calls: list[Callable[[], object]] = [lambda k=c.kernels: k(inputs) for c in passed]
        times = interleave([*calls, lambda: eager(*inputs)], seconds=0.3 * (len(calls) + 1))
        best = min(range(len(passed)), key=lambda k: (times[k].median_s, k))
    winner = passed[best]
    meta = {
        "states": found.stats.get("states", 0),
        "search": dict(found.stats),
        "search_s": searching.seconds,
        "verify_s": verifying.seconds + gating.seconds,
        "compile_s": compiling.seconds,
        "generated_median_s": times[best].median_s,
        "eager_median_s": times[-1].median_s,
        "predicted_s": winner.predicted,
    }
    proof = certificate.build(graph, winner.mugraph, winner.checks, winner.gate)
    return {
        "kernel.so": winner.kernels.path.read_bytes(),
        "kernel.cpp": winner.source.encode(),
        "plan.json": winner.kernels.plan.to_json().encode(),
        "mugraph.txt": print_mugraph(winner.mugraph).encode(),
        "certificate.json": certificate.dumps(proof).encode(),
    }, meta


def _prove_best(
    graph: Graph, candidates: Sequence[driver.Candidate], seed: int
) -> list[tuple[driver.Candidate, list[equal.Equivalence]]]:
    """The first candidates whose graph, and every carried accumulator, is shown equal."""
    proved: list[tuple[driver.Candidate, list[equal.Equivalence]]] = []
    reasons: list[str] = []
    known: dict[str, equal.Equivalence] = {}

    def show(a: Graph, b: Graph) -> equal.Equivalence:
        pair = f"{a}\n{b}"
        if pair not in known:
            known[pair] = equal.check_equal(a, b, seed=seed)
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


def _isa(options: Options) -> cpu.Isa:
    """The instruction set of the target; ``native`` is the best one of this machine."""
    arch = options.target.arch if options.target is not None else "native"
    names = {"avx512bf16": "avx512_bf16", "amx": "avx512_bf16", "sve": "neon"}
    return cpu.Isa.host() if arch == "native" else cpu.Isa.named(names.get(arch, arch))


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


def _gate(
    proved: Sequence[tuple[driver.Candidate, list[equal.Equivalence]]],
    made: Sequence[tuple[Path, Plan, str] | SuperoptError],
    inputs: Sequence[torch.Tensor],
    eager: Callable[..., Sequence[torch.Tensor]],
    options: Options,
    config: Config,
) -> list[Candidate]:
    """The candidates whose binary is as accurate as eager PyTorch."""
    passed: list[Candidate] = []
    reasons: list[str] = []
    for (candidate, checks), item in zip(proved, made, strict=True):
        if isinstance(item, SuperoptError):
            reasons.append(item.report())
            continue
        path, plan, source = item
        kernels = Kernels(path, plan, config.threads)
        report = gate.numeric_gate(kernels, eager, inputs, seed=options.seed)
        if report.passed:
            passed.append(
                Candidate(candidate.mugraph, candidate.seconds, checks, kernels, source, report)
            )
        else:
            reasons.append(f"numeric gate: {report.reason}")
    for reason in reasons:
        trace.log("verify", f"a candidate was dropped: {reason}")
    if not passed:
        raise VerificationFailed(
            "no candidate passed compilation and the numeric gate", details="\n".join(reasons)
        )
    return passed


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
                [lambda c=c: c(*args, **kwargs) for c in calls], seconds=0.3 * len(calls)
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
