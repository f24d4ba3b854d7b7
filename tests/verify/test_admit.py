"""Admission: a binary that is wrong at another size of its range is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from superopt.errors import VerificationFailed
from superopt.mugraph import ops
from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder, Graph
from superopt.verify.admit import admit, other_sizes, resized

TOKENS = Sym("t", 2, 4096)


def softmax_graph(size: int | Sym = TOKENS) -> Graph:
    b = Builder("softmax")
    rows, columns = Axis("r", 3), Axis("c", size)
    x = b.input("x0", ((rows,), (columns,)), "f32")
    return b.build([("y0", ops.softmax(b, x, [columns]), ((rows,), (columns,)))])


def eager(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.softmax(x, -1)]


def test_a_right_kernel_is_admitted_at_several_sizes() -> None:
    x = torch.randn(3, 40)
    seen: list[int] = []

    def kernel(xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        seen.append(xs[0].shape[1])
        return eager(*xs)

    verdict = admit(softmax_graph(), kernel, eager, [x], {"t": 40})
    assert verdict.passed
    assert set(seen) == {40, 2, 33, 130, 81}
    assert any(c.name == "nan t=33" for c in verdict.classes)


@pytest.mark.parametrize("wrong_at", [2, 33, 130, 81])
def test_a_kernel_that_is_wrong_at_one_size_is_refused(wrong_at: int) -> None:
    def kernel(xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        (y,) = eager(*xs)
        if xs[0].shape[1] == wrong_at:
            y[-1, -1] = 7.0
        return [y]

    verdict = admit(softmax_graph(), kernel, eager, [torch.randn(3, 40)], {"t": 40})
    assert not verdict.passed
    assert f"t={wrong_at}" in verdict.reason


def test_a_graph_that_is_not_the_program_is_refused() -> None:
    with pytest.raises(VerificationFailed, match="does not compute"):
        admit(
            softmax_graph(7),
            lambda xs: eager(*xs),
            lambda x: [torch.softmax(x, 0)],
            [torch.randn(3, 7)],
            {},
        )


@pytest.mark.parametrize("op", ["add", "lt"])
def test_a_wrong_graph_of_integers_or_truth_values_is_refused(op: str) -> None:
    """A kernel that does what the graph says equals the reference: eager must as well."""
    b = Builder("f")
    kind = "i64" if op == "add" else "f32"
    x, y = (b.input(n, ((Axis("n", 9),),), kind) for n in "xy")
    graph = b.build([("o", b.map(op, x, y), ((Axis("n", 9),),))])
    fn = torch.add if op == "add" else torch.lt
    given = [torch.arange(9) - 4, torch.arange(9) % 3]
    given = [t if op == "add" else t.float() for t in given]
    with pytest.raises(VerificationFailed, match="does not compute"):
        admit(graph, lambda xs: [fn(*xs)], lambda x, y: [fn(y, x + 1)], given, {})
    assert admit(graph, lambda xs: [fn(*xs)], lambda x, y: [fn(x, y)], given, {})


def test_other_sizes_stay_in_range_and_inputs_follow() -> None:
    graph = softmax_graph(Sym("t", 5, 60))
    sizes = [s["t"] for s in other_sizes(graph, {"t": 33})]
    assert sizes == [5, 60]
    assert list(other_sizes(softmax_graph(9), {})) == []
    x = torch.arange(12.0).reshape(3, 4)
    y = resized(graph.inputs[0], x, {"t": 6})
    assert torch.equal(y, torch.cat([x, x[:, :2]], 1))
    assert y.is_contiguous()


def norm_graph(n: int = 64) -> Graph:
    b = Builder("norm")
    rows, columns = Axis("r", 4), Axis("c", n)
    x = b.input("x0", ((rows,), (columns,)), "f32")
    return b.build([("y0", ops.layer_norm(b, x, [columns], 1e-5), ((rows,), (columns,)))])


def normed(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def far(offset: float) -> torch.Tensor:
    return torch.randn(4, 64, generator=torch.Generator().manual_seed(1)) + offset


SAME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "any type": normed,
    "a type of its own": lambda x: normed(x.float()).to(x.dtype),
    "a step of its own": lambda x: normed(x - x.float().mean(-1, keepdim=True)),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e5, 1e6])
def test_rounding_far_from_zero_is_no_other_program(name: str, offset: float) -> None:
    """The first inputs decide nothing: at 1e6, PyTorch itself is off by some percent."""
    x = far(offset)
    assert admit(norm_graph(), lambda xs: [normed(xs[0])], lambda x: [SAME[name](x)], [x], {})


OTHER: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "scaled": lambda x: 1.01 * normed(x),
    "scaled, in a type of its own": lambda x: 1.01 * normed(x.float()).to(x.dtype),
    "no mean": lambda x: x * torch.rsqrt(x.var(-1, correction=0, keepdim=True) + 1e-5),
    "another variance": lambda x: normed(x) * (63 / 64) ** 0.5,
    "another axis": lambda x: normed(x.T.contiguous()).T.contiguous(),
}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_another_program_is_refused_far_from_zero(name: str, offset: float) -> None:
    with pytest.raises(VerificationFailed, match="does not compute"):
        admit(
            norm_graph(),
            lambda xs: [normed(xs[0])],
            lambda x: [OTHER[name](x)],
            [far(offset)],
            {},
        )


def chaotic_graph(tokens: int, width: int) -> Graph:
    """softmax(norm(x) wq (norm(x) wk).T) norm(x), in 16 bits."""
    b = Builder("attention")
    rows, keys, columns = Axis("r", tokens), Axis("k", tokens), Axis("c", width)
    x = b.input("x0", ((rows,), (columns,)), "bf16")
    ws = [b.input(f"x{k}", ((Axis("d", width),), (columns,)), "bf16") for k in (1, 2)]
    h = b.map("cast", x, dtype="f32")
    mean = b.map("div", b.reduce("add", b.map("square", h), [columns]), b.size_of(columns))
    h = b.map("mul", h, b.map("rsqrt", b.map("add", mean, b.const(1e-5))))
    q, k = (b.reduce("add", b.map("mul", h, b.map("cast", w, dtype="f32")), [columns]) for w in ws)
    k, v = (b.rename(t, {rows: keys}) for t in (k, h))
    scores = b.reduce("add", b.map("mul", q, k), [Axis("d", width)])
    out = b.reduce("add", b.map("mul", ops.softmax(b, scores, [keys]), v), [keys])
    return b.build([("y0", b.map("cast", out, dtype="bf16"), ((rows,), (columns,)))])


def chaotic(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor) -> torch.Tensor:
    h = torch.nn.functional.rms_norm(x.float(), x.shape[-1:], None, 1e-5).to(torch.bfloat16)
    return torch.softmax((h @ wq.T.to(h)) @ (h @ wk.T.to(h)).T, -1).to(h) @ h


WRONG: dict[str, Callable[..., torch.Tensor]] = {
    "scaled": lambda x, wq, wk: chaotic(x, wq, wk) * 1.5,
    "other weights": lambda x, wq, wk: chaotic(x, wk, wk),
    "no query": lambda x, wq, wk: chaotic(x, wq * 0, wk),
}


@pytest.mark.parametrize("constant", [0.0, 1.0])
@pytest.mark.parametrize("wrong", WRONG)
def test_constant_inputs_hide_no_other_program(wrong: str, constant: float) -> None:
    """On zeros, or weights that are all alike, PyTorch and a wrong graph may give the same."""
    graph, n = chaotic_graph(24, 512), 512
    given = [torch.full((k, n), constant, dtype=torch.bfloat16) for k in (24, n, n)]

    def kernel(xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [t.to(torch.bfloat16) for t in floats.run(graph, [t.double() for t in xs], {})]

    with pytest.raises(VerificationFailed, match="does not compute"):
        admit(graph, kernel, lambda *xs: [WRONG[wrong](*xs)], given, {})


@pytest.mark.parametrize("wrong", [None, *WRONG])
def test_scores_that_rounding_decides_are_no_other_program(wrong: str | None) -> None:
    """With weights of spread 1 each of PyTorch's roundings to 16 bits decides the softmax."""
    g = torch.Generator().manual_seed(5)
    graph, n = chaotic_graph(24, 512), 512
    x, wq, wk = (torch.randn(k, n, generator=g) for k in (24, n, n))
    given = [t.to(torch.bfloat16) for t in (x, wq / n**0.75, wk / n**0.75)]
    fn = chaotic if wrong is None else WRONG[wrong]

    def kernel(xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [t.to(torch.bfloat16) for t in floats.run(graph, [t.double() for t in xs], {})]

    if wrong is None:
        assert admit(graph, kernel, lambda *xs: [fn(*xs)], given, {})
        return
    with pytest.raises(VerificationFailed, match="does not compute"):
        admit(graph, kernel, lambda *xs: [fn(*xs)], given, {})
