"""The cache between processes: concurrent writers, and processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from superopt.runtime.cache import Cache, key

KEY = key({"graph": "shared"})
ROOT = Path(__file__).resolve().parents[2]


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def wait_for(process, line):
    assert process.stdout.readline().strip() == line


WRITER = """
import sys
from superopt.runtime.cache import Cache, key
cache, me = Cache(sys.argv[1]), sys.argv[2]
for n in range(40):
    k = key({"n": n})
    entry = cache.put(k, {"kernel.so": bytes([n]) * 20_000, "by": me.encode()}, {"by": me})
    assert entry.read("kernel.so") == bytes([n]) * 20_000
    assert entry.read("by").decode() == entry.meta["by"], "files of two writers are mixed"
    assert cache.get(k) == entry
"""


def test_concurrent_writers_see_whole_entries_only(tmp_path):
    processes = [start(WRITER, tmp_path, n) for n in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        assert err == b"", "a warning about damage between healthy writers"
    cache = Cache(tmp_path)
    assert cache.stats().entries == 40
    assert all(cache.get(key({"n": n})) for n in range(40))
    assert list((tmp_path / "tmp").iterdir()) == []


BUILDER = """
import sys, time
from superopt.runtime.cache import Cache, key
cache, k = Cache(sys.argv[1]), key({"graph": "shared"})
with cache.lock(k) as held:
    if cache.get(k) is None:
        time.sleep(0.2)
        cache.put(k, {"a": b"x"}, {})
        print("built", held)
"""


def test_one_process_builds_and_the_others_wait(tmp_path):
    processes = [start(BUILDER, tmp_path) for _ in range(4)]
    out = [p.communicate(timeout=120)[0] for p in processes]
    assert b"".join(out) == b"built True\n"


HOLDER = """
import sys, time
from superopt.runtime.cache import Cache, key
with Cache(sys.argv[1]).lock(key({"graph": "shared"})):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_killed_process(tmp_path):
    process = start(HOLDER, tmp_path)
    wait_for(process, b"held")
    with Cache(tmp_path, lock_timeout=0.05).lock(KEY) as held:
        assert not held
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with Cache(tmp_path, lock_timeout=30).lock(KEY) as held:
        assert held


# Killed at the moment between the writing of the files and the rename.
HALF = """
import sys, time
from superopt.runtime import cache as module
from superopt.runtime.cache import Cache, key
def stop(*_):
    print("half", flush=True)
    time.sleep(600)
Cache._publish = stop
Cache(sys.argv[1]).put(key({"graph": "shared"}), {"a": b"x"}, {})
"""


def test_a_writer_killed_half_way_leaves_no_entry(tmp_path):
    process = start(HALF, tmp_path)
    wait_for(process, b"half")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    cache = Cache(tmp_path)
    assert cache.get(KEY) is None
    assert cache.stats().entries == 0
    cache.put(KEY, {"a": b"x"}, {})
    assert cache.get(KEY).read("a") == b"x"
    (left,) = (tmp_path / "tmp").iterdir()
    old = time.time() - 3 * 24 * 3600
    os.utime(left, (old, old))
    cache.clear()
    assert list((tmp_path / "tmp").iterdir()) == []


FORKER = """
import os, sys
from superopt.runtime.cache import Cache, key
cache = Cache(sys.argv[1], private=True)
entry = cache.put(key({"graph": "shared"}), {"a": b"x"}, {})
if os.fork() == 0:
    sys.exit(0)
os.wait()
assert entry.read("a") == b"x", "the child deleted its parent's folder"
print(entry.path)
"""


def test_a_forked_child_leaves_its_parents_private_folder_alone(tmp_path):
    process = start(FORKER, tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    assert not Path(out.decode().strip()).exists(), "the private folder outlived its process"
