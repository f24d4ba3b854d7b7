"""Programs with symbolic sizes: made and checked again, they are run at the edges of their tiles."""

from __future__ import annotations

import re
from pathlib import Path

from superopt.mugraph.dispatch import by_name, holds
from superopt.pipeline.rechecking import binary
from superopt.pipeline.rechecking.parts import read_parts
from superopt.runtime.artefact import read_artefact
from superopt.verify.edges import OVER, tiles_of
from tests.api.artefacts import genuine

SHARED_CACHE = True


def test_both_gates_are_at_the_edges_of_every_tile(kernels_folder: Path) -> None:
    parts = read_parts(read_artefact(genuine("sizes", kernels_folder)))
    assert parts is not None and parts.rule is not None
    edges = 0
    for bucket, stated in zip(parts.rule.buckets, parts.certificate["buckets"], strict=True):
        if bucket.program < 0:
            continue
        m = parts.mugraphs[bucket.program]
        for name, (low, high) in by_name(bucket.guard).items():
            told = [c["name"] for c in stated["gate"]["classes"]]
            made = {int(x[1]) for t in told if (x := re.search(rf"\b{name}=(\d+)", t))}
            places = binary._places(parts, bucket.program, 0)
            again = {p[name] for p, _ in places if holds(bucket.guard, [p[name]])}
            for tile in tiles_of(m).get(name, ()):
                for over in OVER:
                    there = {
                        n for n in range(low, high + 1) if n % tile == over % tile and n > tile
                    }
                    assert not there or there & made, (bucket, tile, over, made)
                    assert not there or there & again, (bucket, tile, over, again)
                    edges += bool(there)
    assert edges >= 3
