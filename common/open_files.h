// How many files and connections this process may have open (RLIMIT_NOFILE).

#ifndef VIOMMU_COMMON_OPEN_FILES_H_
#define VIOMMU_COMMON_OPEN_FILES_H_

#include <cstdint>

namespace viommu {

uint64_t OpenFileLimit();

// Raises it as far as an unprivileged process can: what shells and systemd give by default (1024) is for programs that
// use select().
void RaiseOpenFileLimit();

}  // namespace viommu

#endif  // VIOMMU_COMMON_OPEN_FILES_H_
