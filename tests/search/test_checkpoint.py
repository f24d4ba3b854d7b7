"""Checkpoints: a search that is killed goes on where it was, and only from its own file."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import Any

import pytest

from superopt import trace
from superopt.errors import BadOption, CheckpointMismatch
from superopt.search import rounds
from superopt.search.checkpoint import Checkpoint, space_from_json, space_to_json
from superopt.search.enumerate import explore
from superopt.search.regions import regions
from tests import programs
from tests.search.searches import digest, graph_of, identity, searched

NAME, CANDIDATES = "deep3", 60
ROOT = Path(__file__).resolve().parents[2]


def opened(path: Path | None, **changes: object) -> Checkpoint:
    return Checkpoint(path, {**identity(NAME, CANDIDATES), **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, list[bytes]]:
    """The digest of the uninterrupted search, and the lines of its checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "search.jsonl"
    checkpoint = opened(path)
    found = searched(NAME, CANDIDATES, checkpoint=checkpoint)
    checkpoint.close()
    assert digest(found) == digest(searched(NAME, CANDIDATES))
    return digest(found), path.read_bytes().splitlines(keepends=True)


def start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search.searches", NAME, str(CANDIDATES), str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


def test_a_killed_search_goes_on_where_it_was(tmp_path, whole):
    """Killed again and again, each time once the file has so many lines, and interrupted once."""
    want, lines = whole
    path, ended = tmp_path / "search.jsonl", []
    for kind, part in ((SIGKILL, 0.1), (SIGINT, 0.3), (SIGKILL, 0.5), (SIGKILL, 0.8)):
        process, point = start(path), int(len(lines) * part)
        while process.poll() is None:
            if path.exists() and path.read_bytes().count(b"\n") >= point:
                process.send_signal(kind)
                break
            time.sleep(0.002)
        process.communicate()
        ended.append(process.returncode)
    assert ended.count(-SIGKILL) >= 2, ended
    said, _ = start(path).communicate()
    answer, resumed = said.split()
    assert answer == want
    assert int(resumed) >= len(lines) // 2


def test_it_goes_on_from_any_line(tmp_path, whole):
    want, lines = whole
    rng = random.Random(0)
    cuts = sorted({1, len(lines) - 1, len(lines), *rng.sample(range(2, len(lines)), 6)})
    for n, cut in enumerate(cuts):
        path = tmp_path / f"{n}.jsonl"
        half = lines[cut][: rng.randrange(len(lines[cut]))] if cut < len(lines) else b""
        path.write_bytes(b"".join(lines[:cut]) + half)
        checkpoint = opened(path)
        assert checkpoint.resumed >= (cut > 1)
        assert digest(searched(NAME, CANDIDATES, checkpoint=checkpoint)) == want
        assert not checkpoint.unread
        checkpoint.close()
        assert digest(searched(NAME, CANDIDATES, checkpoint=opened(path))) == want


def test_finished_work_is_not_done_again(tmp_path, whole, monkeypatch):
    want, lines = whole
    path = tmp_path / "search.jsonl"
    path.write_bytes(b"".join(lines))

    def never(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rounds, "score", never)
    monkeypatch.setattr(rounds, "explored", never)
    assert digest(searched(NAME, CANDIDATES, checkpoint=opened(path))) == want
    path.write_bytes(b"".join(lines[:-3]))
    with pytest.raises(ZeroDivisionError):
        searched(NAME, CANDIDATES, checkpoint=opened(path))


def test_flipped_bits_cost_work_and_nothing_else(tmp_path, whole):
    want, lines = whole
    data = b"".join(lines)
    rng, tried = random.Random(1), 0
    for n in range(8):
        place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        path = tmp_path / f"{n}.jsonl"
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        assert digest(searched(NAME, CANDIDATES, checkpoint=opened(path))) == want
        tried += 1
    for junk in (b"", b"\n", b"no checkpoint", bytes(range(256)) * 40):
        path = tmp_path / "junk.jsonl"
        path.write_bytes(junk)
        checkpoint = opened(path)
        assert checkpoint.resumed == 0
        tried += 1
    assert tried == 12


@pytest.mark.parametrize(
    "other", [{"program": "another"}, {"candidates": 61}, {"version": 2}, {"seed": 1}]
)
def test_one_of_another_search_is_refused_when_named(tmp_path, whole, other):
    path = tmp_path / "search.jsonl"
    path.write_bytes(b"".join(whole[1]))
    of = {**identity(NAME, CANDIDATES), **other}
    with pytest.raises(CheckpointMismatch, match=next(iter(other))):
        Checkpoint(path, of, named=True)
    assert path.read_bytes() == b"".join(whole[1])  # and is left as it is
    assert Checkpoint(path, of).resumed == 0  # found by its key, it is begun anew
    with pytest.raises(CheckpointMismatch):
        opened_named(path)


def opened_named(path: Path) -> Checkpoint:
    return Checkpoint(path, identity(NAME, CANDIDATES), named=True)


def test_what_is_no_checkpoint_is_not_written_to(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(CheckpointMismatch):
        opened_named(path)
    assert path.read_text() == "my notes\n"


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path, whole):
    place = tmp_path / "file"
    place.write_text("")
    assert digest(searched(NAME, CANDIDATES, checkpoint=opened(place / "x.jsonl"))) == whole[0]


def test_a_named_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (
        tmp_path,
        tmp_path / "file" / "x",
        Path("/dev/null/x/ck"),
        Path("/proc/x"),
        Path(""),
    ):
        with pytest.raises(BadOption, match="checkpoint cannot be") as caught:
            opened_named(path)
        assert caught.value.fix and repr(str(path)) in caught.value.where
        opened(path).close()  # found by its key, it is done without


def test_a_whole_record_of_another_form(tmp_path, whole, caplog):
    """Refused where the user named the file; else its work is done again, with a warning."""
    want, lines = whole
    bad: list[Any] = [5, [1, 2], ["region 0", 1, 2], {"a": 1}, None, ["elapsed", None]]
    names = [json.loads(line[17:])[0] for line in lines]
    kept = [n for n in names if n.startswith("cut ") or n not in ("search", "elapsed")]
    bad += [[n, form] for n in (kept[0], kept[-1]) for form in (7, [], {}, {"outputs": 3}, "x")]
    tried = 0
    for record in bad:
        body = json.dumps(record).encode()
        line = hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n"
        path = tmp_path / f"{tried}.jsonl"
        path.write_bytes(lines[0] + line)
        with pytest.raises(CheckpointMismatch, match="form"):
            searched(NAME, CANDIDATES, checkpoint=opened_named(path))
        assert path.read_bytes().startswith(lines[0] + line)
        trace.forget_warnings()
        caplog.clear()
        assert digest(searched(NAME, CANDIDATES, checkpoint=opened(path))) == want
        assert any("not of the form" in r.getMessage() for r in caplog.records)
        tried += 1
    assert tried == 16


def test_time_that_was_spent_counts(tmp_path):
    path = tmp_path / "search.jsonl"
    checkpoint = Checkpoint(path, {})
    searched(NAME, 10, checkpoint=checkpoint)
    checkpoint.put("elapsed", 1000.0)
    checkpoint.close()
    again = Checkpoint(path, {})
    assert again.elapsed == 1000.0
    found = searched(NAME, None, 500.0, checkpoint=again)
    assert found.stats["graphs"] >= 10 - found.stats["distinct_segments"]
    assert found.stats["graphs"] <= 10 + 8 * found.stats["distinct_segments"]
    assert found.stats["seconds"] >= 1000


def test_spaces_survive():
    tried = 0
    for name in (*programs.PROGRAMS, "deep3"):
        graph = graph_of(name)
        for region in regions(graph):
            space = explore(graph, region, candidates=2000)
            there = json.loads(json.dumps(space_to_json(graph, region, space)))
            assert space_from_json(graph, region, there) == space
            other = replace(region, nodes=region.nodes[1:])
            assert space_from_json(graph, other, there) is None
            tried += 1
    assert tried >= 8


def test_it_is_removed(tmp_path):
    path = tmp_path / "search.jsonl"
    checkpoint = Checkpoint(path, {})
    searched("gated_mlp", 5, checkpoint=checkpoint)
    assert path.exists()
    checkpoint.remove()
    assert not path.exists()
