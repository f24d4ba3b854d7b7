// Python bindings of the field part.
#include "core.h"

namespace superopt {

void register_field(nanobind::module_&) {}

}  // namespace superopt
