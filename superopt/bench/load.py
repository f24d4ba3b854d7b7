"""Finds the function that a user names on the command line, and tells why it does not run."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from superopt.errors import BadOption, SuperoptError, closest


def load_function(where: str) -> Callable[..., Any]:
    """The function (or module instance) that ``FILE.py:NAME`` or ``package.module:NAME`` names.

    Raises BadOption when the file, the module or the name is not there, or is not callable.
    """
    source, _, name = where.rpartition(":")
    fix = "write the file and the function, such as model.py:rmsnorm_linear"
    if not source or not name:
        raise BadOption(f"{where!r} names no function", "argument MOD.py:FN", fix)
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise BadOption(f"there is no file {source}", "argument MOD.py:FN", fix)
        spec = importlib.util.spec_from_file_location(path.stem, path)
    else:
        with contextlib.suppress(ModuleNotFoundError, ValueError):
            spec = importlib.util.find_spec(source)
            if spec is not None:
                return _member(importlib.import_module(source), name, where)
        raise BadOption(f"there is no module {source}", "argument MOD.py:FN", fix)
    if spec is None or spec.loader is None:
        raise BadOption(f"{source} cannot be imported", "argument MOD.py:FN", fix)
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, as the import system does: dataclasses and tracing look it up.
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadOption(
            f"{source} fails when it is imported: {type(error).__name__}: {error}",
            "argument MOD.py:FN",
            "run it with Python first",
        ) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return _member(module, name, where)


def _member(module: Any, name: str, where: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if found is None:
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise BadOption(f"{where} does not exist", "argument MOD.py:FN", closest(name, known))
    if not callable(found):
        raise BadOption(f"{where} cannot be called", "argument MOD.py:FN", "name a function")
    return found


def unfit(error: Exception) -> SuperoptError:
    """An error of the user's function, or of PyTorch inside it; anything else is a defect here."""
    from superopt import pipeline

    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = pipeline.raised_at(error)
    # Shapes that do not fit fail inside PyTorch when the function is traced.
    if not line and not isinstance(error, (TypeError, RuntimeError, ValueError)):
        return SuperoptError(
            f"superopt itself failed: {type(error).__name__}: {first}",
            "explain",
            "please report it with the log file",
            details="".join(traceback.format_exception(error)),
        )
    if not isinstance(error, (RuntimeError, ValueError)):
        first = f"{type(error).__name__}: {first}"
    return BadOption(
        f"the function does not run on these inputs: {first}",
        ", ".join(filter(None, ("option --inputs", line and f"at {line}"))),
        "give the tensors that it takes, in its order",
    )
