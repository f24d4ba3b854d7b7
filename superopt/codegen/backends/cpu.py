"""Prints tile-IR programs as one C++20 function for GCC or Clang, with vectors and OpenMP."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from superopt.codegen.alike import nameless
from superopt.codegen.backends.cpu_isa import Isa
from superopt.codegen.backends.cpu_layout import symbols
from superopt.codegen.backends.cpu_task import Task, size_lines
from superopt.errors import SuperoptError
from superopt.mugraph.axes import Stride
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tileir import Buffer, Program

STACK_BYTES = 64 * 1024
"""Tile buffers of one program up to this size live on the stack, else in a block per thread."""

PARALLEL_WORK = 400_000
"""Points of iteration below which a program is not worth waking other threads for."""

MOST_LINES = 5_000
"""Lines of generated code, headers and comments left out, that a compiler is still given: GCC 12
takes about 3 ms for each, and more where one function holds most of them."""


COMPILE_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-shared",
    "-fwrapv",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-semantic-interposition",
    "-Wno-psabi",
)
"""Flags every generated source is compiled with, beside the compiler's own for OpenMP;
``-fwrapv``: integers wrap as in PyTorch."""


@dataclass(frozen=True, slots=True)
class ScratchSize:
    """Bytes of a scratch buffer: ``bytes`` times the product of the named symbols."""

    bytes: int
    syms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A printed program: ``extern "C" int entry(void** buffers, const int64_t* ints)``.

    buffers: names in the order of the pointers; ints: the size symbols, then "threads";
    scratch: bytes of each scratch buffer; flags: what the compiler must be given.
    """

    text: str
    entry: str
    buffers: tuple[str, ...]
    ints: tuple[str, ...]
    scratch: tuple[tuple[str, ScratchSize], ...]
    flags: tuple[str, ...]


class SourceTooLong(SuperoptError):
    """The C++ of a candidate is so long that compiling it would take minutes; it is dropped."""

    default_fix = "split the function into smaller ones, or leave it to PyTorch"


def emit(
    programs: Sequence[Program], name: str, isa: Isa | None = None, stack_bytes: int = STACK_BYTES
) -> Source:
    """The programs, in order, as one C++ function called ``name``.

    Raises SourceTooLong beyond ``MOST_LINES`` lines of code.
    """
    isa = isa or Isa.host()
    buffers = _global_buffers(programs)
    syms = symbols(programs)
    tasks: dict[Program, Task] = {}
    calls: list[tuple[Program, Task]] = []
    texts: list[str] = []
    lines = 0
    for program in programs:
        key = nameless(program)
        if key in tasks:
            calls.append((program, tasks[key]))
            continue
        tasks[key] = body = Task(program, f"{name}_k{len(tasks)}", isa, syms, stack_bytes)
        calls.append((program, body))
        texts.append(body.text())
        lines += sum(not line.lstrip().startswith("//") for line in texts[-1].splitlines())
        if lines > MOST_LINES:
            raise SourceTooLong(
                f"{lines} lines of C++ where at most {MOST_LINES} are compiled",
                f"kernel {len(calls)} of {len(programs)}, {program.name}",
            )
    text = "\n".join(
        [
            "// Generated code. What each statement does is said above it in the tile IR.",
            header("so_vec.h"),
            header("so_strided.h"),
            header("so_sum.h"),
            header("so_math.h"),
            header("so_tile.h"),
            header("so_dot.h"),
            *([header("so_sums.h")] if any("so_sums<" in t for t in texts) else []),
            *texts,
            *(_range(t, syms) for t in tasks.values()),
            _entry(name, calls, [b.name for b in buffers], syms),
        ]
    )
    scratch = tuple((b.name, _bytes(b)) for b in buffers if b.space == "scratch")
    return Source(
        text,
        name,
        tuple(b.name for b in buffers),
        (*syms, "threads"),
        scratch,
        flags_of(isa),
    )


def flags_of(isa: Isa) -> tuple[str, ...]:
    """What the compiler must be given with a source that was printed for an instruction set."""
    return (*COMPILE_FLAGS, *isa.flags)


@functools.cache
def header(name: str) -> str:
    """The text of a header that is pasted into every source."""
    return (Path(__file__).parent.parent / "headers" / name).read_text()


def _global_buffers(programs: Iterable[Program]) -> tuple[Buffer, ...]:
    """Inputs, outputs and scratch of all programs, each once, in order of first use."""
    seen: dict[str, Buffer] = {}
    for program in programs:
        for b in program.buffers:
            seen.setdefault(b.name, b)
    rank = {"input": 0, "output": 1, "scratch": 2}
    return tuple(sorted(seen.values(), key=lambda b: rank[b.space]))


def _bytes(buffer: Buffer) -> ScratchSize:
    total = Stride(DTYPES[buffer.dtype].bytes)
    for a in buffer.axes:
        total = total.times(a.size)
    return ScratchSize(total.coef, tuple(s.name for s in total.syms))


def _range(t: Task, syms: tuple[str, ...]) -> str:
    """The function that runs a range of a program's tasks on the calling thread."""
    out = [
        f"static int {t.fn}_tasks(void* const* bufs, const int64_t* ints, "
        "int64_t first, int64_t last) {",
        *(f"  {line}" for line in size_lines(syms)),
        *t.memory_lines(),
        *(["  so_wild = 0;"] if t.picks() else []),
        f"  for (int64_t task = first; task < last; ++task) {t.fn}(bufs, ints, task, arena);",
        f"  return {'so_wild' if t.picks() else '0'};",
        "}",
    ]
    return "\n".join(out)


def _entry(
    name: str, calls: list[tuple[Program, Task]], buffers: list[str], syms: tuple[str, ...]
) -> str:
    """The entry: all programs in order, the tasks of each spread over the threads.

    Programs that are alike share a function, which is given the buffers of each in turn.
    """
    out = [
        f'extern "C" int {name}(void** bufs, const int64_t* ints) {{',
        *(f"  {line}" for line in size_lines(syms)),
        f"  [[maybe_unused]] const int64_t threads = ints[{len(syms)}] < 1 ? 1 : ints[{len(syms)}];",
        "  int status = 0;",
    ]
    for program, t in calls:
        count = t.tasks()
        slots = ", ".join(f"bufs[{buffers.index(b.name)}]" for b in program.buffers)
        mine = f"void* const own[] = {{{slots}}};"
        run = f"status |= {t.fn}_tasks(own, ints, "
        if count.value == 1:
            out += [f"  {{  // {program.name}", f"    {mine}", f"    {run}0, 1);", "  }"]
            continue
        # Waking other threads costs microseconds: a small program runs on the calling one.
        out += [
            f"  {{  // {program.name}",
            f"    {mine}",
            f"    const int64_t tasks = {count.text};",
            f"    if (threads > 1 && tasks > 1 && {t.work()} > {PARALLEL_WORK}) {{",
            "#pragma omp parallel for schedule(static, 1) num_threads(threads) reduction(| : status)",
            "      for (int64_t part = 0; part < threads; ++part)",
            f"        {run}tasks * part / threads, tasks * (part + 1) / threads);",
            "    } else {",
            f"      {run}0, tasks);",
            "    }",
            "  }",
        ]
    return "\n".join([*out, "  return status;", "}", ""])


__all__ = ["COMPILE_FLAGS", "Isa", "ScratchSize", "Source", "SourceTooLong", "emit", "header"]
