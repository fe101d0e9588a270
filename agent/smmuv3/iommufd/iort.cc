#include "agent/smmuv3/iommufd/iort.h"

#include <algorithm>
#include <charconv>
#include <cstddef>

namespace viommu::agent {
namespace {

// Offsets and values of DEN 0049; fields are little endian.
constexpr size_t kLength = 4, kNodeCount = 36, kFirstNode = 40, kHeaderBytes = 48;
constexpr size_t kNodeType = 0, kNodeLength = 1, kMappingCount = 8, kMappings = 12, kNodeBytes = 16;
constexpr size_t kSegment = 28, kRootComplexBytes = 32;
constexpr size_t kSmmuBase = 16, kSmmuBytes = 24;
constexpr size_t kInputBase = 0, kIdCount = 4, kOutputBase = 8, kOutputNode = 12, kMappingBytes = 20;
constexpr uint64_t kTypeRootComplex = 2, kTypeSmmuV3 = 4;

class Table {
 public:
  explicit Table(std::string_view bytes) : bytes_(bytes) {}

  bool Holds(uint64_t offset, uint64_t length) const {
    return offset <= bytes_.size() && length <= bytes_.size() - offset;
  }
  // Of what Holds().
  uint64_t Get(uint64_t offset, size_t length) const {
    uint64_t value = 0;
    for (size_t i = 0; i < length; ++i) value |= uint64_t{static_cast<uint8_t>(bytes_[offset + i])} << (8 * i);
    return value;
  }

 private:
  std::string_view bytes_;
};

// Of hexadecimal digits and nothing else.
std::optional<uint64_t> Hex(std::string_view digits) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

// The mapping of the root complex at `node` that has `rid`: where its entry is in the table.
std::optional<uint64_t> FindMapping(const Table& table, uint64_t node, uint16_t rid) {
  const uint64_t count = table.Get(node + kMappingCount, 4);
  const uint64_t first = node + table.Get(node + kMappings, 4);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t mapping = first + i * kMappingBytes;
    if (!table.Holds(mapping, kMappingBytes)) return std::nullopt;
    const uint64_t base = table.Get(mapping + kInputBase, 4);
    // The count is of one less than there are.
    if (rid >= base && rid - base <= table.Get(mapping + kIdCount, 4)) return mapping;
  }
  return std::nullopt;
}

}  // namespace

std::optional<uint32_t> IortStreamId(std::string_view bytes, uint32_t segment, uint16_t rid, uint64_t smmu_base) {
  if (bytes.size() < kHeaderBytes || bytes.substr(0, 4) != "IORT") return std::nullopt;
  const uint64_t length = Table(bytes).Get(kLength, 4);
  if (length < kHeaderBytes || length > bytes.size()) return std::nullopt;
  const Table table(bytes.substr(0, length));
  uint64_t node = table.Get(kFirstNode, 4);
  // A node is not empty, so that they end with the table, whatever it says how many there are.
  for (uint64_t left = table.Get(kNodeCount, 4); left > 0; --left) {
    if (!table.Holds(node, kNodeBytes)) return std::nullopt;
    const uint64_t node_length = table.Get(node + kNodeLength, 2);
    if (node_length < kNodeBytes || !table.Holds(node, node_length)) return std::nullopt;
    if (table.Get(node + kNodeType, 1) == kTypeRootComplex && node_length >= kRootComplexBytes &&
        table.Get(node + kSegment, 4) == segment) {
      if (const auto mapping = FindMapping(table, node, rid)) {
        const uint64_t smmu = table.Get(*mapping + kOutputNode, 4);
        if (!table.Holds(smmu, kSmmuBytes) || table.Get(smmu + kNodeType, 1) != kTypeSmmuV3 ||
            table.Get(smmu + kSmmuBase, 8) != smmu_base) {
          return std::nullopt;
        }
        return static_cast<uint32_t>(table.Get(*mapping + kOutputBase, 4) +
                                     (rid - table.Get(*mapping + kInputBase, 4)));
      }
    }
    node += node_length;
  }
  return std::nullopt;
}

std::optional<uint32_t> IortStreamId(std::string_view table, std::string_view pci_address, std::string_view smmu) {
  constexpr std::string_view kSmmu = "smmu3.0x";
  if (pci_address.size() != std::string_view("0000:01:00.0").size() || smmu.substr(0, kSmmu.size()) != kSmmu) {
    return std::nullopt;
  }
  const auto segment = Hex(pci_address.substr(0, 4));
  const auto bus = Hex(pci_address.substr(5, 2));
  const auto device = Hex(pci_address.substr(8, 2));
  const auto function = Hex(pci_address.substr(11, 1));
  const auto base = Hex(smmu.substr(kSmmu.size()));
  if (!segment || !bus || !device || *device > 31 || !function || *function > 7 || !base) return std::nullopt;
  return IortStreamId(table, static_cast<uint32_t>(*segment),
                      static_cast<uint16_t>(*bus << 8 | *device << 3 | *function), *base);
}

}  // namespace viommu::agent
