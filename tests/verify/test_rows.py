"""Every row of the scalar table in the field: against its body, and Python against C++."""

import numpy as np
import pytest

from superopt.mugraph.algebras.chain import CHAINS, trial_keys
from superopt.mugraph.algebras.field_values import Draw
from superopt.mugraph.graph import Builder, Graph
from superopt.mugraph.scalars import REDUCTIONS, SCALARS, inline
from superopt.verify.equal import check_equal
from superopt.verify.evaluators import evaluator
from superopt.verify.sizes import assignments
from tests.verify.terms import B, K
from tests.verify.test_evaluators import plan

BOOLS, INTS = ("not", "and", "or"), ("floordiv", "mod")
COMPOSITE = [r.name for r in SCALARS.values() if r.body is not None]
FLOATS = [r.name for r in SCALARS.values() if r.name not in (*BOOLS, *INTS)]


def arguments(b: Builder, name: str, dtype: str) -> list[int]:
    kinds = [dtype] * SCALARS[name].arity
    if name == "where":
        kinds[0] = "bool"
    axes = [(B, K), (K,), (B,)]
    return [b.input(f"a{k}", tuple((a,) for a in axes[k]), kind) for k, kind in enumerate(kinds)]


def row_graph(name: str, dtype: str, target: str | None = None, body: bool = False) -> Graph:
    """The row applied to inputs of one dtype; or, with ``body``, the row's body written out."""
    b = Builder(name)
    args = arguments(b, name, dtype)
    if body:

        def apply(op: str, xs: list[int]) -> int:
            row = SCALARS[op]
            return inline(row.body, xs, apply, b.const) if row.body is not None else b.map(op, *xs)

        out = apply(name, args)
    else:
        needed = target or (dtype if name in ("where", "cast", "round") else None)
        out = b.map(name, *args, dtype=needed)
    return b.build([("o", out, tuple((a,) for a in b.axes(out)))])


def agree(graph: Graph) -> int:
    """Both evaluators on 40 trials, half of them with ties; how many cells are defined."""
    wanted, levels = plan(graph, CHAINS[0])
    clean = 0
    for sizing in assignments(graph, graph, 1 << 20):
        draw = Draw(trial_keys(9, range(40)), np.arange(40) % 2 == 1, sizing.ranges)
        (mine,), (other,) = (
            evaluator(u).outputs(graph, wanted, levels, CHAINS[0], draw, sizing.sizes)
            for u in ("python", "core")
        )
        np.testing.assert_array_equal(mine.status, other.status)
        np.testing.assert_array_equal(mine.data.astype(np.uint64), other.data.astype(np.uint64))
        clean += int((mine.status == 0).sum())
    return clean


@pytest.mark.parametrize("name", COMPOSITE)
def test_a_composite_is_its_body_in_the_field(name):
    found = check_equal(row_graph(name, "f32"), row_graph(name, "f32", body=True), seed=2)
    assert found, found.reason


@pytest.mark.parametrize("name", FLOATS)
def test_floats_agree_between_the_evaluators(name):
    assert agree(row_graph(name, "f32")) >= 50


@pytest.mark.parametrize(
    "name",
    [
        *INTS,
        "add",
        "mul",
        "max",
        "min",
        "lt",
        "le",
        "eq",
        "where",
        "abs",
        "relu",
        "sub",
        "neg",
        "square",
        "ge",
        "ne",
    ],
)
@pytest.mark.parametrize("dtype", ["i64", "i32", "i8", "u8"])
def test_integers_agree_between_the_evaluators(name, dtype):
    assert agree(row_graph(name, dtype)) >= 50


@pytest.mark.parametrize("name", BOOLS)
def test_truth_values_agree_between_the_evaluators(name):
    assert agree(row_graph(name, "bool")) >= 50


@pytest.mark.parametrize("source", ["f32", "bf16", "i64", "u8", "bool"])
@pytest.mark.parametrize("target", ["f32", "f16", "i64", "i8", "u8", "bool"])
def test_casts_agree_between_the_evaluators(source, target):
    if source != target:
        assert agree(row_graph("cast", source, target)) >= 50


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_agree_between_the_evaluators(name):
    for dtype in ("bool",) if name in BOOLS else ("f32", "i64"):
        b = Builder(name)
        x = b.input("a0", ((B,), (K,)), dtype)
        out = b.reduce(name, x, [K])
        assert agree(b.build([("o", out, ((B,),))])) >= 50


@pytest.mark.parametrize(
    "name", [r.name for r in SCALARS.values() if r.field == "keyed" and r.name not in ("round",)]
)
def test_a_keyed_row_is_a_function_of_its_arguments_and_of_its_name(name):
    mine = row_graph(name, "f32")
    assert check_equal(mine, mine, seed=1)
    assert f"keyed:{name}" in check_equal(mine, mine, seed=1).assumptions
    others = [
        r.name
        for r in SCALARS.values()
        if r.field == "keyed"
        and r.name != "round"
        and r.name != name
        and r.arity == SCALARS[name].arity
    ]
    for other in others:
        assert not check_equal(mine, row_graph(other, "f32"), seed=1)


def test_roundings_to_two_dtypes_differ():
    assert not check_equal(
        row_graph("round", "f32", "f32"),
        Graph("r", row_graph("neg", "f32").nodes, row_graph("neg", "f32").outputs),
        seed=1,
    )
