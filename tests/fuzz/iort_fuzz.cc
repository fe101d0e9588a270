// Firmware's IO Remapping Table, as any bytes.
//
// Input: the requester id, the segment, the SMMU's base; then the table.

#include <cstdint>
#include <string>
#include <string_view>

#include "agent/smmuv3/iommufd/iort.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  viommu::fuzz::Input input(data, size);
  const auto rid = input.Take<uint16_t>();
  const auto segment = input.Take<uint16_t>();
  const auto base = input.Take<uint64_t>();
  const size_t head = sizeof(rid) + sizeof(segment) + sizeof(base);
  if (size < head) return 0;
  const std::string_view table(reinterpret_cast<const char*>(data) + head, size - head);
  const auto id = viommu::agent::IortStreamId(table, segment, rid, base);
  // What comes behind the table is no part of it.
  const std::string longer = std::string(table) + "tail";
  if (id) FUZZ_CHECK(viommu::agent::IortStreamId(longer, segment, rid, base) == id);
  return 0;
}
