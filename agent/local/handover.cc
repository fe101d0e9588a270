#include "agent/local/handover.h"

#include <unistd.h>

#include <memory>
#include <utility>

#include "common/error.h"

namespace viommu::agent {

void Handover::Opened(Connection connection, const ucred& peer) {
  vmms_.Opened(connection, peer.pid);
  if (peer.uid == 0 || peer.uid == ::geteuid()) return;
  MutexLock lock(mu_);
  users_[connection] = peer.uid;
}

VmMemory::User Handover::UserOf(Connection connection) {
  MutexLock lock(mu_);
  const auto found = users_.find(connection);
  return found == users_.end() ? VmMemory::User() : found->second;
}

absl::Status Handover::Map(Connection connection, const v1::MapMemory& request, FileDescriptor file) {
  if (request.vm().empty() || request.vm().size() > kMaxVmBytes) {
    return InvalidField("vm", "must be the name of the VM: 1 to {} bytes", kMaxVmBytes);
  }
  VmMemory::Range range;
  range.length = request.length();
  range.offset = request.offset();
  range.readable = request.readable();
  range.writable = request.writable();
  range.owner = connection;
  range.user = UserOf(connection);
  range.file = std::make_shared<const FileDescriptor>(std::move(file));
  VIOMMU_RETURN_IF_ERROR(driver_.MapMemory(request.vm(), request.iova(), std::move(range)));
  vmms_.Mapped(connection, request.vm(), request.length());
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Handover::Unmap(Connection connection, const v1::UnmapMemory& request) {
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t unmapped,
                          driver_.UnmapMemory(connection, request.vm(), request.iova(), request.length()));
  vmms_.Unmapped(connection, request.vm(), unmapped);
  return unmapped;
}

absl::StatusOr<HandoverHandler::HwQueue> Handover::OpenHwQueue(Connection connection, const std::string& name) {
  VIOMMU_ASSIGN_OR_RETURN(OpenedHwQueue opened, driver_.OpenHwQueue(connection, UserOf(connection), name));
  HwQueue queue;
  queue.handle.set_registers_offset(opened.registers_offset);
  queue.handle.set_registers_length(opened.registers_length);
  queue.handle.set_memory_offset(opened.memory_offset);
  queue.handle.set_memory_length(opened.memory_length);
  queue.handle.set_index(opened.index);
  queue.registers = std::move(opened.registers);
  queue.memory = std::move(opened.memory);
  return queue;
}

absl::StatusOr<v1::ListGuestEventsResponse> Handover::ListGuestEvents(Connection connection,
                                                                      const v1::ListGuestEventsRequest& request) {
  VIOMMU_RETURN_IF_ERROR(driver_.CheckReader(UserOf(connection), request.viommu()));
  return events_.List(request);
}

void Handover::Closed(Connection connection) {
  driver_.ForgetOwner(connection);
  if (!leaving_) vmms_.Closed(connection);
  MutexLock lock(mu_);
  users_.erase(connection);
}

}  // namespace viommu::agent
