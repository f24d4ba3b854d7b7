// Tells whether a call is one that was made before, and then runs what was found for it.
//
// What decides is read anew from the objects themselves, by a short program of reads and comparisons
// that Python wrote down while it looked at everything (superopt/frontend/watch.py).
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <bit>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core.h"
#include "launch.h"
#include "watch.h"

namespace superopt {
namespace {

using namespace watching;

// A flat argument: a tensor of a form, or a plain value.
struct Argument {
    std::optional<tensors::Form> form;
    nb::object value;

    [[nodiscard]] bool plain(PyObject* given) const { return !form || form->plain(given); }

    [[nodiscard]] bool fits(tensors::Look look, PyObject* given) const {
        tensors::View seen{};
        if (form) return form->fits(look, given, seen);
        if (given == value.ptr()) return true;
        // Of plain classes alone, whose comparison runs no user's code; zeros differ by their sign.
        if (Py_TYPE(given) != Py_TYPE(value.ptr())) return false;
        if (PyFloat_CheckExact(given)) {
            return std::bit_cast<std::uint64_t>(PyFloat_AsDouble(given)) ==
                   std::bit_cast<std::uint64_t>(PyFloat_AsDouble(value.ptr()));
        }
        if (!PyLong_CheckExact(given) && !PyUnicode_CheckExact(given)) return false;
        const int equal = PyObject_RichCompareBool(given, value.ptr(), Py_EQ);
        if (equal < 0) PyErr_Clear();
        return equal == 1;
    }
};

// A question to PyTorch, and the answer under which a program was found.
struct Question {
    nb::object ask;
    nb::object with;  // None, or the one argument
    nb::object answer;

    [[nodiscard]] bool holds() const {
        PyObject* args[] = {nullptr, with.ptr()};
        const std::size_t count = with.is_none() ? 0 : 1;
        PyObject* got =
            PyObject_Vectorcall(ask.ptr(), args + 1, count | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
        if (got == nullptr) {
            PyErr_Clear();
            return false;
        }
        const int same = got == answer.ptr() ? 1 : PyObject_RichCompareBool(got, answer.ptr(), Py_EQ);
        Py_DECREF(got);
        if (same < 0) PyErr_Clear();
        return same == 1;
    }
};

using Asked = std::tuple<nb::object, nb::object, nb::object>;

// A call that was made: how its arguments looked, what the function read, and what runs it.
class Repeat {
   public:
    Repeat(nb::capsule exchange, const std::vector<Asked>& questions, nb::tuple args, nb::dict kwargs,
           Watch* watch, Launcher* launcher, const std::vector<std::int64_t>& inputs, nb::list literals,
           nb::object finish)
        : look_(tensors::look_of(exchange)),
          positional_(nb::len(args)),
          watch_(nb::find(watch)),
          launcher_(launcher == nullptr ? nb::none() : nb::find(launcher)),
          state_(watch),
          direct_(launcher),
          inputs_(inputs),
          finish_(std::move(finish)) {
        for (const auto& [ask, with, answer] : questions) questions_.push_back({ask, with, answer});
        for (nb::handle value : args) add(value);
        for (const auto& [key, value] : kwargs) {
            names_.push_back(nb::borrow(key));
            add(value);
        }
        for (nb::handle t : literals) literals_.push_back(nb::borrow(t));
        const auto held = static_cast<std::int64_t>(arguments_.size() + state_->count());
        for (const std::int64_t source : inputs_) {
            if (source >= held || source < -static_cast<std::int64_t>(literals_.size())) {
                throw std::invalid_argument("an input comes from nowhere");
            }
        }
        for (std::size_t k = 0; k < given_.size(); ++k) {
            for (std::size_t n = 0; n < state_->count(); ++n) shared_.push_back(given_[k] == state_->address(n));
            for (std::size_t j = 0; j < k; ++j) shared_.push_back(given_[k] == given_[j]);
        }
        given_.clear();
    }

    // What the call gives, or `missed` where it is another one. A Python error is passed on.
    nb::object call(nb::tuple args, nb::dict kwargs, nb::object missed) {
        Few flat(arguments_.size());
        if (!flatten(args, kwargs, flat)) return missed;
        for (std::size_t k = 0; k < arguments_.size(); ++k) {
            if (!arguments_[k].fits(look_, flat.data()[k])) return missed;
        }
        for (const Question& question : questions_) {
            if (!question.holds()) return missed;
        }
        for (std::size_t k = 0; k < arguments_.size(); ++k) {
            if (!arguments_[k].plain(flat.data()[k])) return missed;
        }
        Few held(state_->count());
        std::vector<PyObject*> registers = std::move(spare_);  // another call at once makes its own
        registers.resize(state_->registers());
        const bool same = state_->holds(registers.data(), held.data());
        spare_ = std::move(registers);
        for (std::size_t k = 0; k < held.size(); ++k) {
            if (same) {
                Py_INCREF(held.data()[k]);
            } else {
                (void)held.take(k);
            }
        }
        if (!same || !alike(flat, held)) return missed;
        return direct_ != nullptr ? launch(flat, held, missed) : elsewhere(args, kwargs, held);
    }

    int traverse(visitproc visit, void* arg) const {
        for (const Question& q : questions_) {
            Py_VISIT(q.ask.ptr());
            Py_VISIT(q.answer.ptr());
        }
        for (const Argument& a : arguments_) Py_VISIT(a.value.ptr());
        for (const nb::object& t : literals_) Py_VISIT(t.ptr());
        Py_VISIT(watch_.ptr());
        Py_VISIT(launcher_.ptr());
        Py_VISIT(finish_.ptr());
        return 0;
    }

   private:
    void add(nb::handle value) {
        const bool plain = value.is_none() || PyBool_Check(value.ptr()) || PyLong_CheckExact(value.ptr()) ||
                           PyFloat_CheckExact(value.ptr()) || PyUnicode_CheckExact(value.ptr());
        given_.push_back(value.ptr());
        if (plain) {
            arguments_.push_back({std::nullopt, nb::borrow(value)});
        } else {
            arguments_.push_back({tensors::Form(look_, value), nb::object()});
        }
    }

    bool flatten(nb::tuple args, nb::dict kwargs, Few& flat) const {
        if (nb::len(args) != positional_ || nb::len(kwargs) != names_.size()) return false;
        std::size_t k = 0;
        for (; k < positional_; ++k) flat.data()[k] = PyTuple_GetItem(args.ptr(), static_cast<Py_ssize_t>(k));
        Py_ssize_t at = 0;
        PyObject* key = nullptr;
        PyObject* value = nullptr;
        bool same = true;
        for (const nb::object& name : names_) {
            same = same && PyDict_Next(kwargs.ptr(), &at, &key, &value) != 0 && key == name.ptr();
            flat.data()[k++] = same ? value : nullptr;
        }
        for (std::size_t n = 0; n < k; ++n) Py_XINCREF(flat.data()[n]);
        return same;
    }

    // Whether the same ones of the arguments and held tensors are one and the same object as were.
    bool alike(Few& flat, Few& held) const {
        std::size_t at = 0;
        for (std::size_t k = 0; k < flat.size(); ++k) {
            for (std::size_t n = 0; n < held.size(); ++n) {
                if (shared_[at++] != (flat.data()[k] == held.data()[n])) return false;
            }
            for (std::size_t j = 0; j < k; ++j) {
                if (shared_[at++] != (flat.data()[k] == flat.data()[j])) return false;
            }
        }
        return true;
    }

    nb::object launch(Few& flat, Few& held, const nb::object& missed) {
        Few inputs(inputs_.size());
        for (std::size_t k = 0; k < inputs_.size(); ++k) {
            const std::int64_t source = inputs_[k];
            const auto n = static_cast<std::size_t>(source);
            PyObject* const tensor = source < 0            ? literals_[static_cast<std::size_t>(-source - 1)].ptr()
                                     : n < flat.size()     ? flat.data()[n]
                                                           : held.data()[n - flat.size()];
            Py_INCREF(tensor);
            inputs.data()[k] = tensor;
        }
        Few made(direct_->outputs());
        try {  // where it fails, the long way says why
            if (direct_->run(inputs.data(), inputs.size(), made) != 0) return missed;
        } catch (nb::python_error&) {
            return missed;
        }
        if (finish_.is_none()) return nb::steal(made.take(0));
        nb::object out = nb::steal(PyList_New(static_cast<Py_ssize_t>(made.size())));
        for (std::size_t k = 0; k < made.size(); ++k) {
            PyList_SetItem(out.ptr(), static_cast<Py_ssize_t>(k), made.take(k));
        }
        return finish_(out);
    }

    nb::object elsewhere(const nb::tuple& args, const nb::dict& kwargs, Few& held) const {
        nb::object list = nb::steal(PyList_New(static_cast<Py_ssize_t>(held.size())));
        for (std::size_t k = 0; k < held.size(); ++k) {
            PyList_SetItem(list.ptr(), static_cast<Py_ssize_t>(k), held.take(k));
        }
        return finish_(args, kwargs, list);
    }

    tensors::Look look_;
    std::vector<Question> questions_;
    std::vector<Argument> arguments_;
    std::size_t positional_;
    std::vector<nb::object> names_;
    std::vector<PyObject*> given_;
    std::vector<PyObject*> spare_;
    std::vector<bool> shared_;
    nb::object watch_;
    nb::object launcher_;
    const Watch* state_;
    Launcher* direct_;
    std::vector<std::int64_t> inputs_;
    std::vector<nb::object> literals_;
    nb::object finish_;
};

}  // namespace

void register_repeat(nb::module_& m) {
    nb::class_<Watch>(m, "Watch", nb::type_slots(seen_by_gc<Watch>),
                      "What a function read: rows of (operation, source, destination, object, number) over "
                      "numbered registers, the first of which are empty, and the tensors that they name.")
        .def(nb::init<nb::capsule, const std::vector<Row>&, std::size_t, nb::list>(), nb::arg("exchange"),
             nb::arg("rows"), nb::arg("registers"), nb::arg("held"))
        .def("holds", &Watch::unchanged, "Whether all that it reads is as it was.");
    nb::class_<Repeat>(m, "Repeat", nb::type_slots(seen_by_gc<Repeat>),
                       "A call that was made, with its answers to questions of (callable, argument or None, "
                       "answer), and what runs one like it: a launcher on the inputs numbered (arguments, then "
                       "held tensors; literals from -1 down), whose outputs finish takes (None: the only "
                       "one), or without one finish(args, kwargs, held).")
        .def(nb::init<nb::capsule, const std::vector<Asked>&, nb::tuple, nb::dict, Watch*, Launcher*,
                      const std::vector<std::int64_t>&, nb::list, nb::object>(),
             nb::arg("exchange"), nb::arg("questions"), nb::arg("args"), nb::arg("kwargs"), nb::arg("watch"),
             nb::arg("launcher").none(), nb::arg("inputs"), nb::arg("literals"), nb::arg("finish").none())
        .def("call", &Repeat::call, nb::arg("args"), nb::arg("kwargs"), nb::arg("missed").none(),
             "What the call gives, or missed where it is no repetition, or its kernel fails.");
}

}  // namespace superopt
