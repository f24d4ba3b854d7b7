"""Loading a shared object and calling its entry point on tensors."""

import threading
import time

import pytest
import torch

from superopt.config import Config
from superopt.errors import KernelFailed, LoadFailed
from superopt.runtime import build
from superopt.runtime.launch import Library, bind, launch

SOURCE = r"""
#include <cstdint>
#include <unistd.h>
extern "C" const char about[] = "axpy and friends";
extern "C" int axpy(void** bufs, const int64_t* ints) {
    const float* x = static_cast<const float*>(bufs[0]);
    const float* y = static_cast<const float*>(bufs[1]);
    float* o = static_cast<float*>(bufs[2]);
    for (int64_t i = 0; i < ints[0]; ++i) o[i] = float(ints[1]) * x[i * ints[2]] + y[i];
    return 0;
}
extern "C" int status(void**, const int64_t* ints) { return int(ints[0]); }
extern "C" int is_null(void** bufs, const int64_t*) { return bufs[0] == nullptr ? 0 : 7; }
extern "C" int nothing(void**, const int64_t*) { return 0; }
extern "C" int late(void** bufs, const int64_t* ints) {
    const void* b = bufs[0];
    const int64_t a = ints[1];
    usleep(2000);
    return bufs[0] == b && ints[1] == a ? 0 : 5;
}
extern "C" int local(void** bufs, const int64_t* ints) {
    volatile float tile[4096];
    if (ints[0]) tile[ints[1]] = 3.0f;
    static_cast<float*>(bufs[0])[0] = tile[ints[1]];
    return 0;
}
extern "C" int nap(void**, const int64_t* ints) { usleep(useconds_t(ints[0])); return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    place = tmp_path_factory.mktemp("launch")
    compiler = build.find_compiler(Config(cache_dir=place))
    return Library(build.compile_shared(SOURCE, (), place / "k.so", 60, compiler=compiler))


def test_tensors_and_sizes_arrive(library):
    axpy = library.entry("axpy")
    x, y, o = torch.randn(10), torch.randn(5), torch.empty(5)
    launch(axpy, (x, y, o), (5, 3, 2))
    torch.testing.assert_close(o, 3 * x[::2] + y)


def test_a_view_starts_where_it_starts(library):
    x, y, o = torch.randn(4, 8), torch.zeros(4), torch.zeros(4)
    bind(library.entry("axpy"), 3, (4, 1, 8))(x[:, 3], y, o)
    torch.testing.assert_close(o, x[:, 3])


def test_large_integers_and_negative_strides(library):
    with pytest.raises(KernelFailed, match="status -3"):
        launch(library.entry("status"), (), (-3,))
    launch(library.entry("status"), (), (1 << 32,))


def test_no_tensors_no_sizes(library):
    launch(library.entry("nothing"), ())
    bind(library.entry("nothing"), 0)()
    launch(library.entry("is_null"), (torch.empty(0),))


def test_a_bad_status_names_the_kernel(library):
    with pytest.raises(KernelFailed, match="kernel status returned status 9"):
        bind(library.entry("status"), 0, (9,))()


def test_what_cannot_be_loaded_says_so(library, tmp_path):
    with pytest.raises(LoadFailed, match="lacks the entry 'absent'"):
        library.entry("absent")
    with pytest.raises(LoadFailed, match="lacks the text"):
        library.text("absent")
    assert library.text("about") == "axpy and friends"
    (tmp_path / "bad.so").write_bytes(b"\x7fELF nonsense")
    for path in (tmp_path / "bad.so", tmp_path / "absent.so"):
        with pytest.raises(LoadFailed, match="cannot be loaded"):
            Library(path)


def test_threads_have_their_own_arguments(library):
    axpy, late = library.entry("axpy"), library.entry("late")
    wrong = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for step in range(200):
            x, y = torch.randn(2, 64, generator=generator)
            o = torch.empty(64)
            launch(axpy, (x, y, o), (64, seed, 1))
            # Fused or not, one rounding apart; another thread's arguments would be far off.
            if not torch.allclose(o, seed * x + y, rtol=1e-5, atol=1e-5):
                wrong.append(seed)
            if step % 10 == 0:
                try:  # it reads its arguments again after others have launched
                    launch(late, (x, y, o), (64, seed, 1))
                except KernelFailed:
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_interpreter_runs_on_while_a_kernel_works(library):
    nap = bind(library.entry("nap"), 0, (400_000,))
    thread = threading.Thread(target=nap)
    thread.start()
    ticks = 0
    while thread.is_alive():
        time.sleep(0.01)
        ticks += 1
    assert ticks > 3


def test_a_library_lives_as_long_as_its_entries(library):
    entry = Library(library.path).entry("nothing")
    launch(entry, ())
    assert "nothing" in repr(entry)


def test_what_a_tile_holds_before_it_is_written_is_nan(library):
    entry = library.entry("local")
    out = torch.zeros(1)
    for k in range(0, 4096, 511):
        launch(entry, [out], [0, k], on_pattern=True)
        assert out.isnan().all(), k
        launch(entry, [out], [1, k], on_pattern=True)
        assert out.item() == 3.0
    found = []

    def run():
        launch(entry, [out], [0, 9], on_pattern=True)
        found.append(bool(out.isnan()))

    threading.stack_size(256 << 10)  # a small stack is not written beyond
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(0)
    assert found == [True]
