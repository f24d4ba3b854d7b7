"""Searches on several workers: the same result, whoever does the work and whoever is lost."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from superopt.mugraph.axes import Axis
from superopt.search import interpreter, rounds
from superopt.search.interpreter import tuned
from superopt.search.workers import Here, Processes, Serial, workers
from tests.search.searches import digest, searched

PROGRAMS = {"attention": 40, "gated_mlp": 60, "deep3": 50}


def square(here: Here, x: int) -> tuple[int, int]:
    """x squared plus what the worker was told, and who did it."""
    time.sleep(0.002)
    return x * x + here.kept.get("add", 0), os.getpid()


def add(here: Here, x: int) -> None:
    here.kept["add"] = here.kept.get("add", 0) + x


def suicidal(here: Here, x: int) -> int:
    """Kills its process, unless that is the one that drives the search."""
    if os.getpid() != x:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)  # the others take theirs meanwhile
    return 7


def failing(here: Here, x: int) -> int:
    if x == 5:
        raise ZeroDivisionError("five")
    return x


def wait_for_children(who: Processes) -> None:
    """Maps until another process has done something."""
    for _ in range(2000):
        done = who.map(square, range(8), ignore)
        if len({pid for _, pid in done}) > 1:
            return
    pytest.fail("no other process has done anything")


def ignore(k: int, figures: dict[str, float]) -> None:
    pass


def test_processes_share_the_work_and_are_told_what_they_missed():
    with Processes(3, earned=0) as who:
        for k in range(5):
            who.tell(add, 10**k)
        wait_for_children(who)
        who.tell(add, 200_000)
        done = who.map(square, range(100), ignore)
        assert [x for x, _ in done] == [k * k + 211_111 for k in range(100)]
        assert len({pid for _, pid in done}) > 1
        pids = {pid for _, pid in done} - {os.getpid()}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_a_lost_process_had_is_done_again():
    with Processes(3, earned=0) as who:
        wait_for_children(who)
        for _ in range(3):
            assert who.map(suicidal, [os.getpid()] * 30, ignore) == [7] * 30
        assert not who._children  # both took one
        assert [x for x, _ in who.map(square, range(5), ignore)] == [0, 1, 4, 9, 16]


def test_an_error_of_a_task_is_raised_here():
    with Processes(2, earned=0) as who:
        wait_for_children(who)
        for _ in range(10):
            with pytest.raises(ZeroDivisionError, match="five"):
                who.map(failing, range(10), ignore)
        assert who.map(failing, range(5), ignore) == list(range(5))


def test_what_cannot_be_sent_stays_in_one_process():
    with Processes(2, earned=0) as who:
        who.tell(lambda here, x: here.kept.update(x=x), 3)
        assert who.here.kept["x"] == 3
        assert {pid for _, pid in who.map(square, range(50), ignore)} == {os.getpid()}


@pytest.mark.parametrize("executable", ["/nowhere/python", "", None, "/bin/true"])
def test_where_no_process_can_be_started_the_work_is_done_here(executable, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    with Processes(3, earned=0) as who:
        who.tell(add, 1)
        for _ in range(20):
            done = who.map(square, range(20), ignore)
            assert done == [(k * k + 1, os.getpid()) for k in range(20)]


def test_little_work_starts_no_process():
    with workers("2", 2) as who:
        who.map(square, range(3), ignore)
        assert not who._children  # type: ignore[attr-defined]
    assert type(workers("1", 1)) is Serial


def test_work_that_takes_long_starts_the_others_meanwhile():
    with Processes(2, earned=0.05) as who:
        who.tell(add, 7)
        done = who.map(square, range(2000), ignore)
        assert [x for x, _ in done] == [k * k + 7 for k in range(2000)]
        assert len({pid for _, pid in done}) == 2 and done[0][1] == os.getpid()


def test_settings_of_the_interpreter_come_back():
    before = sys.getswitchinterval(), gc.get_threshold()
    inner, first_left = tuned(), threading.Event()

    def other() -> None:
        with inner:
            first_left.wait(10)

    thread = threading.Thread(target=other)
    with tuned():
        assert sys.getswitchinterval() < before[0] and gc.get_threshold()[0] > before[1][0]
        thread.start()
        while interpreter._running < 2:
            time.sleep(0.001)
    # The other search still runs.
    assert sys.getswitchinterval() < before[0]
    first_left.set()
    thread.join()
    assert (sys.getswitchinterval(), gc.get_threshold()) == before
    gc.set_threshold(0)
    try:
        with tuned():
            assert gc.get_threshold()[0] == 0  # off stays off
    finally:
        gc.set_threshold(*before[1])


def test_axes_that_were_sent_are_one_object():
    axis = Axis("sent", 64)
    a, b = (pickle.loads(pickle.dumps({axis})) for _ in range(2))
    assert a == b == {axis} and next(iter(a)) is next(iter(b))


@pytest.fixture(scope="module")
def three():
    """Three processes that are all at work."""
    with Processes(3, earned=0) as who:
        wait_for_children(who)
        yield who


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_any_number_of_processes_finds_the_same(name, three):
    want = digest(searched(name, PROGRAMS[name]))
    assert digest(searched(name, PROGRAMS[name], workers=three)) == want
    assert digest(searched(name, PROGRAMS[name], workers=Serial())) == want


def test_a_process_lost_in_a_search_changes_nothing():
    want = digest(searched("deep3", 50))
    with Processes(2, earned=0) as who:
        wait_for_children(who)
        (child,) = who._children
        killer = threading.Timer(0.3, child.process.kill)
        killer.start()
        assert digest(searched("deep3", 50, workers=who)) == want
        killer.join()
        assert child.process.wait(10) is not None


def test_candidates_are_shared_out_before_the_work_starts(three):
    """A budget smaller than the number of segments, and ones that do not divide by it."""
    for candidates in (1, 2, 7, 23):
        found = searched("deep3", candidates)
        forms = found.stats["distinct_segments"]
        assert found.stats["graphs"] <= max(candidates, forms)
        assert digest(searched("deep3", candidates, workers=three)) == digest(found)


def test_a_process_ends_with_the_one_it_works_for():
    """Also when that is killed: a worker whose input ends has nobody to work for."""
    code = (
        "import time\n"
        "from tests.search.test_workers import Processes, wait_for_children\n"
        "who = Processes(2, earned=0)\n"
        "wait_for_children(who)\n"
        "print(who._children[0].process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.communicate()
    for _ in range(3000):
        if not alive(pid):
            return
        time.sleep(0.01)
    pytest.fail("it is still there")


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended may be listed until somebody asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_progress_is_live():
    seen: list[dict[str, float]] = []
    rounds_glance = rounds.GLANCE
    try:
        rounds.GLANCE = 0.0
        found = searched("deep3", 40, progress=lambda stage, figures: seen.append(figures))
    finally:
        rounds.GLANCE = rounds_glance
    assert len(seen) >= 5
    for earlier, later in itertools.pairwise(seen):
        assert later["graphs"] >= earlier["graphs"]
        assert later["best"] <= earlier["best"]
    assert seen[-1]["graphs"] == found.stats["graphs"]
    assert 0 < seen[-1]["best"] < float("inf")
    assert seen[-1]["classes"] == found.stats["classes"]


def test_a_local_ray_cluster_finds_the_same():
    pytest.importorskip("ray")
    from superopt.search.ray_workers import RayWorkers

    want = {name: digest(searched(name, 40)) for name in ("attention", "deep3")}
    with RayWorkers(actors=2) as who:
        assert who.count == 2
        who.tell(add, 5)
        assert [x for x, _ in who.map(square, range(10), ignore)] == [k * k + 5 for k in range(10)]
        with pytest.raises(ZeroDivisionError, match="five"):
            who.map(failing, range(10), ignore)
        for name, one in want.items():
            assert digest(searched(name, 40, workers=who)) == one
