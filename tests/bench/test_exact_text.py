"""The reader of emitted C++: it gives the values of the tile programs, and tells broken text apart."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from superopt.bench import exact_text, exact_tiles
from superopt.bench.cpp_parse import Unreadable, functions
from superopt.bench.exact import Exact
from superopt.bench.exact_ratio import within
from superopt.bench.exact_tiles import Stray
from superopt.bench.kernel_arguments import STRAYS, UNSET, Argue, settings
from superopt.bench.text_mutants import text_mutants
from superopt.bench.verify_cases import KernelCase
from superopt.bench.verify_kernels import kernel
from superopt.codegen.backends import cpu
from superopt.codegen.packing import packing
from superopt.mugraph.axes import Sym
from superopt.pipeline.making import ENTRY
from superopt.pipeline.mutation import Piece
from superopt.pipeline.mutation_kernels import Bench, programs_of

CASES = {
    c.name: c
    for c in (
        KernelCase("attention", "gqa", {"b": 1, "m": 2, "d": 4, "t": 9}),
        KernelCase("attention bf16", "gqa", {"b": 1, "m": 2, "d": 4, "t": 9}, "bf16"),
        KernelCase("in parts", "rmsnorm_linear", {"b": 1, "k": 300, "n": 4}, cores=64,
                   tile_memory=1024, form="looped parts"),
        KernelCase("masked", "causal_prefill", {"heads": 1, "t": 11, "d": 4}),
        KernelCase("norms", "qk_norm", {"b": 1, "m": 2, "d": 4, "t": 7}),
        KernelCase("norm and product", "rmsnorm_linear", {"b": 2, "k": 20, "n": 5}),
        KernelCase("symbolic rows", "rmsnorm_linear", {"b": 4, "k": 20, "n": 5}, dynamic=0),
        KernelCase("MLP", "gelu_mlp", {"m": 2, "h": 4, "inter": 5}),
        KernelCase("gated", "gated_mlp", {"m": 2, "k": 9, "n": 5}),
        KernelCase("gated bf16", "gated_mlp", {"m": 2, "k": 9, "n": 5}, "bf16"),
        KernelCase("low rank", "lora", {"m": 3, "k": 17, "n": 9, "r": 2}),
        KernelCase("residual", "ntrans", {"b": 1, "n": 13}),
        KernelCase("loss", "cross_entropy", {"m": 3, "vocab": 20}),
        KernelCase("tails", "softmax_odd", {"b": 1, "rows": 3, "n": 9}),
        KernelCase("symbolic tails", "softmax_odd", {"b": 1, "rows": 3, "n": 9}, dynamic=2),
    )
}  # fmt: skip
MACHINES = ("generic", "avx2", "avx512bf16")
LONG = ("in parts",)
"""Cases that take longer: read in one form."""


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Piece, list, dict[str, cpu.Source]]]:
    """Every case as its piece, its tile programs, and its text for every machine."""
    out = {}
    for name, case in CASES.items():
        piece, mugraph = kernel(case)
        programs = programs_of(mugraph)
        texts = {
            m: cpu.emit(programs, ENTRY, cpu.Isa.named(m))
            for m in MACHINES
            if m == "avx2" or name not in LONG
        }
        out[name] = piece, programs, texts
    return out


def sizes_of(piece: Piece) -> dict[str, int]:
    out = {}
    for node, tensor in zip(piece.graph.inputs, piece.inputs, strict=True):
        for dim, n in zip(node.dims, tensor.shape, strict=True):
            out |= {a.size.name: n for a in dim if isinstance(a.size, Sym)}
    return out


def exactly(piece: Piece, limit: int = 300) -> Exact:
    (first, *_) = settings(piece.graph, piece.inputs, sizes_of(piece), [])
    return Exact(limit, 3_000_000, first.given)


def test_texts_compute_what_their_tile_programs_do(made: dict):
    compared = 0
    for name, (piece, programs, texts) in made.items():
        exact, sizes = exactly(piece), sizes_of(piece)
        right = exact_tiles.outputs(exact, programs, sizes)
        for machine, source in texts.items():
            found = exact_text.read(exact, source, programs, sizes)
            assert found.outputs.keys() == right.keys()
            for k in right:
                assert (found.outputs[k] == right[k]).all(), (name, machine, k)
            assert not found.unset, (name, machine)
            compared += 1
    assert compared >= 43


PACKED = ("gated", "gated bf16", "low rank", "norm and product")


def over_packed(programs: list, machine: str) -> tuple[list, cpu.Source] | None:
    """What packs the inputs of programs and reads them, in order, and its text; None where none is."""
    isa = cpu.Isa.named(machine)
    found = packing(programs, isa.vector_bytes, 0)
    if found is None:
        return None
    every = [*found.packs, *found.reads]
    return every, cpu.emit(every, ENTRY, isa)


def test_texts_over_packed_inputs_compute_what_the_tile_programs_do(made: dict):
    compared = 0
    for name in PACKED:
        piece, programs, _ = made[name]
        exact, sizes = exactly(piece), sizes_of(piece)
        right = exact_tiles.outputs(exact, programs, sizes)
        for machine in MACHINES:
            texts = over_packed(programs, machine)
            if texts is None:  # its tiles are no whole panels there
                continue
            compared += 1
            every, source = texts
            assert "so_mm_packed<" in source.text and "so_pack_panels<" in source.text
            again = exact_tiles.outputs(exact, every, sizes)
            found = exact_text.read(exact, source, every, sizes)
            for k in right:
                assert (again[k] == right[k]).all(), (name, machine, k)
                assert (found.outputs[k] == right[k]).all(), (name, machine, k)
            assert not found.unset, (name, machine)
    assert compared >= 6


@pytest.mark.parametrize("what", ["so_mm_packed", "so_pack_panels"])
def test_wrong_texts_over_packed_inputs_compute_something_else(made: dict, what: str):
    piece, programs, _ = made["low rank"]
    exact, sizes = exactly(piece), sizes_of(piece)
    texts = over_packed(programs, "generic")
    assert texts is not None
    every, source = texts
    right = exact_text.read(exact, source, every, sizes)
    start = source.text.index(f"static void {ENTRY}_k")
    pattern = r"[^\n]*\n([^\n]*)\n" if what == "so_pack_panels" else r"\(\s*([^\n]*)\n"
    call = re.search(rf"{what}<[^>]*>{pattern}", source.text[start:])
    assert call is not None
    words = call[1].split(", ")
    if what == "so_pack_panels":  # the two strides of the source exchanged
        words[1], words[2] = words[2], words[1]
    else:  # another distance of panels
        words[-2] = str(int(words[-2]) - 4)
    mutant = changed(source, call[1], ", ".join(words))
    try:
        found = exact_text.read(exact, mutant, every, sizes)
    except Stray:
        return
    assert not found.same(right) or found.unset


def changed(source: cpu.Source, old: str, new: str) -> cpu.Source:
    start = source.text.index(f"static void {ENTRY}_k")
    assert old in source.text[start:], old
    return replace(source, text=source.text[:start] + source.text[start:].replace(old, new, 1))


TAIL = "for (int64_t i_a1 = 0; i_a1 < 3; ++i_a1) {"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TAIL, TAIL.replace("< 3", "<= 3")),
        (TAIL, TAIL.replace("= 0", "= -1")),
        ("so_load<float, 8>(p1 + i_a2, part)", "so_load<float, 8>(p1 + (i_a2 + 1), part)"),
        ("so_load<float, 8>(p1 + i_a2, part)", "so_load<float, 8>(p1 - i_a2, part)"),
    ],
)
def test_an_access_outside_an_array_is_met(made: dict, old: str, new: str):
    piece, programs, texts = made["symbolic tails"]
    source = changed(texts["avx2"], old, new)
    with pytest.raises(Stray):
        exact_text.read(exactly(piece), source, programs, sizes_of(piece))


def test_an_access_outside_an_array_of_the_stack_is_met(made: dict):
    piece, programs, texts = made["loss"]
    source = changed(texts["avx2"], "so_steps<8>(3,", "so_steps<8>(17,")
    with pytest.raises(Stray):
        exact_text.read(exactly(piece), source, programs, {})


def test_what_was_never_written_is_an_unknown(made: dict):
    piece, programs, texts = made["symbolic tails"]
    exact, sizes = exactly(piece), sizes_of(piece)
    source = changed(texts["avx2"], "r4[i_a1] = so_cvt1<float>(sum);", "")
    found = exact_text.read(exact, source, programs, sizes)
    right = exact_text.read(exact, texts["avx2"], programs, sizes)
    assert found.unset and not right.unset
    for forms in found.outputs.values():
        atoms = {exact.atoms[a] for f in forms.reshape(-1) for m, _ in exact.polys[f] for a, _ in m}
        assert any(isinstance(a, tuple) and a[0] == "never written" for a in atoms)
    assert not found.same(right)


def test_a_difference_of_infinities_is_seen_though_it_is_multiplied_by_zero():
    exact = Exact(300, 1000)
    lost = exact.sum([exact.high, exact.low])
    assert exact.undefined
    exact.undefined = False
    assert exact.product(exact.zero, exact.exp(lost)) == exact.zero
    exact.product(exact.zero, exact.high)
    assert exact.undefined


@pytest.mark.parametrize(
    "text",
    [
        "static void f() { while (true) { } }",
        "static void f() { goto a; }",
        "static void f() { double x = 1 << 3; }",
        "static void f() { x = 'a'; }",
    ],
)
def test_text_that_is_not_known_is_refused(text: str):
    with pytest.raises(Unreadable):
        functions(text)


def test_what_a_call_means_is_not_guessed(made: dict):
    piece, programs, texts = made["symbolic tails"]
    for new in ("so_sinh(v4)", "so_load(v4)", "so_exp(v4, v4)"):
        source = changed(texts["avx2"], "so_exp(v4)", new)
        with pytest.raises(Unreadable):
            exact_text.read(exactly(piece), source, programs, sizes_of(piece))


def test_most_mutants_are_told_apart_and_none_is_called_equal_that_differs(
    made: dict, tmp_path: Path
):
    """Those that the reader calls equal are compiled: the gate accepts them, with the same results."""
    apart = same = 0
    for name in ("gated", "tails"):
        piece, mugraph = kernel(CASES[name])
        (folder := tmp_path / name).mkdir()
        bench = Bench(piece, mugraph, folder)
        argue = Argue(bench)
        compiled = False
        for m in text_mutants(bench.source.text, ENTRY, 50, 3):
            source = replace(bench.source, text=m.text)
            try:
                equal, _ = argue._texts_agree(0, source, False)
            except Unreadable:
                continue
            if not equal:
                apart += 1
                continue
            same += 1
            if not compiled:
                (path,) = bench.compiled([source])
                found = bench.tried(path, source, 30.0)
                # Without the shift by a maximum the same real numbers overflow.
                over = found.layer == "gate" and "NaN, infinite or finite" in found.reason
                assert over or (not found.layer and found.worst <= 1.0), (m.before, m.after)
                compiled = True
    assert apart >= 60 and same >= 4, (apart, same)


def test_arguments_and_warnings_name_what_was_found(made: dict, tmp_path: Path):
    piece, mugraph = kernel(CASES["symbolic tails"])
    bench = Bench(piece, mugraph, tmp_path)
    argue = Argue(bench)
    own = bench.source
    assert "at all 63 sizes" in argue._by_text(own)[0]
    strays = changed(own, TAIL, TAIL.replace("< 3", "<= 3"))
    assert argue._by_text(strays) == ("", STRAYS)
    unset = changed(own, "r4[i_a1] = so_cvt1<float>(sum);", "")
    assert argue._by_text(unset) == ("", UNSET)
    tail = own.text.index("} else {", own.text.index(f"static void {ENTRY}_k"))
    dead = own.text[:tail] + own.text[tail:].replace("= 0; i_a1 < 3", "= 0; i_a1 < 2", 1)
    assert argue._dead_in_range(dead)
    live = changed(own, "(v2 - so_splat", "(v2 + so_splat")
    assert not argue._dead_in_range(live.text)
    other = own.text.replace("s_s", "s_t", 1)
    assert not argue._dead_in_range(other)


def test_a_quotient_is_bounded_by_the_coefficients_of_positive_sums():
    exact = Exact(1, 100_000)
    x, y = exact.unknown("x"), exact.unknown("y")

    def silu(one: float) -> int:
        under = exact.sum([exact.literal(one), exact.exp(exact.product(x, exact.number(-1)))])
        return exact.product(exact.sum([x, y]), exact.power(under, Fraction(-1)))

    near, far = silu(1 + 2.0**-10), silu(1 + 2.0**-6)
    assert within(exact, silu(1.0), near, Fraction(1, 256))
    assert within(exact, near, silu(1.0), Fraction(1, 256))
    assert not within(exact, silu(1.0), near, Fraction(1, 2048))
    assert not within(exact, silu(1.0), far, Fraction(1, 256))
    signs = exact.sum([x, exact.number(1)]), exact.sum([x, exact.literal(1 + 2.0**-10)])
    assert not within(exact, *signs, Fraction(1, 256))  # x may be near -1
    assert not within(exact, silu(1.0), exact.product(silu(1.0), exact.number(-1)), Fraction(1, 2))


def test_indices_that_are_given_are_numbers():
    exact = Exact(300, 1000, {"i": np.array([3, 1])})
    assert exact.constant(exact.cell("i", (0,))) == 3
    assert exact.constant(exact.cell("x", (0,))) is None
