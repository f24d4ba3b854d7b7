"""Prints tile-IR programs as one C++20 function for GCC or Clang, with vectors and OpenMP."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from superopt.codegen.alike import nameless
from superopt.codegen.backends.cpu_isa import Isa
from superopt.codegen.backends.cpu_layout import symbols
from superopt.codegen.backends.cpu_pack import same_call
from superopt.codegen.backends.cpu_task import Task, size_lines
from superopt.codegen.backends.cpu_work import WAKE_S, seconds
from superopt.codegen.packing import Packing
from superopt.errors import SuperoptError
from superopt.mugraph.axes import Stride
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tile_panels import STALE, packed_elements
from superopt.mugraph.tileir import Buffer, Program

STACK_BYTES = 64 * 1024
"""Tile buffers of one program up to this size live on the stack, else in a block per thread."""

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
class Copy:
    """A packed buffer: its name, that of its input, its bytes, and in words how it lies in memory."""

    name: str
    source: str
    bytes: int
    layout: str


@dataclass(frozen=True, slots=True)
class Source:
    """A printed program: ``extern "C" int entry(void** buffers, const int64_t* ints)``.

    Beside it: ``extern "C" double entry_seconds(const int64_t* ints)``, about its time on one core.

    buffers: names in the order of the pointers; ints: the size symbols, then "threads", then of each
    packed buffer the number of calls that it was given to before; scratch: bytes of each scratch buffer;
    flags: what the compiler must be given; copies: the packed buffers. The status has ``STALE`` in it,
    and nothing was stored, where a packed buffer is not what its input holds now.
    """

    text: str
    entry: str
    buffers: tuple[str, ...]
    ints: tuple[str, ...]
    scratch: tuple[tuple[str, ScratchSize], ...]
    flags: tuple[str, ...]
    copies: tuple[Copy, ...] = ()


Call = tuple[Program, Task]


class SourceTooLong(SuperoptError):
    """The C++ of a candidate is so long that compiling it would take minutes; it is dropped."""

    default_fix = "split the function into smaller ones, or leave it to PyTorch"


def emit(
    programs: Sequence[Program],
    name: str,
    isa: Isa | None = None,
    stack_bytes: int = STACK_BYTES,
    packing: Packing | None = None,
) -> Source:
    """The programs, in order, as one C++ function called ``name``.

    packing: beside them, ``name_pack`` (of the same type) packs inputs, each into the packed buffer that
    it is given, if any; the main function reads, program by program, those that it is given (others are
    null). Raises SourceTooLong beyond ``MOST_LINES`` lines of code.
    """
    isa = isa or Isa.host()
    packs, reads = ((), programs) if packing is None else (packing.packs, packing.reads)
    every = (*programs, *packs, *reads)
    buffers = _global_buffers(every)
    syms = symbols(every)
    tasks: dict[Program, Task] = {}
    texts: list[str] = []
    lines = 0

    def called(program: Program) -> Call:
        nonlocal lines
        key = nameless(program)
        if key in tasks:
            return program, tasks[key]
        tasks[key] = body = Task(program, f"{name}_k{len(tasks)}", isa, syms, stack_bytes)
        texts.append(body.text())
        lines += sum(not line.lstrip().startswith("//") for line in texts[-1].splitlines())
        if lines > MOST_LINES:
            raise SourceTooLong(
                f"{lines} lines of C++ where at most {MOST_LINES} are compiled",
                f"kernel {len(tasks)}, {program.name}",
            )
        return program, body

    calls = [called(p) for p in programs]
    packers = [called(p) for p in packs]
    readers = [None if p is q else called(q) for p, q in zip(programs, reads, strict=True)]
    names = [b.name for b in buffers]
    entries = [_entry(name, calls, readers, packing, names, syms)]
    if packers:
        entries.append(_pack_entry(f"{name}_pack", packers, names, syms))
    text = "\n".join(
        [
            "// Generated code. What each statement does is said above it in the tile IR.",
            header("so_vec.h"),
            header("so_strided.h"),
            header("so_sum.h"),
            header("so_math.h"),
            header("so_tile.h"),
            header("so_dot.h"),
            *([header("so_pack.h")] if any(b.panels for b in buffers) else []),
            *([header("so_sums.h")] if any("so_sums<" in t for t in texts) else []),
            *texts,
            *(_range(t, syms) for t in tasks.values()),
            *entries,
        ]
    )
    scratch = tuple((b.name, _bytes(b)) for b in buffers if b.space == "scratch")
    copies = () if packing is None else tuple(zip(packing.inputs, packing.buffers, strict=True))
    return Source(
        text,
        name,
        tuple(names),
        (*syms, "threads", *(f"turn {packed.name}" for _, packed in copies)),
        scratch,
        flags_of(isa),
        tuple(Copy(b.name, source.name, _packed_bytes(b), _layout(b)) for source, b in copies),
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
    rank = {"input": 0, "output": 1, "scratch": 2, "packed": 3}
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
        f"[[maybe_unused]] static double {t.fn}_seconds([[maybe_unused]] const int64_t* ints) {{",
        *(f"  {line}" for line in size_lines(syms)),
        f"  return {seconds(t.program, t.isa)};",
        "}",
    ]
    return "\n".join(out)


def _packed_bytes(buffer: Buffer) -> int:
    return packed_elements(buffer) * DTYPES[buffer.dtype].bytes


def _layout(buffer: Buffer) -> str:
    """How a packed buffer lies, in sizes: copies of one tensor with the same words are the same bytes."""
    p = buffer.panels
    if p is None:
        raise TypeError("a buffer that is not packed")
    at = {a: k for k, a in enumerate(buffer.axes)}
    sizes = "x".join(str(a.size) for a in buffer.axes)
    return f"{buffer.dtype} {sizes}, {p.width} of {at[p.columns]} by {p.group} of {at[p.steps]}"


def _head(name: str, syms: tuple[str, ...]) -> list[str]:
    return [
        f'extern "C" int {name}(void** bufs, const int64_t* ints) {{',
        *(f"  {line}" for line in size_lines(syms)),
        f"  [[maybe_unused]] const int64_t threads = ints[{len(syms)}] < 1 ? 1 : ints[{len(syms)}];",
        "  int status = 0;",
    ]


def _entry(
    name: str,
    calls: list[Call],
    readers: Sequence[Call | None],
    packing: Packing | None,
    buffers: list[str],
    syms: tuple[str, ...],
) -> str:
    """The entry: all programs in order, the tasks of each spread over the threads.

    Programs that are alike share a function, which is given the buffers of each in turn.
    """
    out = _head(name, syms)
    copies = () if packing is None else zip(packing.inputs, packing.buffers, strict=True)
    for k, (source, packed) in enumerate(copies):
        src, to = f"bufs[{buffers.index(source.name)}]", f"bufs[{buffers.index(packed.name)}]"
        test = same_call(source, packed, src, to, f"ints[{len(syms) + 1 + k}]")
        out += [f"  if ({to} && !{test[0]}", *(f"    {x}" for x in test[1:])]
        out[-1] += f") return {STALE};"
    for call, reader in zip(calls, readers, strict=True):
        if reader is None:
            out += _run(call, buffers)
            continue
        given = [b.name for b in reader[0].buffers if b.panels is not None]
        test_given = " && ".join(f"bufs[{buffers.index(b)}]" for b in given)
        out += [f"  if ({test_given}) {{", *(f"  {x}" for x in _run(reader, buffers)), "  } else {"]
        out += [*(f"  {x}" for x in _run(call, buffers)), "  }"]
    total = " + ".join(f"{t.fn}_seconds(ints)" for _, t in calls) or "0.0"
    told = f'extern "C" double {name}_seconds(const int64_t* ints) {{ return {total}; }}'
    return "\n".join([*out, "  return status;", "}", told, ""])


def _pack_entry(
    name: str, packers: Sequence[Call], buffers: list[str], syms: tuple[str, ...]
) -> str:
    """The entry that packs: each input into its packed buffer, where that is given."""
    out = _head(name, syms)
    for call in packers:
        to = next(b.name for b in call[0].buffers if b.panels is not None)
        lines = _run(call, buffers)
        out += [f"  if (bufs[{buffers.index(to)}]) {{", *(f"  {x}" for x in lines), "  }"]
    return "\n".join([*out, "  return status;", "}", ""])


def _run(call: Call, buffers: list[str]) -> list[str]:
    """One program with the buffers of the entry."""
    program, t = call
    count = t.tasks()
    slots = ", ".join(f"bufs[{buffers.index(b.name)}]" for b in program.buffers)
    mine = f"void* const own[] = {{{slots}}};"
    run = f"status |= {t.fn}_tasks(own, ints, "
    if count.value == 1:
        return [f"  {{  // {program.name}", f"    {mine}", f"    {run}0, 1);", "  }"]
    # Waking other threads costs microseconds: a small program runs on the calling one.
    worth = f"{t.fn}_seconds(ints) * (threads - 1) > {WAKE_S} * threads"
    return [
        f"  {{  // {program.name}",
        f"    {mine}",
        f"    const int64_t tasks = {count.text};",
        f"    if (threads > 1 && tasks > 1 && {worth}) {{",
        "#pragma omp parallel for schedule(static, 1) num_threads(threads) reduction(| : status)",
        "      for (int64_t part = 0; part < threads; ++part)",
        f"        {run}tasks * part / threads, tasks * (part + 1) / threads);",
        "    } else {",
        f"      {run}0, tasks);",
        "    }",
        "  }",
    ]


__all__ = ["COMPILE_FLAGS", "Isa", "ScratchSize", "Source", "SourceTooLong", "emit", "header"]
