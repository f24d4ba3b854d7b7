"""Captures a PyTorch function with torch.export, before any decomposition."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import _trace
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.errors import BadOption, MutatesInput, RequiresGrad, UnsupportedOperator, closest
from superopt.frontend import cleanup
from superopt.frontend.leftovers import forgotten, let_go
from superopt.frontend.live import Live, found_in, layout, literal, state
from superopt.frontend.names import name_of
from superopt.frontend.readings import heard
from superopt.frontend.where import UNKNOWN, location, raised_at, recorded
from superopt.mugraph.axes import Sym

NO_BOUND = 1 << 40
"""The upper bound of a dynamic size for which none was given, in elements."""

_ONE_AT_A_TIME = threading.Lock()
"""torch.export changes global state while it traces."""


class _Wrapped(torch.nn.Module):
    """A function, or a module that shall not be touched, as what torch.export takes."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        # Not as an attribute: a function that is a module's method must not register the module.
        self.__dict__["fn"] = fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["fn"](*args, **kwargs)


@dataclass(frozen=True)
class Captured:
    """An exported program.

    fn: what was captured; gm: its FX graph (ATen, not decomposed, without mutation); placeholders
    and values: each graph input, and the position of the flat argument that it is, or the tensor
    that the function holds; symbols: size symbols by FX name; out_spec: how the flat ``outputs``
    (FX nodes and plain values) make the result; state: what
    the function read beside its arguments (``live.state``).
    """

    name: str
    fn: Callable[..., Any]
    gm: fx.GraphModule
    placeholders: tuple[fx.Node, ...]
    values: tuple[int | Live, ...]
    symbols: Mapping[str, Sym]
    out_spec: Any
    outputs: tuple[Any, ...]
    state: list[Hashable]

    def changed(self) -> str | None:
        """What is no longer as it was when the function was captured, or None."""
        return self.look()[0]

    def look(self) -> tuple[str | None, list[torch.Tensor]]:
        """What has changed since, or None, and the tensors that the function holds now."""
        now, tensors = state(self.fn)
        same = now == self.state
        grad = torch.is_grad_enabled()
        for node, value in zip(self.placeholders, self.values, strict=True):
            if isinstance(value, int) or value.position >= len(tensors):
                continue
            held = value.among(tensors)
            if grad and held.requires_grad:
                return f"{node.target} requires a gradient", tensors
            if not same and layout(held) != value.layout:
                return f"{node.target} has another dtype, shape, strides or device", tensors
        return (None if same else "what it reads beside its arguments has changed"), tensors


def capture(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Captured:
    """Exports ``fn`` on example arguments; ``dynamic``: {argument: {dim: torch.export.Dim}}.

    Raises UnsupportedOperator when PyTorch itself cannot export the function, MutatesInput when
    the function writes to an argument (or to a tensor it holds) or returns one, RequiresGrad when
    a tensor it holds requires a gradient here, BadOption for a ``dynamic`` that fits no argument.
    """
    kwargs = kwargs or {}
    name = name_of(fn)
    # Of a module that it is given, export exchanges the weights while it traces.
    module = _Wrapped(fn)
    shapes = _dynamic_shapes(fn, args, kwargs, dynamic) if dynamic else None
    with _ONE_AT_A_TIME, _quiet(), recorded(), forgotten(fn, name), heard(name):
        # In the caller's grad mode, for which the function may ask; if it switches that mode, the
        # switches would be operators there, and are nothing where no gradient is kept anyway.
        exported = _export(module, args, kwargs, shapes, name)
        if torch.is_grad_enabled() and any("grad_enabled" in str(n) for n in exported.graph.nodes):
            with torch.no_grad():
                exported = _export(module, args, kwargs, shapes, name)
        # Made functional, a program holds stand-ins for its literals; the tensors are the first's.
        tensors = {**exported.state_dict, **exported.constants}
        program = _functional(exported, name)
        let_go(exported.graph)
        let_go(program.graph)
    signature, graph = program.graph_signature, program.graph
    placeholders = tuple(n for n in graph.nodes if n.op == "placeholder")
    literals = {n for n in placeholders if _is_literal(n)}
    values: list[int | Live] = []
    position = 0
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            values.append(position)
            position += 1
        else:
            values.append(_held(fn, tensors, str(spec.target), node in literals))
    read, now = state(fn)
    captured = Captured(
        name,
        fn,
        program.graph_module,
        placeholders,
        tuple(values),
        _symbols(program),
        program.call_spec.out_spec,
        _outputs(graph),
        read,
    )
    for value in captured.values:
        if isinstance(value, Live):
            tensor = value.among(now)
            if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
                kind = type(tensor).__name__
                raise UnsupportedOperator(
                    f"the function holds a {kind}, a subclass of Tensor", name
                )
            if tensor.is_neg() or tensor.is_conj():
                raise UnsupportedOperator("the function holds a negated or conjugated view", name)
    _refuse_aliases(captured)
    reason = captured.changed()
    if reason is not None:
        raise RequiresGrad(reason, name)
    trace.log("frontend", f"captured {len(graph.nodes)} nodes", 2)
    return captured


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, name: str
) -> Any:
    """Non-strict first: it runs the function itself. Strict where that fails, since it reads bytecode."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    first: Exception | None = None
    for strict in (False, True):
        try:
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=strict)
        except GuardOnDataDependentSymNode as error:
            where = raised_at(error)
            raise UnsupportedOperator(
                "control flow depends on the data of a tensor",
                where or name,
                "use torch.where, or leave this function to PyTorch",
                details=str(error),
            ) from error
        except Exception as error:
            first = first or error
    text = str(first).strip()
    if unknown := re.search(r"Found <class '([^']*)'> in output", text):
        raise UnsupportedOperator(
            f"the result holds a {unknown[1].split('.')[-1]}, which PyTorch cannot take apart",
            name,
            "register its class (torch.export.register_dataclass), or return tensors in a tuple or dict",
            details=text,
        ) from first
    raise UnsupportedOperator(
        f"torch.export cannot capture it: {(text.splitlines() or [type(first).__name__])[0][:200]}",
        (first and raised_at(first)) or name,
        "opaque calls and control flow that depends on data stay in PyTorch",
        details=text,
    ) from first


def _functional(program: Any, name: str) -> Any:
    """The program without nested contexts and in-place operators."""
    cleanup.inline_contexts(program.graph_module)
    writers = cleanup.mutating(program.graph)
    if not writers:
        return program
    cleanup.refuse_writes(program.graph, writers)
    try:
        # An empty table: in-place operators become functional, and nothing is decomposed.
        program = program.run_decompositions({})
    except Exception as error:
        raise UnsupportedOperator(
            f"the in-place operator {cleanup.op_name(writers[0])} cannot be made functional",
            location(writers[0]),
            "use the out-of-place form",
            details=str(error),
        ) from error
    for spec in program.graph_signature.output_specs:
        if spec.kind != OutputKind.USER_OUTPUT:
            raise MutatesInput(f"the function writes to {spec.target}", location(writers[0]))
    left = cleanup.mutating(program.graph)
    if left:
        raise UnsupportedOperator(
            f"the in-place operator {cleanup.op_name(left[0])} cannot be made functional",
            location(left[0]),
            "use the out-of-place form",
        )
    return program


def _is_literal(node: fx.Node) -> bool:
    """Whether a graph input is a tensor literal of the function's code: only ever copied."""
    return bool(node.users) and all(
        cleanup.op_name(u) in ("lift_fresh_copy", "clone") for u in node.users
    )


def _held(
    fn: Callable[..., Any],
    tensors: Mapping[str, torch.Tensor],
    target: str,
    only_copied: bool,
) -> Live:
    named = found_in(fn, tensors[target])
    if named is not None:
        return named
    if only_copied:
        return literal(tensors[target])
    raise UnsupportedOperator(
        f"the function holds a tensor of shape {tuple(tensors[target].shape)} that cannot be followed",
        name_of(fn),
        "pass it as an argument, or keep it in a global, a closure or a module",
    )


def _symbols(program: Any) -> dict[str, Sym]:
    from torch.utils._sympy.symbol import SymT, symbol_is_type

    out = {}
    for symbol, bounds in program.range_constraints.items():
        if not symbol.is_Symbol or not symbol_is_type(symbol, SymT.SIZE):
            continue  # derived from another size, or a number read out of a tensor
        name, high = str(symbol), str(bounds.upper)
        # Sizes 0 and 1 mean something else to broadcasting; export assumed the size is neither.
        lo = max(int(bounds.lower), 2)
        hi = NO_BOUND if high in ("int_oo", "oo") else min(int(bounds.upper), NO_BOUND)
        out[name] = Sym("".join(c if c.isalnum() else "_" for c in name), lo, max(hi, lo))
    return out


def _outputs(graph: fx.Graph) -> tuple[Any, ...]:
    return tuple(next(n for n in graph.nodes if n.op == "output").args[0])


def _refuse_aliases(captured: Captured) -> None:
    """Literals of the code would be handed out again at the next call, as the caller left them."""
    kept = [
        n
        for n, v in zip(captured.placeholders, captured.values, strict=True)
        if isinstance(v, Live) and v.constant
    ]
    for out in captured.outputs:
        if cleanup.alias_chain(out, kept) is not None:
            where = location(out)
            raise MutatesInput(
                "an output is a tensor that the code holds, or a view of one",
                where if where != UNKNOWN else captured.name,
                "return a copy (clone) of it, or leave this function to PyTorch",
            )


def _dynamic_shapes(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Mapping[str, Mapping[int, Any]]
) -> Any:
    target = fn.forward if isinstance(fn, torch.nn.Module) else fn
    bound = inspect.signature(target).bind(*args, **kwargs)
    for name in dynamic:
        if name not in bound.arguments:
            raise BadOption(
                f"dynamic names the argument {name!r}",
                "option dynamic",
                closest(name, bound.arguments),
            )

    def shapes(name: str, value: Any) -> Any:
        wish = dynamic.get(name)
        if wish is None:
            return pytree.tree_map(lambda _: None, value)
        if not isinstance(value, torch.Tensor):
            raise BadOption(f"dynamic names {name!r}, which is no tensor", "option dynamic")
        for dim in wish:
            if not 0 <= dim < value.dim():
                raise BadOption(
                    f"dynamic names dimension {dim} of {name!r}, which has {value.dim()}",
                    "option dynamic",
                    "count the dimensions from 0",
                )
        return dict(wish)

    named = {n: shapes(n, v) for n, v in bound.arguments.items()}
    positional = tuple(named[n] for n in list(bound.arguments)[: len(args)])
    keywords = {n: named[n] for n in list(bound.arguments)[len(args) :]}
    return {"args": positional, "kwargs": keywords} if keywords else {"args": positional}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A failed export is an outcome here, not something to print pages about."""
    fake = "torch._subclasses.fake_tensor"
    names = ("torch.fx", "torch._dynamo", "torch._guards", "torch.export", fake)
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    _trace.__dict__["print"] = lambda *args, **kwargs: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del _trace.__dict__["print"]
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
