#include "common/uuid.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>

#include "absl/random/random.h"

namespace viommu {
namespace {

constexpr size_t kUuidLength = 36;

}  // namespace

std::string NewUuid() {
  // Seeded by the operating system, once per thread: every change of the record needs one, and a system call for each
  // would be a good part of its cost.
  thread_local absl::BitGen random;
  uint64_t high = absl::Uniform<uint64_t>(random);
  uint64_t low = absl::Uniform<uint64_t>(random);
  high = (high & ~uint64_t{0xf000}) | 0x4000;                // version 4 (RFC 9562, 5.4)
  low = (low & ~(uint64_t{3} << 62)) | (uint64_t{2} << 62);  // variant (4.1)
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff, high & 0xffff, low >> 48,
                     low & 0xffff'ffff'ffff);
}

bool IsUuid(std::string_view text) {
  if (text.size() != kUuidLength) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (c != '-') return false;
    } else if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
      return false;
    }
  }
  return true;
}

}  // namespace viommu
