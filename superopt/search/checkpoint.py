"""The checkpoint of a search: a file of finished work, from which a later process goes on.

One line a record: a checksum, then JSON. Lines are appended as work is finished, each by a single
write, so that a process killed at any moment leaves whole records and at most one broken line,
which is dropped with all after it. The first line says of what search the file is. The search
itself is deterministic, so going on is running it again with the finished work at hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from superopt import trace
from superopt.errors import BadOption, CheckpointMismatch
from superopt.mugraph.axes import sort_axes
from superopt.mugraph.graph import Graph
from superopt.search.cut import Cut
from superopt.search.enumerate import Derivation, Space, ValueClass
from superopt.search.regions import Region
from superopt.search.tasks import Scored

FORMAT = 2

T = TypeVar("T")

Identity = Mapping[str, Any]
"""What a search is of, as plain JSON: program, device, version, seed, budget in candidates, options."""


class Checkpoint:
    """Finished work of one search, in the file ``path``; None: nothing is read or kept.

    named: whether the user named the file: then one of another search is an error and not replaced,
    as is one that cannot be written (BadOption). Else both cost a line: the search does without.
    """

    def __init__(self, path: Path | None, identity: Identity, named: bool = False) -> None:
        self.path, self.named = path, named
        self.identity = {"format": FORMAT, **json.loads(json.dumps(identity))}
        self._known: dict[str, Any] = {}
        self._file: Any = None
        self._unread: set[str] = set()
        if path is None:
            return
        whole = self._read(path, named)
        self._unread = {n for n in self._known if not n.startswith("elapsed")}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered and appending: a record is one write, wherever the process ends.
            self._file = path.open("ab", buffering=0)
            self._file.truncate(whole)
            if whole == 0:
                self._file.write(_record("search", self.identity))
        except OSError as error:
            self.close()
            self._unusable(path, "written", error)

    @property
    def elapsed(self) -> float:
        """Seconds that the search had taken."""
        return float(self._known.get("elapsed", 0.0))

    @property
    def resumed(self) -> int:
        """Pieces of finished work that were found."""
        return len(self._known)

    @property
    def unread(self) -> bool:
        """Whether there is finished work that the search has not come to yet."""
        return bool(self._unread)

    def get(self, name: str) -> Any:
        """What was kept under a name, or None."""
        self._unread.discard(name)
        return self._known.get(name)

    def read(self, name: str, made: Callable[[Any], T]) -> T | None:
        """What ``made`` makes of what was kept under a name, or None.

        A whole record of another form is refused where the user named the file (CheckpointMismatch).
        """
        value = self.get(name)
        try:
            return made(value)
        except (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError) as error:
            self._malformed(f"{name!r}: {type(error).__name__}: {error}")
        return None

    def _unusable(self, path: Path, how: str, error: OSError) -> None:
        if self.named:
            raise BadOption(
                f"the checkpoint cannot be {how}: {error.strerror or error}",
                f"option checkpoint, {str(path)!r}",
                "name a file in a folder that you can write",
            ) from error
        trace.log("search", f"no checkpoint: {path} cannot be {how}: {error}")

    def _malformed(self, why: str) -> None:
        what = f"a record is not of the form that this version writes ({why})"
        if self.named:
            raise CheckpointMismatch(what, str(self.path))
        trace.warn_once(
            "search", f"{what}; that work is done again", key=("record", str(self.path))
        )

    def put(self, name: str, value: Any) -> None:
        """Keeps plain JSON under a name."""
        self._known[name] = value
        if self._file is not None:
            self._write(name, value)

    def caught_up(self) -> None:
        """Says that the search has gone another way than the one whose work is left."""
        self._unread.clear()

    def close(self) -> None:
        """Closes the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Removes the file: the search and what follows it are done."""
        self.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _write(self, name: str, value: Any) -> None:
        try:
            self._file.write(_record(name, value))
        except OSError as error:  # the disk is full, say
            trace.log("search", f"no more is kept in {self.path}: {error}")
            self.close()

    def _read(self, path: Path, named: bool) -> int:
        """Reads the records; how many bytes of the file are whole and of this search."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            self._unusable(path, "read", error)
            return 0
        whole, first = 0, True
        for line in data.splitlines(keepends=True):
            body = line[17:].rstrip(b"\n")
            if not line.endswith(b"\n") or line[:16] != _sum(body):
                break
            try:
                name, value = _parsed(body)
            except ValueError as error:
                self._malformed(str(error))
                self._known.clear()
                return 0
            if first:
                if name != "search" or value != self.identity:
                    return self._other(path, named, value)
                first = False
            elif name == "elapsed" or name not in self._known:
                self._known[name] = value
            whole += len(line)
        if whole < len(data):
            trace.log("search", f"{path}: the end is damaged and is done again")
        if first and data and named:
            raise CheckpointMismatch(
                "this is no checkpoint, or its first line is damaged", str(path)
            )
        return whole

    def _other(self, path: Path, named: bool, value: Any) -> int:
        known = value if isinstance(value, dict) else {}
        keys = sorted({*known, *self.identity})
        differ = [k for k in keys if known.get(k) != self.identity.get(k)]
        what = f"the checkpoint is of another search: {', '.join(differ)} differ"
        if named:
            raise CheckpointMismatch(what, str(path))
        trace.log("search", f"{path}: {what}; it is begun anew")
        return 0


def _record(name: str, value: Any) -> bytes:
    body = json.dumps([name, value], separators=(",", ":")).encode()
    return _sum(body) + b" " + body + b"\n"


def _parsed(body: bytes) -> tuple[str, Any]:
    """The name and the value of a record; ValueError where it has another form."""
    record = json.loads(body)
    if not isinstance(record, list) or len(record) != 2 or not isinstance(record[0], str):
        raise ValueError("no pair of a name and a value")
    if record[0] == "elapsed" and not isinstance(record[1], int | float):
        raise ValueError("'elapsed' is no number")
    return record[0], record[1]


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()


def space_to_json(graph: Graph, region: Region, space: Space) -> Any:
    """The space of a region as plain JSON, its axes numbered by name."""
    at = {a: n for n, a in enumerate(_axes(graph))}
    return {
        "region": _of(region),
        "classes": [
            [
                [at[a] for a in c.axes],
                [[d.op, list(d.args), [at[a] for a in d.over]] for d in c.derivations],
                list(c.nodes),
            ]
            for c in space.classes
        ],
        "targets": [[i, c] for i, c in space.targets.items()],
        "closed": space.closed,
        "stats": space.stats,
        "literals": [[c, str(x)] for c, x in space.literals.items()],
        "sizes": [[c, [at[a] for a in own]] for c, own in space.sizes.items()],
    }


def space_from_json(graph: Graph, region: Region, data: Any) -> Space | None:
    """The space that ``space_to_json`` wrote; None if it is of another region."""
    if data is None or data["region"] != _of(region):
        return None
    if not isinstance(data["stats"], dict) or not isinstance(data["closed"], bool):
        raise TypeError("no statistics of a space")
    axes = _axes(graph)
    classes = tuple(
        ValueClass(
            n,
            tuple(axes[a] for a in own),
            tuple(
                Derivation(op, tuple(args), tuple(axes[a] for a in over)) for op, args, over in ds
            ),
            tuple(nodes),
        )
        for n, (own, ds, nodes) in enumerate(data["classes"])
    )
    return Space(
        classes,
        dict(data["targets"]),
        data["closed"],
        data["stats"],
        {c: Fraction(x) for c, x in data["literals"]},
        {c: tuple(axes[a] for a in own) for c, own in data["sizes"]},
    )


def _of(region: Region) -> list[list[int]]:
    return [list(region.nodes), list(region.leaves), list(region.targets)]


def _axes(graph: Graph) -> tuple[Any, ...]:
    return sort_axes(set(graph.axes))


def scored_to_json(outputs: tuple[int, ...], scored: Scored) -> Any:
    """What came of cutting a term graph; outputs: its nodes, by which it is known again."""
    cuts = [
        [[getattr(cut, f.name) for f in dataclasses.fields(cut)], structure]
        for cut, structure in scored.cuts
    ]
    return {"outputs": list(outputs), "cuts": cuts, "costed": sorted(scored.costed)}


def scored_from_json(outputs: tuple[int, ...], data: Any) -> Scored | None:
    """The same; None if it is of another term graph."""
    if data is None or tuple(data["outputs"]) != outputs:
        return None
    cuts = tuple((Cut(*map(_tuples, values)), structure) for values, structure in data["cuts"])
    return Scored(cuts, (), frozenset(data["costed"]))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


__all__ = [
    "Checkpoint",
    "Identity",
    "scored_from_json",
    "scored_to_json",
    "space_from_json",
    "space_to_json",
]
