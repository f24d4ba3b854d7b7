"""JAX on the CPU: the programs as its users write them, compiled, with all tensors on the device."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from superopt.bench.cpu.peers import Prepared, Skipped, Task
from superopt.bench.programs import EPS


def prepare(task: Task) -> Prepared:
    """The jitted program of the workload's name; Skipped where none is written."""
    jax = importlib.import_module("jax")
    program = PROGRAMS.get(task.workload.name)
    if program is None:
        raise Skipped(f"no program of {task.workload.name} is written for JAX")
    specs = task.workload.specs(task.params)
    turned = TURNED.get(task.workload.name, ())
    args = [
        _array(jax, a.t().contiguous() if s.name in turned else a)
        for s, a in zip(specs, task.args, strict=True)
    ]
    compiled = jax.jit(program).lower(*args).compile()
    wait = jax.block_until_ready

    def outputs(value: Any) -> tuple[Tensor, ...]:
        return tuple(_tensor(v) for v in (value if isinstance(value, tuple) else (value,)))

    return Prepared({"jax": lambda: wait(compiled(*args))}, outputs)


def _array(jax: Any, tensor: Tensor) -> Any:
    if tensor.dtype == torch.bfloat16:
        values = tensor.view(torch.uint16).numpy().view(jax.numpy.bfloat16)
    else:
        values = tensor.numpy()
    return jax.device_put(values.copy())


def _tensor(value: Any) -> Tensor:
    numpy = importlib.import_module("numpy")
    got = numpy.array(value)
    if got.dtype.name == "bfloat16":
        return torch.from_numpy(got.view(numpy.uint16)).view(torch.bfloat16)
    return torch.from_numpy(got)


def _modules() -> tuple[Any, Any]:
    """jax.numpy and jax.nn, which are imported where JAX is there."""
    return importlib.import_module("jax.numpy"), importlib.import_module("jax.nn")


def _rms_norm(x: Any, gain: Any = None) -> Any:
    """In float32, as PyTorch's operator computes it."""
    jnp, _ = _modules()
    wide = x.astype(jnp.float32)
    y = wide / jnp.sqrt(jnp.mean(wide * wide, -1, keepdims=True) + EPS)
    return (y if gain is None else y * gain.astype(jnp.float32)).astype(x.dtype)


def _rmsnorm_linear(x: Any, g: Any, w: Any) -> Any:
    return _rms_norm(x, g) @ w


def _gated_mlp(x: Any, w1: Any, w2: Any) -> Any:
    _, nn = _modules()
    return nn.silu(x @ w1) * (x @ w2)


def _lora(x: Any, w: Any, a: Any, b: Any) -> Any:
    return x @ w + (x @ a) @ b


def _qk_norm(q: Any, k: Any, v: Any) -> Any:
    jnp, nn = _modules()
    k = jnp.swapaxes(_rms_norm(jnp.swapaxes(k, -1, -2)), -1, -2)
    return nn.softmax(_rms_norm(q) @ k * q.shape[-1] ** -0.5, -1) @ v


def _gqa(q: Any, k: Any, v: Any) -> Any:
    """With the group as an axis: faster here than repeated keys and values."""
    jnp, nn = _modules()
    (h, m, d), kv = q.shape, k.shape[0]
    q = q.reshape(kv, h // kv * m, d)
    scores = nn.softmax(q @ jnp.swapaxes(k, -1, -2) * d**-0.5, -1)
    return (scores @ v).reshape(h, m, d)


def _moe(x: Any, w_router: Any, w_gate: Any, w_up: Any, w_down: Any) -> Any:
    jnp, nn = _modules()
    scores = nn.softmax((x @ w_router).astype(jnp.float32), -1)
    best = scores.max(-1, keepdims=True)
    second = jnp.where(scores < best, scores, 0.0).max(-1, keepdims=True)
    kept = jnp.where(scores >= second, scores, 0.0)
    kept = (kept / kept.sum(-1, keepdims=True)).astype(x.dtype)
    out = (nn.silu(x @ w_gate) * (x @ w_up)) @ w_down
    return (out * kept.T[:, :, None]).sum(0)


def _llama_norm(x: Any, gain: Any) -> Any:
    return gain * _rms_norm(x)


def _rotated(x: Any, cos: Any, sin: Any) -> Any:
    jnp, _ = _modules()
    half = x.shape[-1] // 2
    turned = jnp.concatenate((-x[..., half:], x[..., :half]), -1)
    return x * cos[:, None] + turned * sin[:, None]


def _decoder_layer(
    x: Any,
    gain_in: Any,
    wq: Any,
    wk: Any,
    wv: Any,
    wo: Any,
    gain_out: Any,
    w_gate: Any,
    w_up: Any,
    w_down: Any,
    cos: Any,
    sin: Any,
    past_k: Any,
    past_v: Any,
) -> Any:
    jnp, nn = _modules()
    (b, s, _), (_, kv, _, d) = x.shape, past_k.shape
    y = _llama_norm(x, gain_in)
    q, k, v = (jnp.swapaxes((y @ w).reshape(b, s, -1, d), 1, 2) for w in (wq, wk, wv))
    q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
    keys, values = jnp.concatenate((past_k, k), 2), jnp.concatenate((past_v, v), 2)
    grouped = q.reshape(b, kv, -1, d)
    scores = (grouped @ jnp.swapaxes(keys, 2, 3) * d**-0.5).astype(jnp.float32)
    out = (nn.softmax(scores, -1).astype(q.dtype) @ values).reshape(b, -1, s, d)
    x = x + jnp.swapaxes(out, 1, 2).reshape(b, s, -1) @ wo
    y = _llama_norm(x, gain_out)
    return x + (nn.silu(y @ w_gate) * (y @ w_up)) @ w_down, k, v


def _chain(x: Any, a: Any, b: Any) -> Any:
    jnp, nn = _modules()
    return nn.softmax(nn.gelu(x * a + b, approximate=True) + jnp.tanh(x), -1)


def _ntrans(x: Any, h: Any, alpha: Any) -> Any:
    return _rms_norm(x + alpha * (_rms_norm(h) - x))


def _linear_int8(x: Any, w: Any, step: Any) -> Any:
    return x @ (w.astype(x.dtype) * step)


def _linear_int4(x: Any, w: Any, step: Any) -> Any:
    jnp, _ = _modules()
    n, groups = step.shape
    values = jnp.stack((w & 15, w >> 4), -1).reshape(n, groups, -1).astype(x.dtype) - 8
    return x @ (values * step[:, :, None]).reshape(n, -1).T


PROGRAMS: Mapping[str, Callable[..., Any]] = {
    "rmsnorm_linear": _rmsnorm_linear,
    "gated_mlp": _gated_mlp,
    "lora": _lora,
    "qk_norm_attention": _qk_norm,
    "gqa_decode": _gqa,
    "gqa_decode_sdpa": _gqa,
    "moe": _moe,
    "llama-3.2-1b.layer": _decoder_layer,
    "chain": _chain,
    "ntrans": _ntrans,
    "linear_int8": _linear_int8,
    "linear_int4": _linear_int4,
}
"""By the name of the workload; each takes its tensors in the order of the PyTorch program."""

TURNED: Mapping[str, tuple[str, ...]] = {
    "llama-3.2-1b.layer": ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down"),
    "linear_int8": ("w",),
}
"""Weights that lie [k, n], as the users of JAX keep them."""
