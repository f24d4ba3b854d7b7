// Reads and comparisons of Python objects: whether what a function reads is as it was.
#pragma once

#include <nanobind/nanobind.h>

#include <bit>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core.h"

namespace superopt::watching {

// Reads put an object into a register: it belongs to what it was read from, and no Python code runs
// in between. Comparisons end a look where something is not as it was.
enum class Op : std::uint8_t {
    constant,   // dst = object
    item,       // dst = src[object], a dict
    absent,     // object is no key of src, a dict
    items,      // dst.. = the values of src, a dict with these keys (a tuple) in this order
    attribute,  // dst = getattr(src, object), which src itself keeps
    own,        // dst = src.__dict__
    element,    // dst = src[number], a list or a tuple
    length,     // src, a list, tuple or dict, has so many elements
    is,         // src is object
    same,       // src lies at an address, and is of the class object
    tensor,     // src has the form of the number-th tensor, its memory, and no attributes
};
constexpr int OPS = 11;

struct Step {
    Op op;
    std::size_t src;
    std::size_t dst;
    nb::object object;
    std::int64_t number;
};

using Row = std::tuple<int, std::size_t, std::size_t, nb::object, std::int64_t>;

struct Held {
    tensors::Form form;
    void* address;  // of the object: only which of the tensors are one and the same counts
    void* memory;
};

class Watch {
   public:
    Watch(nb::capsule exchange, const std::vector<Row>& rows, std::size_t registers, nb::list held)
        : look_(tensors::look_of(exchange)), registers_(registers) {
        for (const auto& [op, src, dst, object, number] : rows) {
            if (op < 0 || op >= OPS || src >= registers || dst > registers) {
                throw std::invalid_argument("a step of a watch is out of its range");
            }
            const auto kind = static_cast<Op>(op);
            if (kind == Op::items &&
                (!PyTuple_Check(object.ptr()) || dst + nb::len(object) > registers)) {
                throw std::invalid_argument("a step of a watch has no keys");
            }
            if (kind == Op::tensor && (number < 0 || static_cast<std::size_t>(number) >= nb::len(held))) {
                throw std::invalid_argument("a step of a watch names no tensor");
            }
            steps_.push_back({kind, src, dst, object, number});
        }
        for (nb::handle t : held) {
            tensors::View seen{};
            tensors::Form form(look_, t);
            if (look_(t.ptr(), &seen) != 0) throw nb::python_error();
            held_.push_back({std::move(form), t.ptr(), seen.first()});
        }
    }

    [[nodiscard]] std::size_t registers() const { return registers_; }
    [[nodiscard]] std::size_t count() const { return held_.size(); }
    [[nodiscard]] void* address(std::size_t n) const { return held_[n].address; }

    // Whether all is as it was; `tensors` are then the held ones, as borrowed references.
    [[nodiscard]] bool holds(PyObject** r, PyObject** found) const {
        for (const Step& step : steps_) {
            if (!passes(step, r, found)) return false;
        }
        return true;
    }

    [[nodiscard]] bool unchanged() const {
        std::vector<PyObject*> registers(registers_);
        std::vector<PyObject*> found(held_.size());
        return holds(registers.data(), found.data());
    }

    int traverse(visitproc visit, void* arg) const {
        for (const Step& step : steps_) Py_VISIT(step.object.ptr());
        return 0;
    }

   private:
    [[nodiscard]] bool passes(const Step& step, PyObject** r, PyObject** found) const {
        PyObject* const src = r[step.src];
        PyObject* const object = step.object.ptr();
        switch (step.op) {
            case Op::constant:
                r[step.dst] = object;
                return true;
            case Op::item:
                return PyDict_Check(src) && kept(r[step.dst] = PyDict_GetItemWithError(src, object));
            case Op::absent:
                return PyDict_Check(src) && clear(PyDict_Contains(src, object)) == 0;
            case Op::items:
                return PyDict_Check(src) && all(src, object, r + step.dst);
            case Op::attribute:
                return given_up(r[step.dst] = PyObject_GetAttr(src, object));
            case Op::own:
                return given_up(r[step.dst] = PyObject_GenericGetDict(src, nullptr));
            case Op::element: {
                const bool list = PyList_Check(src);
                if (!list && !PyTuple_Check(src)) return false;
                if (step.number >= clear(PyObject_Size(src))) return false;
                r[step.dst] = list ? PyList_GetItem(src, step.number) : PyTuple_GetItem(src, step.number);
                return kept(r[step.dst]);
            }
            case Op::length:
                return (PyList_Check(src) || PyTuple_Check(src) || PyDict_Check(src)) &&
                       clear(PyObject_Size(src)) == step.number;
            case Op::is:
                return src == object;
            case Op::same:
                return reinterpret_cast<std::int64_t>(src) == step.number &&
                       reinterpret_cast<PyObject*>(Py_TYPE(src)) == object;
            case Op::tensor: {
                const auto n = static_cast<std::size_t>(step.number);
                const Held& held = held_[n];
                tensors::View seen{};
                if (src != held.address || !held.form.fits(look_, src, seen)) return false;
                if (seen.first() != held.memory || !held.form.plain(src)) return false;
                PyObject* attributes = PyObject_GenericGetDict(src, nullptr);
                if (!given_up(attributes) || PyDict_Size(attributes) != 0) return false;
                found[n] = src;
                return true;
            }
        }
        return false;
    }

    static bool kept(PyObject* read) {
        if (read == nullptr) PyErr_Clear();
        return read != nullptr;
    }

    // A new reference to what its owner keeps: where it is the only one, the object was made for us.
    static bool given_up(PyObject* read) {
        if (!kept(read)) return false;
        const bool owned = Py_REFCNT(read) > 1;
        Py_DECREF(read);
        return owned;
    }

    static Py_ssize_t clear(Py_ssize_t answer) {
        if (answer < 0) PyErr_Clear();
        return answer;
    }

    static bool all(PyObject* table, PyObject* keys, PyObject** values) {
        const Py_ssize_t count = PyTuple_Size(keys);
        if (PyDict_Size(table) != count) return false;
        Py_ssize_t at = 0;
        PyObject* key = nullptr;
        PyObject* value = nullptr;
        for (Py_ssize_t k = 0; k < count; ++k) {
            if (PyDict_Next(table, &at, &key, &value) == 0 || key != PyTuple_GetItem(keys, k)) return false;
            values[k] = value;
        }
        return true;
    }

    tensors::Look look_;
    std::size_t registers_;
    std::vector<Step> steps_;
    std::vector<Held> held_;
};

}  // namespace superopt::watching
