"""The table of workloads: shapes of the suites, references in every dtype, costs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from superopt.bench.suite import outputs, relative_error
from superopt.bench.workloads import SUITES, WORKLOADS, suite, workload
from superopt.errors import BadOption

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
each = pytest.mark.parametrize("w", WORKLOADS, ids=lambda w: w.name)


def meta(w, params, dtype=torch.float32):
    return [torch.empty(s.shape, dtype=s.dtype(dtype), device="meta") for s in w.specs(params)]


@each
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reference_runs_in_every_dtype(w, dtype):
    args = w.inputs(w.tiny, dtype)
    got = outputs(w.reference(*args))
    assert all(y.dtype == dtype and y.isfinite().all() and y.numel() for y in got)
    wanted = outputs(w.reference(*(a.double() if a.is_floating_point() else a for a in args)))
    error = relative_error(got, wanted)
    assert error is not None and error <= 8 * torch.finfo(dtype).eps


@each
def test_inputs_are_the_same_every_time(w):
    for a, b in zip(w.inputs(w.tiny, torch.float32), w.inputs(w.tiny, torch.float32), strict=True):
        assert torch.equal(a, b)


@each
def test_costs_cover_the_contractions_and_the_tensors(w):
    for params in (w.tiny, *w.grid):
        args = meta(w, params)
        with FlopCounterMode(display=False) as counter:
            w.reference(*args)
        counted = counter.get_total_flops()
        # PyTorch computes both halves of a causal mask; the table counts the lower one.
        least = counted / 2 if w.name.startswith("causal") else counted
        assert w.flops(params) >= least
        assert w.flops(params) > 0
        inputs = sum(a.numel() * a.element_size() for a in args)
        assert inputs < w.bytes(params, torch.float32) <= 4 * inputs
        assert w.bytes(params, torch.bfloat16) < w.bytes(params, torch.float32)


@each
def test_grid_names_the_same_sizes_as_tiny(w):
    assert w.grid and w.note
    for params in w.grid:
        assert set(params) == set(w.tiny)


@pytest.mark.parametrize(
    ("name", "b", "shapes"),
    [
        ("gqa", 8, [(16, 256, 64), (16, 64, 4096), (16, 4096, 64)]),
        ("qk_norm", 1, [(2, 256, 64), (2, 64, 4096), (2, 4096, 64)]),
        ("rmsnorm_linear", 16, [(32, 4096), (4096,), (4096, 6144)]),
        ("lora", None, [(16, 256), (256, 4096), (256, 16), (16, 4096)]),
        ("gated_mlp", None, [(8, 4096), (4096, 4096), (4096, 4096)]),
        ("ntrans", 8, [(64, 4096)] * 3),
    ],
)
def test_shapes_of_the_paper(name, b, shapes):
    w = workload(name)
    [params] = [p for p in w.grid if b is None or p["b"] == b]
    assert [s.shape for s in w.specs(params)] == shapes
    if b is not None:
        assert [p["b"] for p in w.grid] == [1, 8, 16]


def test_qkv_widths_of_the_models():
    widths = {
        name: [s.shape for s in workload(f"{name}.rmsnorm_qkv").specs(p)][2:]
        for name in ("smollm2-135m", "qwen3-0.6b", "llama-3.2-1b")
        for p in [workload(f"{name}.rmsnorm_qkv").grid[0]]
    }
    assert widths == {
        "smollm2-135m": [(576, 576), (192, 576), (192, 576)],
        "qwen3-0.6b": [(2048, 1024), (1024, 1024), (1024, 1024)],
        "llama-3.2-1b": [(2048, 2048), (512, 2048), (512, 2048)],
    }


def test_decoder_layer_is_that_of_transformers():
    """The whole layer against the module it is written after, where that is installed."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    p = {"tokens": 2, "h": 16, "heads": 4, "kv": 2, "d": 4, "inter": 24, "ctx": 5}
    config = transformers.LlamaConfig(
        hidden_size=p["h"],
        num_attention_heads=p["heads"],
        num_key_value_heads=p["kv"],
        head_dim=p["d"],
        intermediate_size=p["inter"],
        num_hidden_layers=1,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    w = workload("llama-3.2-1b.layer")
    given = {s.name: t for s, t in zip(w.specs(p), w.inputs(p, torch.float32), strict=True)}
    position = torch.tensor([[p["ctx"]]] * p["tokens"])
    given["cos"], given["sin"] = LlamaRotaryEmbedding(config)(given["x"], position)
    layer = LlamaDecoderLayer(config, 0).eval()
    names = {
        "gain_in": "input_layernorm",
        "wq": "self_attn.q_proj",
        "wk": "self_attn.k_proj",
        "wv": "self_attn.v_proj",
        "wo": "self_attn.o_proj",
        "gain_out": "post_attention_layernorm",
        "w_gate": "mlp.gate_proj",
        "w_up": "mlp.up_proj",
        "w_down": "mlp.down_proj",
    }
    layer.load_state_dict({f"{to}.weight": given[name] for name, to in names.items()})
    cache = transformers.DynamicCache(config=config)
    cache.update(given["past_k"], given["past_v"], 0)
    with torch.no_grad():
        wanted = layer(
            given["x"], past_key_values=cache, position_embeddings=(given["cos"], given["sin"])
        )
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        got, k, v = w.reference(*given.values())
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(k, cache.layers[0].keys[:, :, -1:])
    torch.testing.assert_close(v, cache.layers[0].values[:, :, -1:])


def test_suites():
    assert {w.name for w in suite("mirage")} == {
        "gqa",
        "qk_norm",
        "rmsnorm_linear",
        "lora",
        "gated_mlp",
        "ntrans",
    }
    assert suite("all") == WORKLOADS
    assert all(suite(name) for name in SUITES)
    assert len({w.name for w in WORKLOADS}) == len(WORKLOADS)
    with pytest.raises(BadOption, match="did you mean 'mirage'"):
        suite("mirag")
    with pytest.raises(BadOption, match="did you mean 'gated_mlp'"):
        workload("gatedmlp")
