#include "server/commit/codec.h"

#include <google/protobuf/wire_format_lite.h>

#include <cstddef>

namespace viommu::server {
namespace {

using WireFormat = google::protobuf::internal::WireFormatLite;

}  // namespace

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

void MessageWriter::Number(int field, uint64_t value) {
  if (value == 0) return;
  Varint(WireFormat::MakeTag(field, WireFormat::WIRETYPE_VARINT));
  Varint(value);
}

void MessageWriter::Bytes(int field, std::string_view value) {
  if (!value.empty()) Message(field, value);
}

void MessageWriter::Message(int field, std::string_view serialized) {
  Varint(WireFormat::MakeTag(field, WireFormat::WIRETYPE_LENGTH_DELIMITED));
  Varint(serialized.size());
  out_.append(serialized);
}

void MessageWriter::Varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
  out_.push_back(static_cast<char>(value));
}

}  // namespace viommu::server
