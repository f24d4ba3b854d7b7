"""Mutants of kernels: of their tile programs and of their C++, compiled, gated and judged."""

from __future__ import annotations

import random
import re
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superopt.bench import exact_tiles
from superopt.bench.exact import Exact
from superopt.bench.exact_forms import TooMuch
from superopt.bench.text_mutants import text_mutants
from superopt.bench.verify_cases import DTYPES, KernelCase, searched
from superopt.errors import SuperoptError
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.tile_mutants import mutants
from superopt.mugraph.tileir import Program
from superopt.pipeline.mutation import Piece, pieces, placed
from superopt.pipeline.mutation_kernels import ENTRY, Bench, Tried, printed, programs_of

SECONDS = 20.0
"""After which a kernel that runs on little data is taken not to end."""

SEED = 20
LIMITS = ((1, 2_000_000), (300, 3_000_000))
"""Terms of a sum, and operations on terms, with which exact values of kernels are tried in turn."""

_EMPTY_STEP = re.compile(r"\+ for \(int64_t (b\d+_\w+) = [^;]*; \1 <= [^;]*; \1 \+= \d+\)")
"""A loop over tiles that goes on at the end of its axis: there a statement stores nothing, and a
reduction gives its neutral element."""


@dataclass(frozen=True)
class _Mutant:
    """A broken kernel: what was changed, its C++, and its tile programs where these were changed."""

    kind: str
    what: str
    source: Any
    programs: tuple[Program, ...] | None = None


def tried(row: Any, case: KernelCase, share: float) -> Any:
    """Fills a row with what became of the mutants of a kernel."""
    piece, mugraph = kernel(case)
    with tempfile.TemporaryDirectory(prefix="superopt-mutants-") as folder:
        bench = Bench(piece, mugraph, Path(folder))
        argue = Argue(bench)
        made = [*_of_tiles(row, bench, max(1, round(case.tile * share)))]
        made += _of_text(bench, max(1, round(case.text * share)))
        for m in made:
            begun = time.perf_counter()
            (path,) = bench.compiled([m.source])
            row.tried += 1
            row.kinds[m.kind] += 1
            if isinstance(path, SuperoptError):  # met before the gate, as a rule of the language
                row.rejected["compiler"] += 1
                continue
            found = bench.tried(path, m.source, SECONDS)
            row.times.append(time.perf_counter() - begun)
            if found.layer:
                row.rejected[found.layer] += 1
            else:
                _accepted(row, m, found, argue, path)
            path.unlink()
    return row


def _accepted(row: Any, m: _Mutant, found: Tried, argue: Argue, path: Path) -> None:
    row.accepted["gate"] += 1
    what = f"{row.case}: {m.kind}: {m.what}"
    if found.worst > 1.0:
        row.wrong.append(f"{what} ({found.where}, {found.worst:.3g} times what rounding explains)")
    elif argument := argue.why(m.source, m.programs, path):
        row.explained[argument] += 1
    elif found.same and _EMPTY_STEP.search(m.what):
        row.explained["one more step of a loop over tiles, with no elements in it"] += 1
    else:
        seen = "all results the same" if found.same else f"off by {found.worst:.2g} of rounding"
        row.unexplained.append(f"{what} ({seen})")


def kernel(case: KernelCase) -> tuple[Piece, MuGraph]:
    """The program of a case and the placed graph of its kernel; SuperoptError where there is none."""
    w = searched(case.workload)
    args = w.inputs({**w.tiny, **case.params}, DTYPES[case.dtype])
    dynamic = None
    if case.dynamic is not None:
        from torch.export import Dim

        name = w.specs(w.tiny)[0].name
        dynamic = {name: {case.dynamic: Dim("n", min=2, max=64)}}
    (piece,) = pieces(w.reference, args, dynamic=dynamic)
    for mugraph in placed(piece.graph, 24, case.cores, case.tile_memory):
        loops = any(k.placement.loop for k in mugraph.kernels)
        carried = any(k.placement.loop and k.carries for k in mugraph.kernels)
        parts = any(p.parts for p in programs_of(mugraph))
        has = {
            "best": True,
            "split": parts,
            "carried": carried and not parts,
            "carried parts": carried and parts,
            "looped parts": loops and parts,
        }
        if has[case.form]:
            return piece, mugraph
    raise SuperoptError(f"no kernel of the form {case.form!r}", case.name, "give other sizes")


def _of_tiles(row: Any, bench: Bench, count: int) -> Iterator[_Mutant]:
    """Mutants of the tile programs, of all kinds in turn; those that cannot be printed are refused."""
    rng = random.Random(SEED)
    kinds: dict[str, list[tuple[int, Program]]] = {}
    for k, program in enumerate(bench.programs):
        for kind, changed in mutants(program):
            kinds.setdefault(kind, []).append((k, changed))
    for found in kinds.values():
        rng.shuffle(found)
    turns = list(kinds)
    rng.shuffle(turns)
    kinds = {k: kinds[k] for k in turns}
    made = 0
    while kinds and made < count:
        for kind in list(kinds):
            if not kinds[kind]:
                del kinds[kind]
                continue
            if made == count:
                break
            made += 1
            k, changed = kinds[kind].pop()
            programs = (*bench.programs[:k], changed, *bench.programs[k + 1 :])
            source: Any = None
            if not (layer := bench.refuted(programs)):
                try:
                    source = printed(programs)
                except Exception as error:  # a program that breaks the rules in another way
                    layer = f"printing ({type(error).__name__})"
            if layer:
                row.tried += 1
                row.kinds[f"tile: {kind}"] += 1
                row.rejected[layer] += 1
                continue
            what = _change(bench.programs[k], changed)
            yield _Mutant(f"tile: {kind}", what, source, programs)


def _change(before: Program, after: Program) -> str:
    old, new = str(before).split("\n"), str(after).split("\n")
    lost = [f"- {x.strip()}" for x in old if x not in new]
    return "; ".join([*lost, *(f"+ {x.strip()}" for x in new if x not in old)])[:400]


def _of_text(bench: Bench, count: int) -> Iterator[_Mutant]:
    for m in text_mutants(bench.source.text, ENTRY, count, SEED):
        what = f"- {m.before.strip()}; + {m.after.strip()}"[:400]
        yield _Mutant(f"text: {m.kind}", what, replace(bench.source, text=m.text))


class Argue:
    """Finds why an accepted mutant of a kernel computes the same."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._own = machine_code(bench.path)
        self._best: tuple[bytes, ...] | None = None
        self._exact: dict[int, tuple[Exact, dict[str, Any]] | None] = {}

    def _known(self, k: int) -> tuple[Exact, dict[str, Any]] | None:
        """The exact values of the kernel itself at a limit, where they can be had."""
        if k not in self._exact:
            exact = Exact(*LIMITS[k])
            try:
                values = exact_tiles.outputs(exact, self.bench.programs, self.bench.sizes())
                self._exact[k] = exact, values
            except (TooMuch, exact_tiles.Stray):
                self._exact[k] = None
        return self._exact[k]

    def why(self, source: Any, programs: Sequence[Program] | None, path: Path) -> str:
        """The argument, or the empty string."""
        if machine_code(path) == self._own:
            return "the same machine code"
        if self._optimized(source) == self._optimized(None):
            return "the same machine code when optimized: what was changed is dead"
        for k in range(len(LIMITS)):
            known = self._known(k) if programs is not None else None
            if known is None or programs is None:
                continue
            exact, mine = known
            exact.work = LIMITS[k][1]
            try:
                theirs = exact_tiles.outputs(exact, programs, self.bench.sizes())
            except (TooMuch, exact_tiles.Stray):
                continue
            if mine.keys() == theirs.keys() and all((mine[n] == theirs[n]).all() for n in mine):
                return "equal in exact arithmetic, cell by cell, task by task"
        return ""

    def _optimized(self, source: Any) -> tuple[bytes, ...]:
        """The machine code of a source with every optimization; of the kernel's own for None."""
        if source is None and self._best is not None:
            return self._best
        (path,) = self.bench.compiled([source or self.bench.source], optimized=True)
        code = machine_code(path) if isinstance(path, Path) else ()
        if source is None:
            self._best = code
        return code


def machine_code(path: Path) -> tuple[bytes, ...]:
    """The code and the constants of a shared object (ELF64): .text, .rodata and .data, in order."""
    raw = path.read_bytes()
    if raw[:5] != b"\x7fELF\x02":
        return (raw,)
    (at,) = struct.unpack_from("<Q", raw, 0x28)
    size, count, names = struct.unpack_from("<HHH", raw, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", raw, at + k * size) for k in range(count)]
    text = heads[names][4]
    out = []
    for name, kind, _, _, offset, length in heads:
        end = raw.index(b"\0", text + name)
        label = raw[text + name : end].decode()
        if label.startswith((".text", ".rodata", ".data")) and kind != 8:
            out.append(label.encode() + raw[offset : offset + length])
    return tuple(out)
