"""One function at one signature: capture, make or recall its kernels, choose the fastest.

``making`` holds what is done for a kernel that is not in the cache yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt import trace
from superopt.config import Config, Options
from superopt.cost.measure import interleave
from superopt.errors import Miscaptured, SuperoptError, UnsupportedDevice
from superopt.frontend.identity import identity
from superopt.frontend.live import state
from superopt.frontend.names import name_of
from superopt.frontend.observe import Observed as Observed
from superopt.frontend.observe import can_listen as can_listen
from superopt.frontend.observe import (
    confirm,
    difference,
    memory_difference,
    refuse_effects,
    same_random_numbers,
)
from superopt.frontend.observe import observe as observe
from superopt.frontend.observe import unheard as unheard
from superopt.frontend.where import raised_at as raised_at
from superopt.mugraph.dispatch import ORIGINAL, Dispatch
from superopt.mugraph.placement import MuGraph
from superopt.pipeline.direct import Direct, direct
from superopt.pipeline.direct import ways_into as ways_into
from superopt.pipeline.repeats import MISSED as MISSED
from superopt.pipeline.repeats import Repeats as Repeats
from superopt.runtime.bucketed import Bucketed
from superopt.runtime.cache import Cache
from superopt.runtime.doctor import doctor as machine_doctor
from superopt.runtime.site import Built, Site

Run = Callable[[tuple[Any, ...], dict[str, Any], Sequence[torch.Tensor] | None], Any]


@dataclass(frozen=True)
class Result:
    """What came of one function at one signature.

    run: the winner, on (args, kwargs, held), where held are the tensors that the function reaches
    now (``Calls.look``), or None to look them up; call: the same, called as the function is;
    generated: the generated kernels alone; winner: "generated", "eager", "inductor", or "by size"
    where symbolic sizes decide between the first two, bucket by bucket; timings in seconds; states:
    values and kernels that the search looked at; cache: "warm" when every kernel came from the
    cache; boundaries: what was left to PyTorch, and why; pieces: what was built; serves: whether the
    range of sizes, of a program that is one piece, includes those of (args, kwargs); direct: the short
    way to the winner, where it is one kernel call.
    """

    run: Run
    call: Callable[..., Any]
    generated: Callable[..., Any]
    winner: str
    mugraph: MuGraph | None
    certificate: dict[str, Any] | None
    timings: dict[str, float]
    states: int
    cache: str
    boundaries: tuple[Any, ...] = ()
    pieces: tuple[Built, ...] = field(default=(), repr=False)
    serves: Callable[[tuple[Any, ...], dict[str, Any]], bool] = field(
        default=lambda args, kwargs: False, repr=False
    )
    direct: Direct | None = field(default=None, repr=False)


def optimize(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options | None = None,
    config: Config | None = None,
    seen: Observed | None = None,
    recall: bool = True,
) -> Result:
    """Runs every stage for one function at one signature; see ``Result``.

    seen: the function's first run on these arguments, made here when it is not given; recall:
    whether a program that another process has left under the function's identity may serve.
    Raises SuperoptError when nothing could be generated; the caller then runs the original.
    """
    options, config = options or Options(), config or Config.from_env()
    _check_devices(args, kwargs, options)
    site = Site.of(options, config)
    seen = seen or observe(fn, args, kwargs)
    refuse_effects(seen, name_of(fn))
    with trace.stage("optimize") as span:
        shortcut = site.shortcut(identity(fn), args, kwargs)
        program: Any = site.recall(shortcut) if recall else None
        fresh = program is None
        if fresh:
            with trace.stage("frontend"):
                from superopt.frontend.capture import capture
                from superopt.frontend.partition import partition

                def captured(args: Any, kwargs: Any, wishes: Any) -> Any:
                    return partition(capture(fn, args, kwargs, wishes), options.precision)

                program = captured(args, kwargs, options.dynamic_shapes() or None)
                if options.dynamic:
                    from superopt.pipeline.smallest import from_one

                    program = from_one(program, captured, args, kwargs, options)
            for b in program.boundaries:
                trace.log("fallback", f"{b.op} at {b.where}: {b.reason}")
        if not program.supported:
            raise _nothing(program.boundaries, seen.answer, name_of(fn))
        if fresh:
            with trace.stage("frontend"):
                _confirm(program, seen, args, kwargs)
        built: dict[int, Built] = {}
        called = _on_inputs(fn, program, args, kwargs) if options.dynamic else None

        def build(piece: Any, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            def make(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
                from superopt.pipeline import making

                return making.make(piece, inputs, site, folder, called)

            built[id(piece)] = site.kernels(piece, make)
            return _calls(piece, built[id(piece)], _in_pytorch, False)(inputs)

        # One run on the example, piece by piece: each piece sees the tensors it will be given.
        with same_random_numbers(bool(program.boundaries)):
            answer = program.run(args, kwargs, build)
        if not fresh and (wrong := difference(answer, seen.answer, near=False)):
            trace.log("fallback", f"what was kept under the function's identity gives {wrong}")
            return optimize(fn, args, kwargs, options, config, seen, recall=False)
        if unlike := memory_difference(answer, seen.answer):
            raise Miscaptured(f"the kernels give {unlike}", name_of(fn))
        site.remember(shortcut, program, [b.key for b in built.values()])
        whole = not program.boundaries
        pieces = tuple(built.values())
        original = _leave if whole else _in_pytorch

        def calls(eager_may_win: bool) -> dict[int, Callable[..., Sequence[torch.Tensor]]]:
            return {
                id(p): _calls(p, built[id(p)], original, eager_may_win) for p in program.supported
            }

        # A function may switch to inference mode itself; its results are of that mode then.
        inference = any(
            t.is_inference() for t in pytree.tree_leaves(seen.answer) if isinstance(t, torch.Tensor)
        )

        short = None if inference else direct(program, pieces, False)

        def running(table: dict[int, Callable[..., Sequence[torch.Tensor]]]) -> Run:
            only: Any = next(iter(table.values()), None)

            def run(args: tuple[Any, ...], kwargs: dict[str, Any], held: Any) -> Any:
                try:
                    if short is not None and (not short.holds or held is not None):
                        return short.run(only, args, kwargs, held)
                    if inference:
                        with torch.inference_mode():
                            return program.run(args, kwargs, lambda p, xs: table[id(p)](xs), held)
                    return program.run(args, kwargs, lambda p, xs: table[id(p)](xs), held)
                except _LeftToOriginal:
                    return fn(*args, **kwargs)

            return run

        run = alone = running(calls(False))
        rules = [b.rule for b in pieces if b.rule is not None]
        if rules and "eager" in options.fallbacks:
            run = running(calls(True))

        def serves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            def look(piece: Any, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
                built[id(piece)].kernels.plan.sizes(inputs)  # raises for sizes outside
                raise _Serves

            try:
                program.run(args, kwargs, look)
            except _Serves:
                return whole and bool(rules)
            except SuperoptError:
                pass
            return False

        def generated(*args: Any, **kwargs: Any) -> Any:
            return alone(args, kwargs, None)

        def best(*args: Any, **kwargs: Any) -> Any:
            return run(args, kwargs, None)

        with same_random_numbers(not whole):
            timed = partial(run, args, kwargs, state(fn)[1])
            winner, call, timings = _choose(fn, best, timed, args, kwargs, options, pieces, whole)
        if call is best and rules and whole:
            winner = _by_size(rules, "eager" in options.fallbacks)
    timings["total_s"] = span.seconds
    states = sum(int(b.meta.get("states", 0)) for b in pieces)
    warm = "warm" if all(b.warm for b in pieces) else "cold"
    return Result(
        run if call is best else lambda args, kwargs, held: call(*args, **kwargs),
        call,
        generated,
        winner,
        pieces[0].mugraph,
        pieces[0].certificate,
        timings,
        states,
        warm,
        program.boundaries,
        pieces,
        serves,
        replace(short, eager_may_win="eager" in options.fallbacks)
        if short is not None and call is best
        else None,
    )


class _Serves(Exception):
    """The sizes of a call are in the range of the kernels."""


class _LeftToOriginal(Exception):
    """A call's sizes lie in a bucket that the original serves."""


def _leave(piece: Any, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    raise _LeftToOriginal


def _calls(
    piece: Any, built: Built, original: Callable[..., Any], eager_may_win: bool
) -> Callable[..., Sequence[torch.Tensor]]:
    """What runs a piece: its kernels, or those of the bucket that its sizes are in."""
    if isinstance(built.kernels, Bucketed):
        return built.kernels.runner(partial(original, piece), eager_may_win)
    return built.kernels


def _on_inputs(
    fn: Callable[..., Any], program: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[..., Any] | None:
    """The function as it is called, with other inputs of its one piece; None if it has more."""
    positions = None if program.boundaries else program.positions()
    if positions is None:
        return None
    leaves, spec = pytree.tree_flatten((args, kwargs))

    def called(*inputs: torch.Tensor) -> Any:
        mine = dict(zip(positions, inputs, strict=True))
        flat = [mine.get(k, leaf) for k, leaf in enumerate(leaves)]
        args, kwargs = pytree.tree_unflatten(flat, spec)
        return fn(*args, **kwargs)

    return called


def _by_size(rules: Sequence[Dispatch], eager_may_win: bool) -> str:
    """Who wins where the sizes decide: "generated", "eager", or "by size" for some of both."""
    eager = [
        b.program == ORIGINAL or (b.slower and eager_may_win) for r in rules for b in r.buckets
    ]
    return "eager" if all(eager) else "by size" if any(eager) else "generated"


def _nothing(boundaries: Sequence[Any], answer: Any, name: str) -> SuperoptError:
    """Why no piece of a program has a graph: its operators, or that there are none."""
    what = "nothing in the program can be optimized"
    if boundaries:
        return SuperoptError(what, "; ".join(f"{b.op} ({b.reason})" for b in boundaries[:3]))
    kind = "None" if answer is None else f"a result of type {type(answer).__name__}"
    return SuperoptError(
        f"{what}: it gives {kind}, and no tensor that it computes",
        name,
        "return what it computes, or leave this function to PyTorch",
    )


def _confirm(program: Any, seen: Observed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Holds the captured program, in PyTorch, against what the function answered."""
    with same_random_numbers(bool(program.boundaries)):
        if program.boundaries:
            torch.set_rng_state(seen.random)
        confirm(program.run(args, kwargs, _in_pytorch), seen.answer, program.captured.name)


def _in_pytorch(piece: Any, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return list(piece.eager(*inputs))


def _choose(
    fn: Callable[..., Any],
    generated: Callable[..., Any],
    timed: Callable[[], Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    built: Sequence[Built],
    whole: bool,
) -> tuple[str, Callable[..., Any], dict[str, float]]:
    """The fastest of the generated kernels and the fallbacks, each as the user would call it.

    timed: the generated kernels, with the tensors that the function holds looked up already: that is
    done at every call, whichever wins. Where the sizes decide between kernels and eager PyTorch,
    ``generated`` is both already, and eager is timed to be told of alone.
    """
    settled = whole and any(b.rule is not None for b in built)
    timings = {
        k: sum(float(b.meta.get(k, 0.0)) for b in built)
        for k in ("search_s", "verify_s", "compile_s")
    }
    names, calls = ["generated"], [generated]
    if "eager" in options.fallbacks:
        names, calls = [*names, "eager"], [*calls, fn]
    if "inductor" in options.fallbacks:
        names, calls = [*names, "inductor"], [*calls, torch.compile(fn)]
    if whole and names == ["generated", "eager"] and all(b.warm for b in built):
        # Measured when it was made; a warm start does not measure again.
        medians = [
            sum(float(b.meta[k]) for b in built) for k in ("generated_median_s", "eager_median_s")
        ]
    else:
        with trace.stage("choose"), torch.no_grad():
            runs = interleave(
                [timed, *(partial(c, *args, **kwargs) for c in calls[1:])], seconds=0.3 * len(calls)
            )
            medians = [t.median_s for t in runs]
    for name, median in zip(names, medians, strict=True):
        timings[f"{name}_median_s"] = median
    best = min(
        (k for k, name in enumerate(names) if not (settled and name == "eager")),
        key=lambda k: (medians[k], k),
    )
    return names[best], calls[best], timings


def _check_devices(args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> None:
    if options.target is not None and options.target.kind != "cpu":
        raise UnsupportedDevice(
            f"there is no code generator for {options.target} yet",
            "option target",
            "use target='cpu'",
        )
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu":
            raise UnsupportedDevice(
                f"a tensor lives on {leaf.device}", "an argument", "move it to the CPU"
            )


def why_of(error: BaseException) -> dict[str, Any] | None:
    """What became of the alternatives where no kernel was found; None for any other error."""
    found: dict[str, Any] | None = getattr(error, "superopt_why", None)
    return found


def __getattr__(name: str) -> Any:
    # The verifier is loaded when it is used: a warm start does without.
    if name == "equivalent":
        from superopt.pipeline.equivalence import equivalent

        return equivalent
    if name == "Certificate":
        from superopt.verify.decision import Certificate

        return Certificate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def cache(config: Config | None = None) -> Cache:
    """The kernel cache in use (for the command line)."""
    return Cache.open(config)


def doctor(config: Config | None = None) -> list[dict[str, str]]:
    """What this machine offers and lacks (for the command line)."""
    return machine_doctor(config or Config.from_env())
