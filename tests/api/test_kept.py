"""What is kept between calls and processes: cache entries, held tensors, layouts between pieces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from superopt import superoptimize
from tests.api.programs import gated_mlp

r = torch.randn


def test_swapped_weights_are_not_confused() -> None:
    x, w, u = r(3, 16), r(16, 16), r(16, 16)
    one = superoptimize(lambda x, w, u: F.silu(x @ w) * (x @ u), strict=True)
    two = superoptimize(lambda x, w, u: F.silu(x @ u) * (x @ w), strict=True)
    assert torch.allclose(one(x, w, u), gated_mlp(x, w, u), atol=1e-4)
    assert torch.allclose(two(x, w, u), gated_mlp(x, u, w), atol=1e-4)
    assert torch.allclose(one(x, u, w), gated_mlp(x, u, w), atol=1e-4)
    keys = {f.result(x, w, u).pieces[0].key for f in (one, two)}
    assert len(keys) == 2


SCRIPT = """
import subprocess, torch
torch.manual_seed(0)
runs, begin = [], subprocess.Popen.__init__
def counted(self, args, *rest, **more):
    runs.append(" -o " in " ".join(map(str, args)))
    begin(self, args, *rest, **more)
subprocess.Popen.__init__ = counted
from superopt import superoptimize
def f(x, w):
    return torch.nn.functional.silu(x @ w) * {scale}
x, w = torch.randn(3, 16), torch.randn(16, 8)
g = superoptimize(f, strict=True)
ok = torch.allclose(g(x, w), f(x, w), atol=1e-4)
print(ok, g.result(x, w).cache, sum(runs))
"""


def second(cache: Path, scale: float = 2.0) -> list[str]:
    path = cache.parent / "script.py"
    path.write_text(SCRIPT.format(scale=scale))
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SUPEROPT_CACHE_DIR": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return [*done.stdout.split(), done.stderr]


def test_a_new_process_starts_warm_without_compiling(surroundings: Path) -> None:
    first = second(surroundings)
    assert first[:2] == ["True", "cold"]
    assert int(first[2]) > 0
    assert second(surroundings)[:3] == ["True", "warm", "0"]
    assert second(surroundings, scale=3.0)[:2] == ["True", "cold"]
    shared = sorted(surroundings.rglob("kernel-*.so"))[0]
    shared.write_bytes(shared.read_bytes()[:100])
    again = [second(surroundings, scale=s) for s in (2.0, 3.0)]
    assert [a[0] for a in again] == ["True", "True"]
    assert sorted(a[1] for a in again) == ["cold", "warm"]
    assert any("damaged" in a[-1] for a in again)


def test_tensors_that_a_function_holds_are_followed() -> None:
    layer = torch.nn.Linear(16, 8)
    f = superoptimize(layer)
    x = r(3, 16)
    y = f(x)
    assert y.requires_grad  # its parameters want gradients, so it ran in PyTorch
    with torch.no_grad():
        assert torch.allclose(f(x), layer(x), atol=1e-5)
        layer.weight.mul_(2.0)
        assert torch.allclose(f(x), layer(x), atol=1e-5)
        layer.weight = torch.nn.Parameter(r(8, 16))
        assert torch.allclose(f(x), layer(x), atol=1e-5)


def test_pieces_around_a_boundary_agree_on_layouts() -> None:
    def f(x):  # type: ignore[no-untyped-def]
        y = (x.t() * 2).contiguous().t()
        return torch.cumsum(y, 0) @ torch.ones(4, 3) + y.sum(1, keepdim=True)

    x = r(5, 4)
    assert torch.allclose(superoptimize(f, strict=True)(x), f(x), atol=1e-4)
