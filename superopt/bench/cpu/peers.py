"""The peers of the suite as rows: how each prepares a program in the setting that is best for it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from superopt.bench.peers import Installed
from superopt.bench.results import OURS
from superopt.bench.workload import Params, Workload
from superopt.errors import BadOption, SuperoptError, closest
from superopt.options import Options

FLOAT_TYPES = (torch.float32, torch.bfloat16)


class Skipped(Exception):
    """A peer that does not take a case; the reason is the message."""


@dataclass(frozen=True)
class Task:
    """What a peer is given: a row with its sizes and dtype, its inputs, and the number of threads.

    options: those of superopt, which only it reads.
    """

    workload: Workload
    params: Params
    dtype: torch.dtype
    args: tuple[Tensor, ...]
    threads: int
    options: Options = field(default_factory=Options)

    @property
    def constants(self) -> tuple[bool, ...]:
        """For each input, whether it stays the same from call to call."""
        return tuple(s.constant for s in self.workload.specs(self.params))


@dataclass(frozen=True)
class Prepared:
    """What a peer made of a task.

    runs: what is timed, by the name its row gets; outputs: the tensors of what a run gave; checked:
    False if the outputs cannot be held against the reference; info: what else is worth keeping.
    """

    runs: Mapping[str, Callable[[], Any]]
    outputs: Callable[[Any], tuple[Tensor, ...]]
    checked: bool = True
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rival(Installed):
    """A peer that gets a process of its own.

    prepare: may raise Skipped for what it does not take, and anything where it fails; rows: the names
    of what it times; environment: variables of its process, with {threads} filled in; only: the
    workloads it takes (empty: all); found_at: module:NAME of one that is not in the table.
    """

    prepare: Callable[[Task], Prepared]
    rows: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = FLOAT_TYPES
    environment: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    found_at: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The peers that its rows name: itself, unless it times more than one thing."""
        return self.rows or (self.name,)

    def takes(self, workload: str) -> bool:
        """Whether a workload is one of those that it is made for."""
        return not self.only or workload in self.only

    def unfit(self, dtype: torch.dtype) -> str:
        """Why it is not run on a case, or "" when it is."""
        if dtype not in self.dtypes:
            return f"takes no {dtype} inputs here"
        return self.missing()


def tensors(value: Any) -> tuple[Tensor, ...]:
    """A program's output as a tuple of tensors."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


def fastest(made: Mapping[str, Prepared], runs: int = 7) -> Prepared:
    """The one of some forms of one program whose single run takes least here; its name is in info."""

    def seconds(one: Prepared) -> float:
        (run,) = one.runs.values()
        times = []
        for _ in range(runs + 1):
            t0 = time.perf_counter()
            run()
            times.append(time.perf_counter() - t0)
        return min(times[1:])

    best = min(made, key=lambda name: seconds(made[name]))
    return replace(made[best], info={**made[best].info, "form": best})


class Held(torch.nn.Module):
    """A program as a module whose parameters are the constants: ``forward`` takes the other inputs."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.fn, self.held = task.workload.reference, task.constants
        for k, (arg, constant) in enumerate(zip(task.args, self.held, strict=True)):
            if constant and arg.is_floating_point():
                self.register_parameter(f"c{k}", torch.nn.Parameter(arg, requires_grad=False))
            elif constant:
                self.register_buffer(f"c{k}", arg)
        self.free = tuple(a for a, c in zip(task.args, self.held, strict=True) if not c)

    def forward(self, *args: Tensor) -> Any:
        """The program's outputs."""
        rest = iter(args)
        return self.fn(
            *(getattr(self, f"c{k}") if c else next(rest) for k, c in enumerate(self.held))
        )


def _eager(task: Task) -> Prepared:
    fn, args = task.workload.reference, task.args
    return Prepared({"eager": lambda: fn(*args)}, tensors)


def _inductor(task: Task) -> Prepared:
    """torch.compile by itself: all tensors are arguments."""
    call = torch.compile(task.workload.reference, dynamic=False, fullgraph=True)
    return Prepared({"inductor": lambda: call(*task.args)}, tensors)


def _max_autotune(task: Task) -> Prepared:
    """torch.compile that chooses kernels by timing them, with weights frozen and packed ahead."""
    setattr(importlib.import_module("torch._inductor.config"), "freezing", True)  # noqa: B010
    module = Held(task).eval()
    call = torch.compile(module, dynamic=False, fullgraph=True, mode="max-autotune-no-cudagraphs")
    free = module.free
    return Prepared({"inductor-max-autotune": lambda: call(*free)}, tensors)


def _superopt(task: Task) -> Prepared:
    """What a user gets: the generated kernels alone, and the decorated function."""
    from superopt.api import Optimized

    optimized = Optimized(task.workload.reference, task.options)
    try:
        result = optimized.result(*task.args)
    except SuperoptError as error:
        raise RuntimeError(f"nothing was generated: {error}") from error
    info = {
        "winner": result.winner,
        "states": result.states,
        "pieces": len(result.pieces),
        "boundaries": [f"{b.op}: {b.reason}" for b in result.boundaries],
        **{k: result.timings.get(k) for k in ("search_s", "verify_s", "compile_s")},
        "kernels": result.cache,
    }
    args = task.args
    runs = {OURS: lambda: result.generated(*args), f"{OURS}.call": lambda: optimized(*args)}
    return Prepared(runs, tensors, info=info)


def _later(module: str) -> Callable[[Task], Prepared]:
    """The ``prepare`` of a module that is imported when it is needed."""

    def prepare(task: Task) -> Prepared:
        made: Prepared = importlib.import_module(f"superopt.bench.cpu.{module}").prepare(task)
        return made

    return prepare


RIVALS: tuple[Rival, ...] = (
    Rival(OURS, (), "superopt-compiler", _superopt, (OURS, f"{OURS}.call")),
    Rival("eager", (), "torch", _eager),
    Rival("inductor", (), "torch", _inductor),
    Rival("inductor-max-autotune", (), "torch", _max_autotune),
    Rival(
        "onnxruntime",
        ("onnxruntime", "onnx", "onnxscript"),
        "onnxruntime",
        _later("onnx_peer"),
    ),
    Rival("openvino", ("openvino",), "openvino", _later("openvino_peer")),
    Rival(
        "jax",
        ("jax",),
        "jax",
        _later("jax_peer"),
        environment={"JAX_PLATFORMS": "cpu", "NPROC": "{threads}"},
    ),
    Rival(
        "llama.cpp",
        ("llama_cpp", "gguf"),
        "llama-cpp-python",
        _later("llama_peer"),
        only=("llama-3.2-1b.layer",),
    ),
)


def rival(name: str) -> Rival:
    """The peer of this name, or the one at ``module:NAME``; BadOption if there is none."""
    for r in RIVALS:
        if r.name == name:
            return r
    module, _, attribute = name.partition(":")
    if attribute:
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise BadOption(
                f"no peer {name!r}: {error}", "option --peers", "give module:NAME of a Rival"
            ) from error
        if isinstance(found, Rival):
            return replace(found, found_at=name)
    raise BadOption(f"no peer {name!r}", "option --peers", closest(name, names()))


def names() -> Sequence[str]:
    """Of all peers, in the order of the tables."""
    return [r.name for r in RIVALS]
