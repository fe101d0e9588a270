#include "common/uuid.h"

#include <uuid/uuid.h>

#include <cstddef>

namespace viommu {
namespace {

constexpr size_t kUuidLength = 36;

}  // namespace

std::string NewUuid() {
  uuid_t bytes;
  uuid_generate_random(bytes);
  char text[kUuidLength + 1];
  uuid_unparse_lower(bytes, text);
  return text;
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
