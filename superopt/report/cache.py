"""What ``superopt cache`` tells: each action on the cache as plain data and as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

Told = tuple[Any, list[str]]
"""Data for JSON, and the same as lines."""


def _stats(store: Any) -> Told:
    stats = asdict(store.stats())
    return stats, [
        f"folder   {stats['root']}",
        f"entries  {stats['entries']}",
        f"size     {_size(stats['size'])} of at most {_size(stats['limit'])}",
    ]


def _list(store: Any) -> Told:
    found = list(store.entries())
    names = {str(e.key): str(e.meta.get("name", "")) for e in found}
    entries = [_entry(e, names) for e in found]
    return entries, [
        f"{e['key'][:16]}  {_size(e['size']):>9}  {_date(e['used'])}  {e['kind']:8}  {e['name']}"
        for e in entries
    ]


def _entry(entry: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Key, kind, name, size in bytes and time of last use of an entry.

    A shortcut leads from a function to its kernel, by whose name it is known.
    """
    files = [f for f in entry.path.rglob("*") if f.is_file()]
    meta = dict(entry.meta)
    kind, name = "kernel", names[str(entry.key)]
    if not name and "key" in meta:
        kind, name = "shortcut", names.get(meta["key"]) or f"to {meta['key'][:16]}, which is gone"
    return {
        "key": str(entry.key),
        "kind": kind,
        "name": name or "(no name)",
        "size": sum(f.stat().st_size for f in files),
        "used": max((f.stat().st_mtime for f in files), default=0.0),
        "meta": meta,
    }


def _clear(store: Any) -> Told:
    count = store.clear()
    return {"removed": count}, [f"removed {count} entries"]


ACTIONS: dict[str, Callable[[Any], Told]] = {"stats": _stats, "list": _list, "clear": _clear}


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "-"
