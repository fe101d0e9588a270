#include "agent/smmuv3/iommufd/invalidations.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "agent/smmuv3/iommufd/uapi.h"

namespace viommu::agent {

using smmuv3::RawCommand;

InvalidateAnswer CallInvalidate(Kernel& kernel, int iommufd, ObjectId id, const InvalidateArray& array) {
  uapi::HwptInvalidate call;
  call.size = sizeof(call);
  call.hwpt_id = id;
  call.data_uptr = reinterpret_cast<uintptr_t>(array.entries);
  call.data_type = static_cast<uint32_t>(array.data_type);
  call.entry_len = array.entry_length;
  call.entry_num = array.entry_count;
  const int result = kernel.Ioctl(iommufd, uapi::kHwptInvalidate, &call);
  return {result < 0 ? -result : 0, call.entry_num};
}

InvalidateAnswer Invalidations::Invalidate(std::span<const RawCommand> commands) {
  Request request;
  request.commands = commands;
  counters_.waiting.fetch_add(commands.size(), std::memory_order_relaxed);
  requests_.Run(request, [this](Request* first) { Serve(first); });
  counters_.waiting.fetch_sub(commands.size(), std::memory_order_relaxed);
  counters_.CountCommands(commands, request.answer.error_number, request.answer.handled);
  return request.answer;
}

InvalidateAnswer Invalidations::Call(std::span<const RawCommand> commands) {
  InvalidateAnswer total;
  while (!commands.empty() && total.error_number == 0) {
    const auto piece = commands.first(std::min(kMaxCall, commands.size()));
    const auto start = std::chrono::steady_clock::now();
    const InvalidateAnswer answer = CallInvalidate(
        kernel_, iommufd_, viommu_,
        {InvalidateDataType::kArmSmmuv3, piece.data(), sizeof(RawCommand), static_cast<uint32_t>(piece.size())});
    counters_.CountCall(piece.size(), std::chrono::steady_clock::now() - start);
    total = {answer.error_number, total.handled + answer.handled};
    commands = commands.subspan(piece.size());
  }
  return total;
}

void Invalidations::Serve(Request* first) {
  while (first != nullptr) {
    Request* end = first;
    size_t count = 0;
    do {
      count += end->commands.size();
      end = end->next;
    } while (end != nullptr && count + end->commands.size() <= kMaxTogether);
    if (first->next == end) {
      first->answer = Call(first->commands);
    } else {
      ServeTogether(first, end);
    }
    first = end;
  }
}

void Invalidations::ServeTogether(Request* first, const Request* end) {
  size_t count = 0;
  for (const Request* request = first; request != end; request = request->next) {
    std::copy(request->commands.begin(), request->commands.end(), &together_[count]);
    count += request->commands.size();
  }
  const InvalidateAnswer answer = Call(std::span(together_).first(count));
  // What is in groups that the call has certainly done. With ENOMEM the kernel leaves the count as it was.
  size_t done = count;
  if (answer.error_number == EIO || answer.error_number == ETIMEDOUT) {
    done = std::min<size_t>(answer.handled, count) / kKernelGroup * kKernelGroup;
  } else if (answer.error_number != 0) {
    done = 0;
  }
  size_t offset = 0;
  for (Request* request = first; request != end; request = request->next) {
    const size_t size = request->commands.size();
    if (offset + size <= done) {
      request->answer = {0, static_cast<uint32_t>(size)};
    } else if (answer.error_number == ETIMEDOUT) {
      // The SMMU stands still: to ask again would make everybody wait for a second each.
      request->answer = {ETIMEDOUT, static_cast<uint32_t>(done > offset ? done - offset : 0)};
    } else {
      request->answer = Call(request->commands);
    }
    offset += size;
  }
}

}  // namespace viommu::agent
