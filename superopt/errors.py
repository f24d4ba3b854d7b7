"""Errors that teach: one class per mistake a user can make, with what, where and how to fix."""

from __future__ import annotations

from collections.abc import Iterable


class SuperoptError(Exception):
    """Base of all errors of superopt.

    ``what`` went wrong, ``where`` (argument, operator, source line or file), and how to ``fix``
    it, each one plain clause. They form the one-line message; ``details`` holds what does not fit
    on a line (a compiler's output, a list of candidates) and goes to the log file. A class may
    give a ``default_fix``, used when the place that raises has nothing better to say.
    """

    default_fix = ""

    def __init__(self, what: str, where: str = "", fix: str = "", *, details: str = "") -> None:
        self.what = what
        self.where = where
        self.fix = fix or self.default_fix
        self.details = details
        parts = [
            what,
            f"where: {where}" if where else "",
            f"fix: {self.fix}" if self.fix else "",
        ]
        super().__init__("; ".join(p for p in parts if p))

    def __reduce__(self) -> tuple[object, ...]:
        # Compile and search jobs run in subprocesses: the error must survive pickling.
        return (_rebuild, (type(self), self.what, self.where, self.fix, self.details))

    def report(self) -> str:
        """The one-line message and, below it, the details."""
        return f"{self}\n{self.details}" if self.details else str(self)


def _rebuild(
    kind: type[SuperoptError], what: str, where: str, fix: str, details: str
) -> SuperoptError:
    return kind(what, where, fix, details=details)


def closest(word: str, known: Iterable[str]) -> str:
    """``did you mean …`` for a misspelt word, or the list of what is known."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


# What the user wrote.


class BadOption(SuperoptError):
    """An option, an environment variable or a command-line argument has an impossible value."""


class WrongType(SuperoptError):
    """An argument is of a type or dtype that the program does not take (a list for a tensor)."""


class ShapeMismatch(SuperoptError):
    """Tensors whose shapes do not fit each other, or the program they are given to."""


class ParseError(SuperoptError):
    """The textual form of a graph cannot be read; ``where`` gives line and column."""


class IllFormedGraph(SuperoptError):
    """A graph breaks a well-formedness rule; ``where`` names the axis and the operator."""


# What is outside the supported set: the original program runs instead (``strict=True`` raises).


class UnsupportedOperator(SuperoptError):
    """An operator or dtype outside the supported set; it becomes a boundary, with this reason."""


class UnsupportedDevice(SuperoptError):
    """The tensors live on, or the target names, a device that no backend here can serve."""

    default_fix = "move the tensors to the CPU, or give target='cpu' or 'cuda:sm_NN'"


class StaysWhole(UnsupportedOperator):
    """An operator that cannot be a boundary: the whole function stays in PyTorch."""

    default_fix = "leave this function to PyTorch"


class KeepsState(UnsupportedOperator):
    """The function changes, as it runs, what it reads beside its arguments."""

    default_fix = "keep counters, caches and logs outside of the function, or fill them beforehand"


class HasEffects(UnsupportedOperator):
    """The function does more than compute: it prints, logs, writes, or changes an argument."""

    default_fix = "do it outside of the function; a kernel would leave it out"


class Miscaptured(UnsupportedOperator):
    """What torch.export recorded is not what the function does."""

    default_fix = "avoid code that asks how it is run: the type or text of a size, identities"


class RequiresGrad(SuperoptError):
    """An input asks for a gradient, and generated kernels have none."""

    default_fix = "call it under torch.no_grad() or torch.inference_mode()"


class MutatesInput(SuperoptError):
    """The program writes to one of its inputs, or returns an alias of one."""

    default_fix = "use the out-of-place form of the operator, or clone the input first"


# What the machine lacks.


class CompilerMissing(SuperoptError):
    """No usable C++ compiler was found."""

    default_fix = (
        "install g++ or clang++ (Debian: apt install g++), or set SUPEROPT_CXX to its path"
    )


class CompileFailed(SuperoptError):
    """The C++ compiler rejected generated code; ``details`` holds its output."""

    default_fix = "please report it with the log file; the original program was kept"


class CompileTimeout(CompileFailed):
    """The C++ compiler did not finish within its time limit, and was stopped."""

    default_fix = "set SUPEROPT_COMPILE_TIMEOUT to more seconds"


class LoadFailed(SuperoptError):
    """A compiled kernel cannot be loaded, or lacks the entry point it should have."""

    default_fix = "delete the entry (superopt cache clear) so that it is built again"


class KernelFailed(SuperoptError):
    """A kernel's entry point returned a status other than 0, or wrote beside an output."""


class IndexOutside(KernelFailed):
    """A run-time index was outside the axis that it picks from; PyTorch raises its own error."""

    default_fix = "keep indices within the sizes of the tensors they pick from"


class KernelDied(KernelFailed):
    """The process that ran a kernel ended, hung, or answered nonsense."""


class CacheUnwritable(SuperoptError):
    """The cache folder cannot be written: read-only, full, or not a folder."""

    default_fix = "set SUPEROPT_CACHE_DIR to a folder that you can write"


class CacheCorrupt(SuperoptError):
    """A cache entry does not match its checksums; it is dropped and built again."""


class CertificateCorrupt(SuperoptError):
    """A certificate is not whole: no JSON, a field missing, or bytes changed after it was made."""

    default_fix = "take the certificate from where it was built, or build the program again"


class CertificateTooNew(SuperoptError):
    """A certificate was written by a newer version, in a form that this one does not know."""

    default_fix = "upgrade superopt"


class CertificateMismatch(SuperoptError):
    """A certificate belongs to another program or another placed graph."""

    default_fix = "keep the certificate beside the kernel it was made with"


# What a search is given.


class MemoryTooSmall(SuperoptError):
    """The limit of memory is below what a search needs to hold the program itself."""

    default_fix = "give more memory (option memory, SUPEROPT_MEMORY), such as '1G'"


class CheckpointMismatch(SuperoptError):
    """A checkpoint that was named is of another program, device, version or set of options."""

    default_fix = "name the checkpoint of this search, or another file for a new one"


class NoCluster(SuperoptError):
    """No Ray cluster can be reached, or Ray is not installed."""

    default_fix = (
        "pip install 'superopt-compiler[ray]', start one (ray start --head), or leave it out"
    )


# How a run can end.


class VerificationFailed(SuperoptError):
    """A candidate was not shown equal to the source, or its numbers are off; it is never used."""
