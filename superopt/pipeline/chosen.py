"""What was chosen for each bucket of a piece, and the cache entry that it makes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from superopt.cost.measure import Timing
from superopt.mugraph.dispatch import ORIGINAL, Bucket, Dispatch, Guard, joined
from superopt.mugraph.graph import Graph
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.resize import symbols
from superopt.mugraph.text import print_graph, print_mugraph
from superopt.pipeline import size_one
from superopt.pipeline.size_one import SizeOne
from superopt.runtime.artefact import CERTIFICATE, DISPATCH, PROGRAM, SIZE_ONE
from superopt.runtime.kernels import Kernels
from superopt.runtime.site import numbered
from superopt.search.buckets import Room
from superopt.verify import certificate, gate
from superopt.verify.equivalence import Equivalence
from superopt.verify.proofs import Proofs, joined_proofs

NO_TIME = Timing(math.inf, 0.0, 0)
"""Of what was not run."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A placed graph on its way: proved, compiled; origin: which of those found it is.

    lemmas: about the accesses of the tile programs that it was compiled from.
    """

    mugraph: MuGraph
    predicted: float
    checks: list[Equivalence]
    kernels: Kernels
    source: str
    lemmas: Proofs
    origin: int

    @property
    def guard(self) -> Guard:
        """The sizes that it was compiled for."""
        return tuple((name, low, high) for name, _, _, _, low, high in self.kernels.plan.symbols)


@dataclass(frozen=True)
class Winner:
    """What came of one room: the admitted candidate (None: the original runs) and the two times."""

    room: Room
    candidate: Candidate | None = None
    gate: gate.Gate | None = None
    generated: Timing = NO_TIME
    eager: Timing = NO_TIME
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def slower(self) -> bool:
        """Whether eager PyTorch was faster."""
        return self.eager.median_s < self.generated.median_s

    @property
    def failed(self) -> bool:
        """Whether programs were tried and none was admitted."""
        return self.candidate is None and bool(self.sizes)


def merged(winners: Sequence[Winner]) -> list[Winner]:
    """The winners with neighbouring rooms joined that the same program serves in the same way.

    What was tested counts for all of a joined room; its times are those of its first part.
    """
    parts = {tuple((low, high) for _, low, high in w.room.guard): w for w in winners}
    out = []
    for box, _ in joined([(b, (id(w.candidate), w.slower)) for b, w in parts.items()]):
        of = [
            w
            for b, w in sorted(parts.items())
            if all(a <= c and d <= z for (a, z), (c, d) in zip(box, b, strict=True))
        ]
        names = [name for name, _, _ in of[0].room.guard]
        guard = tuple((n, low, high) for n, (low, high) in zip(names, box, strict=True))
        room = replace(of[0].room, guard=guard, worst=max(w.room.worst for w in of))
        verdict = gate.joined([w.gate for w in of if w.gate is not None])
        out.append(replace(of[0], room=room, gate=verdict))
    return out


@dataclass(frozen=True)
class Source:
    """A program that was optimized, what was captured of it at size 1, and how it was made.

    seed: of the numeric gate; versions: of what decides the kernels' text, and what they need.
    """

    graph: Graph
    size_one: Sequence[SizeOne]
    seed: int
    versions: Mapping[str, str]


def entry_of(
    source: Source,
    winners: Sequence[Winner],
    shifts: Sequence[Equivalence],
    search: Mapping[str, Any],
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a cache entry, and what it says of its programs and their times.

    The files are all that ``superopt verify`` needs to check it again.

    shifts: the checks of what was done to the program before it was searched; search: what the
    search claims of its spaces.
    """
    graph = source.graph
    served = [w for w in winners if w.candidate is not None]
    programs = list(dict.fromkeys(w.candidate for w in served if w.candidate is not None))
    files = {PROGRAM: print_graph(graph).encode()}
    if source.size_one:
        files[SIZE_ONE] = size_one.dumps(source.size_one).encode()
    libraries = []
    for n, c in enumerate(programs):
        binary = c.kernels.path.read_bytes()
        # The loader takes two files of one path for one library, so the name tells the content.
        libraries.append(f"kernel-{hashlib.sha256(binary).hexdigest()[:16]}.so")
        files[libraries[-1]] = binary
        files[numbered("kernel.cpp", n)] = c.source.encode()
        files[numbered("plan.json", n)] = c.kernels.plan.to_json().encode()
        files[numbered("mugraph.txt", n)] = print_mugraph(c.mugraph).encode()
    meta: dict[str, Any] = {
        "libraries": libraries,
        "generated_median_s": served[0].generated.median_s,
        "eager_median_s": served[0].eager.median_s,
        "predicted_s": programs[0].predicted,
    }
    domain: Guard = ()
    shown: list[certificate.Shown] = []
    if winners[0].room.guard:
        domain = tuple((s.name, s.lo, s.hi) for s in symbols(graph))
        rule = Dispatch(domain, tuple(_bucket(w, programs) for w in winners))
        files[DISPATCH] = rule.to_json().encode()
        meta["buckets"] = [_times(w) for w in winners]
        shown = [_shown(w, shifts) for w in winners]
    checks = list(shifts)
    for c in programs:
        checks += [x for x in c.checks if c is programs[0] or x not in checks]
    verdict = gate.joined([w.gate for w in served if w.gate is not None])
    proof = certificate.build(
        graph,
        programs[0].mugraph,
        checks,
        verdict,
        domain=domain,
        buckets=shown,
        lemmas=joined_proofs(c.lemmas for c in programs),
        search=search,
        artefact={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        seeds={"gate": source.seed},
        versions=source.versions,
    )
    files[CERTIFICATE] = certificate.dumps(proof).encode()
    return files, meta


def _bucket(w: Winner, programs: Sequence[Candidate]) -> Bucket:
    if w.candidate is None:
        return Bucket(w.room.guard, ORIGINAL)
    return Bucket(w.room.guard, programs.index(w.candidate), w.slower)


def _times(w: Winner) -> dict[str, Any]:
    """Where a bucket was timed, both times, and how far its choice is from the best prediction."""
    if w.candidate is None:
        return {}
    return {
        "sizes": dict(w.sizes),
        "generated_median_s": w.generated.median_s,
        "eager_median_s": w.eager.median_s,
        "predicted_times_best": w.room.worst,
    }


def _shown(w: Winner, shifts: Sequence[Equivalence]) -> certificate.Shown:
    if w.candidate is None:
        return certificate.Shown(w.room.guard, None)
    c = w.candidate
    return certificate.Shown(
        w.room.guard, c.mugraph, [*shifts, *c.checks], w.gate, w.slower, c.lemmas
    )
