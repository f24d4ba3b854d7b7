"""The rows of the suite as data: programs and sizes, fixed before anything was measured."""

from __future__ import annotations

import dataclasses

from superopt.bench import programs as common
from superopt.bench import workloads
from superopt.bench.cpu import programs
from superopt.bench.workload import Params, Spec, Workload, batches
from superopt.errors import BadOption, closest

SUITE = "cpu"


def _weight(name: str, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> Spec:
    return Spec(name, shape, scale=gain * fan_in**-0.5, constant=True)


def _gain(name: str, n: int) -> Spec:
    return Spec(name, (n,), "gain", 0.1, constant=True)


def _attention_flops(p: Params) -> int:
    return p["heads"] * p["m"] * p["t"] * (4 * p["d"] + 3)


def _attention_exps(p: Params) -> int:
    return p["heads"] * p["m"] * p["t"]


def _gqa_specs(p: Params) -> tuple[Spec, ...]:
    shared = p["kv"], p["t"], p["d"]
    return Spec("q", (p["heads"], p["m"], p["d"])), Spec("k", shared), Spec("v", shared)


def _moe_flops(p: Params) -> int:
    """Two experts of each token, and the router."""
    one = p["inter"] * (6 * p["h"] + 3) + 2 * p["h"]
    return p["m"] * (2 * one + p["experts"] * (2 * p["h"] + 8))


def _rows(p: Params, *names: str) -> tuple[Spec, ...]:
    return tuple(Spec(n, (p["m"], p["n"])) for n in names)


_SQUARE = batches({"k": 4096, "n": 4096}, "m", (1, 8, 16, 64))
_DECODE = batches({"heads": 32, "kv": 8, "t": 8192, "d": 128}, "m", (1, 8))
_WIDE = batches({"n": 4096}, "m", (1, 64))
_FEW = batches({"k": 4096, "n": 4096}, "m", (1, 16))
_GQA_TINY = {"m": 2, "heads": 4, "kv": 2, "t": 20, "d": 8}
_TINY = {"m": 3, "k": 24, "n": 20}


def _decoder_layer() -> Workload:
    """One layer of Llama-3.2-1B over 1024 cached tokens; its weights and gains are constants."""
    base = workloads.workload("llama-3.2-1b.layer")

    def specs(p: Params) -> tuple[Spec, ...]:
        return tuple(
            dataclasses.replace(s, constant=s.name.startswith(("w", "gain"))) for s in base.specs(p)
        )

    return dataclasses.replace(
        base,
        suites=(SUITE,),
        specs=specs,
        grid=({**base.grid[0], "tokens": 1, "ctx": 1024},),
        note="a whole decode step of one layer of Llama-3.2-1B, one sequence, 1024 cached tokens",
        exps=lambda p: p["tokens"] * (p["heads"] * (p["ctx"] + 1) + p["inter"]),
    )


ROWS: tuple[Workload, ...] = (
    Workload(
        "rmsnorm_linear",
        (SUITE,),
        common.rmsnorm_linear,
        lambda p: (
            Spec("x", (p["m"], p["k"])),
            _gain("g", p["k"]),
            _weight("w", (p["k"], p["n"]), p["k"]),
        ),
        lambda p: 2 * p["m"] * p["k"] * (p["n"] + 2),
        _SQUARE,
        _TINY,
        "RMSNorm and a projection of 4096 by 4096",
    ),
    Workload(
        "gated_mlp",
        (SUITE,),
        common.gated_mlp,
        lambda p: (
            Spec("x", (p["m"], p["k"])),
            _weight("w1", (p["k"], p["n"]), p["k"]),
            _weight("w2", (p["k"], p["n"]), p["k"]),
        ),
        lambda p: p["m"] * p["n"] * (4 * p["k"] + 3),
        _SQUARE,
        _TINY,
        "silu(x w1) * (x w2), both 4096 by 4096",
        exps=lambda p: p["m"] * p["n"],
    ),
    Workload(
        "lora",
        (SUITE,),
        common.lora,
        lambda p: (
            Spec("x", (p["m"], p["k"])),
            _weight("w", (p["k"], p["n"]), p["k"]),
            _weight("a", (p["k"], p["r"]), p["k"]),
            _weight("b", (p["r"], p["n"]), p["r"], 0.5),
        ),
        lambda p: 2 * p["m"] * (p["k"] * p["n"] + p["r"] * (p["k"] + p["n"])) + p["m"] * p["n"],
        tuple({**p, "r": 16} for p in _SQUARE),
        {**_TINY, "r": 4},
        "a projection of 4096 by 4096 with a low-rank update of 16",
    ),
    Workload(
        "qk_norm_attention",
        (SUITE,),
        common.qk_norm,
        lambda p: (
            Spec("q", (p["heads"], p["m"], p["d"])),
            Spec("k", (p["heads"], p["d"], p["t"])),
            Spec("v", (p["heads"], p["t"], p["d"])),
        ),
        lambda p: _attention_flops(p) + 4 * p["heads"] * p["d"] * (p["m"] + p["t"]),
        ({"m": 64, "heads": 16, "t": 4096, "d": 64},),
        {"m": 6, "heads": 2, "t": 20, "d": 8},
        "64 queries over 4096 keys, q and k normalized, 16 heads of 64",
        exps=_attention_exps,
    ),
    *(
        Workload(
            name,
            (SUITE,),
            program,
            _gqa_specs,
            _attention_flops,
            _DECODE,
            _GQA_TINY,
            note,
            exps=_attention_exps,
        )
        for name, program, note in (
            ("gqa_decode", programs.gqa_decode, "32 heads over 8 heads of keys, expanded by hand"),
            ("gqa_decode_sdpa", programs.gqa_decode_sdpa, "the same by PyTorch's operator"),
        )
    ),
    Workload(
        "moe",
        (SUITE,),
        programs.moe_dense,
        lambda p: (
            Spec("x", (p["m"], p["h"])),
            _weight("w_router", (p["h"], p["experts"]), p["h"], 2.0),
            _weight("w_gate", (p["experts"], p["h"], p["inter"]), p["h"]),
            _weight("w_up", (p["experts"], p["h"], p["inter"]), p["h"]),
            _weight("w_down", (p["experts"], p["inter"], p["h"]), p["inter"]),
        ),
        _moe_flops,
        ({"m": 16, "h": 1024, "inter": 2048, "experts": 8},),
        {"m": 4, "h": 12, "inter": 20, "experts": 4},
        "8 experts, the best two of each of 16 tokens; all bytes and two experts' operations count",
        exps=lambda p: p["m"] * (2 * p["inter"] + p["experts"]),
    ),
    _decoder_layer(),
    Workload(
        "chain",
        (SUITE,),
        programs.chain,
        lambda p: (*_rows(p, "x"), _gain("a", p["n"]), Spec("b", (p["n"],), constant=True)),
        lambda p: 18 * p["m"] * p["n"],
        _WIDE,
        {"m": 3, "n": 20},
        "softmax(gelu(x a + b) + tanh(x)) over 4096 columns",
        exps=lambda p: 3 * p["m"] * p["n"],
    ),
    Workload(
        "ntrans",
        (SUITE,),
        common.ntrans,
        lambda p: (
            Spec("x", (p["m"], p["n"])),
            Spec("h", (p["m"], p["n"]), scale=2.0),
            Spec("alpha", (p["m"], p["n"]), "unit"),
        ),
        lambda p: 9 * p["m"] * p["n"],
        _WIDE,
        {"m": 3, "n": 20},
        "normalized residual of nGPT over 4096 columns",
    ),
    Workload(
        "linear_int8",
        (SUITE,),
        programs.linear_int8,
        lambda p: (
            Spec("x", (p["m"], p["k"])),
            Spec("w", (p["n"], p["k"]), "int8", constant=True),
            # 73 is the deviation of the integers.
            Spec("step", (p["n"],), "step", p["k"] ** -0.5 / 73, constant=True),
        ),
        lambda p: 2 * p["m"] * p["k"] * p["n"],
        _FEW,
        _TINY,
        "weights of 8 bits, one step per output, 4096 by 4096; the bytes are the quantized ones",
    ),
    Workload(
        "linear_int4",
        (SUITE,),
        programs.linear_int4,
        lambda p: (
            Spec("x", (p["m"], p["k"])),
            Spec("w", (p["n"], p["k"] // 2), "packed", constant=True),
            # 4.6 is the deviation of the integers.
            Spec(
                "step",
                (p["n"], max(1, p["k"] // programs.GROUP)),
                "step",
                p["k"] ** -0.5 / 4.6,
                constant=True,
            ),
        ),
        lambda p: 2 * p["m"] * p["k"] * p["n"],
        _FEW,
        {"m": 3, "k": 256, "n": 20},
        "weights of 4 bits in groups of 128, two to a byte, 4096 by 4096; quantized bytes count",
    ),
)


def row(name: str) -> Workload:
    """The row of this name; BadOption if the suite has none."""
    for w in ROWS:
        if w.name == name:
            return w
    raise BadOption(f"no workload {name!r}", "suite cpu", closest(name, (w.name for w in ROWS)))
