#include "agent/smmuv3/iommufd/queue_files.h"

#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/uapi.h"

namespace viommu::agent {
namespace {

// Bytes behind the header of a record in an event queue.
size_t VeventBytes(VeventqType type) { return type == VeventqType::kTegra241Cmdqv ? 16 : 32; }
// Records that one read() asks for at most.
constexpr uint32_t kMaxRead = 1024;

// Takes records out of what an event queue's file gave; false when it is not made as agreed.
bool ParseVevents(const std::byte* data, size_t bytes, size_t record_bytes, std::vector<Vevent>& events) {
  while (bytes != 0) {
    uapi::VeventHeader header;
    if (bytes < sizeof(header)) return false;
    std::memcpy(&header, data, sizeof(header));
    data += sizeof(header);
    bytes -= sizeof(header);
    Vevent event{.lost = (header.flags & uapi::kVeventLost) != 0, .sequence = header.sequence, .record = {}};
    if (!event.lost) {
      if (bytes < record_bytes) return false;
      std::memcpy(event.record.data(), data, record_bytes);
      data += record_bytes;
      bytes -= record_bytes;
    }
    events.push_back(event);
  }
  return true;
}

}  // namespace

void EventQueues::Add(ObjectId id, KernelFile file, VeventqType type) {
  MutexLock lock(mu_);
  queues_.emplace(id, Queue{std::move(file), type});
}

void EventQueues::Close(ObjectId id) {
  MutexLock lock(mu_);
  queues_.erase(id);
}

void EventQueues::CloseAll() {
  MutexLock lock(mu_);
  queues_.clear();
}

absl::StatusOr<std::vector<Vevent>> EventQueues::Read(ObjectId id, uint32_t max) {
  constexpr char kCall[] = "read(VEVENTQ)";
  MutexLock lock(mu_);
  const auto queue = queues_.find(id);
  if (queue == queues_.end()) return ErrnoStatus(ENOENT, kCall, absl::StrCat("no event queue ", id));
  const size_t record_bytes = VeventBytes(queue->second.type);
  std::vector<Vevent> events;
  std::vector<std::byte> buffer;
  while (events.size() < max) {
    // Room for as many whole records as are wanted: the kernel never gives a part. A mark of lost events is shorter,
    // and there is one at most.
    const size_t wanted = std::min<size_t>(max - events.size(), kMaxRead);
    buffer.resize(wanted * (sizeof(uapi::VeventHeader) + record_bytes));
    const ssize_t bytes = kernel_.Read(queue->second.file.get(), buffer.data(), buffer.size());
    if (bytes < 0) return ErrnoStatus(static_cast<int>(-bytes), kCall, absl::StrCat("event queue ", id));
    if (bytes == 0) break;
    if (!ParseVevents(buffer.data(), static_cast<size_t>(bytes), record_bytes, events)) {
      return ErrnoStatus(EIO, kCall, absl::StrCat("event queue ", id, ": ", bytes, " bytes are no whole records"));
    }
  }
  return events;
}

void FaultQueues::Add(ObjectId id, KernelFile file) { queues_.emplace(id, Queue{.file = std::move(file)}); }

void FaultQueues::HwptNames(ObjectId hwpt, ObjectId id) {
  const auto queue = queues_.find(id);
  if (queue == queues_.end()) return;
  ++queue->second.hwpts;
  queue_of_hwpt_[hwpt] = id;
}

void FaultQueues::HwptIsGone(ObjectId hwpt) {
  const auto named = queue_of_hwpt_.find(hwpt);
  if (named == queue_of_hwpt_.end()) return;
  if (const auto queue = queues_.find(named->second); queue != queues_.end()) --queue->second.hwpts;
  queue_of_hwpt_.erase(named);
}

absl::StatusOr<std::vector<PageFault>> FaultQueues::Read(ObjectId id, uint32_t max) {
  constexpr char kCall[] = "read(FAULT)";
  const auto queue = queues_.find(id);
  if (queue == queues_.end()) return ErrnoStatus(ENOENT, kCall, absl::StrCat("no fault queue ", id));
  std::vector<PageFault> faults;
  std::vector<uapi::FaultRecord> records(std::min(max, kMaxRead));
  if (records.empty()) return faults;
  const ssize_t bytes = kernel_.Read(queue->second.file.get(), records.data(), records.size() * sizeof(records[0]));
  if (bytes < 0) return ErrnoStatus(static_cast<int>(-bytes), kCall, absl::StrCat("fault queue ", id));
  records.resize(static_cast<size_t>(bytes) / sizeof(records[0]));
  for (const uapi::FaultRecord& record : records) {
    faults.push_back({.device = record.dev_id,
                      .pasid_valid = (record.flags & uapi::kFaultPasidValid) != 0,
                      .last_page = (record.flags & uapi::kFaultLastPage) != 0,
                      .pasid = record.pasid,
                      .group = record.group,
                      .read = (record.permissions & uapi::kFaultRead) != 0,
                      .write = (record.permissions & uapi::kFaultWrite) != 0,
                      .execute = (record.permissions & uapi::kFaultExecute) != 0,
                      .privileged = (record.permissions & uapi::kFaultPrivileged) != 0,
                      .address = record.address,
                      .cookie = record.cookie});
  }
  return faults;
}

absl::Status FaultQueues::Answer(ObjectId id, uint32_t cookie, PageResponseCode code) {
  constexpr char kCall[] = "write(FAULT)";
  const auto queue = queues_.find(id);
  if (queue == queues_.end()) return ErrnoStatus(ENOENT, kCall, absl::StrCat("no fault queue ", id));
  const uapi::FaultAnswer answer{.cookie = cookie, .code = static_cast<uint32_t>(code)};
  const ssize_t bytes = kernel_.Write(queue->second.file.get(), &answer, sizeof(answer));
  if (bytes >= 0) return absl::OkStatus();
  return ErrnoStatus(static_cast<int>(-bytes), kCall,
                     absl::StrCat("fault queue ", id, ", cookie ", cookie, ", code ", answer.code));
}

absl::Status FaultQueues::Close(ObjectId id) {
  const auto queue = queues_.find(id);
  if (queue == queues_.end()) return absl::OkStatus();
  if (queue->second.hwpts != 0) {
    return ErrnoStatus(EBUSY, "DESTROY",
                       absl::StrCat("fault queue ", id, " is named by ", queue->second.hwpts, " HWPTs"));
  }
  queues_.erase(queue);
  return absl::OkStatus();
}

}  // namespace viommu::agent
