"""Content addresses: canonical bytes of what decides a kernel, and the fingerprint of our code."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

# Raise it when the meaning of a key's parts or the layout of an entry changes.
FORMAT = 1
# They print, measure and parse arguments: no kernel depends on them.
_NOT_CODE = ("bench", "report", "serve", "cli.py")
_CODE_SUFFIXES = (".py", ".h", ".hpp", ".cuh", ".j2")

_lock = threading.Lock()
_known: dict[str, tuple[tuple[tuple[str, int, int], ...], str]] = {}


def key(parts: Mapping[str, Any]) -> str:
    """The content address of ``parts``: 64 hexadecimal digits, a SHA-256 of their canonical form.

    Parts may hold None, bool, int, float, str, bytes, Path, sequences, sets, mappings with text
    keys, and dataclasses of these. Any two that differ in a bit have different keys (1 and 1.0,
    0.0 and -0.0, "1" and 1 among them); TypeError for anything else, since a repr() that hides a
    field would return the wrong kernel.
    """
    text = json.dumps(canonical(parts), separators=(",", ":"), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(f"superopt cache {FORMAT}\n{text}".encode()).hexdigest()


def repeats(values: Sequence[Any]) -> tuple[int, ...]:
    """For each value, the first one that is the same object: code may ask whether two are one."""
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(value), k) for k, value in enumerate(values))


def canonical(value: Any) -> Any:
    """Plain JSON that two values share only if they are equal in type and content."""
    # Exact types first: a bool is an int, an enum may be a str.
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return {"float": value.hex()}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": hashlib.sha256(value).hexdigest(), "size": len(value)}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, (list, tuple)):
        return [canonical(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((canonical(v) for v in value), key=lambda v: json.dumps(v))}
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"a key part has the name {name!r}, which is not a text")
        # Nested, so that a mapping cannot be mistaken for one of the marks above.
        return {"map": {str(k): canonical(v) for k, v in value.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        content = {f.name: canonical(getattr(value, f.name)) for f in fields(value)}
        return {"class": type(value).__qualname__, "map": content}
    raise TypeError(f"a key part of type {type(value).__name__} has no canonical form: {value!r}")


def code_fingerprint(root: Path | None = None) -> str:
    """A hash of the code that generates kernels: the sources, headers, templates and ``_core``.

    Files are read again only when a size or a time has changed. ``root`` defaults to the package.
    """
    package = root or Path(__file__).resolve().parents[1]
    files = sorted(_code_files(package, core=root is None))
    stamps = tuple((str(p), s.st_size, s.st_mtime_ns) for p in files for s in (p.stat(),))
    with _lock:
        held = _known.get(str(package))
        if held is not None and held[0] == stamps:
            return held[1]
    digest = hashlib.sha256()
    for path in files:
        # The name of a file counts, but not where the package is installed.
        name = path.relative_to(package) if path.is_relative_to(package) else Path(path.name)
        digest.update(f"{name.as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    value = digest.hexdigest()[:32]
    with _lock:
        _known[str(package)] = (stamps, value)
    return value


def _code_files(package: Path, *, core: bool) -> Iterator[Path]:
    for path in package.rglob("*"):
        if path.suffix in _CODE_SUFFIXES and path.relative_to(package).parts[0] not in _NOT_CODE:
            yield path
    if core:
        spec = importlib.util.find_spec("superopt._core")
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin)
        headers = package.parent / "csrc" / "device"
        if headers.is_dir():
            yield from (p for p in headers.rglob("*") if p.is_file())
