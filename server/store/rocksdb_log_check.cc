#include "server/store/rocksdb_log_check.h"

#include <algorithm>
#include <cstddef>

#include "common/crc32c.h"

namespace viommu::server {
namespace {

constexpr size_t kBlockBytes = 32768;
constexpr size_t kHeaderBytes = 7;  // checksum 4, length 2, type 1; little-endian
constexpr size_t kLengthOffset = 4;
constexpr size_t kTypeOffset = 6;
constexpr size_t kSectorBytes = 512;  // what a disk writes as a whole

enum FragmentType : unsigned { kFull = 1, kFirst = 2, kMiddle = 3, kLast = 4 };

constexpr uint32_t kMaskDelta = 0xa282ead8;  // stored checksums are rotated and shifted by this

uint32_t MaskedCrc(std::string_view bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + kMaskDelta;
}

uint32_t LittleEndian(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// The size of the intact fragment at `offset`, header included; 0: there is none.
size_t FragmentAt(std::string_view log, size_t offset) {
  const size_t block_end = std::min(log.size(), (offset / kBlockBytes + 1) * kBlockBytes);
  if (block_end - offset < kHeaderBytes) return 0;
  const size_t length = LittleEndian(log.substr(offset + kLengthOffset, 2));
  const unsigned type = static_cast<unsigned char>(log[offset + kTypeOffset]);
  if (type < kFull || type > kLast || length > block_end - offset - kHeaderBytes) return 0;
  if (LittleEndian(log.substr(offset, 4)) != MaskedCrc(log.substr(offset + kTypeOffset, 1 + length))) return 0;
  return kHeaderBytes + length;
}

bool IsZero(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == '\0'; });
}

// Whether the fragment that begins at `offset` may have lost its end to zeros: from its beginning or from a sector's.
bool EndsInZeros(std::string_view log, size_t offset) {
  if (IsZero(log.substr(offset))) return true;
  const size_t sector = (log.size() - 1) / kSectorBytes * kSectorBytes;
  return sector > offset && IsZero(log.substr(sector));
}

// Whether the log has fewer bytes than the fragment that begins at `offset` claims, within its block.
bool IsCut(std::string_view log, size_t offset) {
  const size_t block_end = (offset / kBlockBytes + 1) * kBlockBytes;
  if (log.size() >= block_end) return false;
  const size_t left = log.size() - offset;
  if (left < kHeaderBytes) return true;
  const size_t end = offset + kHeaderBytes + LittleEndian(log.substr(offset + kLengthOffset, 2));
  return end > log.size() && end <= block_end;
}

}  // namespace

LogCheck CheckLog(std::string_view log) {
  size_t offset = 0;
  bool in_record = false;
  while (offset < log.size()) {
    const size_t left_in_block = kBlockBytes - offset % kBlockBytes;
    if (left_in_block < kHeaderBytes) {
      offset += left_in_block;  // too small for a header: left free
      continue;
    }
    const size_t bytes = FragmentAt(log, offset);
    if (bytes == 0) break;
    const unsigned type = static_cast<unsigned char>(log[offset + kTypeOffset]);
    if (in_record != (type == kMiddle || type == kLast)) return {LogEnd::kDamaged, offset};
    in_record = type == kFirst || type == kMiddle;
    offset += bytes;
  }
  if (offset >= log.size()) return {in_record ? LogEnd::kCut : LogEnd::kWhole, offset};
  for (size_t later = offset + 1; later < log.size(); ++later) {
    if (FragmentAt(log, later) > 0) return {LogEnd::kDamaged, offset};
  }
  if (IsCut(log, offset)) return {LogEnd::kCut, offset};
  return {EndsInZeros(log, offset) ? LogEnd::kZeroed : LogEnd::kDamaged, offset};
}

}  // namespace viommu::server
