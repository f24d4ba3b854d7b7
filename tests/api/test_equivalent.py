"""superopt.equivalent: equal with a bound, different with inputs that show it, or undecided."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

import superopt
from superopt.errors import BadOption

X, Y = torch.randn(8, 12), torch.randn(8, 12)
W, V = torch.randn(12, 10), torch.randn(12, 10)
G = torch.randn(12)
Q = torch.randn(2, 3, 7, 16)
MASK = torch.rand(8, 12) > 0.5
I8 = torch.tensor([1, 100, -100], dtype=torch.int8)
IDS = torch.tensor([0, 3, 5])


def rms(x, g, w):
    return F.rms_norm(x, (x.shape[-1],), g, 1e-6) @ w


def rms_late(x, g, w):
    return (x @ (g[:, None] * w)) * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def attention(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


def flash(q, k, v, lost=False):
    """Two halves of the keys, merged by their log-sum-exp; lost: without the rescale of one half."""
    parts = []
    for some in (slice(0, 3), slice(3, 7)):
        s = q @ k[..., some, :].mT / math.sqrt(q.shape[-1])
        top = s.amax(-1, keepdim=True)
        p = torch.exp(s - top)
        parts.append((top, p.sum(-1, keepdim=True), p @ v[..., some, :]))
    (m1, l1, o1), (m2, l2, o2) = parts
    m = torch.maximum(m1, m2)
    a, b = torch.exp(m1 - m), torch.exp(m2 - m)
    return (a * o1 + (o2 if lost else b * o2)) / (a * l1 + b * l2)


def flash_lost(q, k, v):
    return flash(q, k, v, lost=True)


EQUAL = {
    "rms norm moved": (rms, rms_late, (X, G, W)),
    "attention merged": (attention, flash, (Q, Q, Q)),
    "attention of the library": (attention, F.scaled_dot_product_attention, (Q, Q, Q)),
    "heads by view and by einsum": (
        lambda x, w: x.view(8, 3, 4).transpose(1, 2).reshape(8, 12) @ w,
        lambda x, w: torch.einsum("bhd,dhn->bn", x.view(8, 3, 4), w.view(4, 3, 10)),
        (X, W),
    ),
    "causal masks": (
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        lambda q: attention_masked(q, torch.ones(7, 7).tril().bool()),
        (Q,),
    ),
    "a tenth": (lambda x: x * 0.1, lambda x: x / 10, (X,)),
    "the scale as a literal": (
        lambda q: attention(q, q, q),
        lambda q: torch.softmax(q @ q.mT * 0.25, -1) @ q,
        (Q,),
    ),
    "maximum of shifted": (
        lambda x, y: torch.maximum(x + 1, y + 1),
        lambda x, y: 1 + torch.maximum(x, y),
        (X, Y),
    ),
    "leaky relu": (
        lambda x: F.leaky_relu(x, 0.25),
        lambda x: torch.maximum(x, 0.25 * x),
        (X,),
    ),
    "results in a dict": (
        lambda x, y: {"sum": x + y, "of": (x * y, 3)},
        lambda x, y: {"sum": y + x, "of": (y * x, 3)},
        (X, Y),
    ),
    "views of inputs": (lambda x: x.t(), lambda x: x.permute(1, 0), (X,)),
    "indices": (lambda t, i: t[i] * 2, lambda t, i: F.embedding(i, 2 * t), (X, IDS)),
    "arguments in a list": (lambda xs: xs[0] + xs[1], lambda xs: sum(xs), ([X, Y],)),
    "numbers among the arguments": (lambda x, n: x * n, lambda x, n: n * x, (X, 3)),
    "bool": (lambda m, x: ~(m & (x > 0)), lambda m, x: ~m | (x <= 0), (MASK, X)),
    "sixteen bits": (
        lambda x, w: x.bfloat16() @ w.bfloat16() + x.bfloat16() @ w.bfloat16(),
        lambda x, w: 2 * (x.bfloat16() @ w.bfloat16()),
        (X, W),
    ),
    "double precision": (
        lambda x: (x - x.mean()).square().mean(),
        lambda x: x.square().mean() - x.mean().square(),
        (X.double(),),
    ),
}


def attention_masked(q, keep):
    s = (q @ q.mT / math.sqrt(q.shape[-1])).masked_fill(~keep, -math.inf)
    return torch.softmax(s, -1) @ q


DIFFERENT = {
    "1/n dropped": (lambda x: x.mean(1), lambda x: x.sum(1), (X,)),
    "rescale lost": (attention, flash_lost, (Q, Q, Q)),
    "eps": (
        lambda x: F.layer_norm(x, (12,), eps=1e-5),
        lambda x: F.layer_norm(x, (12,), eps=1e-6),
        (X,),
    ),
    "causal off by one": (
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        lambda q: attention_masked(q, torch.ones(7, 7).tril(1).bool()),
        (Q,),
    ),
    "outputs permuted": (lambda x, y: (x + y, x - y), lambda x, y: (x - y, x + y), (X, Y)),
    "inputs exchanged": (lambda x, y: x - y, lambda x, y: y - x, (X, Y)),
    "weights exchanged": (
        lambda x, w, v: F.silu(x @ w) * (x @ v),
        lambda x, w, v: F.silu(x @ v) * (x @ w),
        (X, W, V),
    ),
    "strict": (
        lambda x, y: torch.where(x < 0, x, y),
        lambda x, y: torch.where(x <= 0, x, y),
        (X, Y),
    ),
    "strict of a sum": (
        lambda x, y, z: torch.where(x + y < z, x, y),
        lambda x, y, z: torch.where(x + y <= z, x, y),
        (X, Y, X + 1),
    ),
    "overflow of int8": (
        lambda i: (i + i).long(),
        lambda i: i.long() + i.long(),
        (torch.tensor([1, 2, 3], dtype=torch.int8),),
    ),
    "floor and trunc": (
        lambda i: torch.div(i, 2, rounding_mode="floor"),
        lambda i: torch.div(i, 2, rounding_mode="trunc"),
        (torch.tensor([1, 2, 3]),),
    ),
    "shapes": (lambda x: x.sum(1), lambda x: x.sum(1, keepdim=True), (X,)),
    "dtypes": (lambda x: x * 2, lambda x: x.double() * 2, (X,)),
    "structures": (lambda x: (x, x), lambda x: [x, x], (X,)),
    "numbers beside tensors": (lambda x: (x, 1), lambda x: (x, 2), (X,)),
    "what cannot be captured": (lambda x: x.argmax(1), lambda x: x.argmin(1), (X,)),
    "root of a square": (lambda x: x.square().sqrt(), lambda x: x, (X,)),
    "gelu by tanh": (lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh"), (X,)),
    "one element": (lambda x: x, lambda x: torch.cat((x[:, :-1], 2 * x[:, -1:]), 1), (X,)),
    "tensors that they hold": (torch.nn.Linear(12, 10), torch.nn.Linear(12, 10), (X,)),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_functions(name):
    f, g, args = EQUAL[name]
    found = superopt.equivalent(f, g, *args, seed=5)
    assert found, str(found)
    assert isinstance(found, superopt.Certificate)
    assert found.kind in ("identical", "proved", "bound", "sampled")
    assert found.kind != "bound" or found.bound_log2 >= 64
    assert found.domain and found.counterexample is None
    assert json.loads(found.to_json())["verdict"] == "equal"
    assert set(found.explained) == set(found.assumptions)


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_functions_have_a_counterexample(name):
    f, g, args = DIFFERENT[name]
    found = superopt.equivalent(f, g, *args, seed=5)
    assert not found
    assert found.verdict == "different", str(found)
    example = found.counterexample
    assert json.loads(found.to_json())["counterexample"]["inputs"]
    if example.position:  # what it says is what the functions give
        with torch.no_grad():
            mine, other = (
                torch.utils._pytree.tree_leaves(fn(*_nested(example.inputs, args))) for fn in (f, g)
            )
        x, y = (r[example.output][example.position].item() for r in (mine, other))
        assert (x, y) == pytest.approx(example.values, nan_ok=True)
        assert x != y


def _nested(leaves, args):
    spec = torch.utils._pytree.tree_structure(args)
    return torch.utils._pytree.tree_unflatten(list(leaves), spec)


UNDECIDED = {
    "sort": (lambda x: x.sort(1).values, lambda x: -(-x).sort(1).values.flip(1), (X,)),
    "cumsum": (
        lambda x: x.cumsum(1),
        lambda x: x.flip(1).cumsum(1).flip(1) * 0 + x.cumsum(1),
        (X,),
    ),
    "a NaN literal": (lambda x: x * math.nan, lambda x: math.nan * x, (X,)),
    "data-dependent control": (
        lambda x: x * 2 if x.sum() > 0 else x + x,
        lambda x: x + x,
        (X,),
    ),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_cannot_be_decided_is_refused_by_name(name):
    f, g, args = UNDECIDED[name]
    found = superopt.equivalent(f, g, *args, seed=5)
    assert not found
    assert found.verdict == "undecided", str(found)
    word = {"a NaN literal": "NaN", "data-dependent control": "control flow"}.get(name, name)
    assert word in found.reason
    assert found.counterexample is None


def test_equal_at_the_given_size_alone():
    by_size = lambda x: x.sum(1) / 12  # noqa: E731
    found = superopt.equivalent(lambda x: x.mean(1), by_size, X)
    assert found
    assert "alone" in found.domain
    dim = torch.export.Dim("n", min=2, max=64)
    found = superopt.equivalent(lambda x: x.mean(1), by_size, X, dynamic={"x": {1: dim}})
    assert found.verdict == "different"
    assert found.counterexample.inputs[0].shape[1] != 12
    found = superopt.equivalent(
        lambda x: x.mean(1), lambda x: x.sum(1) / x.shape[1], X, dynamic={"x": {1: dim}}
    )
    assert found
    assert found.domain == "all sizes in the given ranges"


def test_modules_with_the_same_weights():
    a, b = torch.nn.Linear(12, 10), torch.nn.Linear(12, 10)
    b.load_state_dict(a.state_dict())
    found = superopt.equivalent(a, b, X)
    assert found
    assert "equal-tensors" in found.assumptions
    found = superopt.equivalent(a, lambda x: x @ a.weight.t() + a.bias, X)
    assert found
    assert "equal-tensors" not in found.assumptions


def test_seeds_are_fresh_and_recorded():
    f, g = (lambda x, w: (x @ w).sum(1)), (lambda x, w: x @ w.sum(1))
    first, second = (superopt.equivalent(f, g, X, W) for _ in range(2))
    assert first and second
    assert first.seed != second.seed
    assert all(first.seed in c.seeds for c in first.checks if c.seeds)
    assert superopt.equivalent(f, g, X, W, seed=7).seed == 7


def test_arguments_and_generators_are_left_alone():
    x = X.clone()
    before = torch.get_rng_state()
    superopt.equivalent(lambda x: x * 2, lambda x: x + x, x)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(x, X)
    kept = superopt.superoptimize(lambda x: x * 2)
    assert superopt.equivalent(kept, lambda x: x + x, x)  # a decorated function is its body


def test_effects_are_named():
    seen = []

    def says(x):
        print("hello")
        return x + x

    def keeps(x):
        seen.append(1)
        return x + x

    found = superopt.equivalent(says, lambda x: 2 * x, X)
    assert found
    assert "results-alone" in found.assumptions
    found = superopt.equivalent(keeps, lambda x: 2 * x, X)
    assert found.verdict == "undecided"
    assert "a list" in found.reason


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ((3, lambda x: x, X), "no function"),
        ((lambda x: x, None, X), "no function"),
        ((lambda: 3, lambda: 3), "no example input"),
        ((lambda x: x, lambda x: x, 3), "no example input"),
    ],
)
def test_bad_arguments(args, word):
    with pytest.raises(BadOption, match=word):
        superopt.equivalent(*args)
    with pytest.raises(BadOption, match="precision"):
        superopt.equivalent(lambda x: x, lambda x: x, X, precision="half")
    with pytest.raises(RuntimeError):  # what the function raises on these inputs
        superopt.equivalent(lambda x: x @ x, lambda x: x @ x, X)
