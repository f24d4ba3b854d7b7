"""Structured tracing: timed stages, log channels, one-line warnings, and the progress hook."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from superopt.config import CHANNELS, Config
from superopt.errors import BadOption, SuperoptError

LOGGER = logging.getLogger("superopt")
LOG_FILE_LIMIT = 16 << 20  # bytes; a longer log is begun anew


@dataclass
class Span:
    """One run of a stage: its name, its wall-clock seconds, what it noted, and its parts.

    ``outcome`` is ``running``, ``ok``, or the name of the exception that ended it.
    """

    name: str
    seconds: float = 0.0
    outcome: str = "running"
    notes: dict[str, Any] = field(default_factory=dict)
    parts: list[Span] = field(default_factory=list)

    def note(self, **values: Any) -> None:
        """Add facts to the span (states explored, bytes, cache hit, …)."""
        self.notes.update(values)

    def total(self, name: str) -> float:
        """Seconds spent in all spans called ``name`` at or below this one, nested ones once."""
        if self.name == name:
            return self.seconds
        return sum(part.total(name) for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON of the tree."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "outcome": self.outcome,
            "notes": dict(self.notes),
            "parts": [part.as_dict() for part in self.parts],
        }


@dataclass(frozen=True)
class Progress:
    """How far a stage is: ``done`` of ``total`` (None if unknown), and a short message."""

    stage: str
    done: float
    total: float | None = None
    message: str = ""


_span: contextvars.ContextVar[Span | None] = contextvars.ContextVar("superopt_span", default=None)
_listener: contextvars.ContextVar[Callable[[Progress], None] | None] = contextvars.ContextVar(
    "superopt_progress", default=None
)


class _State:
    """What a process has set up: the configuration, its log handler, and the warnings given."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.config: Config | None = None
        self.handler: logging.Handler | None = None
        self.warned: set[tuple[str, ...]] = set()
        self.log_file: Path | None = None
        self.artefacts = itertools.count()


_state = _State()


def configure(config: Config | None = None) -> Config:
    """Use ``config`` (default: the environment) for logs and files from now on; return it."""
    config = Config.from_env() if config is None else config
    with _state.lock:
        _state.config = config
        _state.log_file = None
        if _state.handler is not None:
            LOGGER.removeHandler(_state.handler)
            _state.handler = None
        if config.debug or config.logs:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
            LOGGER.addHandler(handler)
            LOGGER.setLevel(logging.DEBUG)
            _state.handler = handler
        else:
            LOGGER.setLevel(logging.NOTSET)
    return config


def current() -> Config:
    """The configuration in use; a faulty environment counts as empty here, so logs never raise."""
    if _state.config is not None:
        return _state.config
    try:
        return configure()
    except BadOption:
        return configure(Config())


@contextlib.contextmanager
def stage(name: str, **notes: Any) -> Iterator[Span]:
    """Time a stage and record it as a part of the one around it.

    The span is filled in even when the stage raises.
    """
    outer = _span.get()
    span = Span(name, notes=dict(notes))
    if outer is not None:
        outer.parts.append(span)
    token = _span.set(span)
    begun = time.perf_counter()
    try:
        yield span
        span.outcome = "ok"
    except BaseException as error:
        span.outcome = type(error).__name__
        if stage_of(error) == "":
            error.superopt_stage = name  # type: ignore[attr-defined]
        raise
    finally:
        span.seconds = time.perf_counter() - begun
        _span.reset(token)
        log(name, f"{span.outcome} after {span.seconds:.3f} s", 1, **span.notes)


def stage_of(error: BaseException) -> str:
    """The innermost stage that an error ended; empty if it came from none."""
    return getattr(error, "superopt_stage", "")


def note(**values: Any) -> None:
    """Add facts to the stage that is running here, if any."""
    span = _span.get()
    if span is not None:
        span.note(**values)


def enabled(channel: str, level: int = 1) -> bool:
    """Whether ``log(channel, …, level)`` would print: guard messages that are dear to make."""
    config = current()
    return config.debug >= level or channel in config.logs


def log(channel: str, message: str, level: int = 1, **values: Any) -> None:
    """Log to a channel: shown when SUPEROPT_LOGS names it or SUPEROPT_DEBUG reaches ``level``."""
    if not enabled(channel, level):
        return
    tail = " ".join(f"{k}={v}" for k, v in values.items())
    LOGGER.getChild(channel).debug("%s", f"{message} {tail}".rstrip())


def warn(stage_name: str, message: str, *, details: str = "", error: object = None) -> None:
    """One line for the user: the stage, what happened, and the file that holds the details."""
    if isinstance(error, SuperoptError):
        details = "\n".join(d for d in (details, error.report()) if d)
    elif isinstance(error, BaseException):
        import traceback

        text = "".join(traceback.format_exception(error))
        details = "\n".join(d for d in (details, text) if d)
    line = " ".join(f"superopt {stage_name}: {message}".split())
    if details:
        where = write_details(stage_name, f"{line}\n{details}")
        line += f" (details: {where})" if where else ""
    LOGGER.warning("%s", line)


def warn_once(
    stage_name: str,
    message: str,
    *,
    details: str = "",
    error: object = None,
    key: tuple[str, ...] | None = None,
) -> None:
    """``warn``, once a process for each ``key`` (default: the stage and the message)."""
    key = key or (stage_name, message)
    with _state.lock:
        if key in _state.warned:
            return
        _state.warned.add(key)
    warn(stage_name, message, details=details, error=error)


def write_details(stage_name: str, text: str) -> Path | None:
    """Append to the log file of this process, in the cache folder; None where none can be."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with _state.lock:
        known = _state.log_file
    for path in (known, *_log_candidates()):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            full = path.exists() and path.stat().st_size > LOG_FILE_LIMIT
            with path.open("w" if full else "a", encoding="utf-8") as file:
                file.write(f"--- {stamp} {stage_name}\n{text.rstrip()}\n")
        except OSError:
            continue
        with _state.lock:
            _state.log_file = path
        return path
    return None


def _log_candidates() -> Iterator[Path]:
    name = f"superopt-{os.getpid()}.log"
    yield current().cache_path / "logs" / name
    yield Path(tempfile.gettempdir()) / name


def artefact(name: str, text: str | Callable[[], str]) -> Path | None:
    """Under SUPEROPT_DEBUG=3 or more, keep ``text`` in the dump folder and return its path.

    The folder is ``debug/<process>`` in the cache folder; files are numbered in order of making.
    """
    config = current()
    if config.debug < 3:
        return None
    path = config.cache_path / "debug" / str(os.getpid())
    path /= f"{next(_state.artefacts):04d}-{name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text() if callable(text) else text, encoding="utf-8")
    except OSError as error:
        log("fallback", f"cannot keep {path}: {error}", 3)
        return None
    return path


@contextlib.contextmanager
def progress(listener: Callable[[Progress], None] | None) -> Iterator[None]:
    """Send the progress of everything run inside to ``listener``; None turns it off."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(stage_name: str, done: float = 0, total: float | None = None, message: str = "") -> None:
    """Tell the listener, if any, how far a stage is. Cheap enough for a loop of milliseconds."""
    listener = _listener.get()
    if listener is not None:
        listener(Progress(stage_name, done, total, message))


@contextlib.contextmanager
def terminal_progress(title: str, config: Config | None = None) -> Iterator[None]:
    """A progress bar on stderr for what runs inside: on a terminal, or if the setting insists."""
    config = config or current()
    wanted = config.progress == "always" or (config.progress == "auto" and sys.stderr.isatty())
    if not wanted:
        yield
        return
    # rich is imported only here: it is slow to load, and most processes print nothing.
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def show(event: Progress) -> None:
            text = f"{title}: {event.stage} {event.message}".rstrip()
            bar.update(task, description=text, completed=event.done, total=event.total)

        with progress(show):
            yield


def forget_warnings() -> None:
    """Give each once-only warning again (for tests, and for a long-lived service's reset)."""
    with _state.lock:
        _state.warned.clear()


def to_json(span: Span) -> str:
    """The span tree as one line of JSON."""
    return json.dumps(span.as_dict(), default=str)


__all__ = [
    "CHANNELS",
    "LOGGER",
    "Progress",
    "Span",
    "artefact",
    "configure",
    "current",
    "enabled",
    "forget_warnings",
    "log",
    "note",
    "progress",
    "report",
    "stage",
    "stage_of",
    "terminal_progress",
    "to_json",
    "warn",
    "warn_once",
    "write_details",
]
