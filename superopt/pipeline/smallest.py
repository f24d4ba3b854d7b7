"""Lets a range of sizes begin at 1 where the program with symbolic sizes is shown to hold there.

PyTorch captures a dynamic size as any number from 2 on, since one element may broadcast. So the
function is captured again with that size 1, and the verifier compares: what is shown equal needs no
search of its own at size 1.
"""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.config import Options
from superopt.errors import SuperoptError
from superopt.frontend.live import Live
from superopt.frontend.observe import confirm, observe, refuse_effects
from superopt.frontend.partition import Program, Supported
from superopt.mugraph.axes import Sym
from superopt.mugraph.resize import symbols, with_symbols
from superopt.mugraph.wellformed import check_graph
from superopt.mugraph.without import at_one
from superopt.pipeline.size_one import SizeOne

Capture = Callable[[tuple[Any, ...], dict[str, Any], Any], Program]
"""Captures the function on other arguments, with other wishes for dynamic sizes, and cuts it."""

MOST = 3
"""Symbols of which every combination is looked at."""


def from_one(
    program: Program,
    capture: Capture,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
) -> Program:
    """The program with the ranges of its symbols from 1 on, for those where that is shown.

    args and kwargs: those that it was captured on. A symbol stays as it is where the user did not ask
    for 1, where the function does something else there, or where nothing is shown.
    """
    if program.boundaries or len(program.supported) != 1:
        return program
    piece = program.supported[0]
    call = _Call(program, capture, args, kwargs, options)
    where = _asked(call)
    ranges = {s.name: s for s in symbols(piece.graph) if s.lo == 2 and s.name in where}
    taken: list[str] = []
    shown: list[SizeOne] = []
    for name in list(ranges)[:MOST]:
        found: list[SizeOne] = []
        for k in range(len(taken) + 1):
            for others in itertools.combinations(taken, k):
                check = _shown(call, where, [name, *others])
                found += [] if check is None else [check]
        if len(found) == 2 ** len(taken):
            taken.append(name)
            shown += found
    if not taken:
        return program
    graph = with_symbols(piece.graph, {n: Sym(n, 1, ranges[n].hi) for n in taken})
    try:
        check_graph(graph)
    except SuperoptError as reason:
        trace.log("frontend", f"sizes from 1 on: {reason}")
        return program
    return replace(program, pieces=(replace(piece, graph=graph, shown=tuple(shown)),))


Where = dict[str, list[tuple[str, int, int]]]
"""Symbol -> the (argument, flat position, dimension) that have its size."""


@dataclass(frozen=True)
class _Call:
    """A program, and the call that it was captured on."""

    program: Program
    capture: Capture
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options


def _asked(call: _Call) -> Where:
    """The symbols whose range begins at 0 or 1 as the user gave it, and where they stand."""
    program, args, kwargs = call.program, call.args, call.kwargs
    fn = program.captured.fn
    target = fn.forward if isinstance(fn, torch.nn.Module) else fn
    given = inspect.signature(target).bind(*args, **kwargs).arguments
    leaves = pytree.tree_leaves((args, kwargs))
    position = {id(leaf): k for k, leaf in enumerate(leaves)}
    values = program.captured.values
    shapes = {
        v: n.meta["val"].shape
        for n, v in zip(program.captured.placeholders, values, strict=True)
        if isinstance(v, int) and isinstance(n.meta.get("val"), torch.Tensor)
    }
    out: Where = {}
    refused: set[str] = set()
    for axis in call.options.dynamic:
        tensor = given.get(axis.argument)
        k = position.get(id(tensor), -1)
        if axis.fixed or k not in shapes:
            continue
        known = program.captured.symbols.get(str(shapes[k][axis.dim]))
        if known is None:
            continue
        plain = not axis.hint and axis.scale == 1 and axis.offset == 0 and axis.low <= 1
        if not plain or not leaves[k].is_contiguous() or axis.high == 1:
            refused.add(known.name)
        out.setdefault(known.name, []).append((axis.argument, k, axis.dim))
    return {name: places for name, places in out.items() if name not in refused}


def _shown(call: _Call, where: Where, names: Sequence[str]) -> SizeOne | None:
    """How the program was shown to be the function where these symbols are 1; None if it was not."""
    from superopt.verify.cuts import Checker

    program, options = call.program, call.options
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    cut = {(argument, dim) for name in names for argument, _, dim in where[name]}
    for name in names:
        for _, k, dim in where[name]:
            leaves[k] = leaves[k].narrow(dim, 0, 1).contiguous()
    small_args, small_kwargs = pytree.tree_unflatten(leaves, spec)
    rest = tuple(a for a in options.dynamic if (a.argument, a.dim) not in cut)
    wishes = replace(options, dynamic=rest).dynamic_shapes() or None
    fn = program.captured.fn
    try:
        with warnings.catch_warnings():  # of what the user has not asked for yet
            warnings.simplefilter("ignore")
            seen = observe(fn, small_args, small_kwargs)
        refuse_effects(seen, program.captured.name)
        small = call.capture(small_args, small_kwargs, wishes)
        inputs = _paired(program, small)
        if inputs is None:
            return None
        static = small.supported[0].graph
        pair = at_one(program.supported[0].graph, names, static, inputs)
        if pair is None:
            return None
        confirm(small.run(small_args, small_kwargs, _eager), seen.answer, program.captured.name)
        check = Checker(options.seed)(*pair)
    except Exception as reason:  # whatever the function does at size 1, it is asked again there
        trace.log("frontend", f"sizes from 1 on: {type(reason).__name__}: {reason}")
        return None
    if not check:
        trace.log("verify", f"{', '.join(names)} = 1 was not shown equal: {check.reason}")
        return None
    return SizeOne(tuple(names), static, inputs, check)


def _eager(piece: Supported, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return piece.eager(*inputs)


def _paired(program: Program, small: Program) -> dict[str, str] | None:
    """Of each input of the small program, the input of the program that it is.

    None where the two do not take and give the same.
    """
    if small.boundaries or len(small.supported) != 1:
        return None
    given, less = _inputs(program), _inputs(small)
    results = [_results(p) for p in (program, small)]
    if given is None or less is None or results[0] is None or results[0] != results[1]:
        return None
    if not set(less) <= set(given):
        return None
    return {n: given[k] for k, n in less.items()}


def _inputs(program: Program) -> dict[tuple[str, int], str] | None:
    """What each input of the graph is: a flat argument or a tensor that the function holds."""
    where = dict(zip(program.captured.placeholders, program.captured.values, strict=True))
    out: dict[tuple[str, int], str] = {}
    piece = program.supported[0]
    for node, of in zip(piece.inputs, piece.graph.inputs, strict=True):
        value = where.get(node)
        if value is None or (isinstance(value, Live) and value.constant):
            return None
        key = ("held", value.position) if isinstance(value, Live) else ("given", value)
        out[key] = of.name
    return out


def _results(program: Program) -> Any:
    """The structure of the result, and which output of the graph each tensor of it is."""
    outputs = list(program.supported[0].outputs)
    flat = program.captured.outputs
    if any(o not in outputs for o in flat):
        return None
    return program.captured.out_spec, [outputs.index(o) for o in flat]
