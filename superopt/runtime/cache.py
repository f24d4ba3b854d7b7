"""The content-addressed cache: atomic entries with checksums, safe between processes.

An entry is written beside its place and renamed into it, so a reader sees a whole entry or none.
Nothing here raises for the state of the disk, except ``put`` when not even the temporary folder
can be written.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superopt import trace
from superopt.config import Config
from superopt.errors import CacheCorrupt, CacheUnwritable
from superopt.runtime.entries import (
    MANIFEST,
    Entry,
    entry_folder,
    folder_size,
    list_entry,
    read_entry,
    sync_folder,
    write_entry,
)
from superopt.runtime.keys import code_fingerprint, key

__all__ = ["Cache", "Entry", "Stats", "code_fingerprint", "key"]

_STALE_SECONDS = 24 * 3600.0  # a temporary folder of this age belongs to a process that died
CHECKPOINTS = "checkpoints"
"""The folder, beside the entries, of unfinished searches."""

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Stats:
    """What the cache holds: its folder, entries, bytes, the limit in bytes, and this run's luck."""

    root: Path
    entries: int
    size: int
    limit: int
    hits: int
    misses: int
    private: bool


class Cache:
    """A cache in the folder ``root``; any number of threads and processes may share it.

    ``limit`` is in bytes. ``private`` keeps everything in a temporary folder of this process. When
    ``root`` cannot be written, the same temporary folder takes new entries, after one warning.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        limit: int = 4 << 30,
        lock_timeout: float = 600.0,
        private: bool = False,
    ) -> None:
        self.root = Path(root)
        self.limit = limit
        self.lock_timeout = lock_timeout
        self._guard = threading.Lock()
        self._private: Path | None = None
        self._shared = not private
        self._hits = self._misses = 0

    @classmethod
    def open(cls, config: Config | None = None) -> Cache:
        """The cache that the configuration asks for."""
        config = config or Config.from_env()
        return cls(
            config.cache_path,
            limit=config.cache_limit,
            lock_timeout=config.lock_timeout,
            private=config.disable_cache,
        )

    def get(self, entry_key: str) -> Entry | None:
        """The entry, each file checked against its checksum; None if absent.

        A truncated or altered entry is removed and reported by a warning, and counts as absent.
        """
        _check_key(entry_key)
        for root in self._roots():
            entry = self._load(root, entry_key)
            if entry is not None:
                # The manifest's time is the time of last use, by which old entries are chosen.
                with contextlib.suppress(OSError):
                    os.utime(entry.path / MANIFEST)
                self._hits += 1
                trace.log("cache", f"hit {entry_key[:12]}", 2)
                return entry
        self._misses += 1
        trace.log("cache", f"miss {entry_key[:12]}", 2)
        return None

    def put(
        self,
        entry_key: str,
        files: Mapping[str, bytes],
        meta: Mapping[str, Any],
        beside: Collection[str] = (),
    ) -> Entry:
        """Store ``files`` and JSON ``meta`` under the key and return the entry.

        beside: keys of entries that it is of use with only, and that are not evicted for it.
        If another process stored the key first, its entry is returned. Raises CacheUnwritable
        when neither the cache nor a temporary folder can be written.
        """
        _check_key(entry_key)
        for name in files:
            if not name or name == MANIFEST or Path(name).name != name:
                raise ValueError(f"{name!r} is no plain file name")
        if self._shared:
            try:
                entry = self._store(self.root, entry_key, files, meta)
                self._evict(keep={entry_key, *beside})
                return entry
            except OSError as error:
                self._go_private(error)
        try:
            return self._store(self._private_root(), entry_key, files, meta)
        except OSError as error:
            raise CacheUnwritable(f"no folder can be written: {error}", str(self.root)) from error

    @contextlib.contextmanager
    def lock(self, entry_key: str) -> Iterator[bool]:
        """Hold the key's lock, so that one process builds and the others wait; whether it is held.

        The lock is the operating system's and ends with its process, however that ends. Where no
        lock can be had (a read-only folder, a timeout) the body runs all the same, as entries are
        atomic: the price is work done twice.
        """
        import filelock

        _check_key(entry_key)
        lock = None
        if self._shared:
            path = self.root / "locks" / f"{entry_key}.lock"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = filelock.FileLock(str(path))
                lock.acquire(timeout=self.lock_timeout)
            except filelock.Timeout:
                lock = None
                trace.warn_once(
                    "cache",
                    f"waited {self.lock_timeout:g} s for another process that builds the same "
                    "kernel; building it here too",
                )
            except (OSError, NotImplementedError) as error:
                lock = None
                trace.log("cache", f"no lock: {error}", 2)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def remove(self, entry_key: str) -> bool:
        """Remove one entry; whether there was one."""
        _check_key(entry_key)
        # A list: each root is cleared, also after the first success.
        removed = [self._discard(entry_folder(root, entry_key)) for root in self._roots()]
        return any(removed)

    def entries(self) -> Iterator[Entry]:
        """All entries, last used first; files are listed but not checked."""
        for _, path in sorted(self._folders(), reverse=True):
            with contextlib.suppress(CacheCorrupt, OSError):
                yield list_entry(path)

    def stats(self) -> Stats:
        """Numbers of entries, bytes, hits and misses."""
        sizes = [folder_size(path) for _, path in self._folders()]
        return Stats(
            root=self._private or self.root if not self._shared else self.root,
            entries=len(sizes),
            size=sum(sizes),
            limit=self.limit,
            hits=self._hits,
            misses=self._misses,
            private=not self._shared,
        )

    def clear(self) -> int:
        """Remove every entry; how many there were. Measured times and logs stay."""
        count = sum(self._discard(path) for _, path in self._folders())
        for root in self._roots():
            self._sweep(root, older_than=0.0)
        return count

    # Inside.

    def _roots(self) -> list[Path]:
        with self._guard:
            shared = [self.root] if self._shared else []
            return shared + ([self._private] if self._private is not None else [])

    def _private_root(self) -> Path:
        with self._guard:
            if self._private is None:
                self._private = Path(tempfile.mkdtemp(prefix="superopt-"))
                owner = os.getpid()
                atexit.register(_remove_own, self._private, owner)
            return self._private

    def _go_private(self, error: OSError) -> None:
        trace.warn_once(
            "cache",
            f"{self.root} cannot be written ({error.strerror or error}); kernels of this process "
            "are kept in a temporary folder. Set SUPEROPT_CACHE_DIR to a folder you can write",
            key=("cache", "unwritable", str(self.root)),
        )

    def _load(self, root: Path, entry_key: str) -> Entry | None:
        path = entry_folder(root, entry_key)
        if not path.is_dir():
            return None
        try:
            return read_entry(path, entry_key)
        except FileNotFoundError:
            # Another process may have evicted it under us: then the folder itself is gone.
            if not path.is_dir():
                return None
            self._report_corrupt(path, CacheCorrupt("a file is missing", str(path)))
        except (CacheCorrupt, OSError) as error:
            self._report_corrupt(path, error)
        return None

    def _report_corrupt(self, path: Path, error: Exception) -> None:
        what = error.what if isinstance(error, CacheCorrupt) else str(error)
        message = f"entry {path.name[:12]} was damaged ({what}); it is built again"
        # Where it cannot be removed (a read-only cache), every look-up meets it anew.
        tell = trace.warn if self._discard(path) else trace.warn_once
        tell("cache", message)

    def _store(
        self, root: Path, entry_key: str, files: Mapping[str, bytes], meta: Mapping[str, Any]
    ) -> Entry:
        part = root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        # Not mkdtemp: a cache that several users share keeps to the umask.
        part.mkdir(parents=True)
        try:
            entry = write_entry(part, entry_key, files, meta)
            return self._publish(part, entry_folder(root, entry_key), entry)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _publish(self, part: Path, path: Path, entry: Entry) -> Entry:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            try:
                # Renaming onto a folder that is not empty fails: the first writer wins.
                part.rename(path)
                sync_folder(path.parent)
                return replace(entry, path=path)
            except OSError:
                if not path.is_dir():
                    raise
            with contextlib.suppress(CacheCorrupt, OSError):
                return read_entry(path, entry.key)
            self._discard(path)
        raise OSError(f"cannot publish {path}")

    def _discard(self, path: Path) -> bool:
        """Take an entry out of sight by a rename, then delete it; whether it was there."""
        place = path.parents[2] / "tmp"
        try:
            place.mkdir(parents=True, exist_ok=True)
            gone = place / f"{os.getpid()}-{uuid.uuid4().hex}"
            path.rename(gone)
        except FileNotFoundError:
            return False
        except OSError as error:
            trace.log("cache", f"cannot remove {path}: {error}", 1)
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _folders(self) -> list[tuple[float, Path]]:
        """Time of last use and folder of every entry; those that vanish meanwhile are left out."""
        found = []
        for root in self._roots():
            with contextlib.suppress(OSError):
                for path in (root / "entries").glob("??/*"):
                    with contextlib.suppress(OSError):
                        found.append(((path / MANIFEST).stat().st_mtime, path))
        return found

    def _evict(self, keep: Collection[str]) -> None:
        """Remove least recently used entries until nine tenths of the limit are left."""
        folders = sorted(self._folders())
        sizes = {path: folder_size(path) for _, path in folders}
        total = sum(sizes.values())
        if total <= self.limit:
            return
        for _, path in folders:
            if total <= self.limit * 0.9:
                break
            if path.name not in keep and self._discard(path):
                total -= sizes[path]
                trace.log("cache", f"evicted {path.name[:12]}", 2)
        self._sweep(self.root, older_than=_STALE_SECONDS)

    def _sweep(self, root: Path, older_than: float) -> None:
        """Delete what processes that died have left in the temporary folder, and old checkpoints."""
        with contextlib.suppress(OSError):
            for path in (root / CHECKPOINTS).iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime >= 7 * older_than:
                        path.unlink()
        with contextlib.suppress(OSError):
            for path in (root / "tmp").iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime >= max(older_than, 60.0):
                        shutil.rmtree(path, ignore_errors=True)


def _check_key(entry_key: str) -> None:
    if len(entry_key) < 16 or not _HEX.issuperset(entry_key):
        raise ValueError(f"{entry_key!r} is no cache key")


def _remove_own(path: Path, owner: int) -> None:
    # A forked child must not delete its parent's folder.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
