"""Peers that fail in ways that real ones do: what the tests of the suite ask for by module:NAME."""

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from superopt.bench.cpu.peers import Prepared, Rival, Skipped, tensors


def _task(make):
    """A preparation whose runs are of ``make(fn, args)``, by the name of the peer."""

    def prepare(task, name):
        return Prepared({name: make(task.workload.reference, task.args)}, tensors)

    return prepare


def _rival(name, make):
    prepare = _task(make)
    return Rival(name, (), "torch", lambda task: prepare(task, name))


def _dies(fn, args):
    calls = iter(range(10**9))

    def run():
        if next(calls) > 1:  # after the check of its setup, in its first timed run
            os.abort()
        return fn(*args)

    return run


def _hangs(fn, args):
    calls = iter(range(10**9))

    def run():
        if next(calls):
            child = subprocess.Popen(["sleep", "1000"])
            if "RIVALS_CHILD" in os.environ:
                Path(os.environ["RIVALS_CHILD"]).write_text(str(child.pid))
            time.sleep(1000)
        return fn(*args)

    return run


def _later_wrong(fn, args):
    calls = iter(range(10**9))
    return lambda: fn(*args) + (1.0 if next(calls) > 4 else 0.0)


def _skips(fn, args):
    raise Skipped("it takes nothing today")


def _raises(fn, args):
    raise ValueError("no such kernel\nand more")


RIGHT = _rival("right", lambda fn, args: lambda: fn(*args))
DIES = _rival("dies", _dies)
DIES_AT_ONCE = _rival("dies_at_once", lambda fn, args: os.abort())
HANGS = _rival("hangs", _hangs)
WRONG = _rival("wrong", lambda fn, args: lambda: fn(*args) * 1.01)
SHORT = _rival("short", lambda fn, args: lambda: fn(*args)[:1])
LATER_WRONG = _rival("later_wrong", _later_wrong)
SKIPS = _rival("skips", _skips)
RAISES = _rival("raises", _raises)
ABSENT = replace(RIGHT, name="absent", needs=("no_such_module_of_anyone",))
