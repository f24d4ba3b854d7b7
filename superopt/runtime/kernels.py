"""A compiled program as a callable on torch tensors: allocates outputs and scratch, launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from superopt.errors import KernelFailed
from superopt.mugraph.dtypes import DTYPES
from superopt.runtime.fast import launcher, thread_count
from superopt.runtime.guarded import guarded
from superopt.runtime.launch import HasPointer, Library, StaleCopy, failure, launch, prepared
from superopt.runtime.packs import PACKS, Copy, memory
from superopt.runtime.plan import Plan


class _Null:
    """A pointer to nothing."""

    def data_ptr(self) -> int:
        """No address."""
        return 0


NULL = _Null()

MARGIN = 64
"""Elements before and after an output that a program under test must leave alone."""


HELD_S = 20e-6
"""Seconds for which a call may keep other threads from running Python."""

MOST_SIZES = 32
"""Sizes of symbols for which a program keeps a launcher."""


class Kernels:
    """A loaded shared object with its plan; calling it returns the outputs.

    Thread safe: scratch is per thread. The caller has checked shapes, strides and dtypes against
    the program (the guard of the decorator does); ranges of symbols are checked here. Inputs that calls
    find unchanged are packed where the plan says so, while all copies fit ``pack_memory`` bytes.
    """

    def __init__(
        self, path: Path, plan: Plan, threads: int | None = None, pack_memory: int = 0
    ) -> None:
        self.path, self.plan, self.threads, self.pack_memory = path, plan, threads, pack_memory
        self._library = Library(path)
        self._entry = self._library.entry(plan.entry)
        self._pack = self._library.entry(f"{plan.entry}_pack") if plan.packed else None
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

    @property
    def packs(self) -> bool:
        """Whether calls may pack inputs."""
        return bool(self.plan.packed and self.plan.packs and self.pack_memory)

    def keep_packing(self, packs: bool) -> None:
        """Says in the plan whether calls are to pack inputs."""
        self.plan = replace(self.plan, packs=packs)

    def plain(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """A call that reads every input where it lies."""
        sizes = self.plan.sizes(tensors) if self.plan.symbols else {}
        outputs = self._empty(self._shapes or self._output_shapes(sizes))
        self._call(tensors, outputs, sizes, self._scratch(sizes), [None] * len(self.plan.packed))
        return outputs

    def at(self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> list[torch.Tensor]:
        """A call with the sizes of the symbols known already."""
        outputs = self._empty(self._output_shapes(sizes))
        self.run(tensors, outputs, sizes)
        return outputs

    def checked(
        self, tensors: Sequence[torch.Tensor], *, end: bool | None = None, packed: bool = False
    ) -> list[torch.Tensor]:
        """Like a call, but outputs, scratch and this thread's stack hold NaN (integers: a pattern) before.

        What the program fails to write, or reads before it is written, then shows. Raises KernelFailed
        where it wrote beside an output, into the ``MARGIN`` elements before or after it. end: whether
        outputs and scratch lie so that they end, or else begin, at memory without access, which ends
        the process that touches it; None for memory as calls use it. packed: with every input packed that
        the plan has a copy of, into memory that is treated alike.
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
        copies: list[torch.Tensor | None] = [None] * len(self.plan.packed)
        if packed:
            copies = self._packed_beside(tensors, sizes, before, after, end, blocks)
        self._call(tensors, outputs, sizes, scratch, copies, on_pattern=True)
        written = [*outputs, *(c for c in copies if c is not None)]
        for k, (block, t) in enumerate(zip(blocks, written, strict=True)):
            beside = torch.cat((block[:before], block[before + t.numel() :]))
            if not torch.equal(beside.view(torch.uint8), poison(beside.clone()).view(torch.uint8)):
                what = f"output {k}" if k < len(outputs) else f"packed copy {k - len(outputs)}"
                raise KernelFailed(f"the kernel wrote beside {what}", str(self.path))
        return outputs

    def _packed_beside(
        self,
        tensors: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
        before: int,
        after: int,
        end: bool | None,
        blocks: list[torch.Tensor],
    ) -> list[torch.Tensor | None]:
        """All copies, each in memory as ``checked`` has it for outputs, which joins ``blocks``."""
        out: list[torch.Tensor | None] = []
        for k, packed in enumerate(self.plan.packed):
            block = torch.empty(before + packed.bytes + after, dtype=torch.uint8, device="cpu")
            block.fill_(0xFF)
            blocks.append(poison(block) if end is None else guarded(poison(block), end))
            out.append(blocks[-1][before : before + packed.bytes])
            self.pack(k, tensors, blocks[-1][before:], sizes)
        return out

    def pack(
        self,
        position: int,
        tensors: Sequence[torch.Tensor],
        memory: torch.Tensor,
        sizes: Mapping[str, int],
    ) -> None:
        """Packs an input into memory that has the bytes of the plan's copy at a position."""
        if self._pack is None:
            raise KernelFailed("the kernel packs nothing", str(self.path))
        pointers = [
            tensors[n] if kind == "input" else memory if (kind, n) == ("packed", position) else NULL
            for kind, n in self.plan.buffers
        ]
        launch(self._pack, pointers, self._ints(sizes))

    def packed_call(
        self, tensors: Sequence[torch.Tensor]
    ) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
        """A call whose inputs stay packed as they are now, for measuring what that is worth."""
        sizes = self.plan.sizes(tensors) if self.plan.symbols else {}
        copies = [Copy(memory(p.bytes)) for p in self.plan.packed]
        for k, copy in enumerate(copies):
            self.pack(k, tensors, copy.memory, sizes)

        def call(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            outputs = self._empty(self._shapes or self._output_shapes(sizes))
            for copy in copies:
                copy.turn += 1
            self._call(tensors, outputs, sizes, self._scratch(sizes), copies)
            return outputs

        return call

    def run(
        self,
        tensors: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
    ) -> None:
        """Runs the program into given outputs, dense in the order that the plan gives."""
        scratch = self._scratch(sizes)
        if not self.packs:
            self._call(tensors, outputs, sizes, scratch, [None] * len(self.plan.packed))
            return
        copies = self._copies(tensors, sizes)
        try:
            self._call(tensors, outputs, sizes, scratch, copies)
        except StaleCopy:  # nothing was stored yet
            for copy in copies:
                if copy is not None:
                    PACKS.stale(copy)
            self._call(tensors, outputs, sizes, scratch, [None] * len(copies))

    def _copies(
        self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]
    ) -> list[Copy | None]:
        """The copies that there are of the inputs."""
        return [
            PACKS.given(
                tensors[p.input],
                p.layout,
                p.bytes,
                self.pack_memory,
                partial(self.pack, k, tensors, sizes=sizes),
            )
            for k, p in enumerate(self.plan.packed)
        ]

    def _call(
        self,
        tensors: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
        scratch: Sequence[torch.Tensor],
        copies: Sequence[torch.Tensor | Copy | None],
        *,
        on_pattern: bool = False,
    ) -> None:
        """One call of the entry; scratch: its blocks; on_pattern: see ``launch``."""
        pools: dict[str, Sequence[HasPointer]] = {
            "input": tensors,
            "output": outputs,
            "scratch": scratch,
            "packed": [NULL if c is None else c for c in copies],
        }
        ints = self._ints(sizes)
        ints += [c.turn if isinstance(c, Copy) else 0 for c in copies]
        pointers = [pools[kind][n] for kind, n in self.plan.buffers]
        launch(self._entry, pointers, ints, on_pattern=on_pattern)

    def _ints(self, sizes: Mapping[str, int]) -> list[int]:
        ints = [sizes[symbol[0]] for symbol in self.plan.symbols]
        return [*ints, thread_count(self.threads)]

    def ways(self, tensors: Sequence[torch.Tensor]) -> dict[str, Callable[[], Any]]:
        """For measurements, of a program without symbols: the ways into it, as calls without arguments."""
        outputs, ints = (
            self._empty(self._output_shapes({})),
            [*self._ints({}), *[0] * len(self.plan.packed)],
        )
        pools: dict[str, Sequence[HasPointer]] = {
            "input": tensors,
            "output": outputs,
            "scratch": self._scratch({}),
        }
        pools["packed"] = [NULL] * len(self.plan.packed)
        pointers = [pools[kind][n] for kind, n in self.plan.buffers]
        inputs = list(tensors)
        return {
            "entry": prepared(self._entry, pointers, ints),
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
