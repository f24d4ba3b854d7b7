"""Checks a cache entry again from its own files alone: ``superopt verify PATH``.

Nothing is taken on trust that can be found again: hashes, the equality of the graphs with fresh
seeds, plan, source text and accesses, and the shipped binary by the numeric gate. What cannot be found
again (times, the spaces that were searched) is said to be unchecked. A binary is code: it is run,
in a process of its own but with the user's rights, so verify only what you would run.
"""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from superopt import trace
from superopt.errors import BadOption, SuperoptError
from superopt.pipeline.rechecking.binary import check_binary, check_sanitized
from superopt.pipeline.rechecking.claimed import check_claims
from superopt.pipeline.rechecking.derivation import check_graphs
from superopt.pipeline.rechecking.outcome import (
    BAD,
    DIFFERENT,
    EQUAL,
    UNDECIDED,
    Layer,
    Seeds,
    gravest,
)
from superopt.pipeline.rechecking.parts import Parts, read_parts
from superopt.pipeline.rechecking.sources import (
    check_accesses,
    check_plans,
    print_again,
    prove_again,
)
from superopt.runtime.artefact import CERTIFICATE, PARTS, PROGRAM, read_artefact
from superopt.runtime.entries import MANIFEST
from superopt.verify.alone import Difference

__all__ = [
    "BAD",
    "DIFFERENT",
    "EQUAL",
    "LIMIT_S",
    "UNDECIDED",
    "Layer",
    "Recheck",
    "entries_at",
    "gravest",
    "recheck",
]

LIMIT_S = 300.0
"""Seconds that one call of a binary may take."""

UNCHECKED = "the times and what the search claims of its spaces"
"""What a certificate or a manifest says that cannot be found again from the artefact."""


@dataclass(frozen=True)
class Recheck:
    """What came of one artefact.

    verdict: "equal", "different" (there is a concrete difference), "undecided" or "bad artefact";
    reason: in words, empty when equal; layers: what was found of each; seeds: what was drawn from
    which; difference: where the binary or a graph is not the program; error: the class of the error
    by which the artefact was refused.
    """

    path: Path
    verdict: str
    reason: str
    layers: tuple[Layer, ...] = ()
    seeds: dict[str, list[int]] = field(default_factory=dict)
    difference: Difference | None = None
    error: str = ""


def entries_at(path: Path) -> list[Path]:
    """The folders of the artefacts that a path names: an entry, a file of it, or a folder of several.

    Of several, those are left out that hold nothing and only lead to another one. Raises BadOption
    where there is none.
    """
    fix = "give the folder of an entry, its certificate.json, or a folder of entries"
    if not path.exists():
        raise BadOption(f"{path} does not exist", "PATH", fix)
    if path.is_file():
        if path.name not in (MANIFEST, CERTIFICATE):
            raise BadOption(f"{path} is neither {MANIFEST} nor {CERTIFICATE}", "PATH", fix)
        return [path.parent]
    marks = (MANIFEST, CERTIFICATE, PROGRAM, *PARTS)
    if any((path / name).is_file() for name in marks):
        return [path]
    found = sorted({p.parent for name in marks for p in path.rglob(name)})
    found = [p for p in found if not _leads_on(p)]
    if not found:
        raise BadOption(f"{path} holds no artefact", "PATH", fix)
    return found


def _leads_on(folder: Path) -> bool:
    """Whether an entry holds nothing but the key of another one."""
    if [f.name for f in folder.iterdir()] != [MANIFEST]:
        return False
    try:
        return not read_artefact(folder).files
    except (SuperoptError, OSError):
        return False


def recheck(
    path: str | Path,
    seed: int | None = None,
    *,
    limit_s: float = LIMIT_S,
    sanitize: bool = False,
) -> Recheck:
    """Checks the artefact in a folder (or the one that its manifest or certificate lies in) again.

    seed: what is drawn is drawn from it and its successors, fresh ones when None; limit_s: seconds
    that one call of a binary may take, and its loading; sanitize: whether the sources are compiled
    again under AddressSanitizer, and run.
    """
    folder = Path(path)
    folder = folder.parent if folder.is_file() else folder
    seeds = Seeds(secrets.randbelow(1 << 62) if seed is None else seed)
    layers: list[Layer] = []
    try:
        parts = read_parts(read_artefact(folder))
        if parts is None:
            layers.append(
                Layer("files", UNDECIDED, "it holds no kernel, and leads to another entry")
            )
        else:
            for layer in _found(parts, seeds, limit_s, sanitize):
                layers.append(layer)
    except (SuperoptError, OSError) as error:
        reason = str(error) if isinstance(error, SuperoptError) else f"it cannot be read: {error}"
        layers.append(Layer("files", BAD, reason))
        return Recheck(folder, BAD, reason, tuple(layers), seeds.drawn, error=type(error).__name__)
    except Exception as error:  # a fault of the check itself must not look like a verdict
        trace.log("verify", f"the check of {folder} failed: {traceback.format_exc()}")
        what = f"it could not be checked ({type(error).__name__}: {error})"
        layers.append(Layer("check", UNDECIDED, what))
    verdict = gravest(layer.status for layer in layers)
    first = next((layer for layer in layers if layer.status == verdict), None)
    reason = "" if verdict == EQUAL or first is None else f"{first.name}: {first.text}"
    difference = next((x.difference for x in layers if x.difference is not None), None)
    return Recheck(folder, verdict, reason, tuple(layers), seeds.drawn, difference)


def _found(parts: Parts, seeds: Seeds, limit_s: float, sanitize: bool) -> Iterator[Layer]:
    yield parts.layer()
    graphs = check_graphs(parts, seeds)
    yield from graphs.layers
    printed = print_again(parts)
    plans = check_plans(parts, printed)
    yield from plans
    yield check_accesses(parts, prove_again(parts, printed))
    if gravest(layer.status for layer in plans if layer.name == "plan") == EQUAL:
        yield check_binary(parts, graphs.reference, seeds, limit_s)
        if sanitize:
            yield check_sanitized(parts, graphs.reference, seeds, limit_s)
    else:  # called as the plan says, it would write where it should not
        yield Layer("binary", UNDECIDED, "not run, since its plan is not that of its graph")
    yield check_claims(parts, graphs)
    yield Layer("unchecked", EQUAL, UNCHECKED)
