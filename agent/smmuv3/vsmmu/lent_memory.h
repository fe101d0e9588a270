// Mappings of files that belong to somebody else, who may shrink them.
//
// Linux pins the pages of a guest that it lets devices reach: nothing that happens to the file takes them away. A
// process cannot do that. When a file ends before its mapping does, or tmpfs or hugetlbfs has no page for it, the
// access ends the process with SIGBUS: a VMM could end the agent of all VMs. So whatever page of a lent mapping is not
// there any more is read as zeros from then on, and written to nobody's use but its own.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_LENT_MEMORY_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_LENT_MEMORY_H_

#include <cstddef>
#include <cstdint>

namespace viommu::agent {

// Mappings that can be lent at a time.
inline constexpr size_t kMaxLentMappings = 4096;

// mmap(2) of `length` bytes of `fd` from `offset` on, shared, as a lent mapping. Returns 0 or an errno: that of
// mmap(2), or ENOMEM when there are kMaxLentMappings. The first call installs a handler of SIGBUS, which leaves signals
// for other addresses to the one before. Thread-safe.
int MapLent(int fd, uint64_t offset, uint64_t length, bool writable, std::byte** data);

// munmap(2) of what MapLent() has given, whole. Nobody accesses it any more. Thread-safe.
void UnmapLent(std::byte* data);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_LENT_MEMORY_H_
