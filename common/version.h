// The version of everything in this tree. It comes from the file VERSION at the root.

#ifndef VIOMMU_COMMON_VERSION_H_
#define VIOMMU_COMMON_VERSION_H_

#include <string_view>

namespace viommu {

// "0.1.0".
std::string_view Version();

}  // namespace viommu

#endif  // VIOMMU_COMMON_VERSION_H_
