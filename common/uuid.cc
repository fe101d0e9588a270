#include "common/uuid.h"

#include <cstddef>
#include <cstdint>

#include "absl/random/random.h"

namespace viommu {
namespace {

constexpr size_t kUuidLength = 36;

bool IsHyphen(size_t at) { return at == 8 || at == 13 || at == 18 || at == 23; }

}  // namespace

std::string NewUuid() {
  // Seeded by the operating system, once per thread: every change of the record needs one, and a system call for each
  // would be a good part of its cost.
  thread_local absl::BitGen random;
  uint64_t high = absl::Uniform<uint64_t>(random);
  uint64_t low = absl::Uniform<uint64_t>(random);
  high = (high & ~uint64_t{0xf000}) | 0x4000;                // version 4 (RFC 9562, 5.4)
  low = (low & ~(uint64_t{3} << 62)) | (uint64_t{2} << 62);  // variant (4.1)
  std::string uuid(kUuidLength, '-');
  int nibble = 0;
  for (size_t i = 0; i < kUuidLength; ++i) {
    if (IsHyphen(i)) continue;
    const uint64_t bits = nibble < 16 ? high : low;
    uuid[i] = "0123456789abcdef"[(bits >> (60 - 4 * (nibble % 16))) & 0xf];
    ++nibble;
  }
  return uuid;
}

bool IsUuid(std::string_view text) {
  if (text.size() != kUuidLength) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (IsHyphen(i)) {
      if (c != '-') return false;
    } else if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
      return false;
    }
  }
  return true;
}

}  // namespace viommu
