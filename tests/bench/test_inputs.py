"""Descriptions of inputs: what is read, and what each mistake is told."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superopt.bench.inputs import TensorSpec, make_inputs, parse_dtype, parse_inputs, short
from superopt.errors import BadOption
from superopt.mugraph.dtypes import DTYPES


def test_reads_dtypes_and_shapes():
    assert parse_inputs("f32[8,4096], bf16[3],i64[],float64[0,2]") == (
        TensorSpec(torch.float32, (8, 4096)),
        TensorSpec(torch.bfloat16, (3,)),
        TensorSpec(torch.int64, ()),
        TensorSpec(torch.float64, (0, 2)),
    )
    assert parse_inputs("f32[2x3]") == parse_inputs("f32[ 2, 3 ]")


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 99), max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read(specs):
    text = ",".join(f"{name}[{','.join(map(str, shape))}]" for name, shape in specs)
    got = parse_inputs(text)
    assert [(short(s.dtype), list(s.shape)) for s in got] == specs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no inputs"),
        (" , ", "no inputs"),
        ("f32", "'f32' is not a tensor"),
        ("f32[2", "is not a tensor"),
        ("f32[2]]", "is not a tensor"),
        ("f33[2]", "no dtype 'f33'.*did you mean"),
        ("f32[2,a]", "'a' is not a size.*f32\\[2,a\\]"),
        ("f32[-1]", "'-1' is not a size"),
        ("f32[2,]", "'' is not a size"),
        ("f32[2] bf16[3]", "is not a tensor"),
    ],
)
def test_each_mistake_is_told(text, said):
    with pytest.raises(BadOption, match=said):
        parse_inputs(text)


def test_tensors_follow_the_seed():
    a, n, b = make_inputs("f32[3,4],i64[5],bool[2]", seed=7)
    assert a.shape == (3, 4) and n.dtype == torch.int64 and b.dtype == torch.bool
    assert torch.equal(a, make_inputs("f32[3,4]", seed=7)[0])
    assert not torch.equal(a, make_inputs("f32[3,4]", seed=8)[0])


def test_dtype_names():
    assert parse_dtype("bf16") == parse_dtype("bfloat16") == torch.bfloat16
    with pytest.raises(BadOption, match="option --dtypes"):
        parse_dtype("fp32")


def test_what_does_not_fit_into_memory():
    with pytest.raises(BadOption, match="no memory for a tensor of"):
        make_inputs("f32[99999999,99999999]", 0)
