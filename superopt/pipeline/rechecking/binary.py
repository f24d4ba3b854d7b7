"""Runs the numeric gate on the binaries of an artefact, in a process of their own."""

from __future__ import annotations

import platform
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from superopt.codegen.backends import cpu
from superopt.config import Config
from superopt.errors import KernelDied, LoadFailed, SuperoptError
from superopt.mugraph.dispatch import Guard, by_name
from superopt.mugraph.graph import Graph
from superopt.pipeline.rechecking.outcome import BAD, DIFFERENT, EQUAL, UNDECIDED, Layer, Seeds
from superopt.pipeline.rooms import offers
from superopt.runtime.apart import Apart
from superopt.runtime.build import Compiler, Job, compile_many, find_compiler
from superopt.runtime.isa import missing_features
from superopt.runtime.plan import Plan
from superopt.runtime.sanitizer import FLAGS, library_of
from superopt.search.points import spans, too_large
from superopt.verify.admit import ELSEWHERE
from superopt.verify.alone import ALL, Sizes, Tested, gated
from superopt.verify.claims import worst
from superopt.verify.edges import edge_sizes
from superopt.verify.gate import Kernel

if TYPE_CHECKING:
    from superopt.pipeline.rechecking.parts import Parts


def check_binary(parts: Parts, reference: Graph, seeds: Seeds, limit_s: float) -> Layer:
    """The gate's verdict on every binary, at several sizes of each bucket that it serves."""
    if lacking := unable(parts.versions):
        return Layer("binary", UNDECIDED, lacking)
    return _run("binary", parts.binaries, parts, reference, seeds, limit_s)


def check_sanitized(parts: Parts, reference: Graph, seeds: Seeds, limit_s: float) -> Layer:
    """The same of every source, compiled under AddressSanitizer."""
    if lacking := unable(parts.versions):
        return Layer("sanitizer", UNDECIDED, lacking)
    config = Config.from_env()
    try:
        compiler = find_compiler(config)
        library = library_of(compiler, config)
        if library is None:
            what = f"{compiler.path} has no AddressSanitizer to load"
            return Layer("sanitizer", UNDECIDED, what)
        binaries = _sanitized(parts, compiler, config)
    except SuperoptError as error:
        return Layer("sanitizer", UNDECIDED, error.what)
    return _run("sanitizer", binaries, parts, reference, seeds, limit_s, library)


def _sanitized(parts: Parts, compiler: Compiler, config: Config) -> list[bytes]:
    isa = cpu.Isa.named(parts.versions["isa"])
    flags = (*cpu.flags_of(isa), *compiler.openmp_flags, *FLAGS)
    with tempfile.TemporaryDirectory(prefix="superopt-") as folder:
        jobs = [Job(x, flags, Path(folder) / f"{n}.so") for n, x in enumerate(parts.sources)]
        made = compile_many(jobs, config, compiler=compiler)
        if failed := [x for x in made if isinstance(x, SuperoptError)]:
            raise failed[0]
        return [x.read_bytes() for x in made if isinstance(x, Path)]


def _run(
    layer: str,
    binaries: Sequence[bytes],
    parts: Parts,
    reference: Graph,
    seeds: Seeds,
    limit_s: float,
    sanitizer: Path | None = None,
) -> Layer:
    told: list[Tested] = []
    runs = [(n, b, packed) for n, b in enumerate(binaries) for packed in _ways(parts.plans[n])]
    for n, binary, packed in runs:
        name = "the binary" if len(binaries) == 1 else f"binary {n}"
        name += " with packed inputs" if packed else ""
        seed = seeds.draw("gate")
        places = _places(parts, n, seed)
        here: list[str] = []
        with Apart(binary, parts.plans[n], limit_s, sanitizer, packed) as kernel:

            def run(tensors: Sequence[torch.Tensor], kernel: Apart = kernel) -> list[torch.Tensor]:
                return kernel.checked(tensors)

            def at(sizes: Sizes, run: Kernel = run, here: list[str] = here) -> Kernel:
                here[:] = [",".join(f"{k}={v}" for k, v in sorted(sizes.items()))]
                return run

            try:
                found = gated(parts.program, reference, at, places, seed)
            except LoadFailed as error:
                return Layer(layer, BAD, f"{name} cannot be loaded: {error.what}")
            except KernelDied as error:
                where = " at ".join(filter(None, (error.where, *here)))
                text = f"{error.what} ({name}, {where}, seed {seed})"
                return Layer(layer, DIFFERENT, text)
        if found.difference is not None:
            reason = found.difference.reason
            if "(no memory)" in reason:
                return Layer(layer, UNDECIDED, f"{name}: {reason}")
            text = f"{name} is not the program {found.difference}; {reason}"
            return Layer(layer, DIFFERENT, text, found.difference)
        if found.gate is None or not found.answered:
            return Layer(layer, UNDECIDED, f"no inputs were found on which {name} answers")
        told.append(found)
    return Layer(layer, EQUAL, _summary(told))


def _ways(plan: Plan) -> tuple[bool, ...]:
    """Whether a binary is run with its inputs packed: both, where it can."""
    return (False, True) if plan.packed else (False,)


def _summary(told: Sequence[Tested]) -> str:
    """How much was tried, and how near its limit the worst error came."""
    gates = [t.gate for t in told if t.gate is not None]
    count = sum(len(g.classes) for g in gates)
    text = f"{count} runs of input classes at {sum(t.sizes for t in told)} draws of sizes"
    near = [w for g in gates if (w := worst(g)) is not None and w.limit > 0]
    if near:
        c = max(near, key=lambda w: w.candidate / w.limit)
        text += f"; worst error {c.candidate:.2g}, allowed {c.limit:.2g} ({c.name}, {c.what})"
    skipped = sorted({s for t in told for s in t.skipped})
    return text + (f"; no inputs could be drawn at {', '.join(skipped)}" if skipped else "")


def unable(versions: Mapping[str, str]) -> str:
    """Why this machine cannot run what was compiled, or the empty string."""
    if versions["machine"] != platform.machine():
        return (
            f"it was compiled for {versions['machine']}, and this machine is {platform.machine()}"
        )
    if missing := sorted(missing_features(versions["isa"])):
        return f"it was compiled for {versions['isa']}, and this machine lacks {', '.join(missing)}"
    return ""


def _places(parts: Parts, n: int, seed: int) -> list[tuple[Sizes, Sequence[str]]]:
    """Sizes of every bucket of a program: a random one, the middle, the ends, one that divides badly,
    and those at the edges of its tiles.

    All classes of inputs are tried at the first two.
    """
    out: list[tuple[Sizes, Sequence[str]]] = []

    def fits(there: Sizes) -> bool:
        return not too_large(parts.program, there)

    generator = random.Random(seed)
    for guard in parts.guards(n):
        here: list[Sizes] = []
        for there in (_between(parts.program, guard, generator), *offers(parts.program, guard)):
            if there not in here:
                here.append(there)
        small = [p for p in here if fits(p)] or here[:1]
        small += edge_sizes(parts.mugraphs[n], guard, small, fits)
        out += [(there, ALL if k < 2 else ELSEWHERE) for k, there in enumerate(small)]
    return out


def _between(program: Graph, guard: Guard, generator: random.Random) -> dict[str, int]:
    ranges = spans(program)
    return {
        name: generator.randint(low, max(low, min(high, ranges[name].top)))
        for name, (low, high) in by_name(guard).items()
    }
