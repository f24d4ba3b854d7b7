// Python bindings of the field part.
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "core.h"
#include "field.h"

namespace nb = nanobind;

namespace superopt {
namespace {

template <class T>
using Words = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<const T> view(const Words<T>& words) {
    return {words.data(), words.size()};
}

template <class T>
nb::object array(std::vector<T> data, std::size_t trials, std::size_t cells) {
    auto* owned = new std::vector<T>(std::move(data));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T>(owned->data(), {trials, cells}, owner));
}

nb::list field_run(const Words<std::int64_t>& code, const Words<std::int64_t>& pool,
                   const std::vector<std::uint64_t>& primes, const Words<std::uint64_t>& keys,
                   const Words<std::uint8_t>& pooled, const Words<std::uint64_t>& omega,
                   int threads) {
    const field::Trials trials{view(keys), view(pooled), view(omega), primes};
    std::vector<field::Output> found;
    {
        const nb::gil_scoped_release release;
        found = field::run(view(code), view(pool), trials, threads);
    }
    nb::list out;
    for (field::Output& o : found) {
        out.append(nb::make_tuple(array(std::move(o.data), keys.size(), o.cells),
                                  array(std::move(o.status), keys.size(), o.cells)));
    }
    return out;
}

}  // namespace

void register_field(nb::module_& m) {
    m.def("field_run", &field_run, nb::arg("code"), nb::arg("pool"), nb::arg("primes"),
          nb::arg("keys"), nb::arg("pooled"), nb::arg("omega"), nb::arg("threads") = 2,
          "Runs a flat field program; one (data, status) pair per output, each [trials, cells].");
}

}  // namespace superopt
