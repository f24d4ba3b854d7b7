"""Whether two functions compute the same: capture, check over fields, look for a counterexample."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt.errors import BadOption, SuperoptError
from superopt.frontend.names import name_of
from superopt.frontend.observe import observe, same_random_numbers
from superopt.frontend.together import Together, capture_together
from superopt.mugraph.algebras import floats
from superopt.mugraph.axes import Sym
from superopt.mugraph.graph import Const
from superopt.pipeline.attempts import SHAPES, attempts, proofs
from superopt.pipeline.differences import drawn, search, sizes_of, undefined
from superopt.verify.assumed import is_partial
from superopt.verify.counterexample import GIVEN, draws
from superopt.verify.cuts import Checker
from superopt.verify.decision import Certificate as Certificate
from superopt.verify.decision import Counterexample
from superopt.verify.equivalence import Equivalence, not_rewritten
from superopt.verify.literals import exact_casts
from superopt.verify.poles import differ_at_poles
from superopt.verify.probe import unfolded
from superopt.verify.rounded import compared_after_rounding
from superopt.verify.whole import check_at_own_sizes

PATTERNS = 2000.0
"""Patterns of winners up to which enough trials are run to meet each (some seconds)."""

UNSHOWN = "not shown equal, and no inputs were found on which they differ"

NOT_CAPTURED = 4e-3
"""How far a captured program may be from its function on the given arguments, in single precision."""


def equivalent(
    first: Callable[..., Any],
    second: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    seed: int | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    precision: str = "default",
    sampled: bool = False,
) -> Certificate:
    """See ``superopt.equivalent``."""
    _checked(first, second, args, precision)
    seed = secrets.randbits(32) if seed is None else seed
    found = Certificate("undecided", seed=seed, names=(name_of(first), name_of(second)))
    with torch.no_grad(), same_random_numbers():
        return _decide(found, first, second, args, dynamic, precision, sampled)


def _checked(first: Any, second: Any, args: tuple[Any, ...], precision: str) -> None:
    for k, fn in enumerate((first, second)):
        if not callable(fn):
            raise BadOption(
                f"argument {k + 1} is no function, but a {type(fn).__name__}",
                "superopt.equivalent",
                "give two functions and then their example inputs",
            )
    if precision not in ("default", "eager"):
        raise BadOption(f"no precision {precision!r}", "option precision", "default or eager")
    if not any(isinstance(x, torch.Tensor) for x in pytree.tree_leaves(args)):
        raise BadOption(
            "no example input is a tensor",
            "superopt.equivalent",
            "give the tensors that the functions take; their shapes and dtypes are what counts",
        )


def _decide(
    found: Certificate,
    first: Callable[..., Any],
    second: Callable[..., Any],
    args: tuple[Any, ...],
    dynamic: Mapping[str, Mapping[int, Any]] | None,
    precision: str,
    sampled: bool,
) -> Certificate:
    leaves, spec = pytree.tree_flatten(args)
    leaves = _separate(leaves)
    args = tuple(pytree.tree_unflatten(leaves, spec))

    def run(fn: Callable[..., Any], leaves: Sequence[Any]) -> Any:
        return fn(*pytree.tree_unflatten(list(leaves), spec))

    runs = partial(run, first), partial(run, second)
    answers, effects = _answers(first, second, leaves, spec)
    if unlike := _unlike(*answers):
        example = Counterexample(tuple(leaves), answers[0], answers[1], 0, (), unlike[1:], GIVEN)
        return replace(found, verdict="different", reason=unlike[0], counterexample=example)
    if effects:
        found = replace(found, assumptions=("results-alone",))
    try:
        both = capture_together(first, second, args, dynamic, precision)
    except SuperoptError as error:
        seen = search(runs, draws(leaves, {}, (), found.seed), False)
        if seen is not None:
            return _different(found, seen)
        return replace(found, reason=f"the functions cannot be captured: {error}")
    if stray := _strays(both, runs, leaves):
        return replace(found, reason=stray)
    return _compared(found, both, runs, leaves, sampled)


def _separate(leaves: Sequence[Any]) -> list[Any]:
    """The arguments with a copy, laid alike, of each tensor that shares memory with one before it.

    What is claimed is of any values, so one tensor that is given twice stands for two.
    """
    seen: set[int] = set()
    out: list[Any] = []
    for x in leaves:
        if isinstance(x, torch.Tensor) and x.layout == torch.strided and x.numel():
            memory = x.untyped_storage().data_ptr()
            if memory and memory in seen:
                again = x.detach().untyped_storage().clone()
                empty = torch.empty(0, dtype=x.dtype, device=x.device)
                x = empty.set_(again, x.storage_offset(), x.shape, x.stride())
            seen.add(memory)
        out.append(x)
    return out


def _answers(
    first: Callable[..., Any], second: Callable[..., Any], leaves: Sequence[Any], spec: Any
) -> tuple[list[Any], list[str]]:
    """The results on the given arguments, and what else the functions do."""
    answers, effects = [], []
    for fn in (first, second):
        copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in leaves]
        torch.manual_seed(0)  # the same random numbers for both
        seen = observe(fn, pytree.tree_unflatten(copies, spec), {})
        answers.append(seen.answer)
        effects += seen.effects
    return answers, effects


def _unlike(mine: Any, other: Any) -> tuple[str, Any, Any] | None:
    """How two results differ in structure, type or shape, with what differs; None if they do not."""
    (xs, a), (ys, b) = pytree.tree_flatten(mine), pytree.tree_flatten(other)
    if a != b:
        return "the results have different structures", str(a), str(b)
    for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if isinstance(x, torch.Tensor) != isinstance(y, torch.Tensor):
            return f"output {k} is a tensor in one alone", type(x).__name__, type(y).__name__
        if not isinstance(x, torch.Tensor):
            if type(x) is not type(y) or x != y:
                return f"output {k} differs", x, y
            continue
        for what in ("dtype", "shape", "device"):
            p, q = getattr(x, what), getattr(y, what)
            if p != q:
                return f"output {k} has another {what}", str(p), str(q)
    return None


def _strays(both: Together, runs: Sequence[Callable[..., Any]], leaves: Sequence[Any]) -> str:
    """Why the captured programs are not the functions, or the empty string."""
    sizes, tensors = sizes_of(both, leaves), both.tensors(leaves)
    for graph, run in zip((both.first, both.second), runs, strict=True):
        mine = floats.run(graph, tensors, sizes, work=None)
        theirs = [x for x in pytree.tree_leaves(run(leaves)) if isinstance(x, torch.Tensor)]
        if _far(mine, theirs):
            return "what was captured does not give the function's own answer"
    return ""


def _far(mine: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> bool:
    for x, y in zip(mine, theirs, strict=True):
        if not y.is_floating_point():
            if y.numel() and float((x.to(y.dtype) != y).double().mean()) > NOT_CAPTURED:
                return True
            continue
        if not y.numel():
            continue
        u, v = x.double(), y.double()
        both = u.isfinite() & v.isfinite()
        scale = float(torch.where(both, v.abs(), 0.0).amax())
        near = NOT_CAPTURED if y.dtype.itemsize > 2 else 0.25
        if float(torch.where(both, (u - v).abs(), 0.0).max()) > near * scale + 1e-30:
            return True
        if float((u.isnan() != v.isnan()).double().mean()) > 0.5:
            return True
    return False


def _compared(
    found: Certificate,
    both: Together,
    runs: Sequence[Callable[..., Any]],
    leaves: Sequence[Any],
    sampled: bool,
) -> Certificate:
    """The verdict on two captured programs."""
    a, b, seed = exact_casts(both.first), exact_casts(both.second), found.seed
    named = {*found.assumptions} | ({"equal-tensors"} if both.alike else set())
    masks = any(isinstance(n, Const) and math.isinf(n.value) for g in (a, b) for n in g.nodes)
    show = Checker(seed, nan_counts=True, most_patterns=PATTERNS)
    against = compared_after_rounding(a, b) or differ_at_poles(a, b, seed)
    check = replace(not_rewritten(seed), reason=against) if against else show(a, b)
    example = search(runs, drawn(both, leaves, seed), bool(check), "NaN" in check.reason, masks)
    if example is not None:
        return _different(found, example)
    if against:
        return replace(found, reason=f"{UNSHOWN}: {against}")
    symbolic = any(isinstance(x.size, Sym) for x in a.axes)
    domain = "all sizes in the given ranges" if symbolic else SHAPES
    if not all(isinstance(x, torch.Tensor) for x in leaves):
        domain += "; arguments that are no tensors, as given"
    checks = [check]

    def accepted(check: Equivalence) -> bool:
        return bool(check) and (sampled or not check.cases)

    if not accepted(check) or check.kind == "sampled":
        alike = accepted(check)
        more = proofs(show, a, b) if alike else attempts(show, a, b, symbolic=symbolic)
        for where, assumes, attempt in more:
            checks.append(attempt)
            if accepted(attempt):
                check, domain = attempt, where or domain
                named |= assumes
                break
    if not accepted(check):
        return replace(found, checks=tuple(checks), reason=_why(checks))
    if not symbolic and check is checks[0]:
        again = check_at_own_sizes(a, b, seed=seed)
        if again is None and "shrunk-comparisons" in check.assumptions and not sampled:
            reason = "positions are compared, and the sizes are too large to evaluate"
            return replace(found, checks=tuple(checks), reason=reason)
        checks += [again] if again is not None else []
        if again is not None and not again:
            return replace(found, checks=tuple(checks), reason=f"at the own sizes: {again.reason}")
    named |= {n for c in checks if c is check or c.kind == "second" for n in c.assumptions}
    if check.kind == "identical" and any(is_partial(unfolded(g)) for g in (a, b)):
        named.add("where-defined")
    return replace(
        found,
        undefined=undefined(runs, drawn(both, leaves, seed)),
        verdict="equal",
        kind=check.kind,
        bound_log2=check.bound_log2,
        reason=check.reason if check.kind == "sampled" else "",
        domain=domain,
        assumptions=tuple(sorted(named)),
        checks=tuple(checks),
    )


def _why(checks: Sequence[Equivalence]) -> str:
    """Why two functions are neither shown equal nor different."""
    alike = next((c for c in checks if c), None)
    if alike is not None:
        return (
            f"alike in {alike.trials} trials, which need not have met every case: {alike.reason}; "
            "sampled=True takes that for equal"
        )
    reasons = dict.fromkeys(c.reason for c in checks if c.reason)
    return f"{UNSHOWN}: {'; '.join(reasons)}"


def _different(found: Certificate, example: Counterexample) -> Certificate:
    reason = f"output {example.output} differs on inputs that are {example.drawn}"
    return replace(found, verdict="different", reason=reason, counterexample=example)
