// What the parts of the extension module offer to its entry point.
#pragma once

#include <nanobind/nanobind.h>

namespace superopt {

void register_field(nanobind::module_& m);   // bind_field.cpp
void register_search(nanobind::module_& m);  // bind_search.cpp
void register_place(nanobind::module_& m);   // bind_place.cpp
void register_stack(nanobind::module_& m);   // stack.cpp
void register_launch(nanobind::module_& m);  // launch.cpp
void register_repeat(nanobind::module_& m);  // repeat.cpp

}  // namespace superopt
