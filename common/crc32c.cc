#include "common/crc32c.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

namespace viommu {
namespace {

constexpr uint32_t kReflectedPolynomial = 0x82f63b78;

// Eight bytes at a time: kTables[n] is for a byte that n more come after.
using Table = std::array<uint32_t, 256>;
constexpr size_t kSlices = 8;

constexpr std::array<Table, kSlices> MakeTables() {
  std::array<Table, kSlices> tables = {};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? kReflectedPolynomial : 0);
    }
    tables[0][byte] = remainder;
  }
  for (size_t slice = 1; slice < kSlices; ++slice) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[slice - 1][byte];
      tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr std::array<Table, kSlices> kTables = MakeTables();
static_assert(std::endian::native == std::endian::little);

}  // namespace

uint32_t Crc32c(std::string_view data, uint32_t seed) {
  uint32_t crc = ~seed;
  while (data.size() >= kSlices) {
    uint64_t word = 0;
    std::memcpy(&word, data.data(), sizeof(word));
    word ^= crc;
    crc = 0;
    for (size_t i = 0; i < kSlices; ++i) crc ^= kTables[kSlices - 1 - i][(word >> (8 * i)) & 0xff];
    data.remove_prefix(kSlices);
  }
  for (const char c : data) crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

}  // namespace viommu
