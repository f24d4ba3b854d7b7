// Calls a compiled program on torch tensors: outputs are allocated, pointers collected, scratch is kept.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "tensors.h"

namespace superopt {

namespace nb = nanobind;

using Entry = int (*)(void**, const std::int64_t*);

// References to a few objects, which are given up with it; no memory is asked for up to 16.
class Few {
   public:
    explicit Few(std::size_t count) : count_(count) {
        if (count > inside_.size()) beyond_.resize(count);
    }
    Few(const Few&) = delete;
    Few& operator=(const Few&) = delete;
    ~Few() {
        for (std::size_t k = 0; k < count_; ++k) Py_XDECREF(data()[k]);
    }
    [[nodiscard]] PyObject** data() { return beyond_.empty() ? inside_.data() : beyond_.data(); }
    [[nodiscard]] std::size_t size() const { return count_; }
    // The k-th reference, which is the caller's now.
    [[nodiscard]] PyObject* take(std::size_t k) { return std::exchange(data()[k], nullptr); }

   private:
    std::size_t count_;
    std::array<PyObject*, 16> inside_{};
    std::vector<PyObject*> beyond_;
};

enum class Kind { input, output, scratch };

// What a call takes beside its tensors.
struct Block {
    std::vector<void*> pointers;
    std::vector<std::int64_t> ints;
    std::vector<void*> memory;
    explicit Block(const std::vector<std::size_t>& sizes);  // std::bad_alloc
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block();
};

class Launcher {
   public:
    Launcher(nb::capsule exchange, std::uintptr_t entry, nb::list like, nb::object empty_like,
             std::vector<std::pair<int, std::size_t>> buffers, std::vector<std::size_t> scratch,
             std::vector<std::int64_t> ints, nb::object threads, bool release);

    Launcher(const Launcher&) = delete;
    Launcher& operator=(const Launcher&) = delete;

    // Runs on `inputs`, which the caller keeps alive; the outputs are new references in `made`, and the
    // status is returned: 0, or that of the entry. Throws what PyTorch raises where there is no memory.
    int run(PyObject* const* inputs, std::size_t count, Few& made);

    // The same on a list or tuple; a list of outputs, or the status.
    nb::object call(nb::handle inputs);

    [[nodiscard]] tensors::Look look() const { return look_; }
    [[nodiscard]] std::size_t outputs() const { return like_.size(); }
    int traverse(visitproc visit, void* arg) const;

   private:
    void* pointer(PyObject* tensor) const;

    tensors::Look look_;
    Entry entry_;
    std::vector<nb::object> like_;
    nb::object empty_like_;
    std::vector<std::pair<Kind, std::size_t>> buffers_;
    std::size_t inputs_ = 0;
    std::vector<std::size_t> scratch_;
    std::vector<std::int64_t> ints_;
    nb::object threads_;
    bool release_;
    // Blocks that no call uses now; as many are made as calls run at once. The interpreter lock guards them.
    std::vector<std::unique_ptr<Block>> idle_;
};

// What the collector of reference cycles asks of a class whose objects hold others.
template <class T>
int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!nb::inst_ready(self)) return 0;
    return nb::inst_ptr<T>(self)->traverse(visit, arg);
}

template <class T>
PyType_Slot seen_by_gc[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse<T>)}, {0, nullptr}};

// After a fork the threads of OpenMP's pool are gone, and a region that waits for them hangs.
void one_thread();

}  // namespace superopt
