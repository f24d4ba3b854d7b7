"""What a function reads in a roundabout way is part of its signature as well."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from superopt.frontend import kinds
from superopt.frontend.identity import identity
from superopt.frontend.live import state
from tests.frontend.test_changed import Change, assert_another_signature, replaced

LIMITS: dict[str, Any] = {"a": 2.0}
plain = types.ModuleType("superopt_test_settings")
plain.__dict__["SCALE"] = 2.0
sys.modules[plain.__name__] = plain


class Private(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self._scale


class Number(float):
    """A float of the user's."""


class Table(dict[str, float]):
    scale = 2.0


class Slots:
    __slots__ = ("scale",)


class MoreSlots(Slots):
    __slots__ = ()


class OneSlot:
    __slots__ = "scale"


class Reading:
    """Reads a global in its operators."""

    def __getitem__(self, key: str) -> float:
        return float(LIMITS["a"])

    def __getattr__(self, key: str) -> float:
        if key.startswith("_"):
            raise AttributeError(key)
        return float(LIMITS["a"])

    def __mul__(self, x: torch.Tensor) -> torch.Tensor:
        return x * LIMITS["a"]

    def _by(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor * LIMITS["a"]

    twice = functools.partialmethod(_by, factor=2.0)


class Row(NamedTuple):
    a: float

    @property
    def scale(self) -> float:
        return self.a * float(LIMITS["a"])


class Meta(type):
    @property
    def scale(cls) -> float:
        return cls._scale * 1.0  # type: ignore[attr-defined,no-any-return]


class WithMeta(metaclass=Meta):
    _scale = 2.0


@functools.wraps(F.silu)
def like_silu(x: torch.Tensor) -> torch.Tensor:
    return x.sigmoid() * LIMITS["a"]


def importing(x: torch.Tensor) -> torch.Tensor:
    import superopt_test_settings

    return x * superopt_test_settings.SCALE  # type: ignore[no-any-return]


def importing_from(x: torch.Tensor) -> torch.Tensor:
    from superopt_test_settings import SCALE

    return x * SCALE  # type: ignore[no-any-return]


class Made:
    """Reads a global when it is made."""

    def __init__(self) -> None:
        self.a = float(LIMITS["a"])


class AlsoMade(Made):
    def __init__(self) -> None:
        super().__init__()


@dataclasses.dataclass
class Fields:
    a: float = dataclasses.field(default_factory=lambda: float(LIMITS["a"]))

    @functools.cached_property
    def scale(self) -> float:
        return self.a * float(LIMITS["a"])


@torch.no_grad()
def without_gradient(x: torch.Tensor) -> torch.Tensor:
    return x * LIMITS["a"]


@functools.singledispatch
def by_type(x: Any) -> Any:
    return x * LIMITS["a"]


unnamed: dict[str, Any] = {}
exec("class K:\n    s = 2.0\ndef fn(x):\n    return x * K.s\n", unnamed)


def of(holder: Any, fn: Callable[..., Any]) -> Change:
    """A function that reads ``scale`` of an object."""
    holder.scale = 2.0
    return replaced(holder, "scale", 3.0, fn)


def limit(fn: Callable[..., Any]) -> Change:
    """A function that reads ``LIMITS``."""
    return fn, lambda: LIMITS.update(a=4.0), lambda: LIMITS.update(a=2.0)


def element(holder: Any, key: Any, fn: Callable[..., Any]) -> Change:
    old = holder[key]
    return fn, lambda: holder.__setitem__(key, old + 1), lambda: holder.__setitem__(key, old)


def closure_module() -> Callable[..., Any]:
    import superopt_test_settings as settings

    return lambda x: x * settings.SCALE


def with_table() -> Change:
    table = Table()
    return of(table, lambda x: x * table.scale)


def slots(holder: Any) -> Change:
    holder.scale = 2.0
    return (
        (lambda x: x * holder.scale),
        lambda: setattr(holder, "scale", 3.0),
        lambda: setattr(holder, "scale", 2.0),
    )


def long_list() -> Change:
    many = [1.0] * 300
    return element(many, 5, lambda x: x * many[5])


def large_array() -> Change:
    big = np.ones((100, 100))
    return element(big, (3, 3), lambda x: x * float(big[0, 0]))


def attribute_of_a_tensor() -> Change:
    w = torch.ones(7)
    return of(w, lambda x: x * w * w.scale)  # type: ignore[attr-defined]


def tuple_keys() -> Change:
    table = {("s", 2): 1.0}

    def change(new: int) -> None:
        table.clear()
        table["s", new] = 1.0

    return (lambda x: x * next(iter(table))[1]), lambda: change(5), lambda: change(2)


def set_of_tuples() -> Change:
    held = {(1, 2)}

    def change(new: tuple[int, int]) -> None:
        held.clear()
        held.add(new)

    return (
        (lambda x: x * 2 if (1, 2) in held else x),
        lambda: change((3, 4)),
        lambda: change((1, 2)),
    )


def hook_of_all_modules() -> Change:
    handles: list[Any] = []
    register = torch.nn.modules.module.register_module_forward_hook
    return (
        torch.nn.Linear(7, 7),
        lambda: handles.append(register(lambda m, i, o: o * 2)),
        lambda: handles.pop().remove(),
    )


def negated_view() -> Change:
    z = torch.randn(7, dtype=torch.complex64)
    held = [z.imag]
    return (
        (lambda x: x * held[0]),
        lambda: held.__setitem__(0, z.conj().imag),
        lambda: held.__setitem__(0, z.imag),
    )


get, reading, row = LIMITS.get, Reading(), Row(1.0)
CASES: dict[str, Callable[[], Change]] = {
    "a private attribute of a module": lambda: replaced(b := Private(), "_scale", 3.0, b),
    "a float of a subclass": lambda: replaced(sys.modules[__name__], "number", Number(3.0), by),
    "an attribute of a dict": with_table,
    "inherited slots": lambda: slots(MoreSlots()),
    "one slot": lambda: slots(OneSlot()),
    "an operator: getitem": lambda: limit(lambda x: x * reading["a"]),
    "an operator: getattr": lambda: limit(lambda x: x * reading.a),
    "an operator: mul": lambda: limit(lambda x: reading * x),
    "a partial method": lambda: limit(lambda x: reading.twice(x)),
    "a property of a tuple": lambda: limit(lambda x: x * row.scale),
    "a property of a metaclass": lambda: replaced(
        WithMeta, "_scale", 3.0, lambda x: x * WithMeta.scale
    ),
    "a bound function of Python": lambda: limit(lambda x: x * get("a")),
    "a function that says it is PyTorch's": lambda: limit(lambda x: like_silu(x)),
    "a function of PyTorch": lambda: replaced(F, "silu", lambda x: x * 3, lambda x: F.silu(x)),
    "a method of a module of PyTorch": lambda: replaced(
        torch.nn.Linear, "forward", lambda self, x: x * 3, torch.nn.Linear(4, 4)
    ),
    "by its full name": lambda: replaced(
        F, "silu", lambda x: x * 3, lambda x: torch.nn.functional.silu(x)
    ),
    "a constructor": lambda: limit(lambda x: x * Made().a),
    "an inherited constructor": lambda: limit(lambda x: x * AlsoMade().a),
    "a default of a field": lambda: limit(lambda x: x * Fields().a),
    "a property that is kept": lambda: limit(lambda x: x * Fields(2.0).scale),
    "behind a decorator of PyTorch": lambda: limit(lambda x: without_gradient(x)),
    "behind a dispatcher": lambda: limit(lambda x: by_type(x)),
    "code without a name": lambda: replaced(unnamed["K"], "s", 3.0, unnamed["fn"]),
    "an import": lambda: replaced(plain, "SCALE", 3.0, importing),
    "an import of a name": lambda: replaced(plain, "SCALE", 3.0, importing_from),
    "a module in a closure": lambda: replaced(plain, "SCALE", 3.0, closure_module()),
    "a long list": long_list,
    "a large array": large_array,
    "an attribute of a tensor": attribute_of_a_tensor,
    "tuples as keys": tuple_keys,
    "tuples in a set": set_of_tuples,
    "a hook of all modules": hook_of_all_modules,
    "a negated view": negated_view,
}

number: Any = Number(2.0)


def by(x: torch.Tensor) -> torch.Tensor:
    return x * number  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_another_signature(name: str) -> None:
    assert_another_signature(CASES[name]())


def with_attribute(x: torch.Tensor) -> torch.Tensor:
    return x * with_attribute.factor  # type: ignore[attr-defined,no-any-return]


with_attribute.factor = 2.0  # type: ignore[attr-defined]
precision = torch.get_float32_matmul_precision


@pytest.mark.parametrize(
    "fn",
    [
        importing,
        importing_from,
        with_attribute,
        lambda x: with_attribute(x),
        lambda x: x * 2 if precision() == "highest" else x,
        lambda x: x * 2 if torch.get_float32_matmul_precision() == "highest" else x,
        lambda x: x * 2 if x.requires_grad else x,
        lambda x: like_silu(x),
    ],
)
def test_what_may_change_has_no_lasting_identity(fn: Callable[..., Any]) -> None:
    assert identity(fn) is None


def test_a_patched_operator_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    fn = lambda x: F.silu(x) * 2  # noqa: E731
    before = identity(fn)
    monkeypatch.setattr(F, "silu", lambda x: x * 3)
    assert before is not None and identity(fn) != before


def test_a_users_file_named_like_one_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sched.py").write_text("class Settings:\n    scale = 2.0\n")
    monkeypatch.delitem(sys.modules, "sched", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    kinds.is_standard.cache_clear()
    kinds.of_users.cache_clear()
    import sched

    settings: Any = sched
    fn = lambda x: x * settings.Settings.scale  # noqa: E731
    before = tuple(state(fn)[0])
    settings.Settings.scale = 3.0
    assert tuple(state(fn)[0]) != before
    monkeypatch.delitem(sys.modules, "sched")
    kinds.is_standard.cache_clear()
    kinds.of_users.cache_clear()
