"""Bad input gets a clear error, or the original program: never a crash, a hang or a wrong result."""

import math

import pytest
import torch

from superopt import superoptimize
from superopt.errors import BadOption, IllFormedGraph, ParseError, SuperoptError
from superopt.mugraph.text import parse_graph, print_graph
from superopt.options import Budget
from superopt.search.enumerate import explore
from superopt.search.regions import regions

HEAD = "graph g\n  axis a = 2\n  axis n = 3\n"
X = '  %0 = input "x" [n] f32 strides(1)\n'


def clear(error):
    """The message is one line that says what is wrong, where, and what to do."""
    assert isinstance(error, SuperoptError)
    assert error.what and error.where and error.fix, str(error)
    assert "\n" not in str(error)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPEROPT_CACHE_DIR", str(tmp_path))


# -- a budget of nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budget",
    [0, 0.0, -1, "0s", "0c", "0m", "10s,0c", "-5c", "s", "", True, [], math.nan, math.inf]
    + ["1" + "0" * 400 + "s"],
    ids=str,
)
def test_no_budget_is_refused(budget):
    with pytest.raises(BadOption, match="budget") as caught:
        superoptimize(torch.exp, budget=budget)
    clear(caught.value)


@pytest.mark.parametrize(
    ("seconds", "candidates"),
    [(0, None), (None, 0), (-1.0, None), (math.nan, None), (math.inf, None), (None, 2.5)]
    + [(None, None), (True, None), ("5", None), (1.0, -3)],
)
def test_a_budget_made_by_hand_is_checked_too(seconds, candidates):
    with pytest.raises(BadOption, match="budget") as caught:
        Budget(seconds, candidates)
    clear(caught.value)


def test_a_search_with_nothing_left_returns_the_program_as_written():
    graph = parse_graph(HEAD + X + '  %1 = exp %0 : [n] f32\n  return "o" [n] = %1\n')
    for region in regions(graph):
        for engine in ("python", "cpp"):
            space = explore(graph, region, candidates=0, engine=engine)
            assert not space.closed and space.stats["why"] == "budget"
            assert all(space.classes[space.targets[i]].derivations for i in region.targets)


# -- programs with nothing to search ---------------------------------------------------------------


def no_inputs():
    return torch.arange(6.0).reshape(2, 3).exp().sum(1)


def only_a_constant():
    return torch.full((3,), 2.0)


@pytest.mark.parametrize("f", [no_inputs, only_a_constant])
def test_a_program_without_inputs_computes_what_it_did(f):
    fast = superoptimize(f, budget="20c")
    for _ in range(2):
        torch.testing.assert_close(fast(), f())


@pytest.mark.parametrize(
    "text",
    [
        '  %0 = const 2.0 f32\n  %1 = exp %0 : [] f32\n  return "o" [] = %1\n',
        '  %0 = iota : [n] i64\n  return "o" [n] = %0\n',
        '  %0 = size_of n : [] f32\n  %1 = div %0 %0 : [] f32\n  return "o" [] = %1\n',
        X + '  return "o" [n] = %0\n',
    ],
    ids=["constant", "index", "size", "the input itself"],
)
def test_a_graph_with_nothing_to_search_is_returned(text):
    graph = parse_graph(HEAD + text)
    for region in regions(graph):
        for engine in ("python", "cpp"):
            space = explore(graph, region, engine=engine)
            assert set(space.targets) == set(region.targets)
    assert parse_graph(print_graph(graph)) == graph


# -- axes of size 1 and 0 --------------------------------------------------------------------------


def softmax(x):
    return torch.softmax(x, -1)


def rms(x):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)


def gated(x):
    return (torch.sigmoid(x) * x).sum(0)


def mean_of_shifted(x):
    return (x + x.sum(-1, keepdim=True)).mean()


def product(x):
    return x @ x.transpose(0, 1)


SIZES = ((1, 4), (4, 1), (1, 1), (0, 4), (4, 0), (0, 0))


def same_as_eager(f, shape):
    x = torch.randn(shape)
    fast = superoptimize(f, budget="20c")
    for _ in range(2):
        torch.testing.assert_close(fast(x), f(x), equal_nan=True)


@pytest.mark.parametrize(
    ("f", "shape"),
    [(rms, (4, 1)), (rms, (4, 0)), (softmax, (0, 4))],
    ids=["one", "none", "no rows"],
)
def test_axes_of_size_one_and_zero(f, shape):
    same_as_eager(f, shape)


@pytest.mark.full
@pytest.mark.parametrize("f", [softmax, rms, gated, mean_of_shifted, product])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_all_axes_of_size_one_and_zero(f, shape):
    same_as_eager(f, shape)


@pytest.mark.parametrize("size", [0, 1])
def test_the_engines_take_axes_of_size_one_and_zero(size):
    text = HEAD.replace("n = 3", f"n = {size}").replace("a = 2", "a = 1") + (
        '  %0 = input "x" [a,n] f32 strides(1,1)\n  %1 = exp %0 : [a,n] f32\n'
        "  %2 = reduce add(n) %1 : [a] f32\n  %3 = div %1 %2 : [a,n] f32\n"
        '  return "o" [a,n] = %3\n'
    )
    graph = parse_graph(text)
    (region,) = regions(graph)
    spaces = [explore(graph, region, engine=engine) for engine in ("python", "cpp")]
    assert spaces[0].classes == spaces[1].classes and spaces[0].closed


# -- graphs from text ------------------------------------------------------------------------------

WRONG = {
    "a node of itself": X + '  %1 = add %0 %1 : [n] f32\n  return "o" [n] = %1\n',
    "a cycle of two": X + "  %1 = exp %2 : [n] f32\n  %2 = exp %1 : [n] f32\n"
    '  return "o" [n] = %2\n',
    "a cycle beside the output": X + "  %1 = exp %2 : [n] f32\n  %2 = exp %1 : [n] f32\n"
    '  return "o" [n] = %0\n',
    "a later node": X + '  %1 = exp %2 : [n] f32\n  %2 = neg %0 : [n] f32\n  return "o" [n] = %1\n',
    "no such node": X + '  %1 = exp %7 : [n] f32\n  return "o" [n] = %1\n',
    "a number too long": X + f'  %1 = exp %{"9" * 40} : [n] f32\n  return "o" [n] = %1\n',
    "a gathered cycle": X + "  %1 = gather %0 along n at %2 : [n] f32\n"
    '  %2 = floor %1 : [n] f32\n  return "o" [n] = %1\n',
    "another dtype": X + '  %1 = exp %0 : [n] i64\n  return "o" [n] = %1\n',
    "exp of a boolean": '  %0 = input "x" [n] bool strides(1)\n  %1 = exp %0 : [n] bool\n'
    '  return "o" [n] = %1\n',
    "an axis lost": X + '  %1 = exp %0 : [] f32\n  return "o" [] = %1\n',
    "an axis from nowhere": X + '  %1 = exp %0 : [a,n] f32\n  return "o" [a,n] = %1\n',
    "one argument for two": X + '  %1 = add %0 : [n] f32\n  return "o" [n] = %1\n',
    "two arguments for one": X + '  %1 = exp %0 %0 : [n] f32\n  return "o" [n] = %1\n',
    "a sum over an axis that is not there": X + "  %1 = reduce add(a) %0 : [n] f32\n"
    '  return "o" [n] = %1\n',
    "a sum that keeps its axis": X + '  %1 = reduce add(n) %0 : [n] f32\n  return "o" [n] = %1\n',
    "an output of other axes": X + '  return "o" [a] = %0\n',
    "an output of no node": X + '  return "o" [n] = %4\n',
    "an unknown operator": X + '  %1 = expp %0 : [n] f32\n  return "o" [n] = %1\n',
    "an undeclared axis": X + '  %1 = exp %0 : [m] f32\n  return "o" [m] = %1\n',
    "no output": X,
    "nothing": "",
}


@pytest.mark.parametrize("name", list(WRONG))
def test_an_ill_formed_text_is_refused(name):
    with pytest.raises((ParseError, IllFormedGraph)) as caught:
        parse_graph(HEAD + WRONG[name])
    clear(caught.value)


def test_what_the_texts_differ_from_is_accepted():
    graph = parse_graph(HEAD + X + '  %1 = exp %0 : [n] f32\n  return "o" [n] = %1\n')
    assert len(graph.nodes) == 2
