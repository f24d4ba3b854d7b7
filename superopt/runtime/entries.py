"""One cache entry on disk: a folder of files, and a manifest with their sizes and checksums.

``entries/<2 digits>/<key>/manifest.json`` holds the SHA-256 of its second line, then that line:
JSON with the key, the files, and the meta data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from superopt.errors import CacheCorrupt
from superopt.runtime.keys import FORMAT

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """An entry: its key, its folder, its meta data, sizes of its files in bytes and their SHA-256."""

    key: str
    path: Path
    meta: Mapping[str, Any]
    sizes: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, str] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """The path of a file of the entry; KeyError if it has none of that name."""
        if name not in self.sizes:
            raise KeyError(name)
        return self.path / name

    def read(self, name: str) -> bytes:
        """The content of a file of the entry."""
        return self.file(name).read_bytes()


def entry_folder(root: Path, entry_key: str) -> Path:
    """Where the entry of a key lies under a cache root."""
    return root / "entries" / entry_key[:2] / entry_key


def write_entry(
    folder: Path, key: str, files: Mapping[str, bytes], meta: Mapping[str, Any]
) -> Entry:
    """Write files and manifest into an empty folder and flush them to disk; OSError if it fails."""
    listing = {}
    for name, content in files.items():
        _write(folder / name, content)
        listing[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {
        "format": FORMAT,
        "key": key,
        "created": time.time(),
        "files": listing,
        "meta": dict(meta),
    }
    # A checksum of the manifest itself: a flipped bit in the meta data must not pass.
    body = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    _write(folder / MANIFEST, f"{digest}\n{body}\n".encode())
    return list_entry(folder)


def list_entry(path: Path) -> Entry:
    """The entry of a folder by its manifest alone; CacheCorrupt if that is damaged."""
    manifest = _read_manifest(path)
    sizes = {name: int(known["size"]) for name, known in manifest["files"].items()}
    sums = {name: str(known["sha256"]) for name, known in manifest["files"].items()}
    return Entry(manifest["key"], path, manifest["meta"], sizes, sums)


def read_entry(path: Path, key: str) -> Entry:
    """The entry of a folder with all files checked; CacheCorrupt if anything differs."""
    manifest = _read_manifest(path)
    if manifest["key"] != key:
        raise CacheCorrupt("the manifest is of another entry", str(path))
    for name, known in manifest["files"].items():
        content = (path / name).read_bytes()
        if len(content) != known["size"]:
            raise CacheCorrupt(f"{name} has {len(content)} of {known['size']} bytes", str(path))
        if hashlib.sha256(content).hexdigest() != known["sha256"]:
            raise CacheCorrupt(f"{name} does not match its checksum", str(path))
    return list_entry(path)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        digest, _, body = (path / MANIFEST).read_text(encoding="utf-8").partition("\n")
    except UnicodeDecodeError as error:
        raise CacheCorrupt("the manifest is no text", str(path)) from error
    body = body.rstrip("\n")
    if hashlib.sha256(body.encode()).hexdigest() != digest:
        raise CacheCorrupt("the manifest does not match its checksum", str(path))
    manifest: dict[str, Any] = json.loads(body)
    if manifest.get("format") != FORMAT:
        raise CacheCorrupt(f"the manifest has format {manifest.get('format')}", str(path))
    return manifest


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        # Renamed before its data is on disk, a file can be empty after a power cut.
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's names to disk, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def folder_size(path: Path) -> int:
    """Bytes of the files right inside a folder; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return sum(item.stat().st_size for item in os.scandir(path))
    return 0
