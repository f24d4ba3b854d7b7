"""Random programs of the frontend's operators: the graph gives PyTorch's answer.

A program is drawn step by step and computed along the way, in its own dtypes and in float64. Steps
that would make the answer depend on the last bits (a comparison of nearly equal numbers, a division
by almost zero, huge values) are not taken, so that every difference that is seen is an error.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superopt.errors import UnsupportedOperator
from superopt.frontend.capture import capture
from superopt.frontend.partition import partition
from tests.frontend.harness import close, floats
from tests.frontend.operators import FAMILIES, Step

Tensor = torch.Tensor
BASE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
"""Error allowed per unit of the largest value in the program, by the output's dtype."""

LARGEST = 100.0
MARGIN = 0.05
SIZES = (0, 1, 1, 2, 3, 3, 4, 5, 7)


@dataclass
class Made:
    """A drawn program with its inputs; ``scale`` is the largest finite value in it, at least 1."""

    inputs: list[Tensor] = field(default_factory=list)
    layouts: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    scale: float = 1.0

    def __call__(self, *xs: Tensor) -> list[Tensor]:
        return self.run(xs, False)

    def run(self, xs: Sequence[Tensor], wide: bool) -> list[Tensor]:
        values = [x.double() if wide and x.is_floating_point() else x for x in xs]
        for step in self.steps:
            values += step(values, wide)
        return [values[k] for k in self.outputs]

    def __repr__(self) -> str:
        lines = [
            f"x{k}: {x.dtype} {tuple(x.shape)} {self.layouts[k]} strides {x.stride()}"
            for k, x in enumerate(self.inputs)
        ]
        lines += [f"{s.text} of {s.args}" for s in self.steps]
        return "\n" + "\n".join([*lines, f"outputs {self.outputs}"])


class Maker:
    """Draws a program. Inputs come first in the numbering, so all three exist from the start."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.made = Made()
        self.dtype: torch.dtype = self.pick([torch.float32, torch.float32, torch.bfloat16])
        rank = self.pick([0, 1, 2, 2, 3, 3, 4])
        shape = tuple(self.pick(SIZES) for _ in range(rank))
        self.input(shape)
        for _ in range(self.pick([0, 1, 2])):
            self.input(self.relative(shape))
        self.values = list(self.made.inputs)
        self.wide = [x.double() if x.is_floating_point() else x for x in self.values]
        self.exact = [True] * len(self.values)

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def relative(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that meets another: broadcast, its matrix partner, or the weight of its last dim."""
        kind = self.pick(["same", "broadcast", "matrix", "last"])
        if kind == "broadcast":
            cut = shape[self.pick(range(len(shape) + 1)) :]
            return tuple(self.pick([n, n, 1]) for n in cut)
        if kind == "matrix" and shape:
            lead = self.pick([shape[:-2], ()])
            return (*lead, shape[-1], self.pick(SIZES))
        return shape[-1:] if kind == "last" else shape

    def input(self, shape: tuple[int, ...]) -> None:
        layout = self.pick(["contiguous", "contiguous", "permuted", "step", "offset", "expanded"])
        generator = torch.Generator().manual_seed(self.draw(st.integers(0, 1 << 20)))

        def data(sizes: Sequence[int]) -> Tensor:
            # Sixteenths are exact in bfloat16, and often equal.
            x = (torch.randn(tuple(sizes), generator=generator) * 24).round() / 16
            return x.clamp(-4, 4).to(self.dtype)

        if layout == "permuted":
            x = data(shape[::-1]).permute(tuple(range(len(shape)))[::-1])
        elif layout == "step" and shape:
            x = data((*shape[:-1], shape[-1] * 2))[..., ::2]
        elif layout == "offset" and shape:
            x = data((shape[0] + 1, *shape[1:]))[1:]
        elif layout == "expanded" and shape:
            x = data((1, *shape[1:])).expand(shape)
        else:
            layout, x = "contiguous", data(shape)
        special = self.pick([None] * 7 + [math.nan, math.inf])
        if special is not None and layout == "contiguous" and x.numel():
            x.view(-1)[self.pick(range(x.numel()))] = special
        self.made.inputs.append(x)
        self.made.layouts.append(layout)

    def index_input(self, shape: tuple[int, ...], below: int) -> int:
        """The number of an index input; drawn before any step is taken."""
        generator = torch.Generator().manual_seed(self.draw(st.integers(0, 1 << 20)))
        x = torch.randint(below, shape, generator=generator)
        self.made.inputs.append(x)
        self.made.layouts.append("index")
        self.values.append(x)
        self.wide.append(x)
        self.exact.append(True)
        return len(self.values) - 1

    def clear(self, k: int, *at: float) -> bool:
        """Whether no element of a value is near these numbers, or it holds exact elements."""
        x = self.wide[k]
        reach = MARGIN * float(x[torch.isfinite(x)].abs().max()) if torch.isfinite(x).any() else 0.0
        return self.exact[k] or not any(
            bool(((x - c).abs() < max(reach, MARGIN)).any()) for c in at
        )

    def floats(self) -> list[int]:
        return [k for k, v in enumerate(self.values) if v.is_floating_point()]

    def other(self, fits: Callable[[Tensor], bool]) -> int | None:
        """Another float value, of those that fit."""
        found = [k for k in self.floats() if fits(self.values[k])]
        return self.pick(found) if found else None

    def take(self, step: Step | None) -> bool:
        """Adds a step unless it is impossible or ill-conditioned."""
        if step is None:
            return False
        try:
            with warnings.catch_warnings():
                # A variance of one element; such a function is left to PyTorch as a whole.
                warnings.filterwarnings("error", message=".*degrees of freedom")
                new, wide = step(self.values, False), step(self.wide, True)
        except (RuntimeError, IndexError, ValueError, NotImplementedError, UserWarning):
            return False  # these shapes do not fit the operator
        for x in wide:
            finite = x[torch.isfinite(x)] if x.is_floating_point() else x.new_zeros(0)
            if x.numel() > 4096 or (finite.numel() and float(finite.abs().max()) > LARGEST):
                return False
        exact = step.exact and all(self.exact[k] for k in step.args)
        self.made.steps.append(step)
        self.values += new
        self.wide += wide
        self.exact += [exact] * len(new)
        return True

    def finish(self) -> Made:
        """The last values are the outputs, and sometimes an earlier one; none is an input's alias."""
        count = len(self.made.inputs)
        last = len(self.values) - 1
        wanted = {last, *([self.pick(range(count, last + 1))] if last > count else [])}
        owned = {x.untyped_storage().data_ptr() for x in self.made.inputs}
        for k in sorted(wanted):
            if self.values[k].untyped_storage().data_ptr() in owned or k < count:
                self.take(Step("mul 1", lambda x: x * 1, (k,)))
                k = len(self.values) - 1
            self.made.outputs.append(k)
        finite = [x[torch.isfinite(x)].abs() for x in self.wide if x.is_floating_point()]
        self.made.scale = max([1.0, *(float(x.max()) for x in finite if x.numel())])
        return self.made


def draw_program(draw: Callable[..., Any]) -> Made:
    """A program of one to six steps."""
    maker = Maker(draw)
    index = maker.index_input((2, 3), 3) if maker.pick([False] * 5 + [True]) else None
    wanted = maker.pick([1, 2, 3, 3, 4, 5, 6])
    for _ in range(4 * wanted):
        if len(maker.made.steps) == wanted:
            break
        family = FAMILIES["index"] if index is not None and maker.pick([True, False]) else None
        if family is None:
            family = FAMILIES[maker.pick([n for n in FAMILIES if n != "index"])]
        maker.take(family(maker, maker.pick(maker.floats())))
    if not maker.made.steps:
        maker.take(Step("mul 2", lambda x: x * 2, (0,)))
    return maker.finish()


@st.composite
def programs(draw: Callable[..., Any]) -> Made:
    """Programs over one to three inputs."""
    return draw_program(draw)


def try_program(made: Made, seen: Counter[str]) -> None:
    """Every way to run the captured program gives PyTorch's answer."""
    with torch.no_grad():
        want = made(*made.inputs)
        exact = [w.to(v.dtype) for w, v in zip(made.run(made.inputs, True), want, strict=True)]
        try:
            captured = capture(made, tuple(made.inputs))
        except UnsupportedOperator as error:
            # Of no elements, export's stand-ins refuse what PyTorch itself computes.
            assert "cannot capture" in str(error) and not made.inputs[0].numel()
            seen["not captured"] += 1
            return
        program = partition(captured)
        args = tuple(made.inputs)

        def compare(got: list[Tensor], right: list[Tensor], slack: float = 1.0) -> None:
            for x, y in zip(got, right, strict=True):
                close(x, y, BASE.get(y.dtype, 0.0) * made.scale * slack)

        compare(program.run(args, {}, floats(None)), exact)
        compare(program.run(args, {}, floats(torch.float64)), exact)
        compare(program.run(args, {}, lambda p, xs: p.eager(*xs)), want)
        if any(v.dtype == torch.bfloat16 for v in args):
            rounding = partition(captured, "eager")
            compare(rounding.run(args, {}, floats(None)), want, 8.0)
    seen["programs"] += 1
    seen["steps"] += len(made.steps)
    seen["pieces"] += len(program.supported)
    seen["whole"] += not program.boundaries
    seen["16 bits"] += args[0].dtype == torch.bfloat16
    seen["strided"] += any(x not in ("contiguous", "index") for x in made.layouts)
    seen["empty"] += any(x.numel() == 0 for x in args)
    for b in program.boundaries:
        seen[f"boundary {b.op}: {b.reason}"] += 1


def for_programs(count: int, check: Callable[[Made], None]) -> None:
    """Calls ``check`` on as many random programs, the same in every run."""

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def each(made: Made) -> None:
        check(made)

    each()


def _try_many(count: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for_programs(count, lambda made: try_program(made, seen))
    return seen


def _enough(seen: Counter[str], count: int) -> None:
    assert seen["programs"] >= count, seen
    assert seen["steps"] >= 2 * count, seen
    assert seen["whole"] >= count // 2, seen
    assert seen["not captured"] <= count // 50, seen
    for kind in ("16 bits", "strided", "empty"):
        assert seen[kind] >= count // 15, seen


@pytest.mark.filterwarnings("ignore:var")
def test_random_programs() -> None:
    _enough(_try_many(200), 150)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:var")
def test_many_random_programs() -> None:
    _enough(_try_many(4000), 3000)
