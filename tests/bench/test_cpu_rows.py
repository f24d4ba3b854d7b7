"""The rows of suite cpu as data: sizes, costs, programs; and the probes of the machine."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from superopt.bench.cpu import native, programs
from superopt.bench.cpu.document import Need, floor, times
from superopt.bench.cpu.rows import ROWS, row
from superopt.bench.suite import outputs, relative_error
from superopt.errors import BadOption

each = pytest.mark.parametrize("w", ROWS, ids=lambda w: w.name)
TOP = 2


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reference_runs_in_every_dtype(w, dtype):
    args = w.inputs(w.tiny, dtype)
    wanted = outputs(w.reference(*(a.double() if a.is_floating_point() else a for a in args)))
    got = outputs(w.reference(*args))
    assert all(y.dtype == dtype and y.isfinite().all() for y in got)
    error = relative_error(got, wanted)
    assert error is not None and error <= 8 * torch.finfo(dtype).eps


@each
def test_costs_are_those_of_the_contractions_and_the_tensors(w):
    for p in (w.tiny, *w.grid):
        args = [
            torch.empty(s.shape, dtype=s.dtype(torch.float32), device="meta") for s in w.specs(p)
        ]
        with FlopCounterMode(display=False) as counter:
            w.reference(*args)
        counted = counter.get_total_flops()
        if w.name == "moe":  # all experts are computed, two of each token count
            router = 2 * p["m"] * p["h"] * p["experts"]
            counted = router + (counted - router) * TOP // p["experts"]
        assert counted <= w.flops(p) <= 1.1 * counted + 40 * sum(a.numel() for a in args)
        assert 0 <= w.exps(p) <= max(w.flops(p), 1)
        moved = sum(a.numel() * a.element_size() for a in args)
        assert moved < w.bytes(p, torch.float32) <= 3 * moved


def test_the_rows_are_these():
    assert {w.name: len(w.grid) for w in ROWS} == {
        "rmsnorm_linear": 4,
        "gated_mlp": 4,
        "lora": 4,
        "qk_norm_attention": 1,
        "gqa_decode": 2,
        "gqa_decode_sdpa": 2,
        "moe": 1,
        "llama-3.2-1b.layer": 1,
        "chain": 2,
        "ntrans": 2,
        "linear_int8": 2,
        "linear_int4": 2,
    }
    assert [p["m"] for p in row("gated_mlp").grid] == [1, 8, 16, 64]
    (layer,) = row("llama-3.2-1b.layer").grid
    assert (layer["tokens"], layer["ctx"]) == (1, 1024)
    constants = [s.name for s in row("llama-3.2-1b.layer").specs(layer) if s.constant]
    assert constants == ["gain_in", "wq", "wk", "wv", "wo", "gain_out", "w_gate", "w_up", "w_down"]
    with pytest.raises(BadOption, match="did you mean 'gated_mlp'"):
        row("gatedmlp")


def test_quantized_weights_count_their_own_bytes():
    p = {"m": 1, "k": 4096, "n": 4096}
    side = 4096 * 4096
    vectors = 2 * 4096 * 4
    assert row("linear_int8").bytes(p, torch.float32) == side + 4096 * 4 + vectors
    assert row("linear_int4").bytes(p, torch.float32) == side // 2 + side // 128 * 4 + vectors
    assert row("linear_int4").specs(p)[2].shape == (4096, 32)


def test_four_bit_values_are_unpacked_in_order():
    x, w, step = row("linear_int4").inputs({"m": 2, "k": 256, "n": 3}, torch.float64)
    wanted = torch.zeros(2, 3, dtype=torch.float64)
    for n in range(3):
        for k in range(256):
            byte = int(w[n, k // 2])
            value = (byte % 16 if k % 2 == 0 else byte // 16) - 8
            wanted[:, n] += x[:, k] * value * step[n, k // programs.GROUP]
    torch.testing.assert_close(programs.linear_int4(x, w, step), wanted)


def test_the_two_best_experts_of_a_token():
    x, w_router, w_gate, w_up, w_down = row("moe").inputs(row("moe").grid[0] | {"h": 16, "inter": 8,
        "m": 5}, torch.float64)  # fmt: skip
    wanted = torch.zeros_like(x)
    for t in range(5):
        scores = torch.softmax(x[t] @ w_router, -1)
        best, which = torch.topk(scores, TOP)
        for share, e in zip(best / best.sum(), which, strict=True):
            hidden = torch.nn.functional.silu(x[t] @ w_gate[e]) * (x[t] @ w_up[e])
            wanted[t] += share * (hidden @ w_down[e])
    torch.testing.assert_close(programs.moe_dense(x, w_router, w_gate, w_up, w_down), wanted)


def test_both_forms_of_grouped_attention_agree():
    args = row("gqa_decode").inputs(row("gqa_decode").tiny, torch.float64)
    torch.testing.assert_close(programs.gqa_decode(*args), programs.gqa_decode_sdpa(*args))


@pytest.fixture(scope="module")
def probes():
    return native.Probes(native.build(), 2)


def test_the_timed_exponential_is_one(probes):
    x = torch.linspace(-80.0, 80.0, 4001)
    error = (probes.exp(x).double() / x.double().exp() - 1).abs().max()
    assert error < 4e-7


def test_the_probes_give_numbers_of_this_world(probes):
    assert 1e8 < probes.bandwidth(native.buffer(1 << 22), runs=1) < 1e14
    for dtype in (torch.float32, torch.bfloat16):
        assert 1e8 < probes.peak(dtype, runs=1) < 1e16
    assert 1e-13 < probes.exp_s(runs=1) < 1e-6
    assert 0 < probes.launch_s() < 10
    probes.evict(1 << 16)
    assert int(probes._evicted.sum()) == (1 << 16) // 64  # one touch for each line


def test_a_floor_is_its_parts():
    samples = [
        {
            "bandwidth_cold": b,
            "bandwidth_warm": 2 * b,
            "launch_cold_s": 0.5,
            "launch_warm_s": 0.25,
            "peak": peak,
            "exp_s": exp_s,
        }
        for b, peak, exp_s in ((10.0, 100.0, 0.2), (20.0, 50.0, 0.1), (90.0, 80.0, 0.3))
    ]
    found = floor(Need(bytes=400, flops=500, exps=20), samples)
    assert (found["peak"], found["exp_s"]) == (100.0, 0.1)
    assert found["cold"] == {"bandwidth": 20.0, "launch_s": 0.5, "floor_s": 20.5, "by": "bytes"}
    assert found["warm"]["floor_s"] == pytest.approx(400 / 40 + 0.25)
    heavy = floor(Need(bytes=4, flops=500, exps=20), samples)
    assert heavy["cold"]["floor_s"] == pytest.approx(500 / 100 + 20 * 0.1 + 0.5)
    assert heavy["cold"]["by"] == "work"
    summary = times([3.0, 1.0, 2.0], 0.5)
    assert (summary["median_s"], summary["best_s"], summary["x_floor"]) == (2.0, 1.0, 4.0)
