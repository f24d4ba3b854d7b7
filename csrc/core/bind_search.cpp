// Python bindings of the search part.
#include "core.h"

namespace superopt {

void register_search(nanobind::module_&) {}

}  // namespace superopt
