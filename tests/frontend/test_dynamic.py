"""Programs with symbolic sizes: captured once, right at every size; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from superopt.errors import BadOption, SuperoptError
from superopt.frontend.capture import capture
from superopt.frontend.partition import Program, partition
from superopt.mugraph.axes import Sym
from tests.frontend.harness import close, floats

Tensor = torch.Tensor
SIZES = (2, 3, 8, 17, 64)


def r(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def tokens() -> Any:
    return torch.export.Dim("tokens", min=2, max=64)


def made(fn: Any, args: tuple[Any, ...], dynamic: Any, precision: str = "default") -> Program:
    with torch.no_grad():
        return partition(capture(fn, args, {}, dynamic), precision)


def equal(program: Program, fn: Any, args: tuple[Any, ...], tolerance: float = 2e-5) -> None:
    with torch.no_grad():
        want = fn(*args)
        close(program.run(args, {}, floats(None)), want, tolerance)
        close(program.run(args, {}, floats(torch.float64)), want, tolerance)
        close(program.run(args, {}, lambda p, xs: p.eager(*xs)), want, tolerance)


def attention(x: Tensor, y: Tensor) -> Tensor:
    return torch.softmax(x @ y.mT * 0.25, -1) @ y


def mlp(x: Tensor, w: Tensor, u: Tensor, d: Tensor) -> Tensor:
    return x + F.linear(F.silu(F.linear(x, w)) * F.linear(x, u), d)


def heads(x: Tensor, w: Tensor) -> Tensor:
    batch, count, width = x.shape
    q = F.linear(x, w).view(batch, count, 2, width // 2).transpose(1, 2)
    o = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    return o.transpose(1, 2).reshape(batch, count, width)


ROWS: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("linear", lambda x, w, b: F.linear(x, w, b), (r(6, 8), r(5, 8), r(5))),
    ("matmul", lambda x, w: x @ w, (r(6, 8), r(8, 5))),
    ("mlp", mlp, (r(6, 8), r(12, 8), r(12, 8), r(8, 12))),
    ("softmax over the last", lambda x: torch.softmax(x, -1), (r(6, 8),)),
    ("softmax over the symbol", lambda x: torch.softmax(x, 0), (r(6, 8),)),
    ("rms_norm", lambda x, g: F.rms_norm(x, (8,), g, 1e-6), (r(6, 8), r(8))),
    ("layer_norm", lambda x, g: F.layer_norm(x, (8,), g), (r(6, 8), r(8))),
    ("sum over the symbol", lambda x: x.sum(0), (r(6, 8),)),
    ("mean over the symbol", lambda x: x.mean(0, keepdim=True) + x, (r(6, 8),)),
    ("var over the symbol", lambda x: x.var(0), (r(6, 8),)),
    ("amax over the symbol", lambda x: x.amax(0), (r(6, 8),)),
    ("gram", lambda x: x @ x.T, (r(6, 8),)),
    ("contracted", lambda x: x.T @ x, (r(6, 8),)),
    ("gelu", lambda x: F.gelu(x) * 2 + 1, (r(6, 8),)),
    ("transpose", lambda x: (x * 2).T, (r(6, 8),)),
    ("heads", lambda x: (x * 2).view(x.shape[0], 2, 4).transpose(0, 1), (r(6, 8),)),
    ("unsqueeze", lambda x: x[:, None] * x[None], (r(6, 8),)),
    ("expand", lambda x: x[None].expand(3, -1, -1) * 2, (r(6, 8),)),
    ("part of a fixed dim", lambda x: x[:, :4] * x[:, 4:], (r(6, 8),)),
    ("cat of a fixed dim", lambda x: torch.cat([-x[:, 4:], x[:, :4]], -1) * 2, (r(6, 8),)),
    ("the size as a number", lambda x: x * x.shape[0], (r(6, 8),)),
    ("divided by the size", lambda x: x.sum(0) / x.shape[0], (r(6, 8),)),
    ("causal mask", lambda x: torch.tril(x @ x.T), (r(6, 8),)),
    ("positions", lambda x: x * torch.arange(x.shape[0])[:, None], (r(6, 8),)),
    ("where", lambda x: torch.where(x > 0, x, x.mean(0)), (r(6, 8),)),
    ("mse_loss", lambda x, w: F.mse_loss(x, x * w) + x, (r(6, 8), r(8))),
    ("huber_loss summed", lambda x: F.huber_loss(x, x * 2, "sum", 0.3), (r(6, 8),)),
    ("cosine_similarity", lambda x: F.cosine_similarity(x, x[:, :1], 0), (r(6, 8),)),
    ("pairwise_distance", lambda x: F.pairwise_distance(x, x * 2) * 2, (r(6, 8),)),
    ("any", lambda x: ~(x > 0.5).any(0), (r(6, 8),)),
    ("all", lambda x: ~(x > -0.5).all(1), (r(6, 8),)),
    ("how many", lambda x: (x > 0.5).sum(0) + 1, (r(6, 8),)),
    ("count_nonzero", lambda x: torch.count_nonzero(x > 0.5) * 2, (r(6, 8),)),
    ("prod", lambda x: x.prod(1) * 2, (r(6, 8),)),
    ("prod over the symbol", lambda x: x.prod(0) * 2, (r(6, 8),)),
    ("glu", lambda x: F.glu(x) * 2, (r(6, 8),)),
    ("prelu", lambda x, w: F.prelu(x, w) * 2, (r(6, 8), r(8))),
    ("diff", lambda x: x.diff() * 2, (r(6, 8),)),
    ("unfold", lambda x: x.unfold(1, 3, 1) * 2, (r(6, 8),)),
    ("avg_pool1d", lambda x: F.avg_pool1d(x[:, None], 2) * 2, (r(6, 8),)),
    ("one_hot", lambda x: F.one_hot((x > 0).long(), 2) * 2, (r(6, 8),)),
    ("round", lambda x: torch.round(x * 3) / 3, (r(6, 8),)),
    ("zeros", lambda x: torch.zeros_like(x) + x.exp(), (r(6, 8),)),
]


@pytest.mark.parametrize("case", ROWS, ids=[c[0] for c in ROWS])
def test_dynamic_rows(case: Any) -> None:
    _, fn, args = case
    program = made(fn, args, {"x": {0: tokens()}})
    assert [s for s in program.captured.symbols.values() if (s.lo, s.hi) == (2, 64)]
    assert program.supported, [(b.op, b.reason) for b in program.boundaries]
    for n in SIZES:
        equal(program, fn, (r(n, 8), *args[1:]))


@pytest.mark.parametrize("case", ROWS, ids=[c[0] for c in ROWS])
def test_most_rows_are_converted_whole(case: Any) -> None:
    name, fn, args = case
    program = made(fn, args, {"x": {0: tokens()}})
    assert not program.boundaries, (name, [(b.op, b.reason) for b in program.boundaries])
    sizes = {a.size for p in program.supported for n in p.graph.nodes for a in n.axes}
    assert any(isinstance(n, Sym) for n in sizes)


def test_a_middle_dimension() -> None:
    program = made(heads, (r(2, 6, 8), r(8, 8)), {"x": {1: tokens()}})
    for n in SIZES:
        equal(program, heads, (r(2, n, 8), r(8, 8)))


def test_attention_with_symbolic_sizes() -> None:
    keys = torch.export.Dim("keys", min=2, max=32)
    dynamic = {"x": {1: tokens()}, "y": {1: keys}}
    program = made(attention, (r(2, 6, 16), r(2, 5, 16)), dynamic)
    assert not program.boundaries
    for n, m in ((2, 2), (3, 32), (64, 7), (9, 9)):
        equal(program, attention, (r(2, n, 16), r(2, m, 16)))


@pytest.mark.parametrize("causal", [False, True])
def test_sdpa_with_symbolic_sizes(causal: bool) -> None:
    def fn(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, is_causal=causal)

    program = made(fn, (r(1, 2, 6, 8),), {"x": {2: tokens()}})
    assert not program.boundaries
    for n in SIZES:
        equal(program, fn, (r(1, 2, n, 8),))


def test_broadcasting_with_another_dynamic_input() -> None:
    dim = tokens()

    def fn(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return x * y[:, None] + z

    program = made(fn, (r(6, 8), r(6), r(8)), {"x": {0: dim}, "y": {0: dim}})
    assert not program.boundaries
    for n in SIZES:
        equal(program, fn, (r(n, 8), r(n), r(8)))


def test_two_symbols_meet_in_an_outer_sum() -> None:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, None] + y[None]).exp().sum(1)

    dynamic = {"x": {0: tokens()}, "y": {0: torch.export.Dim("others", min=2, max=32)}}
    program = made(fn, (r(6), r(5)), dynamic)
    assert not program.boundaries
    for n, m in ((2, 32), (64, 3), (5, 5)):
        equal(program, fn, (r(n), r(m)))


def test_sixteen_bits() -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        return torch.softmax(F.linear(x, w), -1)

    for precision in ("default", "eager"):
        args = (r(6, 8).bfloat16(), r(5, 8).bfloat16())
        program = made(fn, args, {"x": {0: tokens()}}, precision)
        for n in SIZES:
            equal(program, fn, (r(n, 8).bfloat16(), args[1]), 4e-2)


def test_a_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.GELU(), torch.nn.Linear(12, 4))
    program = made(module, (r(6, 8),), {"input": {0: tokens()}})
    assert not program.boundaries
    for n in SIZES:
        equal(program, module, (r(n, 8),))


def test_pieces_around_a_boundary() -> None:
    def fn(x: Tensor) -> Tensor:
        return (x * 2).cumsum(0).softmax(-1)

    program = made(fn, (r(6, 8),), {"x": {0: tokens()}})
    assert [b.op for b in program.boundaries] == ["cumsum"]
    assert len(program.supported) == 2
    for n in SIZES:
        equal(program, fn, (r(n, 8),))


def test_shapes_that_become_numbers_of_a_boundary() -> None:
    def fn(x: Tensor) -> Tensor:
        return (x * 2).sort(0).values.reshape(x.shape[0] * 8).exp()

    program = made(fn, (r(6, 8),), {"x": {0: tokens()}})
    for n in SIZES:
        equal(program, fn, (r(n, 8),))


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(BadOption, match="did you mean 'x'") as error:
        made(lambda x: x * 2, (r(6, 8),), {"xx": {0: tokens()}})
    assert "xx" in str(error.value)


def test_a_dimension_that_is_not_there_is_refused() -> None:
    for dim in (5, -1):
        with pytest.raises(BadOption, match=f"dimension {dim} of 'x'"):
            made(lambda x: x * 2, (r(6, 8),), {"x": {dim: tokens()}})


def test_an_argument_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(BadOption, match="'n', which is no tensor"):
        made(lambda x, n: x * n, (r(6, 8), 3), {"n": {0: tokens()}})


def test_a_size_that_the_function_fixes_is_refused() -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    with pytest.raises(SuperoptError) as error:
        made(fn, (r(6, 8), r(8, 5)), {"x": {1: tokens()}})
    assert "tokens" in error.value.report()


def test_an_example_outside_the_range_is_refused() -> None:
    with pytest.raises(SuperoptError) as error:
        made(lambda x: x * 2, (r(65, 8),), {"x": {0: tokens()}})
    assert "65 not in range [2, 64]" in error.value.what


def test_a_refusal_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SuperoptError):
        made(lambda x: x[1:] * 2, (r(6, 8),), {"x": {0: tokens()}})
    assert capfd.readouterr() == ("", "")


PARTS: list[tuple[str, Callable[..., Any]]] = [
    ("first rows", lambda x: x[:2] * 2),
    ("last row", lambda x: x[-1] * 2),
    ("cat", lambda x: torch.cat([x, x]) * 2),
    ("flatten", lambda x: (x * 2).flatten().exp()),
    ("repeat", lambda x: x.repeat(2, 1) * 2),
    ("flip", lambda x: x.flip(0) * 2),
    ("roll", lambda x: x.roll(1, 0) * 2),
    ("pad", lambda x: F.pad(x, (0, 0, 1, 0)) * 2),
    ("flat roll", lambda x: x.roll(1) * 2),
    ("computed size", lambda x: x * (x.shape[0] + 1)),
    ("root of the size", lambda x: x / x.shape[0] ** 0.5),
    ("diagonal", lambda x: torch.diagonal(x @ x.T) * 2),
]


@pytest.mark.parametrize("case", PARTS, ids=[c[0] for c in PARTS])
def test_what_needs_a_known_size_stays_in_pytorch(case: Any) -> None:
    _, fn = case
    program = made(fn, (r(6, 8),), {"x": {0: tokens()}})
    assert program.boundaries
    assert all(b.reason for b in program.boundaries)
    for n in SIZES:
        equal(program, fn, (r(n, 8),))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.diff(dim=0) * 2,
        lambda x: x.unfold(0, 2, 1) * 2,
        lambda x: F.avg_pool1d(x.T, 2) * 2,
    ],
)
def test_windows_along_a_symbol_stay_in_pytorch(fn: Callable[..., Any]) -> None:
    dynamic = {"x": {0: torch.export.Dim("rows", min=4, max=64)}}
    program = made(fn, (r(6, 8),), dynamic)
    assert [b.reason for b in program.boundaries]
    for n in (4, 7, 18, 64):
        equal(program, fn, (r(n, 8),))


def test_a_branch_on_the_size_is_refused() -> None:
    def fn(x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 8 else x + 1

    with pytest.raises(SuperoptError) as error:
        made(fn, (r(6, 8),), {"x": {0: tokens()}})
    assert "tokens" in error.value.report()
