"""Runs a compiled program in a process of its own, which may crash or hang without harm.

What goes between the processes is sizes and bytes, never objects: the binary shares its process
with the reader of its inputs and the writer of its outputs alone, so that it cannot spoil what its
results are compared with. It is no sandbox: a binary may do whatever the user may.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from superopt.errors import IndexOutside, KernelDied, KernelFailed, LoadFailed, SuperoptError
from superopt.mugraph.dtypes import DTYPES, from_torch
from superopt.runtime.plan import Plan
from superopt.runtime.sanitizer import environment, told

_LENGTH = struct.Struct("<q")
_MOST_TEXT = 1 << 20
"""Bytes of the description of an answer, beyond which it is nonsense."""

_ERRORS: dict[str, type[SuperoptError]] = {
    k.__name__: k for k in (IndexOutside, KernelFailed, LoadFailed)
}

Fill = Callable[[memoryview], None]
"""Fills the memory with the next bytes of a stream; EOFError where there are no more."""


class Apart:
    """A binary, given by its bytes, loaded in another process; a context that ends with it.

    limit_s: seconds after which a call, or loading, counts as hanging; sanitizer: the runtime library
    of the sanitizer that the binary was compiled with (``sanitizer.py``); packed:
    run with inputs packed. A process that died is
    started again by the next call. Raises LoadFailed where the binary is none or lacks its entry.
    """

    def __init__(
        self,
        binary: bytes,
        plan: Plan,
        limit_s: float,
        sanitizer: Path | None = None,
        packed: bool = False,
    ) -> None:
        self.packed = packed
        self.plan, self.limit_s, self.sanitizer = plan, limit_s, sanitizer
        self._folder = tempfile.TemporaryDirectory(prefix="superopt-")
        self._library = Path(self._folder.name) / "kernel.so"
        self._library.write_bytes(binary)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()
        self._folder.cleanup()

    def checked(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs, as by ``Fenced``: what is read or written beyond a tensor ends the process.

        Raises IndexOutside and KernelFailed as a kernel does, KernelFailed also where it wrote to an
        input, and KernelDied where its process ended, hung or answered nonsense.
        """
        if self._process is None:
            self._start()
        process = self._running()
        try:
            _send(process.stdin, {}, tensors)
        except OSError:
            raise self._died() from None
        answer, outputs = self._answer()
        if "error" in answer:
            raise _ERRORS.get(str(answer["error"]), KernelFailed)(str(answer["what"]), "the binary")
        return outputs

    def _start(self) -> None:
        # Not through the shell's environment alone: the package may be found by the path of this
        # process only.
        path = os.pathsep.join(p for p in sys.path if p)
        folder = Path(self._folder.name)
        more = {} if self.sanitizer is None else environment(self.sanitizer, folder)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "superopt.runtime.apart", str(self._library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **more},
            start_new_session=True,
        )
        try:
            words = {"plan": self.plan.to_json(), "packed": self.packed}
            _send(self._running().stdin, words, ())
        except OSError:
            raise self._died() from None
        answer, _ = self._answer()
        if "error" in answer:
            self._end()
            raise LoadFailed(str(answer["what"]), "the binary", "build the program again")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise KernelDied("the process has ended", "the binary")
        return self._process

    def _answer(self) -> tuple[dict[str, Any], list[torch.Tensor]]:
        deadline = time.monotonic() + self.limit_s
        stream = self._running().stdout

        def fill(place: memoryview) -> None:
            if stream is None:
                raise EOFError
            while place:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([stream], [], [], left)[0]:
                    raise TimeoutError
                got = os.readv(stream.fileno(), [place])
                if not got:
                    raise EOFError
                place = place[got:]

        try:
            return _receive(fill)
        except TimeoutError:
            self._end()
            what = f"the binary did not answer within {self.limit_s:g} s"
            raise KernelDied(what, "its process was ended") from None
        except EOFError:
            raise self._died() from None
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            self._end()
            raise KernelDied(f"the answer is nonsense ({error})", "the binary") from None

    def _died(self) -> KernelDied:
        """The error that says how the process ended."""
        process = self._running()
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(timeout=5)
        self._end()
        if self.sanitizer is not None and (report := told(Path(self._folder.name))):
            return KernelDied(
                f"the binary ended its process: {report}", "the process of the binary"
            )
        if status is None:
            return KernelDied("the binary closed its pipes", "the process of the binary")
        how = f"status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = f"signal {-status} ({signal.Signals(-status).name})"
        return KernelDied(f"the binary ended its process by {how}", "the process of the binary")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        process.wait()


def _send(stream: IO[bytes] | None, words: dict[str, Any], tensors: Sequence[torch.Tensor]) -> None:
    """Writes words, and tensors with the memory that their strides reach."""
    if stream is None:
        raise BrokenPipeError
    rows, blocks = [], []
    for x in tensors:
        reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        flat = torch.as_strided(x, (reach if x.numel() else 0,), (1,))
        blocks.append(flat.view(torch.uint8).numpy())
        rows.append([from_torch(x.dtype).name, list(x.shape), list(x.stride())])
    text = json.dumps({**words, "tensors": rows}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for block in blocks:
        stream.write(block.data)
    stream.flush()


def _receive(fill: Fill) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Reads what ``_send`` wrote; ValueError, KeyError, TypeError or RuntimeError on anything else."""
    length = bytearray(_LENGTH.size)
    fill(memoryview(length))
    (size,) = _LENGTH.unpack(length)
    if not 0 <= size <= _MOST_TEXT:
        raise ValueError(f"a description of {size} bytes")
    text = bytearray(size)
    fill(memoryview(text))
    words = json.loads(text)
    tensors = []
    for dtype, shape, strides in words["tensors"]:
        if len(shape) != len(strides) or any(int(n) < 0 for n in (*shape, *strides)):
            raise ValueError(f"a tensor of shape {shape} and strides {strides}")
        reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        kind = DTYPES[dtype].torch
        block = torch.empty(reach if math.prod(shape) else 0, dtype=kind)
        if block.numel():
            fill(block.view(torch.uint8).numpy().data)
        tensors.append(block.as_strided(shape, strides))
    return words, tensors


def main() -> None:
    """Serves the process that started this one: loads the binary, then answers until its input ends."""
    from superopt.runtime.guarded import Fenced
    from superopt.runtime.kernels import Kernels

    inbox, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not get into the answers

    def fill(place: memoryview) -> None:
        while place:
            got = inbox.readinto(place)
            if not got:
                raise EOFError
            place = place[got:]

    try:
        words, _ = _receive(fill)
        kernels = Kernels(Path(sys.argv[1]), Plan.from_json(words["plan"]))
        run = Fenced(kernels, bool(words["packed"]))
        _send(out, {}, ())
    except SuperoptError as error:
        _send(out, _told(error), ())
        return
    with contextlib.suppress(EOFError):
        while True:
            _, tensors = _receive(fill)
            try:
                _send(out, {}, run(tensors))
            except SuperoptError as error:
                _send(out, _told(error), ())


def _told(error: SuperoptError) -> dict[str, str]:
    details = f" ({error.details})" if error.details else ""
    return {"error": type(error).__name__, "what": f"{error.what}{details}"}


if __name__ == "__main__":
    main()
