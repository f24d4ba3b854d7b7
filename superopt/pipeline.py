"""The stages in order: capture, search, verify, lower, build, gate, measure, store."""

from __future__ import annotations

import concurrent.futures as futures
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from superopt import trace
from superopt.codegen.backends import cpu
from superopt.codegen.lower import NotLowerable, lower
from superopt.config import Budget, Config, Options
from superopt.cost.devices import cpu_device
from superopt.cost.measure import interleave
from superopt.cost.model import kernel_seconds, shape_of_kernel
from superopt.errors import SuperoptError, UnsupportedDevice, VerificationFailed
from superopt.frontend import Boundary, Captured, Supported, capture, partition
from superopt.mugraph.canonical import graph_hash, mugraph_hash
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.text import parse_mugraph, print_mugraph
from superopt.runtime.build import Compiler, compile_shared, cpu_features, find_compiler
from superopt.runtime.cache import Cache, code_fingerprint
from superopt.runtime.kernels import Kernels
from superopt.runtime.plan import Plan, make_plan
from superopt.search import driver
from superopt.search.carry import obligation
from superopt.verify import certificate, equal, gate

POLICY = 1
"""Raised whenever what a cached kernel has been checked for changes."""

SHORTLIST = 5


@dataclass(frozen=True)
class Result:
    """What came of one function at one signature.

    call: the winner, with the function's own calling convention; generated: the generated kernels
    alone (None if nothing was generated); winner: "generated", "eager" or "inductor"; timings in
    seconds; states: values and kernels that the search looked at; cache: "warm" when every kernel
    came from the cache; boundaries: what was left to PyTorch, and why.
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
    pieces: tuple[Any, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Built:
    """The kernels of one piece of a program: loaded, verified, measured."""

    kernels: Kernels
    mugraph: MuGraph
    certificate: dict[str, Any]
    meta: dict[str, Any]
    warm: bool


def optimize(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options,
             config: Config | None = None) -> Result:
    """Runs every stage for one function and one signature; see ``Result``.

    Raises SuperoptError when nothing could be generated; the caller then runs the original.
    """
    config = config or Config.from_env()
    _check_device(args, kwargs, options)
    with trace.stage("optimize") as span:
        with trace.stage("frontend"):
            captured = capture(fn, args, kwargs, options)
            pieces = partition(captured, options.precision)
        cache = Cache.open(config)
        built: list[Built | None] = []
        example = captured.flat_inputs(args, kwargs)
        for piece, inputs in captured.walk(pieces, example):
            if isinstance(piece, Boundary):
                trace.log("fallback", f"{piece.op} at {piece.where}: {piece.reason}")
                built.append(None)
            else:
                built.append(_piece(piece, inputs, options, config, cache))
        return _assemble(fn, args, kwargs, captured, pieces, built, options, span)


def _check_device(args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> None:
    from torch.utils import _pytree as pytree

    if options.target is not None and options.target.kind != "cpu":
        raise UnsupportedDevice(f"target {options.target} has no code generator yet", "option target",
                                "use target='cpu'")
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu":
            raise UnsupportedDevice(f"a tensor lives on {leaf.device}", "argument", "move it to the CPU")


def _piece(piece: Supported, inputs: Sequence[torch.Tensor], options: Options, config: Config,
           cache: Cache) -> Built:
    """Kernels for one supported piece, from the cache or made now."""
    compiler = find_compiler(config)
    key = cache.key({
        "graph": graph_hash(piece.graph),
        "options": options.key(),
        "device": sorted(cpu_features()),
        "threads": config.threads or torch.get_num_threads(),
        "toolchain": compiler.fingerprint,
        "flags": config.cxxflags,
        "torch": torch.__version__,
        "policy": POLICY,
        "code": code_fingerprint(),
    })
    with cache.lock(key):
        entry = cache.get(key)
        if entry is not None:
            with trace.stage("load"):
                plan = Plan.from_json(entry.read("plan.json").decode())
                return Built(Kernels(entry.path("kernel.so"), plan, config.threads),
                             parse_mugraph(entry.read("mugraph.txt").decode()),
                             certificate.loads(entry.read("certificate.json").decode()),
                             entry.meta, True)
        return _make(piece, inputs, options, config, cache, key, compiler)


def _make(piece: Supported, inputs: Sequence[torch.Tensor], options: Options, config: Config,
          cache: Cache, key: str, compiler: Compiler) -> Built:
    """Search, prove, compile, gate, measure and store one piece."""
    features = cpu_features()
    device = cpu_device(features, config.threads or torch.get_num_threads())
    isa = cpu.isa_of(features)

    def cost(graph: Graph, body: list[int], stored: set[int], outputs: tuple[int, ...]) -> Callable[..., float]:
        shape = shape_of_kernel(graph, body, stored, outputs)
        return lambda placement: kernel_seconds(shape, placement, device)

    with trace.stage("search") as searching:
        found = driver.search(piece.graph, cost, _budget(options.budget), seed=options.seed,
                              lowerable=_lowerable)
        searching.note(**{k: v for k, v in found.stats.items() if isinstance(v, int | float | bool)})
    if not found.candidates:
        raise SuperoptError("the search found no kernel", piece.graph.name, found.why_none)
    with trace.stage("verify") as verifying:
        proved = []
        for candidate in found.candidates:
            checks = _prove(piece.graph, candidate.mugraph, options.seed)
            if checks is not None:
                proved.append((candidate, checks))
            if len(proved) == SHORTLIST:
                break
    if not proved:
        raise VerificationFailed("no candidate was shown equal to the program", piece.graph.name,
                                 "the program runs in PyTorch")
    with trace.stage("compile") as compiling:
        made = _compile_all([c.mugraph for c, _ in proved], isa, config, compiler)
    with trace.stage("gate") as gating:
        passed = []
        for (candidate, checks), item in zip(proved, made, strict=True):
            if isinstance(item, Exception):
                trace.log("build", f"a candidate failed to compile: {item}")
                continue
            path, plan, source = item
            kernels = Kernels(path, plan, config.threads)
            report = gate.numeric_gate(kernels, piece.reference, piece.eager, inputs,
                                       seed=options.seed, precision=options.precision)
            if report.passed:
                passed.append((candidate, checks, kernels, source, report))
            else:
                trace.log("verify", f"the numeric gate rejected a candidate: {report.reason}")
    if not passed:
        raise VerificationFailed("no candidate passed the numeric gate", piece.graph.name,
                                 "the program runs in PyTorch")
    with trace.stage("measure"):
        calls: list[Callable[[], object]] = [lambda k=p[2]: k(inputs) for p in passed]
        times = interleave([*calls, lambda: piece.eager(*inputs)], seconds=0.4 * (len(calls) + 1))
        best = min(range(len(passed)), key=lambda k: (round(times[k].median_s, 7), k))
    candidate, checks, kernels, source, report = passed[best]
    proof = certificate.build(program=piece.graph, mugraph=candidate.mugraph, checks=checks, gate=report,
                              policy=POLICY, toolchain=compiler.version)
    meta = {
        "states": int(found.stats.get("states", 0)),  # type: ignore[call-overload]
        "search": {k: v for k, v in found.stats.items() if k != "seconds"},
        "search_s": searching.seconds, "verify_s": verifying.seconds + gating.seconds,
        "compile_s": compiling.seconds, "generated_median_s": times[best].median_s,
        "eager_median_s": times[-1].median_s, "predicted_s": candidate.seconds,
    }
    entry = cache.put(key, {
        "kernel.so": kernels.path.read_bytes(), "kernel.cpp": source.encode(),
        "plan.json": kernels.plan.to_json().encode(),
        "mugraph.txt": print_mugraph(candidate.mugraph).encode(),
        "certificate.json": certificate.dumps(proof).encode(),
    }, meta)
    kept = Kernels(entry.path("kernel.so"), kernels.plan, config.threads)
    return Built(kept, candidate.mugraph, proof, meta, False)


def _budget(budget: Budget) -> driver.Budget:
    return driver.Budget(budget.seconds, budget.candidates)


def _lowerable(mugraph: MuGraph) -> str | None:
    try:
        lower(mugraph)
    except NotLowerable as reason:
        return str(reason)
    return None


def _prove(program: Graph, mugraph: MuGraph, seed: int) -> list[equal.Equivalence] | None:
    """The equivalence of the whole graph and of each one-pass accumulator, or None."""
    checks = [equal.check_equal(program, mugraph.graph, seed=seed)]
    for kernel in mugraph.kernels:
        for carry in kernel.carries:
            checks.append(equal.check_equal(*obligation(mugraph.graph, carry), seed=seed))
    wrong = [c for c in checks if c.verdict != "equal"]
    if wrong:
        trace.log("verify", f"a candidate was not shown equal: {wrong[0].reason}")
    return None if wrong else checks
