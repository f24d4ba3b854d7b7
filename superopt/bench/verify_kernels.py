"""Mutants of kernels: of their tile programs and of their C++, compiled, gated and judged."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superopt.bench.kernel_arguments import Argue
from superopt.bench.text_mutants import text_mutants
from superopt.bench.verify_cases import DTYPES, KernelCase, searched
from superopt.errors import SuperoptError
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.tile_mutants import mutants
from superopt.mugraph.tileir import Program
from superopt.pipeline.making import ENTRY
from superopt.pipeline.mutation import Piece, pieces, placed
from superopt.pipeline.mutation_kernels import Bench, Tried, printed, programs_of

SECONDS = 20.0
"""After which a kernel that runs on little data is taken not to end."""

SANITIZED_SECONDS = 60.0
"""The same under AddressSanitizer."""

SEED = 20


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
    what = f"{row.case}: {m.kind}: {m.what}"
    if found.worst > 1.0:
        row.accepted["gate"] += 1
        row.wrong.append(f"{what} ({found.where}, {found.worst:.3g} times what rounding explains)")
        return
    argument, warning = argue.why(m.kind, m.source, m.programs, path)
    if argument:
        row.accepted["gate"] += 1
        row.explained[argument] += 1
        return
    under = argue.bench.sanitized(m.source, SANITIZED_SECONDS)
    if under.layer:
        row.rejected[under.layer] += 1
        return
    row.accepted["gate"] += 1
    seen = "all results the same" if found.same else f"off by {found.worst:.2g} of rounding"
    row.unexplained.append(f"{what} ({seen}){warning}")


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
