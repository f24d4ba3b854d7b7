"""The workloads as data: one table of programs, sizes and inputs, used by tests, bench and demo.

Sizes are named in ``params``, which describes every shape in full.
"""

from __future__ import annotations

from superopt.bench import programs
from superopt.bench.blocks import MODELS, blocks, projection
from superopt.bench.workload import Params, Spec, Workload, batches
from superopt.errors import BadOption, closest

__all__ = ["SUITES", "WORKLOADS", "Params", "Spec", "Workload", "suite", "workload"]


def _attention_specs(p: Params) -> tuple[Spec, ...]:
    b, m, d, t = 2 * p["b"], p["m"], p["d"], p["t"]
    return Spec("q", (b, m, d)), Spec("k", (b, d, t)), Spec("v", (b, t, d))


def _attention_flops(p: Params) -> int:
    return 2 * p["b"] * p["m"] * p["t"] * (4 * p["d"] + 4)


_GQA = {"m": 256, "d": 64, "t": 4096}
_GQA_TINY = {"b": 1, "m": 6, "d": 8, "t": 20}

MIRAGE = (
    Workload(
        "gqa",
        ("mirage",),
        programs.gqa,
        _attention_specs,
        _attention_flops,
        batches(_GQA),
        _GQA_TINY,
        "OSDI'25 section 8: grouped-query attention, q (2b,256,64) k (2b,64,4096) v (2b,4096,64)",
    ),
    Workload(
        "qk_norm",
        ("mirage",),
        programs.qk_norm,
        _attention_specs,
        lambda p: _attention_flops(p) + 8 * p["b"] * p["d"] * (p["m"] + p["t"]),
        batches(_GQA),
        _GQA_TINY,
        "OSDI'25 section 8: gqa with RMSNorm over the head dimension on q and k",
    ),
    Workload(
        "rmsnorm_linear",
        ("mirage",),
        programs.rmsnorm_linear,
        lambda p: (
            Spec("x", (2 * p["b"], p["k"])),
            Spec("g", (p["k"],), "gain", 0.1),
            Spec("w", (p["k"], p["n"]), scale=p["k"] ** -0.5),
        ),
        lambda p: 2 * p["b"] * p["k"] * (2 * p["n"] + 4),
        batches({"k": 4096, "n": 6144}),
        {"b": 2, "k": 24, "n": 20},
        "OSDI'25 section 8: RMSNorm and linear, (2b,4096) by (4096,6144)",
    ),
    Workload(
        "lora",
        ("mirage",),
        programs.lora,
        lambda p: (
            Spec("x", (p["m"], p["k"])),
            Spec("w", (p["k"], p["n"]), scale=p["k"] ** -0.5),
            Spec("a", (p["k"], p["r"]), scale=p["k"] ** -0.5),
            Spec("b", (p["r"], p["n"]), scale=0.5 * p["r"] ** -0.5),
        ),
        lambda p: 2 * p["m"] * (p["k"] * p["n"] + p["r"] * (p["k"] + p["n"])) + p["m"] * p["n"],
        ({"m": 16, "k": 256, "n": 4096, "r": 16},),
        {"m": 3, "k": 12, "n": 20, "r": 4},
        "OSDI'25 section 8: x (16,256) w (256,4096) a (256,16) b (16,4096)",
    ),
    Workload(
        "gated_mlp",
        ("mirage",),
        programs.gated_mlp,
        lambda p: (
            Spec("x", (p["m"], p["k"])),
            Spec("w1", (p["k"], p["n"]), scale=p["k"] ** -0.5),
            Spec("w2", (p["k"], p["n"]), scale=p["k"] ** -0.5),
        ),
        lambda p: p["m"] * p["n"] * (4 * p["k"] + 3),
        ({"m": 8, "k": 4096, "n": 4096},),
        {"m": 3, "k": 12, "n": 20},
        "OSDI'25 section 8: x (8,4096), two weights (4096,4096)",
    ),
    Workload(
        "ntrans",
        ("mirage",),
        programs.ntrans,
        lambda p: (
            Spec("x", (8 * p["b"], p["n"])),
            Spec("h", (8 * p["b"], p["n"]), scale=2.0),
            Spec("alpha", (8 * p["b"], p["n"]), "unit"),
        ),
        lambda p: 8 * p["b"] * p["n"] * 9,
        batches({"n": 4096}),
        {"b": 1, "n": 20},
        "OSDI'25 section 8: normalized residual of nGPT on three (8b,4096) tensors",
    ),
)


GENERAL = (
    Workload(
        "causal_prefill",
        ("general",),
        programs.causal_prefill,
        lambda p: tuple(Spec(n, (p["heads"], p["t"], p["d"])) for n in "qkv"),
        lambda p: p["heads"] * p["t"] * (p["t"] + 1) // 2 * (4 * p["d"] + 4),
        ({"heads": 9, "t": 1024, "d": 64}, {"heads": 32, "t": 256, "d": 64}),
        {"heads": 2, "t": 11, "d": 6},
        "prefill of SmolLM2-135M and Llama-3.2-1B with the mask written out; flops of the lower half",
    ),
    Workload(
        "causal_sdpa",
        ("general",),
        programs.causal_sdpa,
        lambda p: (
            Spec("q", (1, p["heads"], p["t"], p["d"])),
            Spec("k", (1, p["kv"], p["t"], p["d"])),
            Spec("v", (1, p["kv"], p["t"], p["d"])),
        ),
        lambda p: p["heads"] * p["t"] * (p["t"] + 1) // 2 * (4 * p["d"] + 4),
        ({"heads": 9, "kv": 3, "t": 1024, "d": 64},),
        {"heads": 4, "kv": 2, "t": 11, "d": 8},
        "prefill of SmolLM2-135M by scaled_dot_product_attention; flops of the lower half",
    ),
    Workload(
        "gelu_mlp",
        ("general",),
        programs.gelu_mlp,
        lambda p: (
            Spec("x", (p["m"], p["h"])),
            Spec("gain", (p["h"],), "gain", 0.1),
            Spec("shift", (p["h"],), scale=0.1),
            projection("w1", p["inter"], p["h"]),
            Spec("b1", (p["inter"],), scale=0.1),
            projection("w2", p["h"], p["inter"]),
            Spec("b2", (p["h"],), scale=0.1),
        ),
        lambda p: p["m"] * p["inter"] * (4 * p["h"] + 10),
        batches({"h": 768, "inter": 3072}, "m", (1, 8, 64)),
        {"m": 3, "h": 12, "inter": 20},
        "the MLP of GPT-2 small: layer norm, 768 to 3072 to 768, tanh form of GELU, residual",
    ),
    Workload(
        "cross_entropy",
        ("general",),
        programs.cross_entropy,
        lambda p: (
            Spec("logits", (p["m"], p["vocab"]), scale=4.0),
            Spec("target", (p["m"],), "index", p["vocab"]),
        ),
        lambda p: 4 * p["m"] * p["vocab"],
        ({"m": 64, "vocab": 49152}, {"m": 8, "vocab": 151936}),
        {"m": 3, "vocab": 50},
        "a loss over the vocabularies of SmolLM2 and Qwen3",
    ),
    Workload(
        "softmax_odd",
        ("general",),
        programs.softmax_rows,
        lambda p: (Spec("x", (p["b"], p["rows"], p["n"]), scale=3.0),),
        lambda p: 4 * p["b"] * p["rows"] * p["n"],
        ({"b": 1, "rows": 1023, "n": 77},),
        {"b": 1, "rows": 5, "n": 7},
        "a softmax whose sizes no vector divides",
    ),
)

WORKLOADS: tuple[Workload, ...] = (
    *MIRAGE,
    *(w for m in MODELS for w in blocks(m)),
    *GENERAL,
)
SUITES = ("mirage", "models", *(m.suite for m in MODELS), "general", "all")
OTHERS = ("cpu", "launch", "search", "verify")
"""Suites with rows of their own: ``cpu`` and those that do not time kernels."""


def workload(name: str) -> Workload:
    """The workload of this name; BadOption if there is none."""
    for w in WORKLOADS:
        if w.name == name:
            return w
    raise BadOption(f"no workload {name!r}", "workload", closest(name, (w.name for w in WORKLOADS)))


def suite(name: str) -> tuple[Workload, ...]:
    """The workloads of a suite ("all": every one); BadOption if there is none of this name."""
    if name not in SUITES:
        raise BadOption(f"no suite {name!r}", "option suite", closest(name, (*SUITES, *OTHERS)))
    return tuple(w for w in WORKLOADS if name == "all" or name in w.suites)
