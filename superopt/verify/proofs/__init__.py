"""Proves, for all sizes in their ranges, that tile programs access memory as they should.

Each module states its lemmas and what of the tile IR's meaning they rest on: ``declared`` (buffers,
tasks, addresses), ``bounds`` (where a statement reads), ``flow`` (what was stored before), ``stored``
(each element once), ``reduced`` (each addend once), ``packed`` (copies of inputs),
``views`` (the graph's index maps), on ``nest``
(what a statement sees of an axis) and ``formula`` (how that is written for Z3). What is computed
from the elements is not their subject: that is shown over finite fields, and by running.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from superopt.errors import VerificationFailed
from superopt.mugraph.graph import Const
from superopt.mugraph.placement import MuGraph
from superopt.mugraph.tileir import Program
from superopt.verify.proofs.bounds import bounds
from superopt.verify.proofs.declared import declared
from superopt.verify.proofs.flow import Flow, complete
from superopt.verify.proofs.lemma import KINDS as KINDS
from superopt.verify.proofs.lemma import PROVED, REFUTED, Lemma
from superopt.verify.proofs.lemma import Proofs as Proofs
from superopt.verify.proofs.lemma import joined_proofs as joined_proofs
from superopt.verify.proofs.nest import Nest
from superopt.verify.proofs.packed import Packed, packed
from superopt.verify.proofs.reduced import every_reduction, kernel_of, reduced
from superopt.verify.proofs.solver import TIMEOUT, Solver
from superopt.verify.proofs.stored import stored
from superopt.verify.proofs.views import views


def prove(
    programs: Sequence[Program],
    mugraph: MuGraph,
    timeout: float = TIMEOUT,
    solver: Solver | None = None,
    packing: Packed | None = None,
) -> Proofs:
    """The lemmas of the programs that a placed graph was lowered to, each decided.

    timeout: seconds for one lemma; a solver that is given keeps its own, and what it knows; packing:
    what reads packed inputs beside the programs, and what packs them.
    """
    solver = solver or Solver(timeout)
    lemmas = tuple(_lemmas(programs, mugraph, solver))
    if packing is not None:
        lemmas += tuple(packed(programs, packing, mugraph.graph, solver))
    return Proofs(lemmas, solver.version)


def accesses(
    programs: Sequence[Program],
    mugraph: MuGraph,
    solver: Solver,
    packing: Packed | None = None,
) -> Proofs:
    """``prove``, raising VerificationFailed with the first counter-model when a lemma is refuted."""
    proofs = prove(programs, mugraph, solver=solver, packing=packing)
    wrong = proofs.of(REFUTED)
    if wrong:
        raise VerificationFailed(
            f"its tile programs are wrong: {wrong[0].kind}, {wrong[0].subject}: {wrong[0].words}",
            mugraph.graph.name,
            details="\n".join(str(x) for x in wrong),
        )
    return proofs


def _lemmas(programs: Sequence[Program], mugraph: MuGraph, solver: Solver) -> Iterator[Lemma]:
    nests = [Nest(p) for p in programs]
    first = list(declared(nests, mugraph.graph))
    yield from first
    if any(x.verdict != PROVED for x in first):
        return  # the others rest on these
    yield from views(mugraph.graph, solver)
    yield from stored(nests, solver)
    yield from every_reduction(nests, mugraph)
    for nest in nests:
        k = kernel_of(nest, mugraph)
        outputs = mugraph.kernels[k].outputs if k is not None else ()
        results = [mugraph.graph.nodes[i] for i in outputs]
        constants = frozenset(repr(n.value) for n in results if isinstance(n, Const))
        flow = Flow(nest, solver, constants)
        yield from bounds(nest, solver)
        yield from flow.initialised()
        yield from complete(nest, k is None or bool(mugraph.kernels[k].carries))
        yield from reduced(nest, flow.since, solver)
