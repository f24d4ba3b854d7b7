"""No unequal values share a class: every derivation of every class, evaluated in float64."""

import pytest
import torch

from superopt.bench.generated import named, program
from superopt.mugraph.algebras.floats import FloatAlgebra, split_input
from superopt.mugraph.axes import Axis
from superopt.mugraph.evaluate import evaluate, shape_of
from superopt.mugraph.graph import Builder
from superopt.search.build import rebuild
from superopt.search.enumerate import REDUCE, Space, explore
from superopt.search.regions import regions
from tests import programs

PROGRAMS = 40
CLOSE = 1e-9


def inputs(graph, seed):
    """Positive float64 inputs by name, split into axes; of modest size, so that exp stays finite."""
    gen = torch.Generator().manual_seed(seed)
    out = {}
    for node in graph.inputs:
        shape = [a.size for dim in node.dims for a in dim]
        tensor = torch.rand(shape, generator=gen, dtype=torch.float64) * 0.5 + 0.25
        out[node.name] = split_input(node, tensor)
    return out


def values(graph, space: Space, given):
    """The float64 value of each class and of each derivation, computed from the other classes."""
    source = evaluate(graph, FloatAlgebra(given), roots=[n for c in space.classes for n in c.nodes])
    known = {c.id: source[c.nodes[0]] for c in space.classes if c.nodes}
    known |= {c: torch.tensor(float(v), dtype=torch.float64) for c, v in space.literals.items()}
    seen = []
    pending = [(c, d) for c in space.classes for d in c.derivations]
    while pending:
        later = []
        for c, d in pending:
            if any(a not in known for a in d.args):
                later.append((c, d))
                continue
            value = step(d, c, space, known)
            known.setdefault(c.id, value)
            seen.append((c, d, value))
        assert len(later) < len(pending), "derivations that rest on no leaf"
        pending = later
    return known, seen


def step(d, cls, space, known):
    """One derivation under the float algebra of the graphs."""
    b = Builder()
    args, given = [], {}
    for n, a in enumerate(d.args):
        axes = space.classes[a].axes
        i = b.input(f"x{n}", tuple((x,) for x in axes), "f64")
        args.append(i)
        given[i] = known[a].expand(shape_of(axes, None))
    if d.op.startswith(REDUCE):
        out = b.reduce(d.op.removeprefix(REDUCE), args[0], d.over)
    else:
        out = b.map(d.op, *args)
    assert b.axes(out) == cls.axes
    return evaluate(b.build([("o", out, tuple((a,) for a in cls.axes))]), FloatAlgebra({}), given)[
        out
    ]


def differences(graph, space, seed=0):
    """How many derivations were compared; fails at the first that is not its class's value."""
    known, seen = values(graph, space, inputs(graph, seed))
    for c, d, value in seen:
        want = known[c.id]
        both = torch.isfinite(value) & torch.isfinite(want)
        same = torch.isfinite(value) == torch.isfinite(want)
        assert bool(same.all()), f"class {c.id}: {d}"
        scale = torch.maximum(value.abs(), want.abs()).clamp_min(1e-3)
        error = ((value - want).abs() / scale)[both]
        assert error.numel() == 0 or float(error.max()) < CLOSE, f"class {c.id}: {d}: {error.max()}"
    return len(seen)


def test_generated_programs():
    compared = derivations = 0
    for seed in range(PROGRAMS + 20):
        graph = program(1000 + seed, ops=3 + seed % 4, literals=seed % 2 == 0)
        for region in regions(graph):
            space = explore(graph, region, candidates=20000)
            derivations += differences(graph, space, seed)
        compared += 1
    assert compared >= PROGRAMS
    assert derivations >= 10 * PROGRAMS


@pytest.mark.parametrize(
    "make",
    [
        programs.rmsnorm_linear,
        programs.lora,
        programs.gated_mlp,
        programs.attention,
        programs.softmax,
        *named().values(),
    ],
    ids=lambda m: getattr(m, "__name__", getattr(m, "name", "")),
)
def test_programs_of_the_suite(make):
    graph = make if not callable(make) else make()
    for region in regions(graph):
        assert differences(graph, explore(graph, region, candidates=50000))


def test_root_of_a_square_is_not_the_base():
    b = Builder("root")
    x = b.input("x", (), "f32")
    y = b.input("y", (), "f32")
    graph = b.build(
        [("o", b.map("mul", b.map("sqrt", b.map("mul", x, x)), b.map("mul", x, y)), ())]
    )
    (region,) = regions(graph)
    for seed in range(20):
        space = explore(graph, region, seed=seed)
        at = {n: c.id for c in space.classes for n in c.nodes}
        assert len(set(at.values())) == len(at)


def test_a_size_is_not_the_number_of_cells():
    b = Builder("sizes")
    k, n = Axis("k", 2), Axis("n", 2)
    x = b.input("x", ((k,), (n,)), "f32")
    terms = [b.map("mul", b.reduce("add", x, [a]), b.size_of(c)) for a in (k, n) for c in (k, n)]
    terms.append(b.map("mul", b.reduce("add", x, [k]), b.const(2.0)))
    graph = b.build([(f"o{i}", t, tuple((a,) for a in b.axes(t))) for i, t in enumerate(terms)])
    for region in regions(graph):
        space = explore(graph, region)
        assert len(set(space.targets.values())) == len(region.targets)


def choices(space, pick):
    """A well-founded choice of derivations: classes in the order in which they become derivable."""
    chosen, done = {}, {c.id for c in space.classes if not c.derivations}
    while len(done) < len(space.classes):
        before = len(done)
        for c in space.classes:
            ready = [d for d in c.derivations if all(a in done for a in d.args)]
            if c.id not in done and ready:
                chosen[c.id] = pick(ready)
                done.add(c.id)
        assert len(done) > before
    return chosen


@pytest.mark.parametrize(
    "make",
    [
        programs.rmsnorm_linear,
        programs.lora,
        programs.gated_mlp,
        programs.attention,
        programs.softmax,
    ],
)
@pytest.mark.parametrize("pick", [0, -1])
def test_rebuilt_programs_compute_the_same(make, pick):
    graph = make()
    spaces = [(r, explore(graph, r)) for r in regions(graph)]
    at: dict[int, int] = {}
    b = Builder("rebuilt")
    from superopt.mugraph.graph import remap
    from superopt.search.regions import Region, schedule

    of = dict(spaces)
    for item in schedule(graph, [r for r, _ in spaces]):
        if isinstance(item, Region):
            space = of[item]
            made = rebuild(b, graph, item, space, choices(space, lambda ds: ds[pick % len(ds)]), at)
            at |= {i: made[c] for i, c in space.targets.items()}
        else:
            at[item] = b.add(remap(graph.nodes[item], at))
    other = b.build([(o.name, at[o.node], o.dims) for o in graph.outputs])
    given = inputs(graph, 3)
    want = evaluate(graph, FloatAlgebra(given))
    got = evaluate(other, FloatAlgebra(given))
    for o, p in zip(graph.outputs, other.outputs, strict=True):
        assert graph.nodes[o.node].dtype == other.nodes[p.node].dtype
        torch.testing.assert_close(got[p.node], want[o.node], rtol=1e-9, atol=1e-12)


def half_precision():
    """A normalization in f32 between bf16 tensors, as models write it, with two consumers."""
    b = Builder("half")
    ab, ak, an = Axis("b", 3), Axis("k", 6), Axis("n", 4)
    x = b.input("x", ((ab,), (ak,)), "bf16")
    w = b.input("w", ((ak,), (an,)), "bf16")
    wide = b.map("cast", x, dtype="f32")
    mean = b.map("div", b.reduce("add", b.map("mul", wide, wide), [ak]), b.size_of(ak))
    normed = b.map("mul", wide, b.map("rsqrt", b.map("add", mean, b.const(1e-5))))
    narrow = b.map("cast", normed, dtype="bf16")
    out = b.reduce("add", b.map("mul", narrow, w), [ak])
    top = b.reduce("max", narrow, [ak])
    return b.build(
        [("o", out, ((ab,), (an,))), ("n", normed, ((ab,), (ak,))), ("m", top, ((ab,),))]
    )


@pytest.mark.parametrize("pick", [0, 1, -1])
def test_element_types_survive_a_rebuild(pick):
    test_rebuilt_programs_compute_the_same(half_precision, pick)
