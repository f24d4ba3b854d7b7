"""Compilation of generated C++: finding a compiler, limits, errors, and what is kept."""

import ctypes
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from superopt.config import Config
from superopt.errors import (
    BadOption,
    CompileFailed,
    CompilerMissing,
    CompileTimeout,
)
from superopt.runtime import build, isa

GOOD = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def config(tmp_path):
    return Config(cache_dir=tmp_path / "cache")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return build.find_compiler(Config(cache_dir=tmp_path_factory.mktemp("cache")))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def fake(path, text):
    return build.Compiler(script(path, text), "fake 1.0", "x86_64-linux-gnu", openmp=False)


def alive(pid):
    """Whether a process runs (one that is dead and not yet waited for does not)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def gone(pid_file, seconds=10.0):
    pid = int(pid_file.read_text())
    limit = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    return not alive(pid)


def test_source_becomes_a_library(compiler, tmp_path):
    flags = (*build.isa_flags("native"), *compiler.openmp_flags)
    out = build.compile_shared(GOOD, flags, tmp_path / "new" / "k.so", 60, compiler=compiler)
    assert ctypes.CDLL(str(out)).answer() == 42
    assert [p.name for p in out.parent.iterdir()] == ["k.so"]


def test_openmp_runs_when_it_is_said_to_be_there(compiler, tmp_path):
    if not compiler.openmp:
        pytest.skip("this compiler has no OpenMP")
    source = """
    #include <omp.h>
    extern "C" int count(int n) {
        int c = 0;
        #pragma omp parallel num_threads(n) reduction(+ : c)
        c += 1;
        return c;
    }"""
    flags = compiler.openmp_flags
    out = build.compile_shared(source, flags, tmp_path / "k.so", 60, compiler=compiler)
    assert ctypes.CDLL(str(out)).count(2) == 2


def test_bad_source_gives_the_compilers_words(compiler, tmp_path):
    out = tmp_path / "k.so"
    out.write_bytes(b"old")
    with pytest.raises(CompileFailed, match="error") as caught:
        build.compile_shared("int f( { return nonsense; }", (), out, 60, compiler=compiler)
    assert "nonsense" in caught.value.details
    assert "command:" in caught.value.details
    assert out.read_bytes() == b"old", "a failed build touched the file in place"
    assert [p.name for p in tmp_path.iterdir()] == ["k.so"]


def test_a_compiler_that_hangs_is_stopped_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    hanging = fake(tmp_path / "cc", f"sleep 600 & echo $! > {pid}; wait")
    with pytest.raises(CompileTimeout, match=r"after 0\.5 s"):
        build.compile_shared(GOOD, (), tmp_path / "k.so", 0.5, compiler=hanging)
    assert gone(pid)
    assert not (tmp_path / "k.so").exists()


def test_ctrl_c_stops_the_compiler(tmp_path):
    pid = tmp_path / "pid"
    hanging = fake(tmp_path / "cc", f"echo $$ > {pid}; exec sleep 600")
    code = (
        "import sys\nfrom superopt.runtime import build\n"
        "c = build.Compiler(sys.argv[1], '', '', False)\n"
        "try:\n    build.compile_shared('', (), sys.argv[2], 60, compiler=c)\n"
        "except KeyboardInterrupt:\n    print('stopped')"
    )
    command = [sys.executable, "-c", code, hanging.path, str(tmp_path / "o" / "k.so")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    while not pid.exists() or not pid.read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == b"stopped\n"
    assert gone(pid)
    assert list((tmp_path / "o").iterdir()) == []


def test_jobs_run_in_parallel_and_fail_alone(compiler, config, tmp_path):
    jobs = [build.Job(GOOD.replace("42", str(n)), (), tmp_path / f"{n}.so") for n in range(3)]
    jobs.insert(1, build.Job("broken", (), tmp_path / "broken.so"))
    results = build.compile_many(jobs, config, compiler=compiler)
    assert isinstance(results[1], CompileFailed)
    good = [r for r in results if isinstance(r, Path)]
    assert [ctypes.CDLL(str(p)).answer() for p in good] == [0, 1, 2]
    assert build.compile_many([], config, compiler=compiler) == []


def test_cancelling_stops_a_job(tmp_path):
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(CompileFailed, match="cancelled"):
        build.compile_shared(
            GOOD,
            (),
            tmp_path / "k.so",
            60,
            compiler=fake(tmp_path / "cc", "sleep 600"),
            cancel=cancel,
        )


def test_no_compiler_says_how_to_get_one(config, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompilerMissing, match=r"install g\+\+"):
        build.find_compiler(config)
    with pytest.raises(CompilerMissing, match="SUPEROPT_CXX"):
        build.find_compiler(config.with_values(cxx="no-such-compiler"))


def test_a_compiler_that_cannot_build_is_passed_over(config, monkeypatch, tmp_path, compiler):
    script(tmp_path / "g++", "echo broken; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CXX", compiler.path)
    assert build.find_compiler(config).path == compiler.path
    monkeypatch.delenv("CXX")
    found = build.find_compiler(config.with_values(cxx=compiler.path))
    assert found.version == compiler.version


def test_a_named_compiler_that_is_not_used_is_said(config, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.find_compiler(config)
    assert "no-such-compiler is not there" in caplog.text


def test_flags_of_the_user_that_break_the_build_are_named(config, compiler, tmp_path):
    wrong = config.with_values(cxxflags=("-fno-such-flag",))
    (error,) = build.compile_many(
        [build.Job(GOOD, (), tmp_path / "k.so")], wrong, compiler=compiler
    )
    assert isinstance(error, CompileFailed) and "SUPEROPT_CXXFLAGS" in error.fix


def wrapper(tmp_path, compiler, refuse=""):
    """A compiler that notes each of its runs, and can refuse a flag."""
    log = tmp_path / "runs"
    text = f"echo run >> {log}\n"
    if refuse:
        text += (
            f'for a; do [ "$a" = "{refuse}" ] && {{ echo "error: no {refuse}"; exit 1; }}; done\n'
        )
    return script(tmp_path / "mycc", f'{text}exec {compiler.path} "$@"'), log


def test_missing_openmp_is_found_out(config, tmp_path, compiler):
    path, _ = wrapper(tmp_path, compiler, refuse="-fopenmp")
    found = build.find_compiler(config.with_values(cxx=path))
    assert not found.openmp
    assert "-fopenmp" not in found.openmp_flags
    source = 'extern "C" int f() { int c = 0;\n#pragma omp parallel\n{ c = 1; } return c; }'
    flags = ("-Wall", "-Werror", *found.openmp_flags)
    build.compile_shared(source, flags, tmp_path / "k.so", 60, compiler=found)


def test_a_known_compiler_is_not_run_again(config, tmp_path, compiler):
    path, log = wrapper(tmp_path, compiler)
    first = build.find_compiler(config.with_values(cxx=path))
    runs = log.read_text()
    assert runs
    assert build.find_compiler(config.with_values(cxx=path)) == first
    assert log.read_text() == runs
    # A new build of the compiler under the same name is another compiler.
    Path(path).write_text(Path(path).read_text() + "\n")
    build.find_compiler(config.with_values(cxx=path))
    assert log.read_text() != runs


def test_damaged_notes_are_no_obstacle(config, compiler):
    config.cache_path.mkdir(parents=True)
    for text in ("{", "[]", '{"x": 1}'):
        (config.cache_path / "compilers.json").write_text(text)
        assert build.find_compiler(config).version == compiler.version


def test_fingerprints_tell_toolchains_apart(compiler):
    other = build.Compiler(compiler.path, "g++ 99", compiler.machine, compiler.openmp)
    names = [name for name in isa.ISAS if name != "neon"]
    prints = [build.toolchain_fingerprint(compiler, name) for name in names]
    prints += [build.toolchain_fingerprint(other), build.toolchain_fingerprint(None)]
    assert len(set(prints)) == len(prints)
    assert build.toolchain_fingerprint(compiler) == build.toolchain_fingerprint(compiler)


def test_instruction_sets(compiler, tmp_path):
    assert any(f.startswith("machine:") for f in build.cpu_features())
    assert build.cpu_model()
    assert build.missing_features("native") == frozenset()
    with pytest.raises(BadOption, match="avx512"):
        build.isa_flags("avx-512")
    if "x86_64" not in compiler.machine:
        pytest.skip("the flags below are those of x86")
    assert build.missing_features("neon")
    for name in ("generic", "avx2", "avx512", "avx512bf16"):
        out = tmp_path / f"{name}.so"
        build.compile_shared(GOOD, build.isa_flags(name), out, 60, compiler=compiler)
        assert out.exists()
