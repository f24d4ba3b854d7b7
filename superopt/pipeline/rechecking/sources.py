"""Prints the graphs of an artefact again, and holds plan, source text and accesses against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from superopt.codegen.backends import cpu
from superopt.codegen.lower import lower
from superopt.codegen.packing import Packing, packing
from superopt.errors import SuperoptError
from superopt.mugraph.dispatch import hull, within
from superopt.mugraph.resize import symbols
from superopt.mugraph.tileir import Program
from superopt.pipeline.making import ENTRY, plan_of
from superopt.pipeline.rechecking.outcome import BAD, EQUAL, UNDECIDED, Layer, gravest
from superopt.pipeline.rechecking.parts import Parts
from superopt.runtime.keys import code_fingerprint
from superopt.runtime.plan import Plan, make_plan
from superopt.runtime.site import numbered
from superopt.verify.certificate import proofs_of
from superopt.verify.claims import STRENGTH
from superopt.verify.proofs import Proofs, joined_proofs, prove
from superopt.verify.proofs.lemma import REFUTED, SAMPLED
from superopt.verify.proofs.solver import Solver

PATIENCE = 10.0
"""Seconds that Z3 is given for one lemma, several times those of the first proof."""


@dataclass(frozen=True)
class Again:
    """A placed graph lowered and printed now: its tile programs and source, or why it cannot be.

    fits: whether the source text is the artefact's.
    """

    programs: Sequence[Program]
    source: cpu.Source | None
    fits: bool
    packing: Packing | None = None
    error: str = ""


def print_again(parts: Parts) -> list[Again]:
    """Every placed graph, printed for the instruction set that the certificate names."""
    isa = cpu.Isa.named(parts.versions["isa"])
    out = []
    for mugraph, text in zip(parts.mugraphs, parts.sources, strict=True):
        try:
            programs = lower(mugraph)
            packed = packing(programs, isa.vector_bytes)
            source = cpu.emit(programs, ENTRY, isa, packing=packed)
        except SuperoptError as error:
            out.append(Again((), None, False, error=str(error)))
        else:
            out.append(Again(programs, source, source.text == text, packed))
    return out


def same_code(parts: Parts) -> bool:
    """Whether the artefact was made by the superopt that reads it."""
    return parts.versions["code"] == code_fingerprint()


def check_plans(parts: Parts, printed: Sequence[Again]) -> list[Layer]:
    """Whether plans and sources follow from the graphs.

    Shapes, symbols and the places where sizes are read always do. Buffers and the source text are
    those that the lowering of the same version of superopt gives; another version may lower otherwise.
    """
    same = same_code(parts)
    wrong = [fault for n, x in enumerate(printed) for fault in _plan_faults(parts, n, x, same)]
    texts = [
        f"{numbered('kernel.cpp', n)} is not what its graph is printed as"
        for n, again in enumerate(printed)
        if same and not again.fits and not again.error
    ]
    plans = Layer("plan", BAD if wrong else EQUAL, "; ".join(wrong) or "follows from the graph")
    if texts:
        return [plans, Layer("source", BAD, "; ".join(texts))]
    told = "is what this version prints for the graph"
    if not all(x.fits for x in printed):
        told = f"was printed by another version of superopt ({parts.versions['superopt']})"
    return [plans, Layer("source", EQUAL, told)]


def _plan_faults(parts: Parts, n: int, again: Again, same: bool) -> Iterator[str]:
    plan, mugraph, name = parts.plans[n], parts.mugraphs[n], numbered("plan.json", n)
    guard = tuple((s.name, s.lo, s.hi) for s in symbols(mugraph.graph))
    if parts.rule is not None and not within(hull(parts.guards(n)), guard):
        yield f"{name} serves sizes that its graph does not have"
    bare = make_plan(mugraph.graph, ENTRY, (), {})
    for what in ("entry", "inputs", "outputs", "symbols"):
        if getattr(plan, what) != getattr(bare, what):
            yield f"{name}: its {what} are not those of its graph"
    yield from (f"{name}: {what}" for what in _odd_buffers(plan))
    if again.source is None:
        if same:
            yield f"{numbered('mugraph.txt', n)} cannot be printed: {again.error}"
    elif (same or again.fits) and replace(plan, packs=True) != plan_of(mugraph.graph, again.source):
        yield f"{name}: its buffers are not those of its graph"


def _odd_buffers(plan: Plan) -> list[str]:
    """Buffers that no program has, whoever lowered it."""
    sizes = {
        "input": len(plan.inputs),
        "output": len(plan.outputs),
        "scratch": len(plan.scratch),
        "packed": len(plan.packed),
    }
    if any(p.input not in range(len(plan.inputs)) or p.bytes < 1 for p in plan.packed):
        return ["a packed copy of no input, or of no size"]
    if any(kind not in sizes or n not in range(sizes[kind]) for kind, n in plan.buffers):
        return ["a buffer that is no input, output or scratch"]
    if len(set(plan.buffers)) != len(plan.buffers):
        return ["a buffer is passed twice"]
    symbols = {s[0] for s in plan.symbols}
    if any(e.coef < 0 or not set(e.syms) <= symbols for e in plan.scratch):
        return ["a scratch buffer of no size"]
    return []


def prove_again(parts: Parts, printed: Sequence[Again]) -> list[Proofs | None]:
    """The lemmas about the accesses of each program; None where another version printed it."""
    solver = Solver(PATIENCE)
    return [
        prove(again.programs, mugraph, solver=solver, packing=again.packing) if again.fits else None
        for again, mugraph in zip(printed, parts.mugraphs, strict=True)
    ]


def check_accesses(parts: Parts, lemmas: Sequence[Proofs | None]) -> Layer:
    """Whether the accesses of the programs are shown again as the certificate claims.

    A lemma to which Z3 finds no answer in time now is undecided, not refuted.
    """
    proof, found = parts.certificate, [p for p in lemmas if p is not None]
    refuted = [x for p in found for x in p.of(REFUTED)]
    if refuted:
        return Layer("accesses", BAD, f"its tile programs are wrong: {refuted[0]}")
    if len(found) < len(lemmas):
        what = "not checked again: another version printed the source"
        return Layer("accesses", EQUAL, what)
    verdicts, every = [EQUAL], joined_proofs(found)
    wrong: list[str] = []
    stated, now = proof["proofs"], proofs_of(every)
    if same_code(parts):
        for what in ("lemmas", "by_solver"):
            if stated.get(what) != now[what]:
                wrong.append(f"the certificate states {what} {stated.get(what)}: {now[what]}")
    parts_of = [(proof["layers"]["index_maps"], every.verdict)]
    if parts.rule is not None:
        for bucket, row in zip(parts.rule.buckets, proof["buckets"], strict=True):
            if row["graph"] is not None:
                parts_of.append((row["layers"]["index_maps"], found[bucket.program].verdict))
    late = any(STRENGTH[claimed] > STRENGTH[verdict] for claimed, verdict in parts_of)
    late |= not set(now["sampled"]) <= set(stated.get("sampled", ()))
    if wrong:
        verdicts.append(BAD)
    elif late:
        verdicts.append(UNDECIDED)
        wrong.append("a lemma that is claimed as proved had no answer in time")
    if wrong:
        return Layer("accesses", gravest(verdicts), "; ".join(wrong))
    count, sampled = len(every.lemmas), len(every.of(SAMPLED))
    text = f"{count - sampled} of {count} lemmas about bounds, stores and reductions proved"
    return Layer("accesses", EQUAL, text)
