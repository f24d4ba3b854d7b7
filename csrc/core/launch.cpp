// Calls a compiled program on torch tensors with nothing allocated but its outputs.
#include "launch.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "core.h"

namespace superopt {
namespace {

std::atomic<bool> alone{false};

constexpr std::size_t LINE = 64;  // bytes: scratch begins at a cache line, as torch's memory does

}  // namespace

void one_thread() { alone = true; }

Block::Block(const std::vector<std::size_t>& sizes) {
    memory.reserve(sizes.size());
    for (const std::size_t bytes : sizes) {
        void* block = std::aligned_alloc(LINE, (bytes / LINE + 1) * LINE);
        if (block == nullptr) {
            for (void* held : memory) std::free(held);
            throw std::bad_alloc();
        }
        memory.push_back(block);
    }
}

Block::~Block() {
    for (void* held : memory) std::free(held);
}

Launcher::Launcher(nb::capsule exchange, std::uintptr_t entry, nb::list like, nb::object empty_like,
                   std::vector<std::pair<int, std::size_t>> buffers, std::vector<std::size_t> scratch,
                   std::vector<std::int64_t> ints, nb::object threads, bool release)
    : look_(tensors::look_of(exchange)),
      entry_(reinterpret_cast<Entry>(entry)),
      empty_like_(std::move(empty_like)),
      scratch_(std::move(scratch)),
      ints_(std::move(ints)),
      threads_(std::move(threads)),
      release_(release) {
    for (nb::handle t : like) like_.push_back(nb::borrow(t));
    for (const auto& [kind, n] : buffers) {
        const auto which = static_cast<Kind>(kind);
        const std::size_t most = which == Kind::output ? like_.size() : scratch_.size();
        if (kind < 0 || kind > 2 || (which != Kind::input && n >= most)) {
            throw std::invalid_argument("a plan names a buffer that it lacks");
        }
        if (which == Kind::input) inputs_ = std::max(inputs_, n + 1);
        buffers_.emplace_back(which, n);
    }
}

void* Launcher::pointer(PyObject* tensor) const {
    tensors::View seen{};
    if (look_(tensor, &seen) != 0) throw nb::python_error();
    return seen.first();
}

int Launcher::run(PyObject* const* inputs, std::size_t count, Few& made) {
    if (count < inputs_) throw std::invalid_argument("a kernel takes more inputs than it is given");
    PyObject** const outputs = made.data();
    for (std::size_t k = 0; k < like_.size(); ++k) {
        PyObject* args[] = {nullptr, like_[k].ptr()};
        outputs[k] =
            PyObject_Vectorcall(empty_like_.ptr(), args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
        if (outputs[k] == nullptr) throw nb::python_error();
    }
    std::int64_t threads = 1;
    if (!alone) {
        PyObject* asked = threads_.ptr();
        nb::object answer;
        if (!PyLong_Check(asked)) {
            answer = nb::steal(PyObject_Vectorcall(asked, nullptr, 0, nullptr));
            if (!answer.is_valid()) throw nb::python_error();
            asked = answer.ptr();
        }
        threads = PyLong_AsLongLong(asked);
        if (threads == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
    }
    std::unique_ptr<Block> block;
    if (idle_.empty()) {
        block = std::make_unique<Block>(scratch_);
        block->ints = ints_;
        block->ints.push_back(1);
        block->pointers.resize(buffers_.size());
    } else {
        block = std::move(idle_.back());
        idle_.pop_back();
    }
    block->ints.back() = threads;
    for (std::size_t k = 0; k < buffers_.size(); ++k) {
        const auto& [kind, n] = buffers_[k];
        block->pointers[k] = kind == Kind::input    ? pointer(inputs[n])
                             : kind == Kind::output ? pointer(outputs[n])
                                                    : block->memory[n];
    }
    int status = 0;
    if (release_) {
        const nb::gil_scoped_release unlocked;
        status = entry_(block->pointers.data(), block->ints.data());
    } else {
        status = entry_(block->pointers.data(), block->ints.data());
    }
    idle_.push_back(std::move(block));
    return status;
}

nb::object Launcher::call(nb::handle inputs) {
    const bool list = PyList_Check(inputs.ptr());
    if (!list && !PyTuple_Check(inputs.ptr())) throw std::invalid_argument("inputs are a list or a tuple");
    const std::size_t count = static_cast<std::size_t>(PyObject_Size(inputs.ptr()));
    Few own(count);
    for (std::size_t k = 0; k < count; ++k) {
        const auto at = static_cast<Py_ssize_t>(k);
        PyObject* tensor = list ? PyList_GetItem(inputs.ptr(), at) : PyTuple_GetItem(inputs.ptr(), at);
        Py_INCREF(tensor);  // another thread may change the list while the kernel runs
        own.data()[k] = tensor;
    }
    Few made(like_.size());
    if (const int status = run(own.data(), count, made); status != 0) return nb::int_(status);
    nb::object out = nb::steal(PyList_New(static_cast<Py_ssize_t>(made.size())));
    for (std::size_t k = 0; k < made.size(); ++k) {
        PyList_SetItem(out.ptr(), static_cast<Py_ssize_t>(k), made.take(k));
    }
    return out;
}

int Launcher::traverse(visitproc visit, void* arg) const {
    for (const nb::object& t : like_) Py_VISIT(t.ptr());
    Py_VISIT(empty_like_.ptr());
    Py_VISIT(threads_.ptr());
    return 0;
}

void register_launch(nb::module_& m) {
    m.def("one_thread", &one_thread, "From now on kernels that are launched here run on their caller alone.");
    nb::class_<Launcher>(m, "Launcher", nb::type_slots(seen_by_gc<Launcher>),
                         "Calls int entry(void** buffers, const int64_t* ints) on torch tensors. The outputs "
                         "are empty_like(t) of each t in like; buffers are (0 input, 1 output, 2 scratch; "
                         "position) in the entry's order; ints end with threads, a number or what gives it.")
        .def(nb::init<nb::capsule, std::uintptr_t, nb::list, nb::object, std::vector<std::pair<int, std::size_t>>,
                      std::vector<std::size_t>, std::vector<std::int64_t>, nb::object, bool>(),
             nb::arg("exchange"), nb::arg("entry"), nb::arg("like"), nb::arg("empty_like"), nb::arg("buffers"),
             nb::arg("scratch"), nb::arg("ints"), nb::arg("threads"), nb::arg("release"))
        .def("run", &Launcher::call, nb::arg("inputs"),
             "Runs on a list or tuple of tensors, whose form the caller has checked: a list of the outputs, or "
             "the entry's status where that is not 0.");
}

}  // namespace superopt
