// CRC-32C (Castagnoli polynomial, reflected; RFC 3720, B.4), which guards the frames of the agent's journal and those
// of RocksDB's log.

#ifndef VIOMMU_COMMON_CRC32C_H_
#define VIOMMU_COMMON_CRC32C_H_

#include <cstdint>
#include <string_view>

namespace viommu {

// The checksum of `data`, continuing from `seed`, the checksum of what comes before it.
uint32_t Crc32c(std::string_view data, uint32_t seed = 0);

}  // namespace viommu

#endif  // VIOMMU_COMMON_CRC32C_H_
