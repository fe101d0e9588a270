#include "tests/kernel/iort.h"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace viommu::kernel {
namespace {

// Offsets and values of DEN 0049; all fields are little endian.
constexpr size_t kLength = 4, kChecksum = 9, kOemRevision = 24, kNodeCount = 36, kFirstNode = 40, kHeaderBytes = 48;
constexpr size_t kNodeType = 0, kNodeLength = 1, kMappingCount = 8, kMappings = 12, kRootComplexBytes = 36;
constexpr size_t kInputBase = 0, kIdCount = 4, kOutputBase = 8, kOutputNode = 12, kMappingBytes = 20;
constexpr size_t kMemoryFlags = 23;  // in a root complex
constexpr uint8_t kCanwbs = 1 << 2;
constexpr uint8_t kTypeRootComplex = 2, kTypeSmmuV3 = 4;

// The table's bytes, with every access checked.
class Table {
 public:
  explicit Table(std::string bytes) : bytes_(std::move(bytes)) {}

  size_t size() const { return bytes_.size(); }
  bool Holds(size_t offset, size_t length) const { return offset <= size() && length <= size() - offset; }
  uint64_t Get(size_t offset, size_t length) const {
    uint64_t value = 0;
    for (size_t i = 0; i < length; ++i) value |= uint64_t{static_cast<uint8_t>(bytes_.at(offset + i))} << (8 * i);
    return value;
  }
  void Put(size_t offset, size_t length, uint64_t value) {
    for (size_t i = 0; i < length; ++i) bytes_.at(offset + i) = static_cast<char>(value >> (8 * i));
  }
  void Resize(size_t length) { bytes_.resize(length); }
  // A table's bytes sum up to 0.
  std::string Sealed() && {
    Put(kChecksum, 1, 0);
    uint8_t sum = 0;
    for (const char byte : bytes_) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(byte));
    Put(kChecksum, 1, static_cast<uint8_t>(-sum));
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
};

// Whether a root complex at `node` led to an SMMU, and now does so wholly.
bool Convert(Table& table, size_t node) {
  const uint64_t count = table.Get(node + kMappingCount, 4);
  const size_t mappings = node + table.Get(node + kMappings, 4);
  if (!table.Holds(mappings, count * kMappingBytes)) return false;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t to = table.Get(mappings + i * kMappingBytes + kOutputNode, 4);
    if (!table.Holds(to, 1) || table.Get(to + kNodeType, 1) != kTypeSmmuV3) continue;
    table.Put(node + kMemoryFlags, 1, table.Get(node + kMemoryFlags, 1) | kCanwbs);
    table.Put(node + kMappingCount, 4, 1);
    table.Put(mappings + kInputBase, 4, 0);
    table.Put(mappings + kIdCount, 4, 0xffff);  // one less than there are
    table.Put(mappings + kOutputBase, 4, 0);
    table.Put(mappings + kOutputNode, 4, to);
    table.Put(mappings + kOutputNode + 4, 4, 0);
    return true;
  }
  return false;
}

}  // namespace

std::optional<std::string> AssertCanwbs(std::string bytes) {
  if (bytes.size() < kHeaderBytes || bytes.substr(0, 4) != "IORT") return std::nullopt;
  Table table(std::move(bytes));
  const uint64_t length = table.Get(kLength, 4);
  if (length < kHeaderBytes || length > table.size()) return std::nullopt;
  table.Resize(length);
  bool converted = false;
  size_t node = table.Get(kFirstNode, 4);
  for (uint64_t left = table.Get(kNodeCount, 4); left > 0; --left) {
    if (!table.Holds(node, kMappings + 4)) return std::nullopt;
    const uint64_t node_length = table.Get(node + kNodeLength, 2);
    if (node_length < kMappings + 4 || !table.Holds(node, node_length)) return std::nullopt;
    if (table.Get(node + kNodeType, 1) == kTypeRootComplex && node_length >= kRootComplexBytes) {
      converted = Convert(table, node) || converted;
    }
    node += node_length;
  }
  if (!converted) return std::nullopt;
  table.Put(kOemRevision, 4, table.Get(kOemRevision, 4) + 1);
  return std::move(table).Sealed();
}

}  // namespace viommu::kernel
