"""The numeric gate: a compiled kernel must be as accurate as eager PyTorch at the same precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from superopt.errors import IndexOutside, KernelDied, KernelFailed
from superopt.mugraph.dtypes import DTYPES, compute_dtype, from_torch
from superopt.verify.inputs import ALIKE, CLASSES, INFINITE, Inputs

Kernel = Callable[[Sequence[torch.Tensor]], object]
"""The candidate: takes the list of inputs, gives a tensor or a sequence of tensors."""

FACTOR = 2.0
"""How much larger than eager's the candidate's error may be."""

NOISE = 8.0
"""The same factor where eager's error is larger than the answer, and so a random number."""

ROUNDINGS = 128.0
"""Units roundoff of the accumulation type, relative to a row's largest element, that are free.

A kernel that adds n products one after the other is off by up to about the square root of n units
(measured: 60 at n = 4096), and one that adds in blocks, as eager does, by a tenth of that.
"""

BIASED = 1024.0
"""The same where all addends are alike: their roundings may go one way, and add up like n.

It is what a contraction needs that adds products one after the other in single precision (measured:
400 at n = 4096). A variance whose mean is off by 5 units is beyond it.
"""

DRAWS = 5
"""Draws of a class, of which the median decides where the first would refuse the candidate."""

KEPT = 1 << 24
"""Elements of outputs up to which eager's and the reference's are kept per input class."""

Known = dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]]
"""Input class -> the outputs of eager PyTorch and of the float64 reference."""

SENSITIVITY = 4.0
"""Multiples, that are free, of the change that a relative input change of one unit makes."""


@dataclass(frozen=True)
class ClassResult:
    """One input class: errors against float64, normalized per row; ``limit`` is what was allowed.

    max_abs: the largest absolute error of the candidate; reason: empty when it passed. All this is
    of the output ``what``, which came closest to its limit; eager_of: eager's error on every output
    (of integers and truth values, the share of elements that differ from the reference).
    """

    name: str
    candidate: float
    eager: float
    limit: float
    max_abs: float
    passed: bool
    reason: str
    eager_of: tuple[float, ...] = ()
    what: str = ""

    @property
    def noisy(self) -> bool:
        """Whether it failed by the size of its error alone."""
        return not self.passed and self.candidate > self.limit


@dataclass(frozen=True)
class Gate:
    """The verdict over all classes; ``factor`` is the recorded one, ``reason`` the first failure."""

    passed: bool
    factor: float
    classes: tuple[ClassResult, ...]
    reason: str

    def __bool__(self) -> bool:
        return self.passed


def joined(gates: Sequence[Gate]) -> Gate | None:
    """The verdict over programs that serve different sizes; None when there is none."""
    if not gates:
        return None
    reason = next((g.reason for g in gates if g.reason), "")
    classes = tuple(c for g in gates for c in g.classes)
    return Gate(all(g.passed for g in gates), gates[0].factor, classes, reason)


def numeric_gate(
    candidate: Kernel,
    eager: Callable[..., object],
    inputs: Sequence[torch.Tensor],
    *,
    reference: Callable[..., object] | None = None,
    seed: int = 0,
    factor: float = FACTOR,
    classes: Sequence[str] = tuple(CLASSES),
    make_inputs: Callable[[str, torch.Generator], Sequence[torch.Tensor]] | None = None,
    known: Known | None = None,
    polynomial: bool = False,
) -> Gate:
    """Runs the candidate on every input class and compares it with eager and with float64.

    candidate: called with the list of inputs (outputs should be NaN-filled beforehand: the
    caller's duty); eager: called with the inputs as arguments; inputs: the caller's own, the first
    class ("given") and the model of sizes, strides and dtypes of the others; reference: called
    with float64 inputs, defaults to ``eager``; make_inputs: makes a class's inputs instead; known:
    a dict kept between the candidates of one program, seed and inputs, so that eager and the
    reference run once for all of them; polynomial: whether the program is one.

    What passes (design section 6.2). The error of a row (the last dim of an output) is its largest
    absolute error over its largest reference magnitude, that of an output the largest of its rows:
    an element far below its row's scale is not held to its own scale, since eager does not meet
    that either. What is within the smallest normal number of the compute type is no error: the
    processors' dot products of 16-bit numbers flush subnormal ones. With E the error of eager and
    S the change of the float64 result when each input is changed by one unit roundoff of the
    compute type,

        error <= factor * E + 4 S + 128 units of the compute type + 2 units of the output type

    with 1024 units in place of 128 in the classes of nearly equal values. The factor is 8 where E is
    above 1: there eager's answer is rounding noise, and has no digit. (Those classes are left out
    where an input is double: the reference is too.)
    Where that fails, the median of several draws of the class decides.
    S makes the test fair where the problem is ill-conditioned (eager's error there is a random
    number, which may be small by luck), and keeps it strict where only the algorithm is: a
    variance as E[x^2] - E[x]^2 or an exp without its maximum has a large error and a small S.
    Non-finite elements must be those of eager or of float64; NaN in both asks for NaN. What is finite
    in float64 alone may be infinite, of either sign, or NaN: so is eager's, by its order. On infinite
    inputs an infinity will do for it, and NaN for an infinity where the program is a polynomial:
    which infinite terms meet in a sum depends on its order, so (x a) b and x (a b) differ there.
    Integers and truth values must equal eager's or float64's.
    Raises KernelDied, on the first class, where a candidate in a process of its own ended or hung.
    """
    generator = torch.Generator().manual_seed(seed)
    source = Inputs(inputs, generator)
    exact = reference or eager
    run = _Runs(candidate, eager, exact, source.wide, factor, seed, polynomial)
    results: list[ClassResult] = []
    with torch.no_grad():
        for name in ("given", *classes):
            if name in ALIKE and any(x.dtype == torch.float64 for x in inputs):
                continue  # the reference is no more precise: where the answer is 0, it is noise
            if make_inputs is not None and name != "given":
                found = run.outputs(name, list(make_inputs(name, generator)), known)
                results.append(_worst(name, found))
                continue
            for label, tensors in source.of_class(name):
                found = run.outputs(label, tensors, known)
                if any(r.noisy for r in found):
                    found = _over_draws(run, found, source, label, seed)
                results.append(_worst(label, found))
    failed = next((r for r in results if not r.passed), None)
    reason = "" if failed is None else f"on inputs of class {failed.name!r}: {failed.reason}"
    return Gate(failed is None, factor, tuple(results), reason)


def _over_draws(
    run: _Runs, found: list[ClassResult], source: Inputs, label: str, seed: int
) -> list[ClassResult]:
    """What was refused by its error alone, over more draws of the class: the median decides.

    The errors of small programs are those of a few elements, and eager's may be small by luck.
    """
    draws = [found]
    for k in range(1, DRAWS):
        generator = torch.Generator().manual_seed(seed + k)
        draws.append(run.outputs(label, source.redrawn(label, generator), None))
    out = []
    for same in zip(*draws, strict=False):
        wrong = next((r for r in same if not r.passed and not r.noisy), None)
        ranked = sorted(same, key=lambda r: r.candidate / r.limit if r.limit else 0.0)
        out.append(wrong or ranked[len(ranked) // 2])
    return out


def _worst(name: str, found: Sequence[ClassResult]) -> ClassResult:
    """One result of a class: the first output that failed, or else the one closest to its limit."""
    worst = next((r for r in found if not r.passed), None)
    if worst is None:
        passed = ClassResult(name, 0.0, 0.0, 0.0, 0.0, True, "")
        worst = max(found, key=lambda r: (r.limit > 0, r.candidate - r.limit), default=passed)
    return replace(worst, eager_of=tuple(r.eager for r in found))


@dataclass(frozen=True)
class _Runs:
    """Runs the candidate, eager and the reference on one set of inputs after another."""

    candidate: Kernel
    eager: Callable[..., object]
    exact: Callable[..., object]
    wide: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
    factor: float
    seed: int
    polynomial: bool = False

    def outputs(
        self, name: str, tensors: list[torch.Tensor], known: Known | None
    ) -> list[ClassResult]:
        """A result for each output, or one for all where the candidate is no kernel of this form."""
        before = [x.clone() if x.numel() < 1 << 16 else None for x in tensors]
        try:
            mine = _outputs(self.candidate(tensors))
        except IndexOutside:  # an index that is computed from these values
            same = self._no_answer(tensors)
            reason = (
                "" if same else "the kernel meets an index outside of its axis, PyTorch does not"
            )
            return [ClassResult(name, 0, 0, 0, 0, same, reason)]
        except KernelDied as error:  # every class would end so, or take as long
            raise KernelDied(error.what, f"on inputs of class {name!r}") from None
        except KernelFailed as error:  # it wrote beside an output, or had no memory
            return [ClassResult(name, 0, 0, 0, 0, False, error.what)]
        if any(b is not None and not _same(b, x) for b, x in zip(before, tensors, strict=True)):
            return [ClassResult(name, 0, 0, 0, 0, False, "it wrote to an input")]
        pair = known.get(name) if known is not None else None
        if pair is None:
            pair = _outputs(self.eager(*tensors)), _outputs(self.exact(*self.wide(tensors)))
            if known is not None and sum(x.numel() for x in pair[1]) <= KEPT:
                # Copies: an output may be an input, whose memory serves the next class.
                known[name] = [t.clone() for t in pair[0]], [t.clone() for t in pair[1]]
        theirs, right = pair
        if not len(mine) == len(theirs) == len(right):
            reason = f"{len(mine)} outputs against {len(theirs)}"
            return [ClassResult(name, 0, 0, 0, 0, False, reason)]

        @cache
        def nudged() -> list[torch.Tensor]:
            generator = torch.Generator().manual_seed(self.seed)
            return _outputs(self.exact(*(_nudge(x, generator) for x in tensors)))

        if name in INFINITE:
            mine = [
                _forgiven(y, e, r, self.polynomial)
                for y, e, r in zip(mine, theirs, right, strict=True)
            ]
        return [
            _compare(name, f"output {k}", y, e, r, partial(_pick, nudged, k), self.factor)
            for k, (y, e, r) in enumerate(zip(mine, theirs, right, strict=True))
        ]

    def _no_answer(self, tensors: list[torch.Tensor]) -> bool:
        """Whether eager PyTorch, or the program in float64, raises for an index as well."""
        for run, given in ((self.eager, tensors), (self.exact, self.wide(tensors))):
            try:
                run(*given)
            except (IndexError, RuntimeError):
                return True
        return False


def _forgiven(y: torch.Tensor, e: torch.Tensor, r: torch.Tensor, polynomial: bool) -> torch.Tensor:
    """A result on infinite inputs, with eager's value where it has another non-finite one."""
    if y.shape != e.shape or not (y.is_floating_point() and e.is_floating_point()):
        return y
    both = e.isnan() & r.isnan() & y.isinf()
    if polynomial:
        both |= y.isnan() & ~(e.isfinite() | r.isfinite())
    return torch.where(both, e.to(y.dtype), y)


def _compare(
    name: str,
    what: str,
    y: torch.Tensor,
    e: torch.Tensor,
    r: torch.Tensor,
    nudged: Callable[[], torch.Tensor],
    factor: float,
) -> ClassResult:
    def fail(reason: str) -> ClassResult:
        return ClassResult(name, 0, 0, 0, 0, False, f"{what}: {reason}")

    if y.shape != e.shape or y.dtype != e.dtype:
        return fail(f"{tuple(y.shape)} {y.dtype} against {tuple(e.shape)} {e.dtype}")
    if not e.is_floating_point():
        apart = e != r.to(e.dtype)
        if wrong := int(((y != e) & (y != r.to(e.dtype))).sum()):
            return fail(f"{wrong} elements differ")
        share = float(apart.double().mean()) if apart.numel() else 0.0
        return ClassResult(name, 0, share, 0, 0, True, "")
    if not y.numel():
        return ClassResult(name, 0, 0, 0, 0, True, "")
    dtype = from_torch(e.dtype).name
    largest, tiny = torch.finfo(e.dtype).max, torch.finfo(e.dtype).tiny
    y, e, r = (_rows(x.double()) for x in (y, e, r))
    beyond = (r.abs() > largest) & r.isfinite()  # infinite in the output's type
    r = torch.where(beyond, torch.copysign(torch.full_like(r, float("inf")), r), r)
    y = torch.where(beyond & ~y.isfinite(), r, y)  # its terms may be so too, and meet as NaN
    if wrong := int((_kind(y) != _kind(e)).logical_and(_kind(y) != _kind(r)).sum()):
        return fail(f"{wrong} elements are NaN, infinite or finite where eager's are not")
    if missing := int((r.isnan() & e.isnan() & ~y.isnan()).sum()):
        return fail(f"{missing} elements are not NaN where eager's are")
    finite = r.isfinite() & y.isfinite()
    scale = torch.where(r.isfinite(), r.abs(), 0.0).amax(-1, keepdim=True).clamp_min(tiny)

    compute = DTYPES[compute_dtype(dtype)]
    unit, smallest = compute.ulp, torch.finfo(compute.torch).tiny

    def error(x: torch.Tensor) -> float:
        both = finite & x.isfinite()
        off = ((x - r).abs() - smallest).clamp_min(0.0)
        return float((torch.where(both, off, 0.0) / scale).max())

    mine, theirs = error(y), error(e)
    factor = factor if theirs <= 1.0 else max(factor, NOISE)
    free = BIASED if name in ALIKE else ROUNDINGS
    limit = factor * theirs + free * unit + 2 * DTYPES[dtype].ulp
    if mine > limit:  # how ill-conditioned the problem is there matters only now
        limit += SENSITIVITY * error(_rows(nudged().double()))
    max_abs = float(torch.where(finite, (y - r).abs(), 0.0).max())
    passed = mine <= limit
    reason = "" if passed else _beyond(what, mine, limit, theirs)
    return ClassResult(name, mine, theirs, limit, max_abs, passed, reason, what=what)


def _beyond(what: str, mine: float, limit: float, theirs: float) -> str:
    return f"{what}: the error {mine:.3g} is beyond {limit:.3g} (eager's error is {theirs:.3g})"


def _pick(values: Callable[[], list[torch.Tensor]], k: int) -> torch.Tensor:
    return values()[k]


def _outputs(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return list(value)  # type: ignore[call-overload]


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Two dims: rows are the last dim; a vector is one row."""
    return x.reshape(-1, x.shape[-1]) if x.dim() > 1 else x.reshape(1, -1)


def _kind(x: torch.Tensor) -> torch.Tensor:
    """0 finite, 1 and 2 infinite, 3 NaN."""
    return torch.where(x.isnan(), 3, torch.where(x.isinf(), torch.where(x > 0, 1, 2), 0))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | (a != a) & (b != b)).all())


def _nudge(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The input in float64, changed by one unit roundoff of the compute type, up or down."""
    if not x.is_floating_point():
        return x
    unit = DTYPES[compute_dtype(from_torch(x.dtype).name)].ulp
    sign = torch.randint(0, 2, x.shape, generator=generator, dtype=torch.int8) * 2 - 1
    if x.dtype == torch.float64:  # 1 + unit is 1
        return x + x * unit * sign
    return x.double() * (1 + unit * sign)
