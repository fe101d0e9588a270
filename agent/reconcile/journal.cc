#include "agent/reconcile/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/mutation.h"

namespace viommu::agent {
namespace {

// The file: header, then frames. All numbers little-endian.
//   header: magic (8 bytes), format version (4), CRC-32C of the 12 bytes before (4)
//   frame:  mark (4), payload length (4), CRC-32C of length and payload (4), payload
constexpr std::string_view kFileMagic("VIOMMUJ\n", 8);
constexpr std::string_view kFrameMark("\xf7JR\x01", 4);
constexpr size_t kFileHeaderBytes = 16;
constexpr size_t kFrameHeaderBytes = 12;

void PutU32(std::string& out, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>((value >> shift) & 0xff));
}

uint32_t GetU32(std::string_view in) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<uint8_t>(in[i])) << (8 * i);
  return value;
}

std::string FileHeader() {
  std::string header(kFileMagic);
  PutU32(header, Journal::kFormatVersion);
  PutU32(header, Crc32c(header));
  return header;
}

std::string Frame(const journal::Record& record) {
  const std::string payload = record.SerializeAsString();
  std::string length;
  PutU32(length, static_cast<uint32_t>(payload.size()));
  std::string frame(kFrameMark);
  frame += length;
  PutU32(frame, Crc32c(payload, Crc32c(length)));
  frame += payload;
  return frame;
}

// The payload of the frame at the head of `in`; nothing when there is no whole and sound one.
std::optional<std::string_view> ReadFrame(std::string_view in) {
  if (in.size() < kFrameHeaderBytes || in.substr(0, 4) != kFrameMark) return std::nullopt;
  const uint32_t length = GetU32(in.substr(4, 4));
  if (length > Journal::kMaxRecordBytes || length > in.size() - kFrameHeaderBytes) return std::nullopt;
  const std::string_view payload = in.substr(kFrameHeaderBytes, length);
  if (Crc32c(payload, Crc32c(in.substr(4, 4))) != GetU32(in.substr(8, 4))) return std::nullopt;
  return payload;
}

// Whether a sound frame stands anywhere in `in`.
bool AnyFrame(std::string_view in) {
  for (size_t at = in.find(kFrameMark); at != std::string_view::npos; at = in.find(kFrameMark, at + 1)) {
    if (ReadFrame(in.substr(at))) return true;
  }
  return false;
}

}  // namespace

Journal::Journal(FileSystem& file_system, std::string directory, Options options)
    : file_system_(file_system),
      directory_(std::move(directory)),
      path_(directory_ + "/journal"),
      options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(FileSystem& file_system, const std::string& directory,
                                                       Options options) {
  VIOMMU_RETURN_IF_ERROR(file_system.MakeDirectory(directory));
  std::unique_ptr<Journal> journal(new Journal(file_system, directory, std::move(options)));
  auto lock = file_system.Lock(directory + "/lock");
  if (absl::IsFailedPrecondition(lock.status())) {
    return absl::FailedPreconditionError(fmt::format(
        "state directory {} belongs to another agent that is running; give each agent its own --state-dir", directory));
  }
  VIOMMU_RETURN_IF_ERROR(lock.status());
  journal->lock_ = *std::move(lock);
  VIOMMU_RETURN_IF_ERROR(journal->Load());
  return journal;
}

absl::Status Journal::Load() {
  const auto content = file_system_.Read(path_);
  if (absl::IsNotFound(content.status())) return Rewrite();
  VIOMMU_RETURN_IF_ERROR(content.status());
  // The first file is put in place whole, so a short one is no trace of a crash.
  if (content->size() < kFileHeaderBytes || content->compare(0, kFileMagic.size(), kFileMagic) != 0) {
    return absl::DataLossError(
        fmt::format("{} is not an agent's journal: wrong header at offset 0; restore it, or "
                    "move the state directory away to start as a new agent",
                    path_));
  }
  const std::string_view header = std::string_view(*content).substr(0, kFileHeaderBytes);
  if (Crc32c(header.substr(0, 12)) != GetU32(header.substr(12, 4))) {
    return absl::DataLossError(
        fmt::format("{} is damaged in its header at offset 8; restore it, or move the state directory away to start as "
                    "a new agent",
                    path_));
  }
  if (const uint32_t version = GetU32(header.substr(8, 4)); version != kFormatVersion) {
    return absl::FailedPreconditionError(
        fmt::format("{} has format version {}, this agent reads version {}; start the agent's version that wrote it",
                    path_, version, kFormatVersion));
  }
  uint64_t good_bytes = 0;
  VIOMMU_RETURN_IF_ERROR(Replay(*content, good_bytes));
  truncated_bytes_ = content->size() - good_bytes;
  size_bytes_ = good_bytes;
  // What the process before has written may be less durable than it looks: it may have ended before its sync, or after
  // one that failed, whose pages no later sync writes, or before the file's name was synced. So nothing is built on
  // that file. Where there is no room, the next append tries again, and until then nothing can be begun.
  broken_ = true;
  static_cast<void>(Rewrite());
  return absl::OkStatus();
}

absl::Status Journal::Replay(std::string_view content, uint64_t& good_bytes) {
  size_t at = kFileHeaderBytes;
  while (at < content.size()) {
    const auto payload = ReadFrame(content.substr(at));
    if (!payload) {
      // What a crash leaves is at the end, with nothing sound behind it.
      if (!AnyFrame(content.substr(at + 1))) break;
      return absl::DataLossError(
          fmt::format("{} is damaged at offset {}: sound records follow; restore it, or move the state directory away "
                      "to start as a new agent (what runs on the host then counts as unknown and is torn down)",
                      path_, at));
    }
    journal::Record record;
    if (!record.ParseFromArray(payload->data(), static_cast<int>(payload->size()))) {
      return absl::DataLossError(fmt::format("{} has a record at offset {} that is no record", path_, at));
    }
    if (record.sequence() != next_sequence_) {
      return absl::DataLossError(fmt::format("{} has record {} at offset {} in the place of record {}", path_,
                                             record.sequence(), at, next_sequence_));
    }
    if (const auto status = state_.Apply(record); !status.ok()) {
      return absl::DataLossError(fmt::format("{} has a record at offset {} that cannot follow those before it: {}",
                                             path_, at, std::string(status.message())));
    }
    ++next_sequence_;
    at += kFrameHeaderBytes + payload->size();
  }
  good_bytes = at;
  return absl::OkStatus();
}

absl::Status Journal::Append(journal::Record record, Sync sync) {
  if (broken_ || size_bytes_ > std::max(options_.compact_above_bytes, 2 * rewritten_bytes_)) {
    const absl::Status rewritten = Rewrite();
    // A sound file can go on growing.
    if (!rewritten.ok() && broken_) return rewritten;
  }
  record.set_sequence(next_sequence_);
  const std::string frame = Frame(record);
  if (frame.size() - kFrameHeaderBytes > kMaxRecordBytes) {
    return absl::FailedPreconditionError(
        fmt::format("a record of {} bytes is over the journal's limit of {}", frame.size(), kMaxRecordBytes));
  }
  VIOMMU_RETURN_IF_ERROR(state_.Check(record));
  absl::Status written = file_->Append(frame);
  if (written.ok() && sync == Sync::kYes) written = TimedSync(*file_);
  if (!written.ok()) {
    broken_ = !Mutated(Mutation::kBuildOnFailedWrite);
    return written;
  }
  ++next_sequence_;
  size_bytes_ += frame.size();
  return state_.Apply(record);
}

absl::Status Journal::Rewrite() {
  const std::string fresh_path = path_ + ".new";
  auto fresh = file_system_.OpenForAppend(fresh_path, 0);
  VIOMMU_RETURN_IF_ERROR(fresh.status());
  std::string content = FileHeader();
  uint64_t size = 0;
  uint64_t sequence = 1;
  constexpr size_t kChunkBytes = 1u << 20;
  for (journal::Record& record : state_.Snapshot()) {
    record.set_sequence(sequence++);
    content += Frame(record);
    if (content.size() < kChunkBytes) continue;
    VIOMMU_RETURN_IF_ERROR((*fresh)->Append(content));
    size += content.size();
    content.clear();
  }
  VIOMMU_RETURN_IF_ERROR((*fresh)->Append(content));
  size += content.size();
  if (!Mutated(Mutation::kRenameUnsynced)) VIOMMU_RETURN_IF_ERROR(TimedSync(**fresh));
  VIOMMU_RETURN_IF_ERROR(file_system_.Rename(fresh_path, path_));
  // From here on the new file is the journal, whatever the sync of the directory says: until that has worked, nothing
  // may be built on it.
  file_ = *std::move(fresh);
  size_bytes_ = size;
  rewritten_bytes_ = size;
  next_sequence_ = sequence;
  broken_ = true;
  if (!Mutated(Mutation::kForgetDirectorySync)) VIOMMU_RETURN_IF_ERROR(file_system_.SyncDirectory(directory_));
  broken_ = false;
  ++compactions_;
  return absl::OkStatus();
}

absl::Status Journal::TimedSync(AppendFile& file) {
  const MonotonicTime start = options_.clock->Monotonic();
  const absl::Status status = file.Sync();
  if (options_.on_sync) options_.on_sync(options_.clock->Monotonic() - start);
  return status;
}

}  // namespace viommu::agent
