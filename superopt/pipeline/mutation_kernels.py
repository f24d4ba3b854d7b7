"""Kernels for the suite that tests the numeric gate: printed, compiled, and gated in a process each."""

from __future__ import annotations

import faulthandler
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.config import Config
from superopt.errors import KernelDied, SuperoptError, VerificationFailed
from superopt.mugraph.algebras import floats
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.resize import symbols
from superopt.mugraph.tileir import Program
from superopt.pipeline.making import ENTRY, plan_of
from superopt.pipeline.mutation import Piece
from superopt.runtime.apart import Apart
from superopt.runtime.build import Compiler, Job, compile_many, find_compiler
from superopt.runtime.guarded import Fenced
from superopt.runtime.kernels import Kernels
from superopt.runtime.sanitizer import FLAGS, library_of
from superopt.search.points import too_large
from superopt.verify import gate
from superopt.verify.admit import admit, inputs_at, other_sizes
from superopt.verify.edges import edge_sizes
from superopt.verify.inputs import CLASSES, Inputs
from superopt.verify.proofs import accesses
from superopt.verify.proofs.solver import Solver

FAST = ("-O1",)
"""After the flags of a kernel: mutants run on little data, and compiling them is what takes time."""

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2.0**-8, torch.bfloat16: 2.0**-5}
"""Difference of two kernels, of a row's largest element, up to which it is rounding."""

SEEDS = (11, 12, 13)
"""Draws of every class on which an accepted mutant and the kernel are compared; at other sizes than
those of the inputs, the first alone."""

SANITIZER = "AddressSanitizer"
"""The layer of what ``superopt verify --sanitize`` refuses."""

OWN_SECONDS = 60.0
"""Within which the kernel itself must pass, with its memory fenced."""


def programs_of(mugraph: MuGraph) -> list[Program]:
    """The tile programs of a placed graph."""
    return list(lower(mugraph))


def printed(programs: Sequence[Program]) -> cpu.Source:
    """The C++ of tile programs; raises SuperoptError where a mutant cannot be printed."""
    return cpu.emit(programs, ENTRY)


@dataclass
class Bench:
    """One kernel whose mutants are tried; everything here runs on one thread.

    folder: where binaries go. The kernel itself must pass the gate: VerificationFailed if not.
    """

    piece: Piece
    mugraph: MuGraph
    folder: Path
    seed: int = 0
    source: cpu.Source = field(init=False)
    programs: list[Program] = field(init=False)
    _known: dict[str, gate.Known] = field(default_factory=dict)
    path: Path = field(init=False)
    _kernels: Kernels = field(init=False)
    _mutant: Kernels = field(init=False)
    _others: list[dict[str, int]] = field(init=False)
    _solver: Solver = field(init=False)
    _count: int = 0
    _config: Config = field(init=False)
    _compiler: Compiler = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self._config = Config.from_env().with_values(jobs=1)
        self._compiler = find_compiler(self._config)
        self.programs = programs_of(self.mugraph)
        self._solver = Solver()
        if refuted := self.refuted(self.programs):
            raise VerificationFailed(f"the kernel itself is refused: {refuted}")
        self.source = printed(self.programs)
        (path,) = self.compiled([self.source])
        if isinstance(path, SuperoptError):
            raise path
        self.path = path
        self._kernels = self._load(path, self.source)
        self._others = self._sizes_beside()
        found = self._gate(self._kernels.checked)  # what eager gives is kept for the mutants
        if not found.passed:
            raise VerificationFailed(f"the kernel itself is refused: {found.reason}")
        own = _forked([lambda: self._judged(path, self.source)], OWN_SECONDS)
        if own.layer:
            what = f"the kernel itself is refused: {own.reason}"
            raise VerificationFailed(what, "in memory at pages without access")

    def compiled(
        self, sources: Sequence[cpu.Source], optimized: bool = False, more: Sequence[str] = ()
    ) -> list[Path | SuperoptError]:
        """The binaries of some sources, or what the compiler said; optimized: as kernels are.

        more: flags of the compiler after the others.
        """
        jobs = []
        for source in sources:
            flags = (*source.flags, *self._compiler.openmp_flags)
            flags += (*(() if optimized else FAST), *more)
            jobs.append(Job(source.text, flags, self.folder / f"mutant{self._count}.so"))
            self._count += 1
        return compile_many(jobs, self._config, compiler=self._compiler)

    def _load(self, path: Path, source: cpu.Source) -> Kernels:
        return Kernels(path, plan_of(self.mugraph.graph, source), 1)

    def sanitized(self, source: cpu.Source, seconds: float) -> Tried:
        """What becomes of a mutant under AddressSanitizer, as by ``superopt verify --sanitize``."""
        library = library_of(self._compiler, self._config)
        if library is None:
            return Tried("", "the compiler has no AddressSanitizer")
        (path,) = self.compiled([source], more=FLAGS)
        if isinstance(path, SuperoptError):
            return Tried("compiler", path.what)
        with Apart(
            path.read_bytes(), plan_of(self.mugraph.graph, source), seconds, library
        ) as kernel:
            try:
                found = self._gate(kernel.checked)
            except KernelDied as error:
                return Tried(SANITIZER, error.what)
        return Tried("" if found.passed else "gate", found.reason)

    def refuted(self, programs: Sequence[Program]) -> str:
        """The layer that refutes tile programs before they are printed, or the empty string."""
        try:
            accesses(programs, self.mugraph, self._solver)
        except VerificationFailed:
            return "proofs of accesses"
        except SuperoptError as error:
            return f"proofs of accesses ({type(error).__name__})"
        return ""

    def sizes(self) -> dict[str, int]:
        """The sizes of the symbols at the kernel's inputs."""
        plan = self._kernels.plan
        return plan.sizes(self.piece.inputs) if plan.symbols else {}

    def _sizes_beside(self) -> list[dict[str, int]]:
        """Of a kernel with symbolic sizes: those of ``other_sizes``, and the edges of its tiles."""
        graph, own = self.piece.graph, self.sizes()
        others = list(other_sizes(graph, own))
        guard = tuple((s.name, s.lo, s.hi) for s in symbols(graph))

        def small(there: Mapping[str, int]) -> bool:
            return not too_large(graph, there)

        return others + edge_sizes(self.mugraph, guard, [own, *others], small)

    def _gate(self, kernel: gate.Kernel) -> gate.Gate:
        return admit(
            self.piece.graph,
            kernel,
            self.piece.eager,
            self.piece.inputs,
            self.sizes(),
            seed=self.seed,
            known=self._known,
            others=self._others,
        )

    def tried(self, path: Path, source: cpu.Source, seconds: float) -> Tried:
        """What becomes of a mutant's binary in a process of its own, within so many seconds.

        One that does not answer is tried twice: the machine may have been busy.
        """
        for _ in range(2):
            found = _forked([lambda: self._judged(path, source), self._compared], seconds)
            if found.layer != "time limit":
                break
        return found

    def _judged(self, path: Path, source: cpu.Source) -> Tried:
        self._mutant = self._load(path, source)
        found = self._gate(Fenced(self._mutant))
        return Tried("" if found.passed else "gate", found.reason)

    def _compared(self) -> Tried:
        """An accepted mutant beside the kernel, on draws that the gate has not seen."""
        worst, same, where = 0.0, True, ""
        mutant = Fenced(self._mutant)
        for sizes, inputs, seeds in self._places():
            at = "".join(f" at {k}={n}" for k, n in sizes.items())
            for label, tensors in _draws(inputs, seeds):
                mine, theirs = self._kernels.checked(tensors), mutant(tensors)
                wide = [x.double() if x.is_floating_point() else x for x in tensors]
                exact = floats.run(self.piece.graph, wide, sizes)
                for k, (x, y, r) in enumerate(zip(mine, theirs, exact, strict=True)):
                    same &= _same_bits(x, y)
                    if (off := _apart(x, y, r)) > worst:
                        worst, where = off, f"output {k} on {label} inputs{at}"
        return Tried("", "", worst, same, where)

    def _places(self) -> Iterator[tuple[dict[str, int], Sequence[torch.Tensor], Sequence[int]]]:
        """Sizes, inputs of these sizes, and the draws to make of them."""
        piece = self.piece
        yield self.sizes(), piece.inputs, SEEDS
        for there in self._others:
            inputs = inputs_at(piece.graph, piece.eager, piece.inputs, there)
            if inputs is not None:
                yield there, inputs, SEEDS[:1]


def _draws(
    inputs: Sequence[torch.Tensor], seeds: Sequence[int]
) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """The classes of the gate in other draws, and inputs of all signs and sizes."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        source = Inputs(inputs, generator)
        for name in ("given", *CLASSES):
            for label, tensors in source.of_class(name):
                yield f"{label} {seed}", [x.clone() for x in tensors]
        for name, draw in _SIGNED.items():
            tensors = []
            for k, given in enumerate(inputs):
                x = given.clone()
                if x.is_floating_point():
                    z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
                    x.copy_(draw(z, k))
                elif x.dtype != torch.bool and x.dim():
                    x.copy_(given.flip(0) if seed % 2 else given.amax())
                tensors.append(x)
            yield f"{name} {seed}", tensors


_SIGNED: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "negative and positive": lambda z, k: (24 + z.abs()) * (-1) ** (k + 1),
    "positive and negative": lambda z, k: (24 + z.abs()) * (-1) ** k,
    "far below zero": lambda z, k: -200 - z.abs(),
    "far above zero": lambda z, k: 200 + z.abs(),
    "mostly zero": lambda z, k: torch.where(z.abs() > 1.5, z, 0.0),
    "of all sizes": lambda z, k: z * 10.0 ** (3 * z).clamp(-4, 3),
    "small": lambda z, k: 1e-3 * z,
}
"""Inputs, from standard normal numbers and the position of the input, on which reductions meet
neither zero nor a change of sign where they may be started wrongly."""


@dataclass(frozen=True)
class Tried:
    """What became of a mutant: the layer that refused it, or "" where none did, and why.

    worst: its largest difference from the kernel, in multiples of what rounding explains; same: whether
    all results were the same bit for bit.
    """

    layer: str
    reason: str
    worst: float = 0.0
    same: bool = False
    where: str = ""


def _same_bits(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.equal(x.nan_to_num(nan=3.25), y.nan_to_num(nan=3.25)) and torch.equal(
        x.isnan(), y.isnan()
    )


def _apart(x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> float:
    """The difference of two results, in multiples of what rounding explains.

    x: of the kernel; y: of the mutant; r: in float64, by which it is seen how far the kernel itself is
    off. Infinite where the mutant alone is not finite.
    """
    if not x.is_floating_point():
        return 0.0 if torch.equal(x, y) else float("inf")
    if not x.numel():
        return 0.0
    close = CLOSE[x.dtype]
    a, b, c = (t.double().reshape(-1, t.shape[-1] if t.dim() else 1) for t in (x, y, r))
    finite = a.isfinite() & c.isfinite()
    if not b[finite].isfinite().all():
        return float("inf")
    a, b, c = (torch.where(finite, t, 0.0) for t in (a, b, c))
    scale = c.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    own = ((a - c).abs() / scale).amax(-1, keepdim=True)
    return float(((a - b).abs() / scale / (4 * own).clamp_min(close)).max())


def _forked(steps: Sequence[Callable[[], Tried]], seconds: float) -> Tried:
    """Runs steps, until one refuses, in a fork of this process, which a wrong kernel may crash or hang.

    What dies after the first step has been accepted: it differs.
    """
    context: Any = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def child() -> None:
        faulthandler.disable()  # a fault is an answer
        for step in steps:
            try:
                found = step()
            except BaseException as error:
                found = Tried("gate", f"{type(error).__name__}: {error}"[:200])
            theirs.send(found)
            if found.layer:
                return

    process = context.Process(target=child)
    process.start()
    theirs.close()
    found: Tried | None = None
    try:
        for _ in steps:
            if not mine.poll(seconds):
                late = Tried("time limit", f"no answer in {seconds:.0f} s")
                return late if found is None else _wrong("it does not end")
            step: Tried = mine.recv()
            if step.layer:
                return step if found is None else _wrong(step.reason)
            found = step
        return found or Tried("gate", "nothing was run")
    except EOFError:
        process.join()
        if found is not None:
            return _wrong(f"the process died ({process.exitcode})")
        return Tried("crash", f"the process died ({process.exitcode})")
    finally:
        mine.close()
        if process.is_alive():
            process.join(0.2)
        if process.is_alive():
            process.kill()
        process.join()


def _wrong(where: str) -> Tried:
    """An accepted mutant that fails on other inputs."""
    return Tried("", "", float("inf"), False, where)
