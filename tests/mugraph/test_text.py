"""The textual form: printing and reading are inverse, and bad text is told where it is bad."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superopt.errors import IllFormedGraph, ParseError
from superopt.mugraph.axes import Axis, Stride, Sym
from superopt.mugraph.graph import Builder, Graph, Index
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split
from superopt.mugraph.text import parse_graph, parse_mugraph, print_graph, print_mugraph
from superopt.mugraph.wellformed import check_mugraph
from tests.mugraph.placed import attention_placed, placed
from tests.strategies import graphs

QUICK = settings(max_examples=150, deadline=None)


@QUICK
@given(graphs(dtypes=("f32", "bf16", "f64", "f16")))
def test_a_graph_survives_its_text(graph):
    text = print_graph(graph)
    again = parse_graph(text)
    assert again == graph
    assert print_graph(again) == text
    assert str(graph) == text


@QUICK
@given(graphs(), st.randoms(use_true_random=False))
def test_a_placed_graph_survives_its_text(graph, rng):
    mugraph = placed(graph, rng)
    check_mugraph(mugraph)
    text = print_mugraph(mugraph)
    again = parse_mugraph(text)
    assert again == mugraph
    assert print_mugraph(again) == text


def test_carries_survive_the_text():
    mugraph = attention_placed()
    check_mugraph(mugraph)
    text = print_mugraph(mugraph)
    assert " by where(eq($0,$1),1.0,exp(sub($0,$1)))" in text
    assert parse_mugraph(text) == mugraph


@QUICK
@given(st.lists(st.text(min_size=1), min_size=5, max_size=5, unique=True))
def test_any_name_is_quoted_safely(names):
    axis, other = Axis(names[0], 3), Axis(names[1], Sym(names[2], 1, 4))
    b = Builder(names[3])
    x = b.input(names[4], ((axis, other),), "f32", [Stride(2, (Sym('loose "', 0, 9),))])
    v = b.view(x, [(axis, Index(((axis, -1),), 2, 1, 5, None, 2))])
    graph = b.build([(names[0], v, ((other,), (axis,)))])
    kernel = Kernel(names[1], (graph.outputs[0].node,), Placement((Split(axis, 2),)))
    mugraph = MuGraph(graph, (kernel,))
    assert parse_mugraph(print_mugraph(mugraph)) == mugraph


@pytest.mark.parametrize(
    "value, dtype",
    [
        (0.1, "f64"),
        (-0.0, "f32"),
        (1e-300, "f64"),
        (5e-324, "f64"),
        (1.7e308, "f64"),
        (float("inf"), "f32"),
        (float("-inf"), "bf16"),
        (True, "bool"),
        (False, "bool"),
        (-(2**63), "i64"),
        (2**63 - 1, "i64"),
        (255, "u8"),
        (0.125, "f32"),
        (3.0, "f32"),
    ],
)
def test_literals_are_exact(value, dtype):
    b = Builder("g")
    graph = b.build([("o", b.const(value, dtype), ())])
    again = parse_graph(print_graph(graph)).nodes[0].value
    assert type(again) is type(value) and repr(again) == repr(value)


def test_the_form_on_the_page():
    text = """# a comment
graph rmsnorm
  axis b = tokens:1..4096
  axis k = 12
  axis n = 3
  %0 = input "x" [b,(k n)] f32 strides(36,1)   # merged
  %1 = view %0 { b := b, k := (2*n + 1) // 3 % 4 clamp 0..9, n := -n + 2 } : [b,n] f32
  %2 = const 0.125 f32
  %3 = mul %1 %2 : [b,n] f32

  return "y" [b,n] = %3
"""
    graph = parse_graph(text)
    once = print_graph(graph)
    assert "axis b = tokens:1..4096" in once and "const 0x1.0p-3 f32  # 0.125" in once
    assert parse_graph(once) == graph


HEAD = 'graph g\n  axis k = 4\n  %0 = input "x" [k] f32 strides(1)\n'


@pytest.mark.parametrize(
    "text, where, expected",
    [
        ("", "line 1, column 1", "'graph'"),
        ("graph", "line 1, column 6", "the graph's name"),
        ("graph g\n  axis k = \n", "line 2, column 12", "a size"),
        ("graph g\n  axis k = t:4\n", "line 2, column 15", "'..'"),
        ("graph g\n  axis k = 4\n  axis k = 4\n", "line 3, column 8", "not declared yet"),
        (HEAD + "  %1 = silv %0 : [k] f32\n", "line 4, column 8", "did you mean 'silu'"),
        (HEAD + "  %2 = exp %0 : [k] f32\n", "line 4, column 3", "node %1"),
        (HEAD + "  %1 = exp %0 : [j] f32\n", "line 4, column 18", "a declared axis"),
        (HEAD + "  %1 = exp %0 : [k] f31\n", "line 4, column 21", "a dtype"),
        (HEAD + "  %1 = exp %0 [k] f32\n", "line 4, column 15", "':'"),
        (HEAD + "  %1 = reduce sub(k) %0 : [] f32\n", "line 4, column 15", "a reduction"),
        (HEAD + "  %1 = view %0 { k = k } : [k] f32\n", "line 4, column 20", "':='"),
        (HEAD + "  %1 = const nan f32\n", "line 4, column 14", "a number"),
        (HEAD + "  %1 = const 1e999 f32\n", "line 4, column 14", "a float can hold"),
        (HEAD + "  %1 = const 0x1.0p99999 f32\n", "line 4, column 14", "a float can hold"),
        (HEAD + "  %1 = const " + "9" * 5000 + " i64\n", "line 4, column 14", "at most 40 digits"),
        (HEAD + '  return "o [k] = %0\n', "line 4, column 10", "a name, a number or a mark"),
        (HEAD + '  return "\\q" [k] = %0\n', "line 4, column 10", "a JSON string"),
        (HEAD.replace("= 4", "= " + "9" * 20), "line 2, column 12", "less than 2**63"),
        (HEAD, "line 4, column 1", "a node or 'return'"),
        (
            HEAD + '  return "o" [k] = %0\nkernel k0 -> %0\n',
            "line 5, column 1",
            "the end of the text",
        ),
    ],
)
def test_bad_text_is_told_where_and_what(text, where, expected):
    with pytest.raises(ParseError) as caught:
        parse_graph(text)
    assert caught.value.where == where
    assert expected in caught.value.what


@pytest.mark.parametrize("text", [None, 5, b"graph f", ["graph f"]])
def test_what_is_no_text_is_refused(text: object) -> None:
    for parse in (parse_graph, parse_mugraph):
        with pytest.raises(ParseError, match="no text"):
            parse(text)  # type: ignore[arg-type]


def test_a_factor_may_not_be_endlessly_deep():
    text = print_mugraph(attention_placed())
    deep = "exp(" * 100_000 + "$0" + ")" * 100_000
    with pytest.raises(ParseError, match="deep"):
        parse_mugraph(text.replace("exp(sub($0,$1))", deep))


PIECES = (
    "%0",
    "%1",
    "%99",
    "$0",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ":=",
    "->",
    "//",
    "%",
    "..",
    "-",
    "0",
    "7",
    "99999999999999999999",
    "0x1.0p-3",
    "1e308",
    "inf",
    "nan",
    "k",
    '"x"',
    '"',
    "#",
    "\n",
    "view",
    "gather",
    "reduce",
    "where",
    "clamp",
    "axis",
    "return",
    "kernel",
    "\x00",
    "\u2028",
    "é",
    "bool",
    "bf16",
    "i64",
    "cast",
    "true",
    "grid",
    "loop",
    "lane",
    "carry",
)


@pytest.mark.parametrize("seed", range(8))
def test_bad_text_gives_no_other_error(seed):
    rng = random.Random(seed)
    texts = [print_mugraph(attention_placed()), *_samples(rng)]
    bad = 0
    for _ in range(400):
        text = _damaged(rng, rng.choice(texts))
        for parse in (parse_mugraph, parse_graph):
            try:
                parse(text)
            except (ParseError, IllFormedGraph):
                bad += 1
    assert bad > 400  # the damage was real


def _samples(rng: random.Random) -> list[str]:
    out: list[str] = []

    @settings(max_examples=12, deadline=None, database=None, derandomize=True)
    @given(graphs())
    def collect(graph: Graph) -> None:
        out.append(print_mugraph(placed(graph, rng)))

    collect()
    return out


def _damaged(rng: random.Random, text: str) -> str:
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 1, 1, 2, 5, 20)))
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + text[end:]
        elif kind == 1:
            text = text[:at] + rng.choice(PIECES) + text[end:]
        elif kind == 2:
            words = text.split(" ")
            words[rng.randrange(len(words))] = rng.choice(PIECES)
            text = " ".join(words)
        else:
            lines = text.split("\n")
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
            text = "\n".join(lines)
    return text
