"""The two field evaluators agree bit for bit on random graphs, and bad bytecode is refused."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from superopt._core import field_run

from superopt.errors import VerificationFailed
from superopt.mugraph.algebras.chain import CHAINS, Chain, generators, trial_keys
from superopt.mugraph.algebras.field_values import Draw
from superopt.mugraph.algebras.levels import analyse, information, lowest
from superopt.mugraph.dtypes import is_float
from superopt.mugraph.flatten import compile_graph
from superopt.mugraph.graph import Graph
from superopt.verify.evaluators import evaluator
from superopt.verify.sizes import assignments
from tests.programs import PROGRAMS, attention
from tests.strategies import graphs

GRAPHS = 400
LEAST = 300
TINY = Chain("tiny", (47, 23, 11))
COUNT = {"graphs": 0, "cells": 0, "clean": 0}


def plan(graph: Graph, chain: Chain):
    info = information(graph, chain.full)
    levels = [
        lowest(info[o.node].mask) if is_float(graph.nodes[o.node].dtype) else 1
        for o in graph.outputs
    ]
    roots: dict[int, int] = {}
    for out, level in zip(graph.outputs, levels, strict=True):
        roots[out.node] = roots.get(out.node, 0) | level
    return analyse(graph, chain.full, roots), levels


def agree(graph: Graph, chain: Chain) -> None:
    wanted, levels = plan(graph, chain)
    for sizing in assignments(graph, graph, 1 << 20):
        draw = Draw(trial_keys(5, range(6)), np.arange(6) % 2 == 1, sizing.ranges)
        mine, other = (
            evaluator(name).outputs(graph, wanted, levels, chain, draw, sizing.sizes)
            for name in ("python", "core")
        )
        for x, y in zip(mine, other, strict=True):
            assert x.data.shape == y.data.shape
            np.testing.assert_array_equal(x.status, y.status)
            np.testing.assert_array_equal(x.data.astype(np.uint64), y.data.astype(np.uint64))
            COUNT["cells"] += x.status.size
            COUNT["clean"] += int((x.status == 0).sum())
    COUNT["graphs"] += 1


@settings(
    max_examples=GRAPHS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(graphs(max_steps=12, dtypes=("f32", "bf16")))
def _random_graphs(graph):
    try:
        agree(graph, CHAINS[0])
        agree(graph, TINY)
    except VerificationFailed:
        pass  # exponentials nested in ways that the chain is too short for


def test_the_evaluators_agree_on_random_graphs():
    COUNT.update(graphs=0, cells=0, clean=0)
    _random_graphs()
    assert COUNT["graphs"] >= 2 * LEAST
    assert COUNT["clean"] > COUNT["cells"] // 2


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("chain", [*CHAINS, TINY], ids=lambda c: c.name)
def test_the_evaluators_agree_on_programs(name, chain):
    agree(PROGRAMS[name](), chain)


def test_masks_agree():
    agree(attention(2, 3, 5, 4, causal=1), CHAINS[0])
    agree(attention(2, 3, 5, 4, banned=2), CHAINS[0])


def bytecode():
    graph = attention(2, 3, 5, 4, causal=1)
    wanted, levels = plan(graph, CHAINS[0])
    sizing = assignments(graph, graph, 1 << 20)[0]
    return compile_graph(graph, wanted, levels, CHAINS[0], sizing.sizes, sizing.ranges)


def run(code, pool, primes=CHAINS[0].primes):
    keys = trial_keys(1, range(2))
    omega = generators(CHAINS[0], keys)
    return field_run(code, pool, list(primes), keys, np.zeros(2, np.uint8), omega, 2)


def test_malformed_bytecode_is_refused_and_never_crashes():
    program = bytecode()
    assert len(run(program.code, program.pool)) == 1
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        code = program.code.copy()
        at = int(rng.integers(len(code)))
        code[at] = rng.choice([-1, 0, 1, 7, 63, 1 << 20, 1 << 62, int(code[at]) + 1])
        try:
            run(code, program.pool)
        except ValueError:
            refused += 1
    assert refused > 200
    with pytest.raises(ValueError, match="malformed"):
        run(program.code[:-1].copy(), program.pool)
    with pytest.raises(ValueError, match="2\\^31"):
        run(program.code, program.pool, (1 << 40, 5, 3))
