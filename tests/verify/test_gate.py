"""The numeric gate passes what is as accurate as eager, and nothing else."""

import pytest
import torch

from superopt.verify.gate import numeric_gate
from superopt.verify.inputs import ALIKE, CLASSES

DTYPES = (torch.float32, torch.bfloat16)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def softmax(x):
    return torch.softmax(x, -1)


def attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v


def rms(x, g):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * g


def layer_norm(x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5)


def linear(x, w):
    return x @ w


def masked(x, keep):
    return torch.softmax(x.masked_fill(~keep, float("-inf")), -1)


def picked(table, ids):
    return torch.nn.functional.embedding(ids, table)


def cases(dtype):
    return {
        "softmax": (softmax, [normal(16, 1023, dtype=dtype)]),
        "attention": (attention, [normal(2, 5, 64, dtype=dtype, seed=s) for s in range(3)]),
        "rms": (rms, [normal(8, 77, dtype=dtype), normal(77, dtype=dtype)]),
        "layer_norm": (layer_norm, [normal(8, 77, dtype=dtype)]),
        "linear": (linear, [normal(8, 300, dtype=dtype), normal(300, 40, dtype=dtype)]),
        "masked": (masked, [normal(8, 33, dtype=dtype), torch.arange(33).expand(8, 33) < 20]),
        "picked": (picked, [normal(9, 6, dtype=dtype), torch.tensor([0, 8, 3])]),
        "scalar": (lambda x: x.sum(), [normal(999, dtype=dtype)]),
        "empty": (softmax, [normal(0, 7, dtype=dtype)]),
        "strided": (softmax, [normal(20, 16, dtype=dtype).T]),
        "expanded": (
            lambda x, y: x + y,
            [normal(1, 7, dtype=dtype).expand(5, 7), normal(5, 7, dtype=dtype)],
        ),
        "pair": (lambda x: (x.amax(-1), x > 0), [normal(5, 7, dtype=dtype)]),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", cases(torch.float32))
def test_eager_itself_passes_every_class(name, dtype):
    fn, inputs = cases(dtype)[name]
    found = numeric_gate(lambda xs: fn(*xs), fn, inputs)
    assert found.passed, found.reason
    names = [c.name for c in found.classes]
    assert [n for n in names if " in input " not in n] == ["given", *CLASSES]
    floats = [k for k, x in enumerate(inputs) if x.is_floating_point()]
    assert [n for n in names if " in input " in n] == [f"nan in input {k}" for k in floats[1:]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exp_without_its_maximum_fails(dtype):
    def naive(xs):
        e = xs[0].float().exp()
        return (e / e.sum(-1, keepdim=True)).to(dtype)

    assert not numeric_gate(naive, softmax, [normal(16, 77, dtype=dtype)])

    def naive_attention(xs):
        q, k, v = (x.float() for x in xs)
        e = (q @ k.transpose(-1, -2) / 8).exp()
        return (e @ v / e.sum(-1, keepdim=True)).to(dtype)

    inputs = [normal(2, 5, 64, dtype=dtype, seed=s) for s in range(3)]
    found = numeric_gate(naive_attention, attention, inputs)
    assert not found.passed
    assert "large" in found.reason


def online(xs):
    x = xs[0].float()
    m, total = torch.full_like(x[:, :1], -torch.inf), torch.zeros_like(x[:, :1])
    for k in range(0, x.shape[1], 16):
        new = torch.maximum(m, x[:, k : k + 16].amax(-1, keepdim=True))
        moved = torch.where(m == new, 1.0, (m - new).exp())
        total = total * moved + (x[:, k : k + 16] - new).exp().sum(-1, keepdim=True)
        m = new
    return ((x - m).exp() / total).to(xs[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_right_kernels_that_add_in_another_order_pass(dtype):
    found = numeric_gate(online, softmax, [normal(16, 200, dtype=dtype)])
    assert found.passed, found.reason

    def one_by_one(xs):
        x, w = (t.float() for t in xs)
        out = torch.zeros(x.shape[0], w.shape[1])
        for k in range(x.shape[1]):
            out = out + x[:, k : k + 1] * w[k]
        return out.to(dtype)

    inputs = [normal(4, 4096, dtype=dtype), normal(4096, 64, dtype=dtype, seed=1)]
    for seed in range(3):
        found = numeric_gate(one_by_one, linear, inputs, seed=seed)
        assert found.passed, found.reason


WRONG = {
    "by a thousandth": lambda y, xs: y * 1.001,
    "one element": lambda y, xs: y.index_put((torch.tensor(1), torch.tensor(2)), y[1, 2] + 0.01),
    "a row left out": lambda y, xs: torch.cat([y[:-1], torch.full_like(y[-1:], torch.nan)]),
    "another dtype": lambda y, xs: y.double(),
    "another shape": lambda y, xs: y.unsqueeze(0),
    "a stale row": lambda y, xs: torch.cat([y[:-1], y[:1]]),
    "transposed halves": lambda y, xs: y.roll(1, -1),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_fails(name):
    inputs = [normal(8, 300), normal(300, 40, seed=1)]
    found = numeric_gate(lambda xs: WRONG[name](linear(*xs), xs), linear, inputs)
    assert not found.passed
    assert found.reason


def _chained(x):
    """The sum of a vector, added one after the other along 64 lanes in single precision."""
    total = torch.zeros(64)
    for row in x.view(-1, 64):
        total = total + row
    return total.sum()


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_variance_by_long_chains_of_additions_fails(unbiased):
    def var(x):
        return x.var(correction=int(unbiased))

    def long(xs, total=_chained):
        d = xs[0] - total(xs[0]) / len(xs[0])
        return total(d * d) / (len(d) - int(unbiased))

    inputs = [normal(1 << 18)]
    known = {}
    # The classes of values far from zero are enough: without them such kernels were admitted.
    for name in sorted(ALIKE):
        found = numeric_gate(long, var, inputs, classes=[name], known=known)
        assert name in found.reason, (name, found)

    def double(xs):
        return long(xs, lambda x: x.double().sum().float())

    assert numeric_gate(double, var, inputs, known=known)


def test_a_variance_by_difference_of_squares_fails():
    def naive(xs):
        x = xs[0]
        mean = x.mean(-1, keepdim=True)
        return (x - mean) * ((x * x).mean(-1, keepdim=True) - mean * mean + 1e-5).rsqrt()

    found = numeric_gate(naive, layer_norm, [normal(8, 512)])
    assert "tiny_variance" in found.reason


def divergence(a, b):
    """Of nearly equal distributions: all digits cancel."""
    return (a.softmax(-1) * (a.log_softmax(-1) - b.log_softmax(-1))).sum(-1).mean()


def test_where_eager_is_noise_so_may_the_kernel_be():
    inputs = [normal(33, 101), normal(33, 101, seed=1)]
    for seed in range(3):
        found = numeric_gate(lambda xs: divergence(*xs), divergence, inputs, seed=seed)
        small = next(c for c in found.classes if c.name == "small")
        assert small.eager > 1.0 and small.limit >= 8 * small.eager
    assert not numeric_gate(lambda xs: divergence(*xs) + 1e-3, divergence, inputs).passed


def flushed(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < torch.finfo(torch.float32).tiny, 0.0, x)


def test_subnormal_numbers_may_be_flushed_where_that_is_all():
    inputs = [normal(8, 30), normal(30, 40)]
    assert "denormals" in {
        c.name for c in numeric_gate(lambda xs: linear(*xs), linear, inputs).classes
    }
    assert numeric_gate(lambda xs: linear(*map(flushed, xs)), linear, inputs).passed

    def unit(x):
        return x / x.abs().amax(-1, keepdim=True)

    assert not numeric_gate(lambda xs: unit(flushed(xs[0])), unit, [normal(8, 30)]).passed
    assert not numeric_gate(  # half precision's own subnormals are no small matter
        lambda xs: torch.where(xs[0].abs() < 6e-5, 0, xs[0]),
        lambda x: x * 1.0,
        [normal(8, 30).half() * 1e-5],
    ).passed


def test_half_precision_sums_fail():
    def short(xs):
        return (xs[0].bfloat16() @ xs[1].bfloat16()).float()

    assert not numeric_gate(short, linear, [normal(8, 300), normal(300, 40)])


def test_nan_must_stay_nan_and_inputs_unwritten():
    assert (
        "nan"
        in numeric_gate(
            lambda xs: xs[0].nan_to_num(0.0), lambda x: x * 1.0, [normal(5, 70)], classes=("nan",)
        ).reason
    )

    def greedy(xs):
        return xs[0].clamp_(min=0)

    assert "wrote" in numeric_gate(greedy, torch.relu, [normal(5, 70)]).reason


def test_nan_in_any_input_must_reach_the_result():
    inputs = [normal(8, 30), normal(8, 30, seed=1)]

    def keeps(x, y):
        return x * 2 + y * 0

    found = numeric_gate(lambda xs: xs[0] * 2, keeps, inputs)
    assert "nan in input 1" in found.reason
    assert numeric_gate(lambda xs: keeps(*xs), keeps, inputs)


def test_errors_are_compared_over_several_draws_and_a_worse_kernel_still_fails():
    def eager(x):
        calls.append(1)
        y = x.double().sum(-1)
        # Exact by luck in the first draw of each class, off by 1e-4 in the others.
        return (y * (1 + 1e-4 * (len(calls) % 5 != 1))).float()

    for error, passes in ((1.5e-4, True), (6e-4, False)):
        calls: list[int] = []

        def kernel(xs, error=error):
            return (xs[0].double().sum(-1) * (1 + error)).float()

        found = numeric_gate(
            kernel, eager, [normal(8, 30)], reference=lambda x: x.sum(-1), classes=()
        )
        assert found.passed == passes, found.reason


def test_overflow_of_the_source_may_be_avoided():
    def unstable(x):
        return x.exp() / x.exp().sum(-1, keepdim=True)

    found = numeric_gate(
        lambda xs: softmax(*xs),
        unstable,
        [normal(8, 33)],
        reference=softmax,
        classes=("normal", "large"),
    )
    assert found.passed, found.reason


def test_the_callers_inputs_can_be_made_by_the_caller():
    made = []

    def make(name, generator):
        made.append(name)
        return [torch.rand(4, 4, generator=generator)]

    assert numeric_gate(
        lambda xs: xs[0].sqrt(),
        torch.sqrt,
        [torch.ones(4, 4)],
        make_inputs=make,
        classes=("normal", "large"),
    )
    assert made == ["normal", "large"]


def _twice(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (x @ a) @ b


def test_a_chain_of_products_may_be_taken_in_another_order() -> None:
    """Which infinite terms meet depends on it; nothing else may."""
    inputs = [normal(8, 40), normal(40, 6, seed=1), normal(6, 30, seed=2)]
    other = lambda xs: xs[0] @ (xs[1] @ xs[2])  # noqa: E731
    assert numeric_gate(other, _twice, inputs)
    back = lambda x, a, b: x @ (a @ b)  # noqa: E731
    assert not numeric_gate(lambda xs: _twice(*xs), back, inputs)
    assert numeric_gate(lambda xs: _twice(*xs), back, inputs, polynomial=True)
    lost = lambda xs: torch.nan_to_num(_twice(*xs), posinf=1.0, neginf=-1.0)  # noqa: E731
    assert not numeric_gate(lost, back, inputs, polynomial=True)
    spread = lambda xs: _twice(*xs) + 0 * xs[0].sum()  # noqa: E731
    assert not numeric_gate(spread, back, inputs, polynomial=True)


def test_an_infinity_for_another_is_no_answer() -> None:
    """A log-sum-exp of minus infinities is minus infinity, and of an infinity that."""
    inputs = [normal(16, 200)]
    right = lambda x: torch.logsumexp(x, -1)  # noqa: E731
    for wrong in (
        lambda xs: right(xs[0]).nan_to_num(nan=torch.nan, posinf=torch.nan, neginf=torch.nan),
        lambda xs: -right(xs[0]).where(right(xs[0]).isinf(), -right(xs[0])),
    ):
        assert not numeric_gate(wrong, right, inputs)


def test_beyond_the_type_any_value_that_is_not_finite_will_do() -> None:
    """There, terms of both signs are infinite, and what eager makes of them is luck."""
    inputs = [normal(6, 300) * 1e20, normal(300, 4, seed=1) * 1e20]
    beyond = (inputs[0].double() @ inputs[1].double()).abs() > torch.finfo(torch.float32).max
    assert beyond.any()
    lost = lambda xs: linear(*xs).where(linear(*xs).isfinite(), torch.nan)  # noqa: E731
    assert numeric_gate(lost, linear, inputs, classes=[])
    finite = lambda xs: torch.nan_to_num(linear(*xs))  # noqa: E731
    assert not numeric_gate(finite, linear, inputs, classes=[])
