// Which kernels run here: the best that this CPU has, or the ones that PAPERLAB_ISA names.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace pl {

// By name; throws Error where the name is unknown, or this build or this CPU does not have it.
const Kernels& kernels_named(const std::string& name);
// PAPERLAB_ISA (read at every call), else the best.
const Kernels& kernels_here();
// Names of all that can run here, the plainest first.
std::vector<std::string> kernels_available();

}  // namespace pl
