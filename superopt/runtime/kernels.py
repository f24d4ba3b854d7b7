"""A compiled program as a callable on torch tensors: allocates outputs and scratch, launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from superopt.errors import KernelFailed
from superopt.mugraph.dtypes import DTYPES
from superopt.runtime.fast import launcher, thread_count
from superopt.runtime.guarded import guarded
from superopt.runtime.launch import Library, failure, launch, packed
from superopt.runtime.plan import Plan

MARGIN = 64
"""Elements before and after an output that a program under test must leave alone."""


HELD_S = 20e-6
"""Seconds for which a call may keep other threads from running Python."""

MOST_SIZES = 32
"""Sizes of symbols for which a program keeps a launcher."""


class Kernels:
    """A loaded shared object with its plan; calling it returns the outputs.

    Thread safe: scratch is per thread. The caller has checked shapes, strides and dtypes against
    the program (the guard of the decorator does); ranges of symbols are checked here.
    """

    def __init__(self, path: Path, plan: Plan, threads: int | None = None) -> None:
        self.path, self.plan, self.threads = path, plan, threads
        self._library = Library(path)
        self._entry = self._library.entry(plan.entry)
        self._local = threading.local()
        self._dtypes = [DTYPES[o.dtype].torch for o in plan.outputs]
        self._shapes = None if plan.symbols else self._output_shapes({})
        self._launchers: dict[tuple[int, ...], Any] = {}
        self._fast = None if plan.symbols else self.launcher({})

    def launcher(self, sizes: Mapping[str, int]) -> Any:
        """What calls the program at these sizes in the least time, or None; see ``fast.launcher``."""
        at = tuple(sizes[symbol[0]] for symbol in self.plan.symbols)
        if at not in self._launchers:
            while len(self._launchers) >= MOST_SIZES:  # the oldest goes
                self._launchers.pop(next(iter(self._launchers)), None)
            outputs = self._empty(self._output_shapes(sizes))
            long = self._library.seconds(self.plan.entry, at) > HELD_S
            made = launcher(self._entry, self.plan, outputs, sizes, self.threads, long)
            self._launchers[at] = made
        return self._launchers[at]

    def _output_shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return [tuple(d.value(sizes) for d in o.dims) for o in self.plan.outputs]

    def _empty(self, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        """New outputs; row-major ones by the call that costs least."""
        return [
            torch.empty_permuted(s, o.order, dtype=d, device="cpu")
            if o.order
            else torch.empty(s, dtype=d, device="cpu")  # whatever the default device is
            for s, d, o in zip(shapes, self._dtypes, self.plan.outputs, strict=True)
        ]

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Runs the program on CPU tensors in the order of the graph's inputs."""
        if self._fast is not None:
            made = self._fast.run(tensors)
            if type(made) is not list:
                raise failure(made, self._entry)
            return made
        sizes = self.plan.sizes(tensors) if self.plan.symbols else {}
        outputs = self._empty(self._output_shapes(sizes) if self._shapes is None else self._shapes)
        self.run(tensors, outputs, sizes)
        return outputs

    def at(self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> list[torch.Tensor]:
        """A call with the sizes of the symbols known already."""
        outputs = self._empty(self._output_shapes(sizes))
        self.run(tensors, outputs, sizes)
        return outputs

    def checked(
        self, tensors: Sequence[torch.Tensor], *, end: bool | None = None
    ) -> list[torch.Tensor]:
        """Like a call, but outputs, scratch and this thread's stack hold NaN (integers: a pattern) before.

        What the program fails to write, or reads before it is written, then shows. Raises KernelFailed
        where it wrote beside an output, into the ``MARGIN`` elements before or after it. end: whether
        outputs and scratch lie so that they end, or else begin, at memory without access, which ends
        the process that touches it; None for memory as calls use it.
        """
        sizes = self.plan.sizes(tensors) if self.plan.symbols else {}
        before, after = 0 if end is False else MARGIN, 0 if end else MARGIN
        blocks, outputs = [], []
        for t in self._empty(self._output_shapes(sizes)):
            block = poison(torch.empty(before + t.numel() + after, dtype=t.dtype, device="cpu"))
            blocks.append(block if end is None else guarded(block, end))
            outputs.append(blocks[-1].as_strided(t.shape, t.stride(), before))
        scratch = self._scratch(sizes)
        if end is not None:
            scratch = [guarded(block, end) for block in scratch]
        for block in scratch:
            block.fill_(0xFF)
        self.run(tensors, outputs, sizes, scratch=scratch, on_pattern=True)
        for k, (block, t) in enumerate(zip(blocks, outputs, strict=True)):
            beside = torch.cat((block[:before], block[before + t.numel() :]))
            if not torch.equal(beside.view(torch.uint8), poison(beside.clone()).view(torch.uint8)):
                raise KernelFailed(f"the kernel wrote beside output {k}", str(self.path))
        return outputs

    def run(
        self,
        tensors: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
        *,
        scratch: Sequence[torch.Tensor] | None = None,
        on_pattern: bool = False,
    ) -> None:
        """Runs the program into given outputs, dense in the order that the plan gives.

        scratch: its blocks, this thread's own when None; on_pattern: see ``launch``.
        """
        scratch = self._scratch(sizes) if scratch is None else scratch
        pools = {"input": tensors, "output": outputs, "scratch": scratch}
        ints = [sizes[symbol[0]] for symbol in self.plan.symbols]
        ints.append(thread_count(self.threads))
        pointers = [pools[kind][n] for kind, n in self.plan.buffers]
        launch(self._entry, pointers, ints, on_pattern=on_pattern)

    def ways(self, tensors: Sequence[torch.Tensor]) -> dict[str, Callable[[], Any]]:
        """For measurements, of a program without symbols: the ways into it, as calls without arguments."""
        outputs, ints = self._empty(self._output_shapes({})), [thread_count(self.threads)]
        pools = {"input": tensors, "output": outputs, "scratch": self._scratch({})}
        pointers = [pools[kind][n] for kind, n in self.plan.buffers]
        inputs = list(tensors)
        return {
            "entry": packed(self._entry, pointers, ints),
            "launch": lambda: launch(self._entry, pointers, ints),
            "kernels": lambda: self(inputs),
        }

    def _scratch(self, sizes: Mapping[str, int]) -> list[torch.Tensor]:
        """This thread's scratch blocks: kept between calls, since a decode step allocates nothing."""
        need = [e.value(sizes) for e in self.plan.scratch]
        held: list[torch.Tensor] = getattr(self._local, "scratch", [])
        if [t.numel() for t in held] != need:
            held = [torch.empty(n, dtype=torch.uint8, device="cpu") for n in need]
            self._local.scratch = held
        return held


def poison(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor filled with NaN, or with its dtype's least value where it has no NaN."""
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    floating = tensor.dtype.is_floating_point
    return tensor.fill_(float("nan") if floating else torch.iinfo(tensor.dtype).min)
