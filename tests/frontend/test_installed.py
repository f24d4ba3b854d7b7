"""Modules of an installed package: what they hold is followed, the package's code is not."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from superopt import superoptimize
from superopt.frontend.live import state
from superopt.frontend.reach import walked

CHAIN = 3000
"""Functions of the package that call one another, far beyond what recursion could follow."""

PACKAGE = """
import functools
import torch

def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)
    return wrapper

def f0(x):
    return x
{chain}

SCALE = 2.0

class Config:
    def __init__(self):
        self.gain = 3.0
        self.inner = {{"shift": [1.0]}}

def apply(x, config):
    return x * SCALE + config.inner["shift"][0]

class Layer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.randn(8, 8), requires_grad=False)

    @decorated
    def forward(self, x):
        return f{last}(apply(x @ self.weight, self.config) * self.config.gain)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        config = Config()
        self.layers = torch.nn.ModuleList(Layer(config) for _ in range(3))

    @decorated
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package that lies where pip puts them."""
    home = tmp_path / "site-packages"
    home.mkdir()
    chain = "\n".join(
        f"@decorated\ndef f{n}(x):\n    return f{n - 1}(x)"
        if n % 50
        else f"def f{n}(x):\n    return x"
        for n in range(1, CHAIN)
    )
    # Only the last function of the chain runs, and at once: the others are there to be followed.
    text = PACKAGE.format(chain=chain, last=CHAIN - CHAIN % 50 - 50)
    (home / "installed_for_a_test.py").write_text(text)
    monkeypatch.syspath_prepend(str(home))
    yield importlib.import_module("installed_for_a_test")
    sys.modules.pop("installed_for_a_test")


def test_the_code_of_a_package_is_not_followed(package: ModuleType) -> None:
    model = package.Model()
    assert len(walked(lambda x: model(x))) < 400
    assert len(walked(lambda x: package.decorated(package.f2999)(x))) < 100


def test_what_a_package_holds_is_followed(package: ModuleType) -> None:
    """Each change is one that a user of models makes: an option, a patched function, a weight."""
    model, x = package.Model(), torch.randn(4, 8)

    def fn(x: torch.Tensor) -> torch.Tensor:
        return model(x)

    def another_gain() -> None:
        model.layers[0].config.gain = 5.0

    def another_kind_of_weight() -> None:
        weight = torch.randn(8, 8).T
        model.layers[1].weight = torch.nn.Parameter(weight, requires_grad=False)

    def patched() -> None:
        package.apply = lambda x, config: x - 7

    def another_layer() -> None:
        model.layers[2] = torch.nn.Linear(8, 8, bias=False).requires_grad_(False)

    seen = [tuple(state(fn)[0])]
    assert tuple(state(fn)[0]) == seen[0]
    answers = [fn(x)]
    for change in (another_gain, another_kind_of_weight, patched, another_layer):
        change()
        answers.append(fn(x))
        seen.append(tuple(state(fn)[0]))
    assert all(not torch.allclose(a, b) for a, b in itertools.pairwise(answers))
    assert len(set(seen)) == len(seen) == 5


def test_a_model_of_a_package_is_optimized(package: ModuleType) -> None:
    model, x = package.Model(), torch.randn(4, 8)
    fast = superoptimize(lambda x: model(x), fallbacks=())
    for _ in range(2):
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-3)
    model.layers[1].weight = torch.nn.Parameter(torch.randn(8, 8), requires_grad=False)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-3)
