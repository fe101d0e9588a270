#include "agent/local/handover.h"

#include <memory>
#include <utility>

#include "common/error.h"

namespace viommu::agent {

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
  return driver_.MapMemory(request.vm(), request.iova(), std::move(range));
}

absl::StatusOr<uint64_t> Handover::Unmap(Connection connection, const v1::UnmapMemory& request) {
  return driver_.UnmapMemory(connection, request.vm(), request.iova(), request.length());
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

void Handover::Closed(Connection connection) { driver_.ForgetOwner(connection); }

}  // namespace viommu::agent
