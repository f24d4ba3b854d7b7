"""The blocks of decoder layers: every model crossed with every block, as workload rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from superopt.bench import programs
from superopt.bench.workload import Params, Spec, Workload, batches


@dataclass(frozen=True)
class Model:
    """The sizes of a decoder layer, from the model's configuration file."""

    name: str
    suite: str
    sizes: Params
    qk_norm: bool = False


MODELS = (
    Model(
        "smollm2-135m",
        "smollm2",
        {"h": 576, "heads": 9, "kv": 3, "d": 64, "inter": 1536},
    ),
    Model(
        "qwen3-0.6b",
        "qwen3",
        {"h": 1024, "heads": 16, "kv": 8, "d": 128, "inter": 3072},
        qk_norm=True,
    ),
    Model(
        "llama-3.2-1b",
        "llama",
        {"h": 2048, "heads": 32, "kv": 8, "d": 64, "inter": 8192},
    ),
)
_LAYER_TINY = {"tokens": 2, "h": 12, "heads": 4, "kv": 2, "d": 6, "inter": 20}


def _stream(p: Params, gain: str) -> tuple[Spec, ...]:
    return Spec("x", (p["tokens"], 1, p["h"])), Spec(gain, (p["h"],), "gain", 0.1)


def projection(name: str, n: int, k: int) -> Spec:
    """A weight [n, k] that keeps the deviation of what it is applied to."""
    return Spec(name, (n, k), scale=k**-0.5)


def _qkv_weights(p: Params) -> tuple[Spec, ...]:
    wide, narrow = p["heads"] * p["d"], p["kv"] * p["d"]
    return (
        projection("wq", wide, p["h"]),
        projection("wk", narrow, p["h"]),
        projection("wv", narrow, p["h"]),
    )


def _mlp_weights(p: Params) -> tuple[Spec, ...]:
    return (
        projection("w_gate", p["inter"], p["h"]),
        projection("w_up", p["inter"], p["h"]),
        projection("w_down", p["h"], p["inter"]),
    )


def _head_gains(p: Params, qk_norm: bool) -> tuple[Spec, ...]:
    gains = Spec("gain_q", (p["d"],), "gain", 0.1), Spec("gain_k", (p["d"],), "gain", 0.1)
    return gains if qk_norm else ()


def _cache(p: Params) -> tuple[Spec, ...]:
    angles, past = (p["tokens"], 1, p["d"]), (p["tokens"], p["kv"], p["ctx"], p["d"])
    return (
        Spec("cos", angles, "cos"),
        Spec("sin", angles, "sin"),
        Spec("past_k", past),
        Spec("past_v", past),
    )


def _qkv_flops(p: Params) -> int:
    return p["tokens"] * p["h"] * (2 * (p["heads"] + 2 * p["kv"]) * p["d"] + 4)


def _decode_flops(p: Params) -> int:
    return p["tokens"] * p["heads"] * (p["ctx"] + 1) * (4 * p["d"] + 4)


def _mlp_flops(p: Params) -> int:
    return p["tokens"] * p["inter"] * (6 * p["h"] + 3) + 5 * p["tokens"] * p["h"]


def attention_specs(p: Params, qk_norm: bool) -> tuple[tuple[Spec, ...], tuple[Spec, ...]]:
    """The tensors of a layer's attention with both norms: those before and after the MLP's."""
    wo = projection("wo", p["h"], p["heads"] * p["d"])
    gain = Spec("gain_out", (p["h"],), "gain", 0.1)
    before = (*_stream(p, "gain_in"), *_qkv_weights(p), wo, gain)
    return before, (*_head_gains(p, qk_norm), *_cache(p))


def decode_step_flops(p: Params) -> int:
    """Operations of a layer's attention in one step, projections included."""
    out = 2 * p["tokens"] * p["heads"] * p["d"] * p["h"]
    return _qkv_flops(p) + _decode_flops(p) + out


def blocks(m: Model) -> Iterator[Workload]:
    """The four blocks of a model; ``tokens`` sequences decode one token each."""

    def row(
        block: str,
        reference: Callable[..., Any],
        specs: Callable[[Params], tuple[Spec, ...]],
        flops: Callable[[Params], int],
        with_cache: bool,
    ) -> Workload:
        base = {**m.sizes, "ctx": 256} if with_cache else m.sizes
        tiny = {**_LAYER_TINY, "ctx": 5} if with_cache else _LAYER_TINY
        return Workload(
            f"{m.name}.{block}",
            ("models", m.suite),
            reference,
            specs,
            flops,
            batches(base, "tokens", (1, 8, 64)),
            tiny,
            f"sizes of the configuration of {m.name}; program as in transformers",
        )

    def heads(p: Params) -> tuple[Spec, ...]:
        wide, narrow = p["heads"] * p["d"], p["kv"] * p["d"]
        t = p["tokens"]
        return Spec("q", (t, 1, wide)), Spec("k", (t, 1, narrow)), Spec("v", (t, 1, narrow))

    def layer(p: Params) -> tuple[Spec, ...]:
        before, after = attention_specs(p, m.qk_norm)
        return (*before, *_mlp_weights(p), *after)

    def layer_flops(p: Params) -> int:
        return decode_step_flops(p) + _mlp_flops(p)

    attention: Callable[..., Any] = programs.decode_attention
    whole: Callable[..., Any] = programs.decoder_layer
    if m.qk_norm:
        attention, whole = programs.decode_attention_qk_norm, programs.decoder_layer_qk_norm
    yield row(
        "rmsnorm_qkv",
        programs.qkv_projection,
        lambda p: (*_stream(p, "gain"), *_qkv_weights(p)),
        _qkv_flops,
        False,
    )
    yield row(
        "attention",
        attention,
        lambda p: (*heads(p), *_head_gains(p, m.qk_norm), *_cache(p)),
        _decode_flops,
        True,
    )
    yield row(
        "mlp",
        programs.gated_mlp_block,
        lambda p: (*_stream(p, "gain"), *_mlp_weights(p)),
        _mlp_flops,
        False,
    )
    yield row("layer", whole, layer, layer_flops, True)
