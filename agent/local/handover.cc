#include "agent/local/handover.h"

#include <memory>
#include <utility>

#include "common/error.h"

namespace viommu::agent {

void Handover::Opened(Connection connection, pid_t pid) { vmms_.Opened(connection, pid); }

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
  VIOMMU_ASSIGN_OR_RETURN(OpenedHwQueue opened, driver_.OpenHwQueue(connection, name));
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

void Handover::Closed(Connection connection) {
  driver_.ForgetOwner(connection);
  if (!leaving_) vmms_.Closed(connection);
}

}  // namespace viommu::agent
