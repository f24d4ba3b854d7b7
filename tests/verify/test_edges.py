"""Other sizes at which programs are tried: at the edges of their tiles."""

from __future__ import annotations

from superopt.mugraph.axes import Axis, Sym
from superopt.mugraph.graph import Builder
from superopt.mugraph.placement import Kernel, MuGraph, Placement, Split
from superopt.verify.edges import MOST_EDGES, edge_sizes, tiles_of


def anything(_: object) -> bool:
    return True


def placed(tiles: dict[str, tuple[int, ...]], low: int = 1, high: int = 999) -> MuGraph:
    """A program over some symbols, each cut by the first tile on the grid, by others in loops."""
    b = Builder("p")
    axes = {name: Axis(f"a{name}", Sym(name, low, high)) for name in tiles}
    x = b.input("x0", tuple((a,) for a in axes.values()), "f32")
    graph = b.build([("y0", b.map("neg", x), tuple((a,) for a in axes.values()))])
    grid = tuple(Split(axes[n], t[0]) for n, t in tiles.items() if t)
    loop = tuple(Split(axes[n], t) for n, more in tiles.items() for t in more[1:])
    return MuGraph(graph, (Kernel("k", (graph.outputs[0].node,), Placement(grid, loop)),))


def over(sizes: list[dict[str, int]], name: str, tile: int) -> set[int]:
    """Of sizes above a tile, what each is beyond a multiple of it: 0, 1 or -1."""
    found = {(p[name] + 1) % tile - 1 for p in sizes if p[name] > tile}
    return found & {-1, 0, 1}


def test_each_tile_is_one_over_full_and_one_short() -> None:
    m = placed({"n": (11, 4)})
    assert tiles_of(m) == {"n": [4, 11]}
    found = edge_sizes(m, (("n", 2, 64),), [{"n": 5}], anything)
    assert len(found) <= 6
    for tile in (4, 11):
        assert over(found, "n", tile) == {-1, 0, 1}
    assert all(2 <= p["n"] <= 64 for p in found)
    # What is tried anyway is not tried again.
    known = [{"n": 23}, {"n": 33}]
    again = edge_sizes(m, (("n", 2, 64),), known, anything)
    assert over([*known, *again], "n", 11) == {-1, 0, 1} and len(again) < len(found)
    assert not over(again, "n", 11) & {0, 1}


def test_ranges_limit_what_is_tried() -> None:
    m = placed({"n": (11,)})
    assert [p["n"] for p in edge_sizes(m, (("n", 2, 12),), [], anything)] == [12, 11, 10]
    assert edge_sizes(m, (("n", 2, 9),), [], anything) == []
    assert [p["n"] for p in edge_sizes(m, (("n", 100, 300),), [], anything)] == [100, 110, 109]
    assert [p["n"] for p in edge_sizes(m, (("n", 2, 64),), [], lambda p: p["n"] < 20)] == [
        12,
        11,
        10,
    ]
    assert edge_sizes(m, (), [], anything) == []
    assert edge_sizes(placed({"n": (1,)}), (("n", 2, 64),), [], anything) == []


def test_several_symbols_are_at_edges_at_a_time() -> None:
    m = placed({"m": (8,), "n": (8, 32), "o": ()})
    guard = (("m", 1, 99), ("n", 1, 99), ("o", 1, 99))
    found = edge_sizes(m, guard, [], anything)
    assert len(found) <= 6
    assert over(found, "m", 8) == over(found, "n", 8) == over(found, "n", 32) == {-1, 0, 1}
    assert any(p["m"] != p["n"] for p in found) and {p["o"] for p in found} == {3}
    many = placed({"m": (8, 7, 12, 20), "n": (9, 25, 31, 33)})
    assert len(edge_sizes(many, guard[:2], [], anything)) == MOST_EDGES
