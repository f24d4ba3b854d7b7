"""Captures a PyTorch function with torch.export, before any decomposition."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.errors import MutatesInput, UnsupportedOperator
from superopt.mugraph.axes import Sym

NO_BOUND = 1 << 40


class _Wrapped(torch.nn.Module):
    """A plain function as a module, which is what torch.export takes."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


@dataclass(frozen=True)
class Captured:
    """An exported program.

    gm: the FX graph (ATen, not decomposed); values: for each placeholder, the position of the flat
    user input it stands for, or the live tensor it holds; symbols: size symbols by FX name;
    unflatten: builds the function's result from the flat outputs.
    """

    name: str
    gm: fx.GraphModule
    placeholders: tuple[fx.Node, ...]
    values: tuple[int | torch.Tensor, ...]
    symbols: Mapping[str, Sym]
    out_spec: Any
    outputs: tuple[Any, ...]


def capture(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Captured:
    """Exports ``fn`` on example arguments; ``dynamic``: {argument: {dim: torch.export.Dim}}.

    Raises UnsupportedOperator when PyTorch itself cannot export the function, MutatesInput when
    the function writes to an argument or returns one.
    """
    module = fn if isinstance(fn, torch.nn.Module) else _Wrapped(fn)
    shapes = _dynamic_shapes(fn, args, kwargs, dynamic) if dynamic else None
    with torch.no_grad():
        try:
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise UnsupportedOperator(
                f"torch.export cannot capture it: {str(error).splitlines()[0][:200]}",
                getattr(fn, "__name__", type(fn).__name__),
                "data-dependent control flow and opaque calls stay in PyTorch",
                details=str(error),
            ) from error
    if _writes(program):
        # In-place operators are made functional; a write to an argument then shows in the signature.
        program = program.run_decompositions({})
        if _writes(program):
            raise UnsupportedOperator(
                "an in-place operator that cannot be made functional", "export"
            )
    signature = program.graph_signature
    for spec in signature.output_specs:
        if spec.kind in (OutputKind.USER_INPUT_MUTATION, OutputKind.BUFFER_MUTATION):
            raise MutatesInput(f"the function writes to {spec.target}", "in-place operator")
    placeholders = tuple(n for n in program.graph.nodes if n.op == "placeholder")
    values: list[int | torch.Tensor] = []
    position = 0
    for spec in signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            values.append(position)
            position += 1
        elif spec.target in program.constants:
            values.append(program.constants[spec.target])
        else:
            values.append(_live(module, spec.target, program))
    symbols = {
        str(s): Sym(
            _clean(str(s)),
            max(int(r.lower), 2),
            min(int(r.upper), NO_BOUND) if str(r.upper) not in ("int_oo", "oo") else NO_BOUND,
        )
        for s, r in program.range_constraints.items()
    }
    result = next(n for n in program.graph.nodes if n.op == "output").args[0]
    if any(isinstance(o, fx.Node) and o in placeholders for o in result):
        raise MutatesInput("an output is one of the inputs", "return statement")
    trace.log("frontend", f"captured {len(program.graph.nodes)} nodes", 2)
    return Captured(
        getattr(fn, "__name__", type(fn).__name__),
        program.graph_module,
        placeholders,
        tuple(values),
        symbols,
        program.call_spec.out_spec,
        tuple(result),
    )


def _writes(program: Any) -> bool:
    schemas = (getattr(n.target, "_schema", None) for n in program.graph.nodes)
    return any(s is not None and s.is_mutable for s in schemas)


def _clean(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _live(module: torch.nn.Module, target: str, program: Any) -> torch.Tensor:
    """The tensor a parameter name refers to now, so that later updates of it are seen."""
    try:
        found: Any = module
        for part in target.split("."):
            found = getattr(found, part)
        return found
    except AttributeError:
        return program.state_dict[target]


def _dynamic_shapes(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Mapping[str, Mapping[int, Any]]
) -> Any:
    target = fn.forward if isinstance(fn, torch.nn.Module) else fn
    bound = inspect.signature(target).bind(*args, **kwargs)
    unknown = [a for a in dynamic if a not in bound.arguments]
    if unknown:
        raise UnsupportedOperator(
            f"dynamic names the argument {unknown[0]!r}",
            "option dynamic",
            f"the arguments are {', '.join(bound.arguments)}",
        )

    def shapes(name: str, value: Any) -> Any:
        wish = dynamic.get(name)
        if wish is None:
            return pytree.tree_map(lambda _: None, value)
        return dict(wish)

    named = {n: shapes(n, v) for n, v in bound.arguments.items()}
    if isinstance(fn, torch.nn.Module):
        return named
    positional = tuple(named[n] for n in list(bound.arguments)[: len(args)])
    keywords = {n: named[n] for n in list(bound.arguments)[len(args) :]}
    return {"args": positional, "kwargs": keywords} if keywords else {"args": positional}
