"""The content-addressed cache in one process: keys, checksums, bad disks, limits."""

import dataclasses
import enum
import errno
import logging
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superopt import trace
from superopt.config import Config
from superopt.errors import CacheUnwritable
from superopt.runtime import cache as cache_module
from superopt.runtime import entries as entries_module
from superopt.runtime.cache import Cache, code_fingerprint, key

KEY = key({"graph": "a"})
FILES = {"kernel.so": b"\x7fELF" + bytes(range(256)) * 8, "source.cpp": b"int f();\n"}


@pytest.fixture(autouse=True)
def fresh_warnings():
    trace.forget_warnings()
    yield
    trace.forget_warnings()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_an_entry_comes_back_as_it_went_in(cache):
    assert cache.get(KEY) is None
    stored = cache.put(KEY, FILES, {"note": [1, 2.5, None], "name": "é"})
    found = Cache(cache.root).get(KEY)
    assert found == stored
    assert found.meta == {"note": [1, 2.5, None], "name": "é"}
    assert {n: found.read(n) for n in found.sizes} == FILES
    assert found.file("kernel.so").is_absolute()
    with pytest.raises(KeyError):
        found.file("absent")


def test_the_first_writer_wins(cache):
    cache.put(KEY, FILES, {"by": "first"})
    assert cache.put(KEY, FILES, {"by": "second"}).meta == {"by": "first"}
    assert list((cache.root / "tmp").iterdir()) == []


def damage_truncate(path):
    (path / "kernel.so").write_bytes(FILES["kernel.so"][:100])


def damage_flip(path):
    content = bytearray(FILES["kernel.so"])
    content[50] ^= 1
    (path / "kernel.so").write_bytes(content)


def damage_missing(path):
    (path / "source.cpp").unlink()


def damage_manifest(path):
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace("first", "other"))


def damage_manifest_empty(path):
    (path / "manifest.json").write_bytes(b"")


def damage_manifest_binary(path):
    (path / "manifest.json").write_bytes(b"\xff\xfe\x00")


def damage_manifest_gone(path):
    (path / "manifest.json").unlink()


def damage_folder(path):
    (path / "kernel.so").unlink()
    (path / "kernel.so").mkdir()


@pytest.mark.parametrize(
    "damage", [v for n, v in sorted(globals().items()) if n.startswith("damage_")]
)
def test_a_damaged_entry_is_removed_reported_and_built_again(cache, caplog, damage):
    path = cache.put(KEY, FILES, {"by": "first"}).path
    damage(path)
    assert cache.get(KEY) is None
    assert not path.exists()
    assert len(warnings_of(caplog)) == 1
    assert "damaged" in warnings_of(caplog)[0]
    assert cache.put(KEY, FILES, {"by": "second"}).meta == {"by": "second"}
    assert cache.get(KEY).meta == {"by": "second"}
    assert len(warnings_of(caplog)) == 1


def test_put_replaces_a_damaged_entry(cache):
    damage_flip(cache.put(KEY, FILES, {}).path)
    assert cache.put(KEY, FILES, {}).read("kernel.so") == FILES["kernel.so"]
    assert cache.get(KEY) is not None


def test_an_entry_of_another_key_is_not_taken(cache):
    other = key({"graph": "b"})
    path = cache.put(KEY, FILES, {}).path
    place = cache.root / "entries" / other[:2] / other
    place.parent.mkdir(exist_ok=True)
    path.rename(place)
    assert cache.get(other) is None


@pytest.mark.parametrize("bad", ["../x", "a/b", "", ".", "manifest.json", "/etc/x"])
def test_file_names_stay_inside(cache, bad):
    with pytest.raises(ValueError, match="file name"):
        cache.put(KEY, {bad: b""}, {})


@pytest.mark.parametrize("bad", ["", "../../etc/passwd-0123456789", "ABCDEF0123456789"])
def test_keys_are_hexadecimal(cache, bad):
    with pytest.raises(ValueError, match="cache key"):
        cache.get(bad)


def test_a_folder_below_a_file_costs_one_warning_and_still_serves(tmp_path, caplog):
    # Tests may run as root, whom no permission stops; a file in the way stops everybody.
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    with cache.lock(KEY) as held:
        assert not held
        assert cache.get(KEY) is None
        assert cache.put(KEY, FILES, {}).read("source.cpp") == FILES["source.cpp"]
    cache.put(key({"graph": "b"}), FILES, {})
    assert cache.get(KEY).read("kernel.so") == FILES["kernel.so"]
    assert cache.stats().entries == 2
    (line,) = warnings_of(caplog)
    assert "SUPEROPT_CACHE_DIR" in line
    assert "\n" not in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_full_or_read_only_disk_goes_to_a_private_folder(cache, caplog, monkeypatch, number):
    write = entries_module._write

    def failing(path, content):
        if cache.root in path.parents:
            raise OSError(number, os.strerror(number))
        write(path, content)

    monkeypatch.setattr(entries_module, "_write", failing)
    entry = cache.put(KEY, FILES, {})
    assert cache.root not in entry.path.parents
    assert cache.get(KEY) == entry
    assert os.strerror(number) in warnings_of(caplog)[0]
    assert list((cache.root / "tmp").iterdir()) == [], "half an entry was left behind"
    monkeypatch.undo()
    again = cache.put(key({"graph": "b"}), FILES, {})
    assert cache.root in again.path.parents, "a disk with space again is used again"


def test_nowhere_to_write_is_an_error_of_its_own(cache, monkeypatch):
    def failing(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entries_module, "_write", failing)
    with pytest.raises(CacheUnwritable, match="No space left"):
        cache.put(KEY, FILES, {})


def test_a_read_only_cache_is_read(cache, monkeypatch):
    cache.put(KEY, FILES, {})

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "rename", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(cache_module.os, "utime", refuse)
    assert cache.get(KEY) is not None


def test_least_recently_used_entries_go_first(tmp_path):
    cache = Cache(tmp_path, limit=40_000)
    keys = [key({"n": n}) for n in range(5)]
    for n, k in enumerate(keys[:3]):
        path = cache.put(k, {"a": bytes(10_000)}, {}).path
        os.utime(path / "manifest.json", (n, n))
    assert cache.get(keys[0]) is not None  # now the most recently used
    cache.put(keys[3], {"a": bytes(10_000)}, {})
    assert {k for k in keys if cache.get(k)} == {keys[0], keys[2], keys[3]}
    cache.put(keys[4], {"a": bytes(90_000)}, {})
    assert cache.get(keys[4]) is not None, "an entry above the limit is kept while it is in use"


def test_stats_entries_remove_and_clear(cache):
    keys = [key({"n": n}) for n in range(3)]
    for n, k in enumerate(keys):
        os.utime(cache.put(k, FILES, {"n": n}).path / "manifest.json", (n + 1, n + 1))
    assert [e.meta["n"] for e in cache.entries()] == [2, 1, 0]
    assert cache.stats().entries == 3
    assert cache.stats().size > 3 * sum(map(len, FILES.values()))
    cache.get(keys[0])
    cache.get(KEY)
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)
    assert cache.remove(keys[0])
    assert not cache.remove(keys[0])
    assert cache.clear() == 2
    assert cache.stats().entries == 0
    assert list(cache.entries()) == []


def test_a_disabled_cache_leaves_nothing(tmp_path):
    config = Config(cache_dir=tmp_path / "cache", disable_cache=True)
    cache = Cache.open(config)
    assert cache.put(KEY, FILES, {}).read("kernel.so")
    assert cache.stats().private
    assert not (tmp_path / "cache").exists()
    assert Cache.open(config).get(KEY) is None


def test_threads_share_a_cache(cache):
    counts = []

    def work():
        for n in range(10):
            k = key({"n": n})
            with cache.lock(k):
                if cache.get(k) is None:
                    cache.put(k, FILES, {"n": n})
                    counts.append(n)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(counts) == list(range(10)), "an entry was built twice"


def test_a_lock_that_is_not_had_in_time_does_not_stop_the_work(cache, caplog):
    impatient = Cache(cache.root, lock_timeout=0.05)
    with cache.lock(KEY) as first, impatient.lock(KEY) as second:
        assert first
        assert not second
    assert "another process" in warnings_of(caplog)[0]
    with impatient.lock(KEY) as third:
        assert third


class Level(enum.IntEnum):
    ONE = 1


class Word(str):
    """A text with something beside it that a key would not see."""


@dataclasses.dataclass(frozen=True)
class Part:
    x: object


@dataclasses.dataclass(frozen=True)
class Other:
    x: object


DISTINCT = [
    1, 1.0, True, "1", b"1", None, 0.0, -0.0, float("nan"), float("inf"), [], {}, set(), [1],
    [[1]], [1.0], {"a": 1}, {"a": 1.0}, {"map": 1}, {"float": (1.0).hex()}, {"map": {"a": 1}}, {1},
    Part(1), Part(1.0), Other(1), Path("1"), "", b"", [None], [1, 2], [2, 1], 1 << 70,
]  # fmt: skip


def test_values_that_differ_have_different_keys():
    keys = [key({"part": v}) for v in DISTINCT]
    assert len(set(keys)) == len(DISTINCT)


def test_order_and_sequence_type_do_not_matter():
    assert key({"a": 1, "b": (1, 2)}) == key({"b": [1, 2], "a": 1})
    assert key({"s": {1, 2, 3}}) == key({"s": frozenset([3, 2, 1])})


@pytest.mark.parametrize("bad", [object(), {1: 2}, 1j, len, Level.ONE, Word("a")])
def test_a_part_without_canonical_form_is_refused(bad):
    with pytest.raises(TypeError):
        key({"part": bad})


PARTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=2), s, max_size=3),
    max_leaves=6,
)


def same(a, b):
    """Equality that sees types and the sign of zero."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a.hex() == b.hex()
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


@given(PARTS, PARTS)
def test_keys_are_equal_only_for_equal_parts(a, b):
    assert (key({"p": a}) == key({"p": b})) == same(a, b)


def test_the_fingerprint_of_the_code_sees_every_change(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "sub" / "b.py").write_text("2")
    (tmp_path / "bench").mkdir()
    seen = {code_fingerprint(tmp_path)}
    assert code_fingerprint(tmp_path) in seen
    (tmp_path / "bench" / "c.py").write_text("3")
    (tmp_path / "notes.txt").write_text("3")
    assert code_fingerprint(tmp_path) in seen
    (tmp_path / "sub" / "b.py").write_text("22")
    seen.add(code_fingerprint(tmp_path))
    (tmp_path / "sub" / "b.py").rename(tmp_path / "sub" / "c.py")
    seen.add(code_fingerprint(tmp_path))
    (tmp_path / "sub" / "k.j2").write_text("")
    seen.add(code_fingerprint(tmp_path))
    assert len(seen) == 4
    assert len(code_fingerprint()) == 32
