// Keys and small values of the store (docs/store-format.md).

#ifndef VIOMMU_SERVER_COMMIT_CODEC_H_
#define VIOMMU_SERVER_COMMIT_CODEC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/fleet/view.h"

namespace viommu::server {

// Keys of KeySpace::kMeta that commit/ owns.
inline constexpr std::string_view kMetaClusterId = "cluster_id";
inline constexpr std::string_view kMetaIncarnation = "store_incarnation";
inline constexpr std::string_view kMetaEpoch = "epoch";
inline constexpr std::string_view kMetaStarts = "starts";  // StartsRecord
inline constexpr std::string_view kMetaRevision = "revision";
inline constexpr std::string_view kMetaOldestRevision = "oldest_revision";
inline constexpr std::string_view kMetaBootId = "boot_id";  // of the last writer; absent after a close in good order

// Eight bytes, big endian: sorts like the number, which must not be negative.
std::string EncodeNumber(int64_t number);
std::optional<int64_t> DecodeNumber(std::string_view bytes);

// Key of a resource: its kind, one byte, and its name.
std::string ResourceKey(Kind kind, std::string_view name);

// Appends the fields of a message of record.proto to its serialized form: what most of them hold is serialized already,
// and would be copied into the message first. Fields go in the order of their numbers; what is empty, or 0, is left
// out.
class MessageWriter {
 public:
  explicit MessageWriter(std::string& out) : out_(out) {}
  // int64, uint32, bool.
  void Number(int field, uint64_t value);
  // string, bytes.
  void Bytes(int field, std::string_view value);
  // One of a repeated message, however empty.
  void Message(int field, std::string_view serialized);

 private:
  void Varint(uint64_t value);

  std::string& out_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_CODEC_H_
