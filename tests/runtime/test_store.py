"""The store of measured times: what is kept, between processes, and on a bad disk."""

import logging
import multiprocessing
import threading

import pytest

from superopt import trace
from superopt.config import Config
from superopt.runtime.store import Measured, Store, Subject

SUBJECT = Subject("graph", "8,4096", "cpu", "g++", "eager")
TIME = Measured(1.5e-3, 2e-5, 40, 1000.0, {"threads": 2})


@pytest.fixture(autouse=True)
def fresh_warnings():
    trace.forget_warnings()


def test_a_measurement_comes_back(tmp_path):
    path = tmp_path / "new" / "m.sqlite3"
    Store(path).put(SUBJECT, TIME)
    store = Store(path)
    assert store.get(SUBJECT) == TIME
    assert store.count() == 1


@pytest.mark.parametrize("part", ["graph", "shape", "device", "toolchain", "variant"])
def test_every_part_of_the_subject_counts(part):
    store = Store(None)
    store.put(SUBJECT, TIME)
    changed = {**{p: getattr(SUBJECT, p) for p in Subject.__dataclass_fields__}, part: "other"}
    assert store.get(Subject(**changed)) is None


def test_the_last_measurement_counts_and_variants_stand_side_by_side():
    store = Store(None)
    store.put(SUBJECT, TIME)
    store.put(SUBJECT, Measured(2.0, 0.1, 3))
    other = Subject("graph", "8,4096", "cpu", "g++", "abc")
    store.put(other, TIME)
    found = store.all(SUBJECT)
    assert {k: v.median_s for k, v in found.items()} == {"abc": 1.5e-3, "eager": 2.0}
    assert found["eager"].measured > 0
    store.clear()
    assert store.count() == 0


def write(path, base):
    store = Store(path)
    for n in range(25):
        store.put(Subject(f"g{base + n}", "", "", ""), TIME)


def test_processes_and_threads_write_at_once(tmp_path):
    path = tmp_path / "m.sqlite3"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write, args=(path, n * 100)) for n in range(2)]
    store = Store(path)

    def more(who):  # not by its ident, which the next thread may have again
        for n in range(25):
            store.put(Subject(f"t{n} of {who}", "", "", ""), TIME)

    workers += [threading.Thread(target=more, args=(k,)) for k in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert store.count() == 100


def test_a_damaged_file_is_put_aside(tmp_path, caplog):
    path = tmp_path / "m.sqlite3"
    path.write_bytes(b"this is no database" * 1000)
    store = Store(path)
    store.put(SUBJECT, TIME)
    assert Store(path).get(SUBJECT) == TIME
    assert "damaged" in caplog.text
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_an_impossible_place_costs_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "m.sqlite3")
    store.put(SUBJECT, TIME)
    assert store.get(SUBJECT) == TIME
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "memory" in lines[0].getMessage()


def test_a_disabled_cache_keeps_times_in_memory(tmp_path):
    config = Config(cache_dir=tmp_path / "cache", disable_cache=True)
    Store.open(config).put(SUBJECT, TIME)
    assert Store.open(config).get(SUBJECT) is None
    assert not (tmp_path / "cache").exists()
    kept = Store.open(config.with_values(disable_cache=False))
    kept.put(SUBJECT, TIME)
    kept.close()
    assert kept.get(SUBJECT) == TIME
