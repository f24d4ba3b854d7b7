"""What decides, call by call, which program a function is: the signature of its arguments and state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt.config import Options
from superopt.errors import BadOption, RequiresGrad, UnsupportedOperator, WrongType, closest
from superopt.frontend.live import plain_key, state
from superopt.frontend.names import name_of
from superopt.runtime.keys import repeats

Signature = tuple[Any, ...]
"""The signature of the call itself comes first, then what the function reads beside it."""

Ranges = dict[int, tuple[str, int, int | None]]
"""Dimension -> symbol, lowest and highest size."""


class Calls:
    """The calls of one function, told apart by what generated code takes for granted."""

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        self.fn = fn
        self.name = name_of(fn)
        self._parameters = _parameters(fn) if options.dynamic else None
        self._dynamic = _dynamic_ranges(self._parameters, options)

    def signature(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
        """The signature of a call; raises as ``look`` does."""
        return self.look(args, kwargs)[0]

    def look(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], least: int = 2
    ) -> tuple[Signature, list[torch.Tensor]]:
        """The signature of a call, and the tensors that the function holds now.

        least: the smallest size that a dynamic dimension has; below, it is a size like another.

        Raises SuperoptError for a call that is PyTorch's own: traced, autocast, odd tensors.
        """
        if _watched():
            raise UnsupportedOperator(
                "the call is being traced or transformed (vmap, forward AD, a mode)",
                self.name,
                "call it outside of the transformation",
            )
        leaves: Sequence[Any] = args
        spec: Any = len(args)
        if kwargs or not all(type(a) is torch.Tensor for a in args):
            leaves, spec = pytree.tree_flatten((args, kwargs))
        if torch.is_autocast_enabled("cpu"):
            raise UnsupportedOperator(
                "autocast is on, which changes what operators compute",
                self.name,
                "cast the arguments instead",
            )
        grad = torch.is_grad_enabled()
        key: list[Any] = [
            spec,
            torch.get_num_threads(),
            torch.get_default_dtype(),
            grad,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_float32_matmul_precision(),
        ]
        if len({id(leaf) for leaf in leaves}) < len(leaves):
            key.append(repeats(leaves))
        ranges = self.ranges(args, kwargs, least) if self._dynamic else {}
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                if odd := _odd(leaf):
                    raise WrongType(odd, "signature", "pass a plain strided tensor")
                if grad and leaf.requires_grad:
                    raise RequiresGrad(
                        "an argument requires a gradient",
                        self.name,
                        "call under torch.no_grad(), or detach the argument",
                    )
                key.append(
                    (leaf.dtype, leaf.device.type, leaf.requires_grad, *_shape(leaf, ranges))
                )
            else:
                try:
                    hash(leaf)
                except TypeError:
                    raise WrongType(
                        f"an argument of type {type(leaf).__name__}",
                        "signature",
                        "pass tensors, numbers, or containers of them",
                    ) from None
                key.append(plain_key(leaf))
        read, tensors = state(self.fn, leaves)
        return (tuple(key), *read), tensors

    def ranges(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], least: int = 2
    ) -> dict[int, Ranges]:
        """The dynamic dimensions of these tensors, by identity; empty unless all sizes fit."""
        if self._parameters is None:
            return {}
        try:
            given = self._parameters.bind(*args, **kwargs).arguments
        except TypeError:
            return {}
        sizes: dict[str, int] = {}
        for argument, ranges in self._dynamic.items():
            tensor = given.get(argument)
            if not isinstance(tensor, torch.Tensor):
                return {}
            for dim, (name, low, high) in ranges.items():
                if not -tensor.dim() <= dim < tensor.dim():
                    raise BadOption(
                        f"dynamic names dimension {dim} of {argument!r}, which has {tensor.dim()}",
                        "option dynamic",
                        "count the dimensions from 0",
                    )
                size = tensor.shape[dim]
                # Sizes 0 and 1 mean something else to broadcasting and layouts: they specialize.
                fits = max(low, least) <= size and (high is None or size <= high)
                if not fits or sizes.setdefault(name, size) != size:
                    return {}
        return {id(given[argument]): ranges for argument, ranges in self._dynamic.items()}


def _shape(tensor: torch.Tensor, ranges: dict[int, Ranges]) -> tuple[Any, ...]:
    dynamic = ranges.get(id(tensor))
    if not dynamic:
        return tuple(tensor.shape), tensor.stride()
    shape: list[Any] = list(tensor.shape)
    for dim, (name, _, _) in dynamic.items():
        shape[dim] = name
    return tuple(shape), tensor.stride() if not tensor.is_contiguous() else "dense"


def _odd(tensor: torch.Tensor) -> str:
    """Why a tensor's memory is not simply its values; empty for an ordinary tensor."""
    if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
        return f"an argument is a {type(tensor).__name__}, a subclass of torch.Tensor"
    if tensor.layout != torch.strided:
        return f"an argument has the layout {tensor.layout}"
    if tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor():
        return "an argument is a negated, conjugated or zero view"
    return ""


def _watched() -> bool:
    """Whether PyTorch records or transforms what operators do: kernels would go unseen."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or _other_functions()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    )


_ASKED: tuple[tuple[Callable[..., Any], Any, Any], ...] = (
    (torch._C._len_torch_dispatch_stack, None, 0),
    (torch._C._len_torch_function_stack, None, 0),
    (torch._C._functorch.peek_interpreter_stack, None, None),
    (torch._C._get_tracing_state, None, None),
    (torch.autograd.forward_ad.__dict__.__getitem__, "_current_level", -1),
    (torch.is_autocast_enabled, "cpu", False),
    (torch.get_num_threads, None, ...),
    (torch.get_default_dtype, None, ...),
    (torch.is_grad_enabled, None, ...),
    (torch._C._get_deterministic_algorithms, None, ...),
    (torch.is_inference_mode_enabled, None, ...),
    (torch._C._get_float32_matmul_precision, None, ...),
)
"""What ``Calls.look`` asks PyTorch, one question at a time, with the argument (or None) and the answer
that a call has that is no special one (...: any)."""


def questions() -> list[tuple[Callable[..., Any], Any, Any]]:
    """Those questions with the answers of now; ValueError where a call is special."""
    asked = [(ask, arg, ask() if arg is None else ask(arg), want) for ask, arg, want in _ASKED]
    if any(want is not ... and got != want for _, _, got, want in asked):
        raise ValueError("the call is special to PyTorch")
    return [(ask, arg, got) for ask, arg, got, _ in asked]


def _other_functions() -> bool:
    """Whether a mode replaces functions; a default device of the CPU replaces nothing."""
    count = torch._C._len_torch_function_stack()
    if not count:
        return False
    from torch.utils._device import DeviceContext

    modes = [torch._C._get_function_stack_at(k) for k in range(count)]
    return any(not isinstance(m, DeviceContext) or m.device.type != "cpu" for m in modes)


def _parameters(fn: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(fn.forward if isinstance(fn, torch.nn.Module) else fn)


def _dynamic_ranges(parameters: inspect.Signature | None, options: Options) -> dict[str, Ranges]:
    """Argument -> its dynamic dimensions; BadOption for an argument that does not exist."""
    out: dict[str, Ranges] = {}
    if parameters is None:
        return out
    for axis in options.dynamic:
        if axis.argument not in parameters.parameters:
            raise BadOption(
                f"dynamic names {axis.argument!r}, which is no argument",
                "option dynamic",
                closest(axis.argument, parameters.parameters),
            )
        if axis.name and not axis.fixed:
            out.setdefault(axis.argument, {})[axis.dim] = (axis.name, axis.low, axis.high)
    return out
