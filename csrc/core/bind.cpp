// The extension module: each part registers its own functions.
#include <nanobind/nanobind.h>

#include "core.h"

NB_MODULE(_core, m) {
    m.doc() = "Finite-field evaluation, value enumeration and placement; knows no operator by name.";
    superopt::register_field(m);
    superopt::register_search(m);
    superopt::register_place(m);
    superopt::register_stack(m);
    superopt::register_launch(m);
    superopt::register_repeat(m);
}
