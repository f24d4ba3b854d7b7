"""The store of measured times: an embedded SQLite table, shared by processes."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from superopt import trace
from superopt.config import Config

T = TypeVar("T")

_FILE = "measurements.sqlite3"
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    graph TEXT NOT NULL, shape TEXT NOT NULL, device TEXT NOT NULL, toolchain TEXT NOT NULL,
    variant TEXT NOT NULL, median_s REAL NOT NULL, iqr_s REAL NOT NULL, runs INTEGER NOT NULL,
    measured REAL NOT NULL, extra TEXT NOT NULL,
    PRIMARY KEY (graph, shape, device, toolchain, variant)
) WITHOUT ROWID
"""
_KEY = "graph = ? AND shape = ? AND device = ? AND toolchain = ?"


@dataclass(frozen=True)
class Subject:
    """What was measured, each part a text: a graph's hash, its shapes, the device, the toolchain.

    ``variant`` tells candidates of one graph apart: a schedule's hash, ``eager``, ``inductor``.
    """

    graph: str
    shape: str
    device: str
    toolchain: str
    variant: str = ""

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """The primary key."""
        return (self.graph, self.shape, self.device, self.toolchain, self.variant)


@dataclass(frozen=True)
class Measured:
    """A measurement: median and interquartile range in seconds, the number of runs, and when."""

    median_s: float
    iqr_s: float
    runs: int
    measured: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """Measured times in ``path`` (None: in memory, for this process).

    Threads and processes may share it. A store that cannot be opened or is damaged costs one
    warning: a damaged file is put aside, and otherwise this process keeps its times in memory.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    @classmethod
    def open(cls, config: Config | None = None) -> Store:
        """The store in the cache folder; in memory when caching is disabled."""
        config = config or Config.from_env()
        return cls(None if config.disable_cache else config.cache_path / _FILE)

    def put(self, subject: Subject, measured: Measured) -> None:
        """Keep a measurement in place of an earlier one of the same subject."""
        row = (
            *subject.row,
            measured.median_s,
            measured.iqr_s,
            measured.runs,
            measured.measured or time.time(),
            json.dumps(dict(measured.extra)),
        )
        marks = ",".join("?" * len(row))

        def write(db: sqlite3.Connection) -> None:
            db.execute(f"INSERT OR REPLACE INTO measurements VALUES ({marks})", row)

        self._run(write)

    def get(self, subject: Subject) -> Measured | None:
        """The measurement of a subject, if there is one."""
        return self.all(subject).get(subject.variant)

    def all(self, subject: Subject) -> dict[str, Measured]:
        """The measurements of every variant of a subject (its own variant is ignored)."""

        def read(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
            columns = "variant, median_s, iqr_s, runs, measured, extra"
            query = f"SELECT {columns} FROM measurements WHERE {_KEY} ORDER BY variant"
            return db.execute(query, subject.row[:4]).fetchall()

        rows = self._run(read)
        return {r[0]: Measured(r[1], r[2], r[3], r[4], json.loads(r[5])) for r in rows}

    def count(self) -> int:
        """How many measurements there are."""
        return self._run(
            lambda db: int(db.execute("SELECT COUNT(*) FROM measurements").fetchone()[0])
        )

    def clear(self) -> None:
        """Forget every measurement."""
        self._run(lambda db: db.execute("DELETE FROM measurements"))

    def close(self) -> None:
        """Close the connection; the next use opens it again (a store in memory is lost)."""
        with self._lock:
            if self._connection is not None and self._owner == os.getpid():
                self._connection.close()
            self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in a transaction; on a faulty store mend it and do it once more."""
        with self._lock:
            try:
                with self._session() as db:
                    return work(db)
            except sqlite3.Error as error:
                self._mend(error)
            with self._session() as db:
                return work(db)

    @contextlib.contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        # A connection must not cross a fork: SQLite's locks belong to the process.
        if self._connection is None or self._owner != os.getpid():
            self._connection = self._connect()
            self._owner = os.getpid()
        with self._connection:
            yield self._connection

    def _connect(self) -> sqlite3.Connection:
        place = ":memory:"
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            place = str(self.path)
        # The timeout waits for writers of other processes.
        db = sqlite3.connect(place, timeout=30.0, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            # With WAL, normal loses at worst the last writes in a power cut, never the file.
            db.execute("PRAGMA synchronous=NORMAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"format {version} is not {_VERSION}")
            with db:
                db.execute(_SCHEMA)
                if version == 0:
                    db.execute(f"PRAGMA user_version={_VERSION}")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _mend(self, error: sqlite3.Error) -> None:
        """Put a damaged file aside; for any other trouble go on in memory."""
        self.close()
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        )
        if damaged and self.path is not None:
            try:
                os.replace(self.path, self.path.with_suffix(f".damaged-{os.getpid()}"))
                for tail in ("-wal", "-shm"):
                    self.path.with_name(self.path.name + tail).unlink(missing_ok=True)
                trace.warn_once("cost", f"{self.path} was damaged ({error}); a new one is begun")
                return
            except OSError as trouble:
                error = sqlite3.OperationalError(str(trouble))
        trace.warn_once(
            "cost", f"measured times are kept in memory only: {self.path}: {error}", error=error
        )
        self.path = None
