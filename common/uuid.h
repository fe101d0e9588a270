// Random UUIDs (RFC 4122, version 4).

#ifndef VIOMMU_COMMON_UUID_H_
#define VIOMMU_COMMON_UUID_H_

#include <string>
#include <string_view>

namespace viommu {

// "3b241101-e2bb-4255-8caf-4136c566a962". Any thread.
std::string NewUuid();

// Whether `text` has that form: 36 characters, lower case, any version.
bool IsUuid(std::string_view text);

}  // namespace viommu

#endif  // VIOMMU_COMMON_UUID_H_
