"""Packed inputs: how they lie in memory, products that read them, and wrong programs that are refuted."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.codegen.backends import cpu
from superopt.codegen.backends.cpu_pack import panel_rows
from superopt.codegen.packing import Packing, packing, unpacked
from superopt.mugraph.axes import Axis
from superopt.mugraph.placement import Split
from superopt.mugraph.tile_panels import packed_elements
from superopt.mugraph.tileir import Compute, Coord, Load, Loop, Panels, Program
from superopt.verify.proofs.lemma import REFUTED
from superopt.verify.proofs.packed import packed
from superopt.verify.proofs.solver import Solver

from . import harness
from .harness import ap, at, buf, lit

TORCH = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def product(
    b: int,
    k: int,
    n: int,
    dtypes: tuple[str, str] = ("f32", "f32"),
    heads: int = 0,
    transposed: bool = False,
    tiles: tuple[int, int, int] = (3, 64, 24),
) -> Program:
    """``o[h,b,n] = sum(k) x[h,b,k] * w[h,k,n]``; tiles: of b, n and k."""
    ab, ak, an = Axis("b", b), Axis("k", k), Axis("n", n)
    h = (Axis("h", heads),) if heads else ()
    x = buf("x", "input", (*h, ab, ak), dtypes[0])
    w = buf("w", "input", (*h, an, ak) if transposed else (*h, ak, an), dtypes[1])
    o, acc = buf("o", "output", (*h, ab, an)), buf("acc", "tile", (*h, ab, an))
    axes = (*h, ab, an)
    add = ap("mul", at(x, dtype="f32"), at(w, dtype="f32"))
    body = (
        Compute(acc, axes, lit(0.0)),
        Loop(ak, tiles[2], (Compute(acc, axes, add, "add", (ak,), True),)),
        Compute(o, axes, at(acc)),
    )
    grid = (*(Split(x, 1) for x in h), Split(ab, tiles[0]), Split(an, tiles[1]))
    return Program("mm", (x, w, o), (acc,), grid, body)


def tensors(p: Program) -> dict[str, torch.Tensor]:
    shapes = {b.name: (b, [a.size for a in b.axes]) for b in p.buffers if b.space == "input"}
    return {n: torch.randn(s).to(TORCH[b.dtype]) for n, (b, s) in shapes.items()}


def reference(t: dict[str, torch.Tensor], transposed: bool = False) -> torch.Tensor:
    w = t["w"].double()
    return t["x"].double() @ (w.transpose(-1, -2) if transposed else w)


def both(p: Program, isa: cpu.Isa) -> Packing:
    """What packing makes of a program whatever its size."""
    found = packing([p], isa.vector_bytes, 0)
    assert found is not None
    return found


def in_panels(w: torch.Tensor, width: int, group: int) -> torch.Tensor:
    """An independent reference of the layout, for [..., k, n]: zeros added, then axes split and moved."""
    k, n = w.shape[-2:]
    padded = torch.nn.functional.pad(w, (0, -n % width, 0, -k % group))
    split = padded.unflatten(-1, (-1, width)).unflatten(
        -3, (-1, group)
    )  # .., K, group, panels, width
    return split.movedim(-2, -4).transpose(-1, -2).flatten(-4)


@pytest.mark.parametrize(
    ("isa", "dtypes", "heads", "transposed"),
    [
        ("avx512bf16", ("f32", "f32"), 2, False),
        ("avx512bf16", ("bf16", "bf16"), 0, False),
        ("avx512bf16", ("f32", "bf16"), 2, True),
        ("avx512", ("bf16", "bf16"), 2, False),
        ("avx2", ("bf16", "bf16"), 0, True),
        ("avx2", ("f16", "f16"), 2, False),
        ("generic", ("f32", "f32"), 0, True),
        ("generic", ("bf16", "bf16"), 0, False),
    ],
)
def test_products_of_packed_factors(
    isa: str, dtypes: tuple[str, str], heads: int, transposed: bool
) -> None:
    target = cpu.Isa.named(isa)
    p = product(5, 77, 70, dtypes, heads, transposed)
    found = both(p, target)
    t = tensors(p)
    want = {"o": reference(t, transposed)}
    source = cpu.emit([*found.packs, *found.reads], "kernel", target).text
    assert source.count("so_mm_packed<") == 1
    harness.check([*found.packs, *found.reads], t, want, isa=target)


@settings(max_examples=6, deadline=None)
@given(
    b=st.integers(1, 40),
    k=st.integers(1, 150),
    n=st.integers(1, 150),
    bf16=st.booleans(),
    transposed=st.booleans(),
    step=st.sampled_from([2, 16, 64]),
)
def test_products_of_any_size(
    b: int, k: int, n: int, bf16: bool, transposed: bool, step: int
) -> None:
    dtypes = ("bf16", "bf16") if bf16 else ("f32", "f32")
    p = product(b, k, n, dtypes, transposed=transposed, tiles=(17, 64, step))
    found = packing([p], cpu.Isa.host().vector_bytes, 0)
    if found is None:  # what is larger is the weight
        assert b > n
        return
    t = tensors(p)
    harness.check([*found.packs, *found.reads], t, {"o": reference(t, transposed)})


@pytest.mark.parametrize(("dtype", "transposed"), [("f32", False), ("bf16", True), ("f16", False)])
def test_the_layout_is_what_it_says(dtype: str, transposed: bool) -> None:
    p = product(4, 75, 133, (dtype, dtype), 3, transposed)
    isa = cpu.Isa.host()
    found = both(p, isa)
    (packed_buffer,) = found.buffers
    panels = packed_buffer.panels
    assert panels is not None
    source = cpu.emit([p], "kernel", isa, packing=found)
    entry = harness.build(source).kernel_pack
    w = tensors(p)["w"]
    got = torch.full((packed_elements(packed_buffer),), 9.0).to(w.dtype)
    pointers = {"w": w, packed_buffer.name: got}
    given_to = [pointers[n].data_ptr() if n in pointers else 0 for n in source.buffers]
    assert entry((ctypes.c_void_p * len(given_to))(*given_to), (ctypes.c_int64 * 2)(2, 0)) == 0
    want = in_panels(w.transpose(-1, -2) if transposed else w, panels.width, panels.group)
    assert torch.equal(got.reshape(3, -1), want.reshape(3, -1))
    assert source.copies[0].bytes == got.numel() * got.element_size()


def test_a_copy_that_differs_is_noticed_before_anything_is_stored() -> None:
    p = product(5, 64, 96)
    found = both(p, cpu.Isa.host())
    source = cpu.emit([p], "kernel", packing=found)
    lib = harness.build(source)
    t = tensors(p)
    out, copy = torch.full((5, 96), 3.0), torch.zeros(source.copies[0].bytes // 4)
    at_ = {"x": t["x"], "w": t["w"], "o": out, source.copies[0].name: copy}
    pointers = (ctypes.c_void_p * 4)(*(at_[n].data_ptr() for n in source.buffers))
    assert lib.kernel_pack(pointers, (ctypes.c_int64 * 2)(1, 0)) == 0
    assert lib.kernel(pointers, (ctypes.c_int64 * 2)(1, 0)) == 0
    torch.testing.assert_close(out, reference(t).float(), rtol=1e-4, atol=1e-4)
    out.fill_(3.0)
    t["w"][40, 50] += 1
    # One run of 192 differs, so some turns do not notice it, and every thousandth at the latest does.
    told = [lib.kernel(pointers, (ctypes.c_int64 * 2)(1, turn)) for turn in range(1024)]
    assert set(told) == {0, cpu.STALE}
    assert 80 < told.count(cpu.STALE) < 300
    t["w"].mul_(1.5)
    out.fill_(3.0)
    assert lib.kernel(pointers, (ctypes.c_int64 * 2)(1, 0)) == cpu.STALE
    assert bool((out == 3.0).all())


def test_what_is_not_packed() -> None:
    isa = cpu.Isa.host()
    assert packing([product(5, 64, 96)], isa.vector_bytes) is None  # small
    assert (
        packing([product(5, 64, 96, tiles=(3, 40, 24))], isa.vector_bytes, 0) is None
    )  # panels cut
    odd = product(5, 64, 96, ("bf16", "bf16"), tiles=(3, 64, 7))
    assert packing([odd], isa.vector_bytes, 0) is None  # pairs cut
    assert packing([product(200, 64, 96)], isa.vector_bytes, 0) is None  # x is larger than w
    assert panel_rows(16, 12) == 8 and panel_rows(7, 12) == 7 and panel_rows(13, 12) == 7


def test_a_program_that_reads_nothing_packed_stays_what_it_is() -> None:
    p = product(5, 64, 96)
    small = product(2, 4, 4)
    other = replace(small, name="other", buffers=small.buffers)
    isa = cpu.Isa.host()
    found = packing([p, other], isa.vector_bytes, 2048)
    assert found is not None and found.reads[1] is other and found.reads[0] is not p
    text = cpu.emit([p, other], "kernel", isa, packing=found).text
    assert "if ()" not in text and text.count("} else {\n    {  // mm") == 1


def test_packed_programs_turned_back_are_the_programs() -> None:
    p = product(5, 64, 96)
    found = both(p, cpu.Isa.host())
    assert [q.body for q in unpacked(found)] == [p.body]
    assert "in panels of" in str(found.packs[0])


# -- proofs --------------------------------------------------------------------------------------


class _Graph:
    """A graph that has all axes: the lemmas here ask for nothing else of it."""

    def __init__(self, program: Program) -> None:
        self.axes = tuple({a for b in program.buffers for a in b.axes})


def refuted(p: Program, found: Packing) -> list[str]:
    lemmas = list(packed([p], found, _Graph(p), Solver(5.0)))  # type: ignore[arg-type]
    assert lemmas
    return [x.words for x in lemmas if x.verdict == REFUTED]


def _changed(found: Packing, load: Load | None = None, panels: Panels | None = None) -> Packing:
    (pack,) = found.packs
    (stmt,) = pack.body
    assert isinstance(stmt, Compute)
    stmt = replace(stmt, expr=load or stmt.expr)
    if panels is None:
        return replace(found, packs=(replace(pack, body=(stmt,)),))
    old, new = stmt.dst, replace(stmt.dst, panels=panels)
    body = (replace(stmt, dst=new),)
    buffers = tuple(new if b == old else b for b in pack.buffers)
    return replace(found, packs=(replace(pack, body=body, buffers=buffers),))


def test_the_programs_that_packing_makes_are_proved() -> None:
    for heads, transposed in ((0, False), (2, True)):
        p = product(5, 64, 96, ("bf16", "bf16"), heads, transposed)
        assert refuted(p, both(p, cpu.Isa.host())) == []


def test_wrong_copies_are_refuted() -> None:
    p = product(5, 96, 96)
    found = both(p, cpu.Isa.host())
    w = found.inputs[0]
    k, n = w.axes
    at_k, at_n = Coord(k), Coord(n)
    wrong: dict[str, Packing] = {
        "swapped": _changed(found, Load(w, (at_n, at_k), "f32")),
        "shifted": _changed(
            found, Load(w, (at_k, ap("sub", lit(95, "i64"), at_n, dtype="i64")), "f32")
        ),
        "converted": _changed(found, Load(w, (at_k, at_n), "f64")),
        "panels": _changed(found, panels=Panels(n, n, 32, 1)),
        "no width": _changed(found, panels=Panels(n, k, 0, 1)),
    }
    for what, mutant in wrong.items():
        assert refuted(p, mutant), what


def test_wrong_readers_are_refuted() -> None:
    p = product(5, 96, 96)
    found = both(p, cpu.Isa.host())
    (reader,) = found.reads
    start, loop, store = reader.body
    assert isinstance(loop, Loop)
    (add,) = loop.body
    assert isinstance(add, Compute)

    def reading(stmt: Compute, tile: int = loop.tile) -> Packing:
        body = (start, Loop(loop.axis, tile, (stmt,)), store)
        return replace(found, reads=(replace(reader, body=body),))

    load = next(a for a in add.expr.args if isinstance(a, Load) and a.buffer.panels)  # type: ignore[union-attr]
    other = next(a for a in add.expr.args if a is not load)  # type: ignore[union-attr]
    k, n = load.index
    swapped = replace(add, expr=ap("mul", other, Load(load.buffer, (n, k), "f32")))
    doubled = replace(add, expr=ap("mul", load, load))
    assert refuted(p, reading(swapped))
    assert refuted(p, reading(doubled))
    assert refuted(p, reading(add, 12))
    cut = replace(reader, grid=(reader.grid[0], Split(reader.grid[1].axis, 40)))
    assert refuted(replace(p, grid=cut.grid), replace(found, reads=(cut,)))
