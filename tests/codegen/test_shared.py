"""Values that are used again and again: work and text grow with what is distinct."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import weakref

import pytest
import torch

from superopt.codegen.backends import cpu
from superopt.codegen.lower import NotLowerable, lower
from superopt.mugraph.axes import Axis
from superopt.mugraph.graph import Builder, Graph, Index
from superopt.mugraph.tile_analysis import affine, parts
from superopt.mugraph.tileir import MOST_TEXT, Apply, Compute, Coord, Expr, Lit, Program, print_expr
from tests.codegen.harness import ap, at, buf, check, lit
from tests.codegen.test_lower import check as check_graph
from tests.codegen.test_lower import placed

ISA = cpu.Isa.named("avx2")
A = Axis("a", 16)


def regions(selections: int) -> Graph:
    """x plus the differences of a mask that is built by selections, each of its old value twice."""
    p, q = Axis("p", 16), Axis("q", 16)
    g = Builder("regions")
    x = g.input("x", ((p,), (q,)), "f32")
    mask = g.map("cast", g.iota(A), dtype="f32")
    for k in range(selections):
        inside = g.map("ge", g.iota(A), g.const(k % 16, "i64"))
        mask = g.map("where", inside, g.map("mul", mask, mask), mask, dtype="f32")
        mask = g.map("min", mask, g.const(float(20 + k)))
    row, col = g.view(mask, [(A, Index(((p, 1),)))]), g.view(mask, [(A, Index(((q, 1),)))])
    return g.build([("o", g.map("add", x, g.map("sub", row, col)), ((p,), (q,)))])


def calls(graph: Graph, most: int) -> tuple[int, cpu.Source]:
    """How many functions of Python run while a graph becomes C++, and that; stops beyond ``most``."""
    count = 0
    mugraph = placed(graph, {"p": 4}, {})

    def note(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"
        if count > most:
            raise RuntimeError(f"more than {most} calls")

    sys.setprofile(note)
    try:
        source = cpu.emit(lower(mugraph), "kernel", ISA)
    finally:
        sys.setprofile(None)
    return count, source


def chain(length: int) -> Expr:
    """A sum of itself, so many times: a tree of 2^length leaves."""
    out: Expr = Coord(A)
    for _ in range(length):
        out = Apply("add", (out, out), "i64")
    return out


def test_work_and_text_grow_with_the_distinct_values():
    calls(regions(2), 10**6)  # what is worked out once per process is not counted
    few, short = calls(regions(10), 10**6)
    many, long = calls(regions(40), 10**6)
    assert many < 5 * few
    assert long.text.count("\n") - short.text.count("\n") < 30 * 20
    comments = [line for line in long.text.splitlines() if line.startswith("//")]
    assert max(map(len, comments)) < MOST_TEXT + 100


def test_the_mask_of_selections_is_right():
    check_graph(placed(regions(9), {"p": 5}, {}))
    x = torch.randn(16, 16)
    programs = lower(placed(regions(9), {"p": 5}, {}))
    check(programs, {"x": x})


def test_equal_expressions_are_one_object():
    assert chain(60) is chain(60)
    assert affine(chain(60)) == ({A: 2**60}, 0)
    assert len(list(parts(chain(60)))) == 61
    assert Lit(1, "i64") is not Lit(True, "i64")
    assert Lit(float("nan"), "f32") is Lit(float("nan"), "f32")
    assert pickle.loads(pickle.dumps(chain(60))) is chain(60) is copy.deepcopy(chain(60))


def test_expressions_are_not_kept_alive():
    top = ap("mul", chain(5), lit(12345.5))
    list(parts(top)), affine(top)
    cpu.emit([_program(top)], "kernel", ISA)
    gone = weakref.ref(top)
    del top
    gc.collect()
    assert gone() is None


def _program(expr: Expr) -> Program:
    o = buf("o", "output", [A])
    return Program("p", (o,), (), (), (Compute(o, (A,), expr),))


def test_zeros_of_either_sign_stay_apart():
    x, o = buf("x", "input", [A]), buf("o", "output", [A])
    each = (ap("mul", at(x), lit(zero)) for zero in (0.0, -0.0))
    expr = ap("sub", *(ap("div", lit(1.0), value) for value in each))
    program = Program("p", (x, o), (), (), (Compute(o, (A,), expr),))
    check(program, {"x": torch.ones(16)}, {"o": torch.full((16,), float("inf"))})


def test_the_text_of_an_expression_is_cut():
    assert print_expr(chain(2)) == "add(add(a, a), add(a, a))"
    assert len(repr(chain(60))) == MOST_TEXT + len(" ...")


def test_a_long_chain_is_printed():
    """Deeper than Python's own stack."""
    x, o = buf("x", "input", [A]), buf("o", "output", [A])
    expr: Expr = at(x)
    for _ in range(3000):
        expr = ap("tanh", expr)
    program = Program("p", (x, o), (), (), (Compute(o, (A,), expr),))
    assert cpu.emit([program], "kernel", ISA).text.count("so_tanh") > 3000
    g = Builder("long")
    value = g.input("x", ((A,),), "f32")
    for _ in range(3000):
        value = g.map("tanh", value)
    lower(placed(g.build([("o", value, ((A,),))]), {"a": 4}, {}))


def test_a_source_that_is_too_long_is_refused():
    g = Builder("long")
    value = g.input("x", ((A,),), "f32")
    for _ in range(cpu.MOST_LINES + 1):
        value = g.map("tanh", value)
    programs = lower(placed(g.build([("o", value, ((A,),))]), {"a": 4}, {}))
    with pytest.raises(cpu.SourceTooLong, match="lines of C"):
        cpu.emit(programs, "kernel", ISA)


def test_a_butterfly_is_not_written_out():
    """Each stage reads the one before at two places: 2^n values that share nothing."""
    axes = [Axis(f"b{k}", 2**k) for k in range(17)]
    g = Builder("butterfly")
    value = g.input("x", ((axes[16],),), "f32")
    for k in range(16, 0, -1):
        even, odd = (
            g.view(value, [(axes[k], Index(((axes[k - 1], 2),), offset))]) for offset in (0, 1)
        )
        value = g.map("add", even, odd)
    graph = g.build([("o", value, ((axes[0],),))])
    with pytest.raises(NotLowerable, match="values"):
        lower(placed(graph, {}, {}))
