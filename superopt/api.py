"""The decorator ``@superoptimize``: specializes a function per signature, and never makes it wrong."""

from __future__ import annotations

import collections
import functools
import itertools
import sys
import threading
import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from superopt import pipeline, report, trace
from superopt.config import Config, Options
from superopt.errors import (
    BadOption,
    IndexOutside,
    KeepsState,
    SuperoptError,
    WrongType,
)
from superopt.pipeline.calls import Calls, Signature

if TYPE_CHECKING:
    from superopt.pipeline.equivalence import Certificate as Certificate

_NOTHING: Any = object()
_NUMBERS = itertools.count()
"""Stands for no function: None is a mistake, as of a name that was never set."""

CHANGES = 3
"""First calls that changed the function's state, after which it runs as it was written."""


RESTLESS = 64
"""Signatures, without one that settled, after which no other is looked at."""

VARIANTS = 16
"""Kernels for tensors of the same shapes, after which other numbers run in PyTorch."""


class Optimized:
    """A function that is superoptimized on its first call with each signature.

    The signature is the structure of the arguments, and for each tensor its dtype, device, shape
    (a dynamic dimension counts as its range), and strides. What cannot be optimized runs as it was
    written, with a one-line warning; ``strict=True`` raises instead.
    """

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.options = fn, options
        self._of_instance = False
        self._changes: dict[Any, set[Signature]] = {}
        self._results: dict[Signature, Any] = {}
        self._failed: dict[Signature, Exception] = {}
        self._variants: collections.Counter[Hashable] = collections.Counter()
        self._locks: dict[Signature, threading.Lock] = {}
        self._lock = threading.Lock()
        self._calls = Calls(fn, options)
        self._repeats = pipeline.Repeats(fn)
        self._number = next(_NUMBERS)  # an id would be another's once this one is gone

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Binds like a function, so that methods can be decorated: each instance has its own."""
        if instance is None:
            return self
        kept = getattr(instance, "__dict__", None)
        if kept is None or torch.compiler.is_compiling():
            if kept is None:
                trace.warn_once(
                    "fallback",
                    f"{self.fn.__qualname__} runs in PyTorch: its instances have no __dict__, "
                    "where what is found for each could be kept",
                )
            return types.MethodType(self.fn, instance)
        name = f"_superopt_{self.fn.__qualname__}"
        bound = kept.get(name)
        if bound is None or bound.fn.__self__ is not instance or bound.fn.__func__ is not self.fn:
            bound = Optimized(types.MethodType(self.fn, instance), self.options)
            bound._of_instance = True
            if isinstance(instance, type):  # below @classmethod
                setattr(instance, name, bound)
            else:
                kept[name] = bound  # whatever a __setattr__ of the user's may do
        return bound

    def __reduce__(self) -> Any:
        """Copies and pickles as the function and its options; what was found is found again."""
        if self._of_instance:
            return _nothing, ()  # the instance's copy makes its own
        name, module = getattr(self, "__qualname__", "."), sys.modules.get(self.__module__)
        if "." not in name and getattr(module, name, None) is self:
            return name  # pickled by name, as functions are
        return Optimized, (self.fn, self.options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the fastest verified form of the function on these arguments."""
        if torch.compiler.is_compiling():
            return self.fn(*args, **kwargs)
        try:
            for repeat in self._repeats.known:
                answer = repeat(args, kwargs, pipeline.MISSED)
                if answer is not pipeline.MISSED:
                    if repeat is not self._repeats.known[0]:
                        self._repeats.found(repeat)
                    return answer
        except IndexOutside:
            return self.fn(*args, **kwargs)
        except SuperoptError as error:
            return self._original(error, args, kwargs)
        try:
            signature, held = self._calls.look(args, kwargs)
            found = self._results.get(signature)
        except Exception as error:
            return self._original(error, args, kwargs)
        if found is None and self.options.dynamic:
            found = self._of_range(signature, args, kwargs)
        if found is None:
            return self._first_call(signature, args, kwargs)
        try:
            answer = found.run(args, kwargs, held)
            self._repeats.record(signature, args, kwargs, found)
            return answer
        except IndexOutside:
            return self.fn(*args, **kwargs)  # PyTorch says which index, and of what
        except SuperoptError as error:
            # A kernel refuses what it was not made for before it writes anything.
            return self._original(error, args, kwargs)

    def _of_range(
        self, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> pipeline.Result | None:
        """What serves a call with a dynamic size of 1, where a program's range begins there."""
        found = self._results.get(self._calls.look(args, kwargs, least=1)[0])
        if found is None or not found.serves(args, kwargs):
            return None
        self._results[signature] = found
        return found

    def _first_call(
        self, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs the function as it was written, once, and makes what later calls will run."""
        changes = len(self._changes.get(signature[0], ()))
        restless = len(self._changes) >= RESTLESS or changes >= CHANGES
        if restless or _settings().disable:
            return self.fn(*args, **kwargs)
        if signature in self._failed:
            return self._original(self._failed[signature], args, kwargs)
        if self._variants[_shapes(args, kwargs)] >= VARIANTS:
            trace.warn_once(
                "fallback",
                f"{self._calls.name} runs in PyTorch: its numbers, or what it reads, have been "
                f"others {VARIANTS} times for tensors of the same shapes; pass what changes as tensors",
                key=("variants", str(id(self))),
            )
            return self.fn(*args, **kwargs)
        if not pipeline.can_listen():
            trace.warn_once(
                "fallback",
                f"{self._calls.name} runs in PyTorch as long as a profiler is on: the first call "
                "listens to what it does; warm it up before profiling",
            )
            return self.fn(*args, **kwargs)
        seen = pipeline.observe(self.fn, args, kwargs)
        try:
            if self._calls.signature(args, kwargs) != signature:
                return self._changed(signature, seen.answer)
            found = self._specialize(signature, args, kwargs, seen)
            if found.boundaries:  # they may draw random numbers, and have drawn them
                return seen.answer
            return found.call(*args, **kwargs)
        except Exception as error:
            # Whatever went wrong inside, the user's program has an answer: PyTorch's.
            self._warn(error)
            return seen.answer

    def _changed(self, signature: Signature, answer: Any) -> Any:
        """The answer of a call that changed what the function reads.

        It may have filled a table that later calls only read; one that goes on is left as it is.
        """
        if self._count_change(signature):
            raise KeepsState(
                "every call changes what the function keeps between calls",
                self._calls.name,
            )
        return answer

    def _count_change(self, signature: Signature) -> bool:
        """Whether the function has changed what it reads too often to go on looking at it.

        Calls that began alike count once: they may be those of several threads.
        """
        with self._lock:
            began = self._changes.setdefault(signature[0], set())
            began.add(signature)
            return len(began) >= CHANGES or len(self._changes) >= RESTLESS

    def result(self, *args: Any, **kwargs: Any) -> pipeline.Result:
        """What the search found for these arguments (searching now if it has not yet)."""
        signature = self._calls.signature(args, kwargs)
        known = self._results.get(signature) or self._of_range(signature, args, kwargs)
        return known or self._specialize(signature, args, kwargs)

    def _specialize(
        self,
        signature: Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        seen: pipeline.Observed | None = None,
    ) -> pipeline.Result:
        with self._lock:
            lock = self._locks.setdefault(signature, threading.Lock())
        with lock:
            if signature in self._failed:
                raise self._failed[signature]
            if signature not in self._results:
                options = self.options
                if options.dynamic and not self._calls.ranges(args, kwargs):
                    options = replace(options, dynamic=())
                try:
                    config = Config.from_env()
                    with pipeline.unheard(), trace.terminal_progress(self._calls.name, config):
                        result = pipeline.optimize(self.fn, args, kwargs, options, config, seen)
                    if self._calls.signature(args, kwargs) != signature:  # by another thread
                        raise KeepsState(
                            "what the function reads changed while it was optimized",
                            self._calls.name,
                        )
                except Exception as error:
                    self._failed[signature] = error
                    if isinstance(error, KeepsState):
                        self._count_change(signature)
                    raise
                self._results[signature] = result
                self._variants[_shapes(args, kwargs)] += 1
                self._changes.clear()
            return self._results[signature]

    def _original(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._warn(error)
        return self.fn(*args, **kwargs)

    def _warn(self, error: Exception) -> None:
        """Says why a call runs in PyTorch; raises when that is not wanted."""
        if self.options.strict or _settings().strict:
            raise error
        trace.warn_once(
            "fallback",
            f"{self._calls.name} runs in PyTorch: {_line(error)}",
            error=None if isinstance(error, SuperoptError) and not error.details else error,
            key=("fallback", str(self._number), str(error)),
        )
        # A remembered error must not keep the tensors of its frames alive.
        link: BaseException | None = error
        while link is not None and link.__traceback__ is not None:
            link.__traceback__ = None
            link = link.__cause__ or link.__context__


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """The tensors of a call, without its numbers."""
    leaves = pytree.tree_leaves((args, kwargs))
    return tuple(
        (t.dtype, t.shape, t.stride(), t.requires_grad)
        for t in leaves
        if isinstance(t, torch.Tensor)
    )


def _nothing() -> None:
    """What a method that belongs to one instance is pickled as."""


def _line(error: Exception) -> str:
    """One line: the stage that failed, if the error came from one, and what happened."""
    text = str(error).strip().splitlines()
    line = text[0] if text else ""
    if not isinstance(error, SuperoptError):
        line = f"{type(error).__name__}: {line}"
    stage = trace.stage_of(error)
    return f"{stage}: {line}" if stage not in ("", "optimize") else line


def _settings() -> Config:
    """The settings of the environment; a faulty one is reported where the stages read it."""
    try:
        return Config.from_env()
    except BadOption:
        return Config()


def superoptimize(fn: Callable[..., Any] = _NOTHING, /, **options: Any) -> Any:
    """Superoptimizes a function or module: searches, proves and compiles on its first call.

    Options (see ``Options.of``): target, budget ("30s" or "10000c"), precision ("default" or
    "eager"), dynamic ({"x": {0: Dim("tokens", min=1, max=4096)}}), fallbacks (("eager",)),
    strict (False), seed (0). Raises BadOption for an option that cannot be read, and WrongType for
    what is no function. With options alone it is a decorator: ``@superoptimize(budget="5s")``.

    >>> @superoptimize
    ... def rmsnorm_linear(x, g, w):
    ...     return torch.nn.functional.rms_norm(x, (x.shape[-1],), g) @ w
    """
    checked = Options.of(**options)
    if fn is _NOTHING:
        return lambda f: superoptimize(f, **options)
    if not callable(fn) or isinstance(fn, type):
        given = "None" if fn is None else type(fn).__name__
        if isinstance(fn, type):
            given = f"the class {fn.__name__}"
        raise WrongType(
            f"superoptimize takes a function, not {given}",
            "superoptimize",
            "decorate a function or pass a module; name the options, as in budget='30s'",
        )
    return Optimized(fn, checked)


def explain(fn: Any, *args: Any, **kwargs: Any) -> str:
    """The uGraph found for these arguments, its certificate and the measured times, as text."""
    target = fn if isinstance(fn, Optimized) else superoptimize(fn)
    try:
        return report.explain(target.result(*args, **kwargs))
    except SuperoptError as error:
        if target.options.strict:
            raise
        return f"runs in PyTorch: {error}"


superoptimize.explain = explain  # type: ignore[attr-defined]


def equivalent(
    first: Callable[..., Any],
    second: Callable[..., Any],
    *example_inputs: Any,
    seed: int | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    precision: str = "default",
    sampled: bool = False,
) -> Certificate:
    """Whether two PyTorch functions (or modules) compute the same, as a certificate.

    It is true in a condition when they are equal, with the error bound and the assumptions; false,
    with a concrete counterexample, when they differ; and false, with the operator and the reason,
    when that cannot be decided (``verdict`` is "equal", "different" or "undecided"). Equal means: for
    all finite inputs of these shapes and dtypes on which both are defined, and in real numbers:
    how sums are ordered, and rounding, is no difference (``precision="eager"``: roundings to 16 bits
    are). What the functions hold beside their inputs (weights) may have any values, too.

    example_inputs: positional arguments; tensors count by dtype, shape and strides, others as they are.
    seed: of all random choices; fresh, and recorded in the certificate, when not given.
    dynamic: {argument of first: {dim: torch.export.Dim}}, for a range of sizes. sampled: whether
    programs that decide by more cases than can be met (orders of many values, values of integers) are
    taken for equal where none that was met differs; else they are undecided.
    Raises BadOption for arguments that cannot be read; what the functions raise on the example
    inputs is raised.

    >>> superopt.equivalent(lambda x, w: (x @ w).sum(1), lambda x, w: x @ w.sum(1), x, w)
    """
    own = [f.fn if isinstance(f, Optimized) else f for f in (first, second)]
    return pipeline.equivalent(
        own[0],
        own[1],
        example_inputs,
        seed=seed,
        dynamic=dynamic,
        precision=precision,
        sampled=sampled,
    )


def __getattr__(name: str) -> Any:
    if name == "Certificate":  # loaded with the verifier, when it is asked for
        return pipeline.Certificate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
