"""Local blocks of a statement, and the loops that keep them small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from superopt.codegen.backends.cpu_expr import Scope
from superopt.codegen.backends.cpu_layout import Range, place_local, tile_of
from superopt.codegen.backends.cpu_loops import indent
from superopt.mugraph.axes import Axis
from superopt.mugraph.dtypes import DTYPES
from superopt.mugraph.tileir import Buffer

LOCAL_BYTES = 256 * 1024
"""Largest local block that is put on the stack."""


def local_block(
    scope: Scope, wish: str, dtype: str, axes: tuple[Axis, ...]
) -> tuple[Buffer | None, Scope, list[str]]:
    """A block over the current tiles of ``axes``; None when its size is not known or too large."""
    name = f"{wish}_{len(scope.places)}"
    var = scope.names.of(("local", name), name)
    place = place_local(var, dtype, axes, [scope.ranges[x].most for x in axes])
    size = place.elements.value
    if size is None or size * DTYPES[dtype].bytes > LOCAL_BYTES:
        return None, scope, []
    block = Buffer(f"({name})", "tile", axes, dtype)
    places = {**scope.places, block.name: place}
    return block, replace(scope, places=places), [f"alignas(64) {place.c} {var}[{max(size, 16)}];"]


def chunked(
    scope: Scope, chunks: dict[Axis, int], body: Callable[[Scope], list[str] | None]
) -> list[str] | None:
    """``body`` inside loops that cut axes into chunks, where they are longer than that."""
    heads: list[list[str]] = []
    ranges, places = dict(scope.ranges), dict(scope.places)
    for axis, size in chunks.items():
        span: Range = ranges[axis]
        if span.most.value is not None and span.most.value <= size:
            continue
        n = scope.names.axis(axis)
        level = len(scope.places)  # chunks may nest: each level has a block more
        base, extent = f"bc{level}_{n}", f"nc{level}_{n}"
        ranges[axis], text = tile_of(span, size, base, extent)
        for name, place in places.items():
            if place.tile and axis in place.axes and axis not in place.origin:
                places[name] = replace(place, origin={**place.origin, axis: span.base})
        end = span.base + span.extent
        heads.append(
            [
                f"for (int64_t {base} = {span.base.text}; {base} < {end.text}; {base} += {size}) {{",
                *([f"  const int64_t {extent} = {text};"] if text else []),
            ]
        )
    lines = body(replace(scope, ranges=ranges, places=places))
    if lines is None:
        return None
    for head in reversed(heads):
        lines = [*head, *indent(lines), "}"]
    return lines
