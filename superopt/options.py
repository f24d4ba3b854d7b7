"""What a caller asks of superopt: target, budget, precision, dynamic sizes and fallbacks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from superopt.errors import BadOption, closest

# Instruction sets of a CPU target; runtime/build.py holds the compiler flags of each.
CPU_ISAS = ("native", "generic", "avx2", "avx512", "avx512bf16", "amx", "neon", "sve")
PRECISIONS = ("default", "eager")
FALLBACKS = ("eager", "inductor")
_HINTS = ("auto", "dynamic", "static")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str) -> int:
    """A size in bytes, with an optional binary unit: ``800M``, ``4G``, ``4GiB``."""
    word = text.strip().upper().removesuffix("B").removesuffix("I")
    digits = word.rstrip("KMGT")
    unit = word[len(digits) :]
    try:
        size = float(digits) if unit in _UNITS else math.nan
    except ValueError:
        size = math.nan
    if math.isnan(size):
        raise ValueError("expected a size such as 800M or 4G")
    if not 0 <= size < 1 << 50:
        raise ValueError("expected a size that is not negative, such as 800M or 4G")
    if not unit and size != int(size):
        raise ValueError("expected a whole number of bytes, or a size such as 1.5G")
    return int(size * _UNITS[unit])


def parse_memory(text: str) -> int:
    """A size in bytes above zero; ValueError otherwise."""
    size = parse_bytes(text)
    if size < 1:
        raise ValueError("expected a size above zero, such as 800M or 4G")
    return size


def parse_workers(text: str) -> str:
    """A number of processes above zero, ``ray`` or ``ray:ADDRESS``; ValueError otherwise."""
    word = text.strip()
    if word == "ray" or (word.startswith("ray:") and len(word) > 4) or word.isdecimal():
        if word.isdecimal() and not 0 < int(word) <= 4096:
            raise ValueError("expected 1 to 4096 processes")
        return word
    raise ValueError("expected a number of processes, ray or ray:ADDRESS")


@dataclass(frozen=True)
class Target:
    """A machine to generate code for: ``cpu:isa``, ``cuda:sm_NN[a]`` or ``triton:sm_NN[a]``."""

    kind: str
    arch: str

    @classmethod
    def parse(cls, text: str | Target) -> Target:
        """Read ``cpu``, ``cpu:avx512``, ``cuda:sm_90a``, ``triton:sm_80``; BadOption otherwise."""
        if isinstance(text, Target):
            return text
        if not isinstance(text, str):
            raise _bad("target", text, "give a text such as 'cpu' or 'cuda:sm_90a'")
        kind, _, arch = text.partition(":")
        if kind == "cpu":
            arch = arch or "native"
            if arch not in CPU_ISAS:
                raise _bad("target", text, closest(arch, CPU_ISAS))
            return cls(kind, arch)
        if kind in ("cuda", "triton"):
            if not re.fullmatch(r"sm_[1-9]\d{1,2}[af]?", arch):
                raise _bad("target", text, f"name the architecture, such as '{kind}:sm_90a'")
            return cls(kind, arch)
        raise _bad("target", text, closest(kind, ("cpu", "cuda", "triton")))

    @property
    def device_type(self) -> str:
        """The torch device type whose tensors the kernels take: ``cpu`` or ``cuda``."""
        return "cpu" if self.kind == "cpu" else "cuda"

    def __str__(self) -> str:
        return f"{self.kind}:{self.arch}"


@dataclass(frozen=True)
class Budget:
    """How much a search may spend: seconds, candidates, or whichever of both ends first.

    Candidates are the term graphs that are cut into kernels; with so many, the terms of a region are
    bounded too. Only then does a search find the same on every machine. Which of what it found is
    kept is measured in any case.
    """

    seconds: float | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        given: list[Any] = [x for x in (self.seconds, self.candidates) if x is not None]
        if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in given):
            raise _bad("budget", self, "give numbers of seconds or candidates")
        if not given or not all(0 < x < math.inf for x in given):
            raise _bad("budget", self, "give a budget above zero, and an end to it")
        if self.candidates is not None and self.candidates != int(self.candidates):
            raise _bad("budget", self, "give a whole number of candidates")

    @classmethod
    def parse(cls, text: str | float | Budget) -> Budget:
        """Read ``30s``, ``2m``, ``10000c``, ``30s,10000c`` or a number of seconds."""
        if isinstance(text, Budget):
            return text
        fix = "give seconds or candidates, such as '30s', '10000c' or '30s,10000c'"
        if isinstance(text, (int, float)) and not isinstance(text, bool):
            text = f"{float(text)!r}s"
        if not isinstance(text, str):
            raise _bad("budget", text, fix)
        found: dict[str, float] = {}
        for part in text.replace(" ", "").split(","):
            match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(s|m|c)", part)
            if match is None:
                raise _bad("budget", text, fix)
            amount, unit = float(match[1]), match[2]
            name = "candidates" if unit == "c" else "seconds"
            if name in found or (unit == "c" and amount != int(amount)):
                raise _bad("budget", text, fix)
            found[name] = amount * 60 if unit == "m" else amount
        if not all(0 < x < math.inf for x in found.values()):
            raise _bad("budget", text, "give a budget above zero, and an end to it")
        candidates = found.get("candidates")
        return cls(found.get("seconds"), None if candidates is None else int(candidates))

    def __str__(self) -> str:
        parts = []
        if self.seconds is not None:
            parts.append(f"{self.seconds:g}s")
        if self.candidates is not None:
            parts.append(f"{self.candidates}c")
        return ",".join(parts)


@dataclass(frozen=True)
class DynamicAxis:
    """Dimension ``dim`` of ``argument`` may vary: symbol ``name`` from ``low`` to ``high``.

    ``high`` None means no upper bound. ``hint`` keeps a nameless wish of torch.export: ``auto``,
    ``dynamic`` or ``static``; then ``name`` is empty. ``scale`` and ``offset`` stand for a derived
    size, ``scale * name + offset``; the range is that of ``name``. A range of one value is no wish
    at all (``fixed``): such a size is known when the program is made.
    """

    argument: str
    dim: int
    name: str
    low: int = 0
    high: int | None = None
    hint: str = ""
    scale: int = 1
    offset: int = 0

    @property
    def fixed(self) -> bool:
        """Whether the range holds one size alone."""
        return self.low == self.high and not self.hint


@dataclass(frozen=True)
class Options:
    """The options of ``@superoptimize``, checked. Build them with ``Options.of``."""

    target: Target | None = None
    budget: Budget = Budget(seconds=30.0)
    precision: str = "default"
    dynamic: tuple[DynamicAxis, ...] = ()
    fallbacks: tuple[str, ...] = ("eager",)
    strict: bool = False
    seed: int = 0
    memory: int | None = None
    workers: str | None = None
    checkpoint: str | None = None

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options from what a user wrote; BadOption for an unknown name or an impossible value.

        target: None (where the tensors live) or a text read by ``Target.parse``.
        budget: a text read by ``Budget.parse``.
        precision: ``default`` (accumulate in fp32) or ``eager`` (round where PyTorch rounds).
        dynamic: ``{argument: {dim: Dim or (name, low, high)}}``.
        fallbacks: which compilers of PyTorch may win: ``eager``, ``inductor``.
        strict: raise where superopt would fall back. seed: of every random choice.
        memory: what a search may hold, in bytes or as ``4G`` (default: SUPEROPT_MEMORY).
        workers: who searches: a number of processes, ``ray`` or ``ray:ADDRESS``; the result is the
        same. checkpoint: the file from which the search goes on, and in which it keeps its state;
        one of another search is refused (default: a file in the cache folder).
        """
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise BadOption(f"unknown option {name!r}", "superoptimize", closest(name, known))
        values = dict(given)
        if values.get("target") is not None:
            values["target"] = Target.parse(values["target"])
        if values.get("budget") is None:
            values.pop("budget", None)
        else:
            values["budget"] = Budget.parse(values["budget"])
        if "precision" in values and values["precision"] not in PRECISIONS:
            raise _bad("precision", values["precision"], f"one of {', '.join(PRECISIONS)}")
        if "dynamic" in values:
            values["dynamic"] = _dynamic(values["dynamic"])
        if "fallbacks" in values:
            values["fallbacks"] = _fallbacks(values["fallbacks"])
        if not isinstance(values.get("strict", False), bool):
            raise _bad("strict", values["strict"], "give True or False")
        seed = values.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise _bad("seed", seed, "give an integer from 0 to 2**63 - 1")
        for name, parse in (("memory", parse_memory), ("workers", parse_workers)):
            if values.get(name) is not None:
                try:
                    values[name] = parse(str(values[name]))
                except ValueError as error:
                    raise _bad(name, values[name], str(error)) from error
        if values.get("checkpoint") is not None:
            if not str(values["checkpoint"]):
                raise _bad("checkpoint", values["checkpoint"], "name a file")
            values["checkpoint"] = str(values["checkpoint"])
        return cls(**values)

    def key(self) -> dict[str, Any]:
        """The parts that change which kernel is right or best, for a cache key (plain JSON)."""
        return {
            "target": None if self.target is None else str(self.target),
            "budget": str(self.budget),
            "precision": self.precision,
            "dynamic": [[getattr(a, f.name) for f in fields(a)] for a in self.dynamic],
            "fallbacks": list(self.fallbacks),
            "seed": self.seed,
        }

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """The same wishes as torch.export takes them, ``{argument: {dim: Dim}}``."""
        from torch.export import Dim

        symbols: dict[str, Any] = {}
        shapes: dict[str, dict[int, Any]] = {}
        for axis in self.dynamic:
            if axis.fixed:
                size: Any = None
            elif axis.hint:
                size = getattr(Dim, axis.hint.upper())
                if axis.low or axis.high is not None:
                    size = size(min=axis.low, max=axis.high)
            else:
                if axis.name not in symbols:
                    symbols[axis.name] = Dim(axis.name, min=axis.low, max=axis.high)
                size = symbols[axis.name]
                if axis.scale != 1:
                    size = axis.scale * size
                if axis.offset:
                    size = size + axis.offset
            shapes.setdefault(axis.argument, {})[axis.dim] = size
        return shapes


def _bad(name: str, value: object, fix: str) -> BadOption:
    return BadOption(f"{name}={value!r} makes no sense", f"option {name}", fix)


def _fallbacks(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, (tuple, list)):
        raise _bad("fallbacks", given, "give a tuple, such as ('eager',) or ('eager', 'inductor')")
    for name in given:
        if name not in FALLBACKS:
            raise _bad("fallbacks", given, closest(str(name), FALLBACKS))
    return tuple(dict.fromkeys(given))


def _dynamic(given: Any) -> tuple[DynamicAxis, ...]:
    fix = "give {'x': {0: Dim('tokens', min=1, max=4096)}}"
    if given is None:
        return ()
    if isinstance(given, tuple) and all(isinstance(a, DynamicAxis) for a in given):
        return cast("tuple[DynamicAxis, ...]", given)
    if not isinstance(given, Mapping):
        raise _bad("dynamic", given, fix)
    axes: list[DynamicAxis] = []
    for argument, dims in given.items():
        if not isinstance(argument, str) or not isinstance(dims, Mapping):
            raise _bad("dynamic", given, fix)
        for dim, size in dims.items():
            if isinstance(dim, bool) or not isinstance(dim, int):
                raise _bad("dynamic", given, fix)
            if dim < 0:
                raise _bad("dynamic", given, "count the dimensions from 0")
            if size is not None:
                axes.append(_dynamic_axis(argument, dim, size, given, fix))
    ranges: dict[str, tuple[int, int | None]] = {}
    for axis in axes:
        known = ranges.setdefault(axis.name, (axis.low, axis.high))
        if axis.name and known != (axis.low, axis.high):
            raise _bad("dynamic", given, f"give {axis.name!r} the same range everywhere")
    return tuple(sorted(axes, key=lambda a: (a.argument, a.dim)))


def _dynamic_axis(argument: str, dim: int, size: Any, given: Any, fix: str) -> DynamicAxis:
    """One wish, as a torch.export Dim, one derived from it, a hint, or ``(name, low, high)``."""
    hint = getattr(getattr(size, "type", None), "name", "").lower()
    if hint in _HINTS:
        low, high = getattr(size, "min", None), getattr(size, "max", None)
        return DynamicAxis(argument, dim, "", low or 0, high, hint)
    scale, offset = 1, 0
    if (root := getattr(size, "root", None)) is not None and callable(getattr(size, "fn", None)):
        # A derived Dim is affine in its root, so two points give both numbers.
        offset = int(size.fn(0))
        scale = int(size.fn(1)) - offset
        size = root
    if isinstance(size, (tuple, list)) and len(size) == 3:
        name, low, high = size
    else:
        name = getattr(size, "__name__", None)
        low, high = getattr(size, "min", None), getattr(size, "max", None)
    if low is None:
        low = 0
    if high is not None and not isinstance(high, int):
        high = None  # torch.export's "no bound" is a symbolic infinity
    if not isinstance(name, str) or not name.isidentifier() or not isinstance(low, int):
        raise _bad("dynamic", given, fix)
    if low < 0 or (high is not None and high < low):
        raise _bad("dynamic", given, f"give {name!r} a range whose low end is at most its high end")
    return DynamicAxis(argument, dim, name, int(low), high, "", scale, offset)
