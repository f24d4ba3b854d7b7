// Calls a kernel on a stack that holds a pattern: what it reads of a local array before it wrote it
// is then NaN, or -1, and no value that happens to be right.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <alloca.h>
#include <pthread.h>
#endif

#include "core.h"

namespace nb = nanobind;

namespace superopt {
namespace {

using Entry = int (*)(void**, const std::int64_t*);

constexpr std::size_t REACH = std::size_t(2) << 20;  // bytes: the tiles of a task, and more

// How far below this frame the thread's stack reaches; 0 where that is not known.
std::size_t below() {
#if defined(__linux__)
    pthread_attr_t attr;
    if (pthread_getattr_np(pthread_self(), &attr) != 0) return 0;
    void* lowest = nullptr;
    std::size_t size = 0;
    const int failed = pthread_attr_getstack(&attr, &lowest, &size);
    pthread_attr_destroy(&attr);
    if (failed != 0) return 0;
    const char here = 0;
    const auto depth = reinterpret_cast<std::uintptr_t>(&here) - reinterpret_cast<std::uintptr_t>(lowest);
    return depth > size ? 0 : static_cast<std::size_t>(depth);
#else
    return 0;
#endif
}

[[gnu::noinline]] void fill(std::size_t bytes) {
#if defined(__linux__)
    if (bytes == 0) return;
    auto* block = static_cast<char*>(alloca(bytes));
    std::memset(block, 0xFF, bytes);
    asm volatile("" : : "r"(block) : "memory");
#else
    (void)bytes;
#endif
}

int call_on_pattern(std::uintptr_t entry, std::uintptr_t buffers, std::uintptr_t integers) {
    nb::gil_scoped_release unlocked;
    fill(std::min(REACH, below() / 2));
    return reinterpret_cast<Entry>(entry)(reinterpret_cast<void**>(buffers),
                                          reinterpret_cast<const std::int64_t*>(integers));
}

}  // namespace

void register_stack(nb::module_& m) {
    m.def("call_on_pattern", &call_on_pattern, nb::arg("entry"), nb::arg("buffers"), nb::arg("integers"),
          "Calls int entry(void** buffers, const int64_t* integers), all given as addresses, with the "
          "calling thread's stack below the call full of ones; the other threads' is as it was.");
}

}  // namespace superopt
