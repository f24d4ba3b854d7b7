"""The decorator ``@superoptimize``: specializes a function per signature, and never makes it wrong."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt import pipeline, report, trace
from superopt.config import Config, Options
from superopt.errors import (
    RequiresGrad,
    SuperoptError,
    UnsupportedDevice,
    UnsupportedOperator,
    WrongType,
)

Signature = tuple[Any, ...]


class Optimized:
    """A function that is superoptimized on its first call with each signature.

    The signature is the structure of the arguments, and for each tensor its dtype, device, shape
    (a dynamic dimension counts as its range), and strides. What cannot be optimized runs as it was
    written, with a one-line warning; ``strict=True`` raises instead.
    """

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.options = fn, options
        self._results: dict[Signature, Any] = {}
        self._failed: dict[Signature, Exception] = {}
        self._locks: dict[Signature, threading.Lock] = {}
        self._lock = threading.Lock()
        self._dynamic = _dynamic_positions(fn, options)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Binds like a function, so that methods can be decorated."""
        return self if instance is None else functools.partial(self.__call__, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the fastest verified form of the function on these arguments."""
        if torch.compiler.is_compiling():
            return self.fn(*args, **kwargs)
        try:
            signature = self._signature(args, kwargs)
        except _Unfit as unfit:
            return self._original(unfit.error, args, kwargs)
        found = self._results.get(signature)
        if found is None:
            if signature in self._failed:
                return self._original(self._failed[signature], args, kwargs)
            try:
                found = self._specialize(signature, args, kwargs)
            except Exception as error:
                # Whatever went wrong inside, the user's program has an answer: PyTorch's.
                self._failed[signature] = error
                return self._original(error, args, kwargs)
        return found.call(*args, **kwargs)

    def result(self, *args: Any, **kwargs: Any) -> pipeline.Result:
        """What the search found for these arguments (searching now if it has not yet)."""
        try:
            signature = self._signature(args, kwargs)
        except _Unfit as unfit:
            raise unfit.error from None
        return self._results.get(signature) or self._specialize(signature, args, kwargs)

    def _specialize(
        self, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> pipeline.Result:
        with self._lock:
            lock = self._locks.setdefault(signature, threading.Lock())
        with lock:
            if signature not in self._results:
                config = Config.from_env()
                with trace.terminal_progress(getattr(self.fn, "__name__", "superopt"), config):
                    result = pipeline.optimize(self.fn, args, kwargs, self.options, config)
                self._results[signature] = result
            return self._results[signature]

    def _signature(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
        leaves: Sequence[Any] = args
        spec: Any = len(args)
        if kwargs or not all(type(a) is torch.Tensor for a in args):
            leaves, spec = pytree.tree_flatten((args, kwargs))
        if torch.is_autocast_enabled("cpu"):
            raise _Unfit(
                UnsupportedOperator(
                    "autocast is on, which changes what operators compute",
                    getattr(self.fn, "__name__", "function"),
                    "cast the arguments instead",
                )
            )
        grad = torch.is_grad_enabled()
        key: list[Any] = [
            spec,
            torch.get_num_threads(),
            torch.get_default_dtype(),
            grad,
            *_held(self.fn),
        ]
        for n, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                if grad and leaf.requires_grad:
                    raise _Unfit(
                        RequiresGrad(
                            "an argument requires a gradient",
                            getattr(self.fn, "__name__", "function"),
                            "call under torch.no_grad(), or detach the argument",
                        )
                    )
                key.append((leaf.dtype, leaf.device.type, *self._shape(n, leaf)))
            else:
                try:
                    hash(leaf)
                except TypeError:
                    raise _Unfit(
                        WrongType(
                            f"an argument of type {type(leaf).__name__}",
                            "signature",
                            "pass tensors, numbers, or containers of them",
                        )
                    ) from None
                key.append((type(leaf), leaf))
        return tuple(key)

    def _shape(self, position: int, tensor: torch.Tensor) -> tuple[Any, ...]:
        ranges = self._dynamic.get(position)
        if not ranges:
            return tuple(tensor.shape), tensor.stride()
        shape: list[Any] = list(tensor.shape)
        for dim, (name, lo, hi) in ranges.items():
            # Sizes 0 and 1 mean something else to broadcasting and layouts: they specialize.
            if dim < len(shape) and max(lo, 2) <= shape[dim] and (hi is None or shape[dim] <= hi):
                shape[dim] = name
        return tuple(shape), tensor.stride() if not tensor.is_contiguous() else "dense"

    def _original(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.options.strict:
            raise error
        trace.warn_once(
            "fallback",
            f"{getattr(self.fn, '__name__', 'function')} runs in PyTorch: {_line(error)}",
            error=None if isinstance(error, SuperoptError) and not error.details else error,
            key=("fallback", str(id(self)), str(error)),
        )
        return self.fn(*args, **kwargs)


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else ""
    return line if isinstance(error, SuperoptError) else f"{type(error).__name__}: {line}"


def _held(fn: Any) -> list[int]:
    """The tensors that a function holds (its own, its closure's, its globals'), by identity.

    A rebound tensor is another signature; one that is written in place is the same tensor.
    """
    if isinstance(fn, torch.nn.Module):
        return [id(t) for t in (*fn.parameters(), *fn.buffers())]
    function = getattr(fn, "__func__", fn)
    values = [c.cell_contents for c in getattr(function, "__closure__", None) or ()]
    code = getattr(function, "__code__", None)
    scope = getattr(function, "__globals__", {})
    values += [scope[n] for n in (code.co_names if code else ()) if n in scope]
    out: list[int] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            out.append(id(value))
        elif isinstance(value, torch.nn.Module):
            out += _held(value)
    return out


class _Unfit(Exception):
    def __init__(self, error: SuperoptError) -> None:
        self.error = error


def _dynamic_positions(
    fn: Callable[..., Any], options: Options
) -> dict[int, dict[int, tuple[str, int, int | None]]]:
    """Position of each tensor argument -> {dim: (symbol, low, high)}."""
    if not options.dynamic:
        return {}
    names = list(inspect.signature(fn).parameters)
    out: dict[int, dict[int, tuple[str, int, int | None]]] = {}
    for axis in options.dynamic:
        if axis.argument in names and axis.name:
            out.setdefault(names.index(axis.argument), {})[axis.dim] = (
                axis.name,
                axis.low,
                axis.high,
            )
    return out


def superoptimize(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Superoptimizes a function or module: searches, proves and compiles on its first call.

    Options (see ``Options.of``): target, budget ("30s" or "10000c"), precision ("default" or
    "eager"), dynamic ({"x": {0: Dim("tokens", min=1, max=4096)}}), fallbacks (("eager",)),
    strict (False), seed (0). Raises BadOption for an option that cannot be read.

    >>> @superoptimize
    ... def rmsnorm_linear(x, g, w):
    ...     return torch.nn.functional.rms_norm(x, (x.shape[-1],), g) @ w
    """
    checked = Options.of(**options)
    if fn is None:
        return lambda f: superoptimize(f, **options)
    if not callable(fn):
        raise WrongType(
            f"superoptimize takes a function, not {type(fn).__name__}",
            "superoptimize",
            "decorate a function or pass a module",
        )
    return Optimized(fn, checked)


def explain(fn: Any, *args: Any, **kwargs: Any) -> str:
    """The uGraph found for these arguments, its certificate and the measured times, as text."""
    target = fn if isinstance(fn, Optimized) else superoptimize(fn)
    try:
        return report.explain(target.result(*args, **kwargs))
    except (UnsupportedDevice, RequiresGrad) as error:
        return f"runs in PyTorch: {error}"


superoptimize.explain = explain  # type: ignore[attr-defined]
