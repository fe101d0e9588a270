#include "server/commit/codec.h"

#include <cstddef>

namespace viommu::server {

std::string EncodeNumber(int64_t number) {
  std::string bytes(8, '\0');
  auto bits = static_cast<uint64_t>(number);
  for (size_t i = 8; i-- > 0; bits >>= 8) bytes[i] = static_cast<char>(bits & 0xff);
  return bytes;
}

std::optional<int64_t> DecodeNumber(std::string_view bytes) {
  if (bytes.size() != 8 || (static_cast<uint8_t>(bytes[0]) & 0x80) != 0) return std::nullopt;
  uint64_t bits = 0;
  for (const char byte : bytes) bits = bits << 8 | static_cast<uint8_t>(byte);
  return static_cast<int64_t>(bits);
}

std::string ResourceKey(Kind kind, std::string_view name) {
  std::string key(1, static_cast<char>(kind));
  key.append(name);
  return key;
}

}  // namespace viommu::server
