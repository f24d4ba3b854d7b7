"""Proofs about accesses: what is lowered is proved, what is wrong is refuted where it is wrong."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superopt.bench.workloads import WORKLOADS
from superopt.codegen.packing import packing
from superopt.errors import IllFormedGraph, VerificationFailed
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder, Graph, Index, Output
from superopt.mugraph.placement import Kernel, MuGraph, Placement
from superopt.mugraph.tile_edit import places, replaced
from superopt.mugraph.tileir import Compute, Loop
from superopt.mugraph.wellformed import check_graph
from superopt.verify.proofs import KINDS, accesses, prove
from superopt.verify.proofs.formula import Formula
from superopt.verify.proofs.solver import Solver
from tests.frontend.harness import program
from tests.mugraph.placed import placed
from tests.strategies import graphs
from tests.verify.access_programs import SMALL, every, lowered

EVERY = every()


def _wrong(mugraph: MuGraph) -> list[str]:
    programs = lowered(mugraph)
    if programs is None:
        return []
    return [str(x) for x in prove(programs, mugraph).lemmas if x.verdict != "proved"]


def test_every_access_of_what_is_lowered_is_proved() -> None:
    kinds: Counter[str] = Counter()
    by_solver = 0
    for name, mugraph in EVERY.items():
        programs = lowered(mugraph)
        assert programs is not None, name
        proofs = prove(programs, mugraph, packing=packing(programs, 16, 0))
        assert proofs.verdict == "proved", [str(x) for x in proofs.lemmas if x.verdict != "proved"]
        kinds.update(proofs.count())
        by_solver += sum(x.solver for x in proofs.lemmas)
    assert kinds.keys() == KINDS.keys()
    assert len(EVERY) >= 60 and min(kinds.values()) >= 20, kinds
    assert sum(kinds.values()) >= 3000 and by_solver >= 1000, (kinds, by_solver)


@pytest.mark.parametrize("w", WORKLOADS, ids=lambda w: w.name)
def test_the_workloads_at_random_cuts_and_tiles(w) -> None:
    rng, done = random.Random(w.name), 0
    pieces = program(w.reference, *w.inputs(w.tiny, torch.float32)).supported
    for tried in range(60):
        mugraph = placed(pieces[tried % len(pieces)].graph, rng)
        assert _wrong(mugraph) == []
        done += lowered(mugraph) is not None
        if done == 4:
            break
    assert done >= 2, f"of {w.name}, {done} random placements have tile programs"


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(graphs(), st.randoms(use_true_random=False))
def test_drawn_programs(graph: Graph, rng: random.Random) -> None:
    assert _wrong(placed(graph, rng)) == []


def test_lemmas_that_are_alike_are_asked_once() -> None:
    mugraph = SMALL["causal parts"][0]
    programs, solver = lowered(mugraph), Solver()
    assert programs is not None
    first = prove(programs, mugraph, solver=solver)
    asked = solver.asked
    assert 0 < asked <= sum(x.solver for x in first.lemmas) // 2
    assert prove(programs, mugraph, solver=solver).count() == first.count()
    assert solver.asked == asked


# -- no answer in time -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("timeout", [0.0, 1e-9, -1.0])
def test_without_time_lemmas_are_sampled(name: str, timeout: float) -> None:
    mugraph = SMALL[name][0]
    programs = lowered(mugraph)
    assert programs is not None
    proofs = prove(programs, mugraph, timeout)
    assert proofs.verdict == "sampled"
    assert {x.verdict for x in proofs.lemmas if x.solver} == {"sampled"}
    assert accesses(programs, mugraph, Solver(timeout)).verdict == "sampled"


def test_a_lemma_that_takes_too_long_is_sampled() -> None:
    f = Formula()
    x, y, z = (f.var(name, name) for name in "xyz")
    goal = f"(distinct (+ (* {x} {x} {x}) (* {y} {y} {y}) (* {z} {z} {z})) 114)"  # an open problem
    lemma = Solver(timeout=0.05).lemma("in bounds", "cubes", f, goal)
    assert lemma.verdict == "sampled" and lemma.seconds < 5


def test_z3_is_imported_when_it_is_asked() -> None:
    code = (
        "import sys, superopt, superopt.pipeline, superopt.verify.certificate\n"
        "import superopt.verify.proofs\n"
        "sys.exit('z3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- what is wrong ---------------------------------------------------------------------------------


def _refuted(name: str, change) -> list[str]:
    """The refuted lemmas of a program changed by ``change(programs)``."""
    mugraph = SMALL[name][0]
    programs = lowered(mugraph)
    assert programs is not None
    proofs = prove(change(list(programs)), mugraph)
    assert proofs.verdict == "refuted"
    with pytest.raises(VerificationFailed, match="its tile programs are wrong"):
        accesses(change(list(programs)), mugraph, Solver())
    return [f"{x.kind}: {x.words}" for x in proofs.of("refuted")]


def test_a_grid_that_an_output_lacks() -> None:
    def change(programs):
        t = next(a for a in programs[0].buffers[0].axes if a.name == "t")
        grid = (*programs[0].grid, replace(programs[0].grid[0], axis=t, tile=16))
        return [replace(programs[0], grid=grid)]

    found = _refuted("long", change)
    assert "stored once: fails at T = 17" in found, found  # two tasks


def test_parts_that_are_too_short() -> None:
    def change(programs):
        parts = (replace(programs[0].parts[0], tile=13),)
        return [replace(programs[0], parts=parts), programs[1]]

    found = _refuted("long parts", change)
    words = next(x for x in found if x.startswith("reduced once"))
    at = dict(x.split(" = ") for x in words.split("fails at ")[1].split(", "))
    assert 39 <= int(at["t"]) < int(at["T"]) <= 40  # three parts hold 39


def test_a_loop_that_forgets_what_was_added() -> None:
    def change(programs):
        loop = next(p for p in places(programs[0].body) if isinstance(p.stmt, Loop))
        assert isinstance(loop.stmt, Loop)
        k = next(k for k, s in enumerate(loop.stmt.body) if isinstance(s, Compute) and s.accumulate)
        at = (*loop.path, k)
        return [replaced(programs[0], at, [replace(loop.stmt.body[k], accumulate=False)])]

    found = _refuted("long", change)
    assert any(x.startswith("reduced once: fails at") for x in found), found


def test_a_view_that_leaves_its_argument() -> None:
    t, u = Axis("t", Sym("T", 1, 9)), Axis("u", Sym("U", 1, 9))
    g = Builder("wider")
    moved = g.view(g.input("x", ((t,),), "f32"), [(t, Index(((u, 1),)))])
    with pytest.raises(IllFormedGraph):
        check_graph(g.build([("o", moved, ((u,),))]))
    graph = Graph("wider", tuple(g.nodes), (Output("o", moved, ((u,),)),))
    mugraph = MuGraph(graph, (Kernel("k0", (moved,), Placement()),))
    found = {x.kind: x for x in prove(lowered(mugraph) or (), mugraph).of("refuted")}
    assert found.keys() == {"index map", "in bounds"}
    at = dict(x.split(" = ") for x in found["index map"].words.split("fails at ")[1].split(", "))
    assert int(at["T"]) <= int(at["u"]) < int(at["U"]) <= 9
