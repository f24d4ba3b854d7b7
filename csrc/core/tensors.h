// What the launch of kernels reads of torch tensors, by DLPack's C functions: no torch header is used.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

namespace superopt::tensors {

namespace nb = nanobind;

// DLPack 1.x, https://github.com/dmlc/dlpack; the layout is part of its ABI.
struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct View {  // DLTensor
    void* data;
    std::int32_t device_type;
    std::int32_t device_id;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;

    [[nodiscard]] void* first() const { return static_cast<char*>(data) + byte_offset; }
};

constexpr std::int32_t CPU = 1;

// Looks at a tensor without owning it: its memory and sizes are valid while the tensor is, and only
// until it is changed. True when there is nothing to see; no Python error is then left set.
using Look = int (*)(void* tensor, View* out);

// The function of a class that exchanges tensors in C (its __dlpack_c_exchange_api__); raises
// ValueError where it is of another major version, which is another layout.
Look look_of(nb::handle exchange);

// A tensor's dtype, device, shape, strides and class, and whether it wants a gradient.
class Form {
   public:
    // Of a plain strided CPU tensor; ValueError for another.
    Form(Look look, nb::handle tensor);

    // Whether a tensor has this class, dtype and shape, and these strides; `seen` is what it shows.
    // Neither this nor `plain` leaves a Python error set; a mode of PyTorch's hears of `plain` alone.
    [[nodiscard]] bool fits(Look look, PyObject* tensor, View& seen) const;

    // Whether a tensor that fits wants a gradient as this one did, and is not negated.
    [[nodiscard]] bool plain(PyObject* tensor) const;

    [[nodiscard]] PyTypeObject* kind() const { return reinterpret_cast<PyTypeObject*>(kind_.ptr()); }

   private:
    nb::object kind_;
    DataType dtype_{};
    std::vector<std::int64_t> sizes_;  // the shape, then the strides
    std::int32_t ndim_ = 0;
    bool gradient_ = false;
};

// Whether a tensor wants a gradient, and whether its values are the negatives of its memory's; -1 for
// an error, which is not left set.
int wants_gradient(PyObject* tensor);
int negated(PyObject* tensor);

}  // namespace superopt::tensors
