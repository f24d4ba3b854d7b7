"""How far rounding may have moved the results of a function that is run.

Where large values cancel, single and double precision may round alike (cosh² - sinh² is 0 in both from
20 on) though the exact value is another; the change under random relative errors of each operation shows
what is left of the digits (Parker, "Monte Carlo Arithmetic", 1997).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NOISE = 64.0
"""Changes of a result under a change of the inputs by some units, up to which it is taken for noise."""

ERRORS = 4
"""Runs with random errors, and as many with the opposite ones, by which the noise of a result is known."""

UNITS = {torch.float64: 2.0**-50, torch.float32: 2.0**-21}
"""The relative errors, normally distributed: some units of the type."""

EXACT = {torch.float64: (2.0**20, 2.0**10), torch.float32: (2.0**14, 2.0**4)}
"""A result up to the first number, and a multiple of one over the second, is taken for exact: few digits."""

_ALGEBRAIC = """
add sub rsub mul div addcmul addcdiv lerp square sum mean prod cumsum cumprod mm bmm addmm baddbmm mv addmv
dot convolution reciprocal sqrt rsqrt pow norm linalg_vector_norm var std var_mean std_mean
"""
_OTHERS = """
exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 sin cos tan sinh cosh tanh asinh acosh atanh erf
erfc sigmoid logit silu gelu softplus log_sigmoid_forward _softmax _log_softmax logsumexp native_layer_norm
native_group_norm native_batch_norm
"""
_ROUNDING = {
    **dict.fromkeys(_ALGEBRAIC.split(), True),
    **dict.fromkeys(_OTHERS.split(), False),
}
"""Operators that round, and whether what they give may be exact; others come near 1 without reaching it."""


def noise(
    fn: Callable[[Sequence[Any]], Any],
    leaves: Sequence[Any],
    k: int,
    result: Any,
    generic: bool,
) -> torch.Tensor | float:
    """How far rounding may have moved each element of a function's flat output k.

    Its change under errors of each operation; in double precision also as far as single precision is
    off, times what it is coarser by; else its change when each input moves by a few units (where values
    tie, as they may in draws that are not generic, that would decide otherwise).
    """
    if not isinstance(result, torch.Tensor) or not result.numel():
        return 0.0
    if not result.is_floating_point():
        return _unsteady(fn, leaves, k, result)
    off = NOISE * _unsteady(fn, leaves, k, result) if result.dtype in UNITS else torch.zeros(())
    if result.dtype == torch.float64:
        narrow = _change(fn, [_narrowed(x) for x in leaves], k, result)
        return off + NOISE * 2.0**-29 * (narrow.amax(-1, keepdim=True) if narrow.dim() else narrow)
    if generic:  # some elements move by nothing by luck
        return off + NOISE * float(_change(fn, [_nudged(x) for x in leaves], k, result).max())
    return off


def _unsteady(
    fn: Callable[[Sequence[Any]], Any], leaves: Sequence[Any], k: int, result: torch.Tensor
) -> torch.Tensor:
    """How far each element is moved by errors of each operation, in several runs together."""
    off = torch.zeros(result.shape, dtype=torch.float64)
    for seed, sign in itertools.product(range(ERRORS), (1.0, -1.0)):
        with _Errors(seed, sign):
            off = off + _change(fn, [copied(x) for x in leaves], k, result)
    return off


def _change(
    fn: Callable[[Sequence[Any]], Any], leaves: Sequence[Any], k: int, result: torch.Tensor
) -> torch.Tensor:
    """How far each finite element of a result is from what other arguments give; 0 where they raise."""
    try:
        with torch.no_grad():
            off = (result.double() - pytree.tree_leaves(fn(leaves))[k].double()).abs()
    except (RuntimeError, TypeError, ValueError, IndexError):
        return torch.zeros_like(result, dtype=torch.float64)
    return torch.where(result.isfinite(), off.nan_to_num(math.inf, math.inf), 0.0)


def _narrowed(x: Any) -> Any:
    double = isinstance(x, torch.Tensor) and x.dtype == torch.float64
    return x.float() if double else copied(x)


def _nudged(x: Any) -> Any:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return copied(x)
    generator = torch.Generator().manual_seed(1)
    unit = torch.finfo(x.dtype).eps * 4
    away = torch.randint(-1, 2, x.shape, generator=generator).to(x.dtype)
    return x + x * away * unit


def copied(x: Any) -> Any:
    """A tensor's clone; anything else as it is."""
    return x.clone() if isinstance(x, torch.Tensor) else x


class _Errors(TorchDispatchMode):
    """What rounding operations give has a random relative error of ``UNITS``."""

    def __init__(self, seed: int, sign: float) -> None:
        super().__init__()
        self._sign = sign
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _ROUNDING:
            return pytree.tree_map(lambda x: self._away(x, _ROUNDING[name]), result)
        if name.endswith("_") and name[:-1] in _ROUNDING:
            args[0].copy_(self._away(args[0], _ROUNDING[name[:-1]]))
        return result

    def _away(self, x: Any, may_be_exact: bool) -> Any:
        if not isinstance(x, torch.Tensor) or x.dtype not in UNITS:
            return x
        off = torch.randn(x.shape, generator=self._generator, dtype=x.dtype)
        off = off * (self._sign * UNITS[x.dtype])
        kept = ~x.isfinite()
        if may_be_exact:
            most, parts = EXACT[x.dtype]
            kept |= (x * parts == (x * parts).round()) & (x.abs() <= most)
        return torch.where(kept, x, x + x * off)


class Narrowest(TorchDispatchMode):
    """Notes the fewest bytes of a float that is computed."""

    least = 8

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                self.least = min(self.least, x.dtype.itemsize)
        return out
