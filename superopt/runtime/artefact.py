"""Reads one cache entry wholly, from wherever it lies, and trusts nothing that it says of itself."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superopt.errors import CacheCorrupt
from superopt.runtime.entries import MANIFEST, Entry, list_entry
from superopt.runtime.site import numbered

CERTIFICATE, PROGRAM, SIZE_ONE, DISPATCH = (
    "certificate.json",
    "program.txt",
    "size-one.json",
    "dispatch.json",
)
"""What an entry holds once; of each program it holds ``PARTS``, numbered, and its library."""

PARTS = ("kernel.cpp", "plan.json", "mugraph.txt")

_LIBRARY = re.compile(r"kernel-[0-9a-f]{16}\.so\Z")
_FIX = "build the program again"


@dataclass(frozen=True)
class Artefact:
    """A folder whose files are those that its manifest lists, byte by byte.

    files: name -> content, as it was when its checksum was compared; libraries: the names of the
    binaries, one for each program. An entry without libraries leads to another one.
    """

    path: Path
    entry: Entry
    files: Mapping[str, bytes]
    libraries: tuple[str, ...]

    def text(self, name: str) -> str:
        """The content of a file that is text; CacheCorrupt where it is none."""
        try:
            return self.files[name].decode()
        except UnicodeDecodeError as error:
            raise CacheCorrupt(f"{name} is no text ({error})", str(self.path), _FIX) from None


def read_artefact(path: Path) -> Artefact:
    """The entry in a folder, each file checked against the manifest.

    Raises CacheCorrupt for a manifest that is damaged or malformed, and for a file that is missing,
    altered, no plain file, or not listed; OSError where the folder cannot be read.
    """
    if not (path / MANIFEST).is_file():
        raise CacheCorrupt(f"{MANIFEST} is missing", str(path), _FIX)
    # A reader that is lenient about the ends of lines would let a changed byte pass.
    digest, _, body = (path / MANIFEST).read_bytes().partition(b"\n")
    if not body.endswith(b"\n") or hashlib.sha256(body[:-1]).hexdigest().encode() != digest:
        raise CacheCorrupt(f"{MANIFEST} does not match its checksum", str(path), _FIX)
    try:
        entry = list_entry(path)
        listed = {name: _listed(path, name, entry) for name in entry.sizes}
        libraries = _libraries(entry.meta.get("libraries", []))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = f"{MANIFEST} is malformed ({type(error).__name__}: {error})"
        raise CacheCorrupt(what, str(path), _FIX) from None
    for found in sorted(p.name for p in path.iterdir()):
        if found != MANIFEST and found not in listed:
            raise CacheCorrupt(f"{found} is not listed in {MANIFEST}", str(path), _FIX)
    if listed:
        _check_names(path, listed, libraries)
    return Artefact(path, entry, listed, libraries)


def _listed(path: Path, name: str, entry: Entry) -> bytes:
    """The content of a listed file."""
    if name in ("", ".", "..", MANIFEST) or Path(name).name != name:
        raise CacheCorrupt(
            f"{MANIFEST} lists {name!r}, which is no plain file name", str(path), _FIX
        )
    file = path / name
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise CacheCorrupt(f"{name} is no plain file", str(path), _FIX)
        content = file.read_bytes()
    except FileNotFoundError:
        raise CacheCorrupt(f"{name} is missing", str(path), _FIX) from None
    if len(content) != entry.sizes[name]:
        what = f"{name} has {len(content)} of {entry.sizes[name]} bytes"
        raise CacheCorrupt(what, str(path), _FIX)
    if hashlib.sha256(content).hexdigest() != entry.sums[name]:
        raise CacheCorrupt(f"{name} does not match its checksum", str(path), _FIX)
    return content


def _libraries(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("its libraries are no list of names")
    return tuple(value)


def _check_names(path: Path, files: Mapping[str, bytes], libraries: tuple[str, ...]) -> None:
    """The files are those of an entry with these libraries, and a library's name tells its content."""
    needed = {CERTIFICATE, *libraries}
    needed |= {numbered(part, n) for n in range(len(libraries)) for part in PARTS}
    if missing := sorted(needed - set(files)):
        raise CacheCorrupt(f"{missing[0]} is missing", str(path), _FIX)
    if more := sorted(set(files) - needed - {PROGRAM, SIZE_ONE, DISPATCH}):
        raise CacheCorrupt(f"{more[0]} is no file of an entry", str(path), _FIX)
    if not libraries:
        raise CacheCorrupt(f"{MANIFEST} names no library", str(path), _FIX)
    for name in libraries:
        mark = hashlib.sha256(files[name]).hexdigest()[:16]
        if not _LIBRARY.match(name) or mark not in name:
            raise CacheCorrupt(f"{name} does not tell its own content", str(path), _FIX)
