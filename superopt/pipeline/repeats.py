"""Calls that were made before: recognized, and run, by the compiled core without a look by Python.

A look at what a function reads costs tens of microseconds. What it read is written down after a call
that was looked at (``frontend.watch``), and calls like it are then told by reading the same again.
Where the core is missing, every call is looked at.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable
from typing import Any

import torch

from superopt import trace
from superopt.frontend.watch import Unwatched, watch
from superopt.pipeline.calls import questions
from superopt.runtime.fast import exchange

MOST = 16
"""Kinds of calls that one function recognizes; the one met longest ago goes."""

MISSED: Any = object()
"""What a repeat gives for a call that is another one."""

Repeat = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]


class Repeats:
    """The calls of one function that are recognized; each of ``known`` runs its own, or gives MISSED."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._looked: collections.Counter[Hashable] = collections.Counter()
        self.known: tuple[Repeat, ...] = ()

    def found(self, repeat: Repeat) -> None:
        """Notes that a call was this one: it is tried first at the next."""
        known = self.known
        self.known = (repeat, *(r for r in known if r is not repeat))

    def record(
        self,
        signature: tuple[Any, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        """Writes a call down that was looked at, and had this signature and ``pipeline.Result``.

        What changes from call to call would be written down in vain: the n-th look at a signature
        counts where n is a power of two.
        """
        if exchange() is None:
            return
        self._looked[signature] += 1
        count = self._looked[signature]
        if count & (count - 1):
            return
        try:
            made = self._made(signature, args, kwargs, result)
        except Exception as why:  # the answer is there already: nothing may come in its way
            trace.log("launch", f"calls are looked at by Python: {why}", 2)
        else:
            self.known = (made, *self.known)[:MOST]

    def _made(
        self,
        signature: tuple[Any, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> Repeat:
        from superopt._core import Repeat as Made

        asked = questions()
        flat = (*args, *kwargs.values())
        if not all(isinstance(x, torch.Tensor | bool | int | float | str | None) for x in flat):
            raise Unwatched("arguments in containers")
        seen, held = watch(self._fn, exchange(), flat, signature[1:])
        short = result.direct
        launcher = short.launcher(flat, held) if short is not None else None
        if launcher is None:
            return Made(exchange(), asked, args, kwargs, seen, None, [], [], result.run).call
        inputs, literals = [], []
        for source in short.inputs:
            if type(source) is int:
                inputs.append(source)
            elif type(source) is tuple:
                inputs.append(len(flat) + source[1])
            else:
                literals.append(source)
                inputs.append(-len(literals))
        return Made(
            exchange(), asked, args, kwargs, seen, launcher, inputs, literals, short.finish
        ).call
