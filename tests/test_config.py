"""Settings from the environment, and the options of the decorator with their teaching errors."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superopt import errors
from superopt.config import Budget, Config, DynamicAxis, Options, Target
from superopt.errors import BadOption, CompileFailed, SuperoptError
from superopt.options import CPU_ISAS
from superopt.runtime.isa import ISAS


def test_an_empty_environment_gives_the_defaults():
    assert Config.from_env({}) == Config()
    assert Config.from_env({"SUPEROPT_DEBUG": "  "}) == Config()


def test_every_setting_is_read(tmp_path):
    given_values = {
        "SUPEROPT_CACHE_DIR": str(tmp_path),
        "SUPEROPT_DISABLE_CACHE": "1",
        "SUPEROPT_CACHE_LIMIT": "800MiB",
        "SUPEROPT_DISABLE": "yes",
        "SUPEROPT_STRICT": "on",
        "SUPEROPT_DEBUG": "3",
        "SUPEROPT_LOGS": "search, cache",
        "SUPEROPT_PROGRESS": "never",
        "SUPEROPT_CXX": "clang++",
        "SUPEROPT_CXXFLAGS": "-g '-DX=a b'",
        "SUPEROPT_COMPILE_TIMEOUT": "5s",
        "SUPEROPT_LOCK_TIMEOUT": "1.5",
        "SUPEROPT_THREADS": "2",
        "SUPEROPT_JOBS": "3",
        "SUPEROPT_WORKERS": "ray:head:6379",
        "SUPEROPT_MEMORY": "2G",
        "SUPEROPT_TILE_MEMORY": "1M",
        "SUPEROPT_PACK_MEMORY": "64M",
    }
    assert set(given_values) == {s.env for s in Config.settings()}
    config, default = Config.from_env(given_values), Config()
    for setting in Config.settings():
        assert getattr(config, setting.name) != getattr(default, setting.name), setting
        assert setting.doc
    assert config.cache_limit == 800 << 20
    assert config.logs == {"search", "cache"}
    assert config.cxxflags == ("-g", "-DX=a b")
    assert config.cache_path == tmp_path


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ("SUPEROPT_DEBUG", "6"),
        ("SUPEROPT_DEBUG", "loud"),
        ("SUPEROPT_DISABLE_CACHE", "maybe"),
        ("SUPEROPT_CACHE_LIMIT", "4 parsecs"),
        ("SUPEROPT_CACHE_LIMIT", "-1"),
        ("SUPEROPT_CACHE_LIMIT", "nan"),
        ("SUPEROPT_LOGS", "serach"),
        ("SUPEROPT_COMPILE_TIMEOUT", "0"),
        ("SUPEROPT_THREADS", "0"),
        ("SUPEROPT_PROGRESS", "sometimes"),
        ("SUPEROPT_CXXFLAGS", "'open"),
    ],
)
def test_a_bad_setting_names_itself_and_its_meaning(env, text):
    with pytest.raises(BadOption, match=env) as caught:
        Config.from_env({env: text})
    assert "means:" in caught.value.fix


def test_the_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Config().cache_path == tmp_path / "superopt"


@pytest.mark.parametrize(
    ("text", "kind", "arch"),
    [
        ("cpu", "cpu", "native"),
        ("cpu:avx512bf16", "cpu", "avx512bf16"),
        ("cuda:sm_90a", "cuda", "sm_90a"),
        ("triton:sm_80", "triton", "sm_80"),
        ("cuda:sm_100f", "cuda", "sm_100f"),
    ],
)
def test_targets(text, kind, arch):
    target = Target.parse(text)
    assert (target.kind, target.arch) == (kind, arch)
    assert Target.parse(str(target)) == target
    assert target.device_type == ("cpu" if kind == "cpu" else "cuda")


@pytest.mark.parametrize("text", ["", "gpu", "cuda", "cuda:90", "cpu:avx99", "triton:sm_1", 5])
def test_bad_targets(text):
    with pytest.raises(BadOption, match="target"):
        Options.of(target=text)


def test_every_instruction_set_has_flags():
    assert set(CPU_ISAS) == set(ISAS)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("30s", Budget(30.0, None)),
        ("1.5m", Budget(90.0, None)),
        ("10000c", Budget(None, 10000)),
        ("30s, 10000c", Budget(30.0, 10000)),
        (12, Budget(12.0, None)),
    ],
)
def test_budgets(text, budget):
    assert Budget.parse(text) == budget
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "30", "s", "-3s", "1e9c", "0s", "1.5c", "3s,4s", True, 0, []])
def test_bad_budgets(text):
    with pytest.raises(BadOption, match="budget"):
        Budget.parse(text)


@given(st.text(max_size=8))
def test_a_budget_is_read_or_refused_with_a_reason(text):
    try:
        budget = Budget.parse(text)
    except BadOption as error:
        assert error.fix
    else:
        assert budget.seconds or budget.candidates


def test_a_misspelt_option_is_named():
    with pytest.raises(BadOption, match="did you mean 'precision'"):
        Options.of(precison="eager")


@pytest.mark.parametrize(
    "bad",
    [
        {"precision": "fast"},
        {"fallbacks": "eager"},
        {"fallbacks": ("egaer",)},
        {"strict": 1},
        {"seed": -1},
        {"seed": 99999999999999999999},
        {"memory": "lots"},
        {"memory": 1.5},
        {"checkpoint": ""},
        {"seed": 1.0},
        {"dynamic": [0]},
        {"dynamic": {"x": 0}},
        {"dynamic": {"x": {"0": ("n", 1, 2)}}},
        {"dynamic": {"x": {0: ("n", 5, 2)}}},
        {"dynamic": {"x": {-1: ("n", 1, 2)}}},
        {"dynamic": {"x": {0: ("a b", 1, 2)}}},
        {"dynamic": {"x": {0: ("n", 1, 2)}, "y": {0: ("n", 1, 3)}}},
    ],
)
def test_bad_options(bad):
    with pytest.raises(BadOption) as caught:
        Options.of(**bad)
    assert caught.value.fix


def test_dynamic_sizes_as_torch_export_writes_them():
    from torch.export import Dim

    n = Dim("n", min=1, max=4096)
    options = Options.of(dynamic={"x": {1: 2 * n, 0: n}, "y": {0: Dim.AUTO, 1: None}, "z": {0: n}})
    assert options.dynamic == (
        DynamicAxis("x", 0, "n", 1, 4096),
        DynamicAxis("x", 1, "n", 1, 4096, scale=2),
        DynamicAxis("y", 0, "", hint="auto"),
        DynamicAxis("z", 0, "n", 1, 4096),
    )
    shapes = options.dynamic_shapes()
    assert shapes["x"][0] is shapes["z"][0]
    assert (shapes["x"][0].min, shapes["x"][0].max) == (1, 4096)
    assert shapes["y"] == {0: Dim.AUTO}
    assert Options.of(dynamic=shapes).dynamic == options.dynamic
    assert Options.of(dynamic={"x": {0: Dim("m")}}).dynamic == (DynamicAxis("x", 0, "m"),)


def test_a_range_of_one_size_is_no_wish():
    options = Options.of(
        dynamic={"x": {0: ("n", 33, 33), 1: ("m", 2, 64)}, "y": {0: ("n", 33, 33)}}
    )
    assert [a.fixed for a in options.dynamic] == [True, False, True]
    shapes = options.dynamic_shapes()
    assert shapes["x"][0] is None and shapes["y"] == {0: None} and shapes["x"][1].max == 64
    with pytest.raises(BadOption):
        Options.of(dynamic={"x": {0: ("n", 33, 33)}, "y": {0: ("n", 33, 34)}})


def test_dynamic_sizes_run_through_torch_export():
    import torch

    class Double(torch.nn.Module):
        def forward(self, x):
            return x * 2

    shapes = Options.of(dynamic={"x": {0: ("n", 2, 64)}}).dynamic_shapes()
    program = torch.export.export(Double(), (torch.ones(4, 3),), dynamic_shapes=shapes)
    assert program.module()(torch.ones(9, 3)).shape == (9, 3)


def test_the_key_of_options_sees_every_field_but_strict():
    base = Options.of()
    changes = [
        {"target": "cpu:avx2"},
        {"budget": "5s"},
        {"precision": "eager"},
        {"dynamic": {"x": {0: ("n", 1, 2)}}},
        {"fallbacks": ()},
        {"seed": 1},
    ]
    keys = [Options.of(**c).key() for c in changes]
    assert all(k != base.key() for k in keys)
    assert Options.of(strict=True).key() == base.key()
    assert hash(Options.of(**changes[3])) is not None


def _kinds():
    found = [v for v in vars(errors).values() if isinstance(v, type)]
    return [v for v in found if issubclass(v, SuperoptError)]


@pytest.mark.parametrize("kind", _kinds(), ids=lambda k: k.__name__)
def test_errors_teach_on_one_line_and_survive_pickling(kind):
    error = kind("it broke", "here", "do this", details="line 1\nline 2")
    assert str(error) == "it broke; where: here; fix: do this"
    assert error.report().endswith("line 2")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.what, again.where, again.fix) == (error.what, error.where, error.fix)
    assert again.details == error.details
    assert kind.__doc__


def test_a_class_may_know_the_fix():
    assert "log file" in str(CompileFailed("no"))
