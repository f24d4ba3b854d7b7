"""The short way through a program of one kernel call: which tensors go in, how the results come out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from superopt.errors import SuperoptError
from superopt.frontend.live import state
from superopt.frontend.names import name_of
from superopt.runtime.bucketed import Bucketed
from superopt.runtime.site import Built

Finish = Callable[[Sequence[torch.Tensor]], Any]


_TENSORS = {torch.Tensor}


@dataclass(frozen=True)
class Direct:
    """How one kernel call makes the whole result.

    inputs: for each input the flat argument, ("held", n) for a tensor that the function holds, or a
    literal; finish: packs the outputs, None for a result that is the only one.
    """

    built: Built
    inputs: tuple[Any, ...]
    finish: Finish | None
    eager_may_win: bool

    @functools.cached_property
    def holds(self) -> bool:
        """Whether a tensor that the function holds is among the inputs."""
        return any(isinstance(source, tuple) for source in self.inputs)

    @functools.cached_property
    def _in_order(self) -> int:
        """The number of inputs where they are the first flat arguments in order, else -1."""
        return len(self.inputs) if self.inputs == tuple(range(len(self.inputs))) else -1

    def tensors(
        self, flat: Sequence[Any], held: Sequence[torch.Tensor] | None
    ) -> list[torch.Tensor]:
        """The inputs of a call."""
        return [
            flat[s] if type(s) is int else (held or ())[s[1]] if type(s) is tuple else s
            for s in self.inputs
        ]

    def run(
        self,
        call: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        held: Sequence[torch.Tensor] | None,
    ) -> Any:
        """The result of a call, of which ``call`` runs the kernel."""
        if not kwargs and len(args) == self._in_order and set(map(type, args)) == _TENSORS:
            made = call(args)
        else:
            made = call(self.tensors(pytree.tree_leaves((args, kwargs)), held))
        return made[0] if self.finish is None else self.finish(made)

    def launcher(self, flat: Sequence[Any], held: Sequence[torch.Tensor]) -> Any:
        """What runs calls like this one in the least time (``Kernels.launcher``), or None."""
        kernels = self.built.kernels
        if not isinstance(kernels, Bucketed):
            return kernels.launcher({})
        chosen = kernels.chosen(self.tensors(flat, held), self.eager_may_win)
        return None if chosen is None else chosen[0].launcher(chosen[1])


def direct(program: Any, built: Sequence[Built], eager_may_win: bool) -> Direct | None:
    """The short way through a program, if it has one."""
    if program.boundaries or len(built) != 1 or (wiring := program.wiring()) is None:
        return None
    inputs, outputs, spec = wiring
    return Direct(built[0], tuple(inputs), _finish(outputs, spec), eager_may_win)


def _finish(outputs: Sequence[int], spec: Any) -> Finish | None:
    if spec.is_leaf() and list(outputs) == [0]:
        return None
    if spec.type in (tuple, list) and all(child.is_leaf() for child in spec.children()):
        kind, order = spec.type, tuple(outputs)
        return lambda made: kind([made[k] for k in order])
    return lambda made: pytree.tree_unflatten([made[k] for k in outputs], spec)


def ways_into(fn: Any, found: Any, args: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    """For measurements: the C entry, ``launch`` and ``Kernels`` of a Result, as calls on ``args``.

    Raises SuperoptError where the result is not one kernel call.
    """
    short: Direct | None = found.direct
    if short is None or isinstance(short.built.kernels, Bucketed):
        raise SuperoptError("the kernel did not win, or is not alone", name_of(fn))
    return short.built.kernels.ways(short.tensors(args, state(fn)[1]))
