// Looks at torch tensors by DLPack's C functions, and compares them with a form seen before.
#include "tensors.h"

#include <algorithm>
#include <stdexcept>

namespace superopt::tensors {
namespace {

struct Version {
    std::uint32_t major;
    std::uint32_t minor;
};

struct Exchange {  // DLPackExchangeAPI
    Version version;
    Exchange* previous;
    void* allocate;
    void* from_object;
    void* to_object;
    Look look;
    void* stream;
};

constexpr std::uint32_t MAJOR = 1;
constexpr std::uint8_t COMPLEX = 5;

// A tensor that stands for zeros has no memory.
bool missing(const View& seen) {
    return seen.data == nullptr && std::all_of(seen.shape, seen.shape + seen.ndim, [](auto n) { return n > 0; });
}

// Interned for the life of the process: names are asked for at every call.
PyObject* name(const char* text) { return PyUnicode_InternFromString(text); }

int truth(PyObject* answer) {
    if (answer == nullptr) {
        PyErr_Clear();
        return -1;
    }
    const int found = answer == Py_True ? 1 : answer == Py_False ? 0 : -1;
    Py_DECREF(answer);
    return found;
}

}  // namespace

Look look_of(nb::handle exchange) {
    auto* api = static_cast<Exchange*>(PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) throw nb::python_error();
    while (api != nullptr && api->version.major != MAJOR) api = api->previous;
    if (api == nullptr || api->look == nullptr) {
        throw std::invalid_argument("tensors are exchanged by another version of DLPack");
    }
    return api->look;
}

int wants_gradient(PyObject* tensor) {
    static PyObject* const key = name("requires_grad");
    return truth(PyObject_GetAttr(tensor, key));
}

int negated(PyObject* tensor) {
    static PyObject* const key = name("is_neg");
    return truth(PyObject_VectorcallMethod(key, &tensor, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

Form::Form(Look look, nb::handle tensor)
    : kind_(nb::borrow(reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())))) {
    View seen{};
    if (look(tensor.ptr(), &seen) != 0) {
        PyErr_Clear();
        throw std::invalid_argument("a tensor shows no memory");
    }
    const int gradient = wants_gradient(tensor.ptr());
    // A complex one may be conjugated, which its memory does not show.
    if (seen.device_type != CPU || seen.strides == nullptr || seen.dtype.code == COMPLEX || missing(seen) ||
        gradient < 0 || negated(tensor.ptr()) != 0) {
        throw std::invalid_argument("a tensor is not a plain one of the CPU");
    }
    dtype_ = seen.dtype;
    ndim_ = seen.ndim;
    gradient_ = gradient == 1;
    sizes_.assign(seen.shape, seen.shape + ndim_);
    sizes_.insert(sizes_.end(), seen.strides, seen.strides + ndim_);
}

bool Form::fits(Look look, PyObject* tensor, View& seen) const {
    if (Py_TYPE(tensor) != kind()) return false;
    if (look(tensor, &seen) != 0) {
        PyErr_Clear();
        return false;
    }
    if (seen.device_type != CPU || seen.ndim != ndim_ || seen.strides == nullptr || missing(seen)) return false;
    if (seen.dtype.code != dtype_.code || seen.dtype.bits != dtype_.bits || seen.dtype.lanes != dtype_.lanes) {
        return false;
    }
    const std::int64_t* shape = sizes_.data();
    const std::int64_t* strides = shape + ndim_;
    return std::equal(shape, strides, seen.shape) && std::equal(strides, strides + ndim_, seen.strides);
}

bool Form::plain(PyObject* tensor) const {
    return wants_gradient(tensor) == static_cast<int>(gradient_) && negated(tensor) == 0;
}

}  // namespace superopt::tensors
