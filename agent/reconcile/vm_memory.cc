#include "agent/reconcile/vm_memory.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>

#include "common/error.h"

namespace viommu::agent {
namespace {

constexpr uint64_t kMaxU64 = std::numeric_limits<uint64_t>::max();

bool GoesBeyondTheEnd(uint64_t iova, uint64_t length) { return length == 0 || iova > kMaxU64 - (length - 1); }

}  // namespace

std::map<uint64_t, VmMemory::Range>::const_iterator VmMemory::FirstBehind(uint64_t iova) const {
  const auto next = ranges_.upper_bound(iova);
  if (next == ranges_.begin()) return next;
  const auto previous = std::prev(next);
  return iova - previous->first < previous->second.length ? previous : next;
}

bool VmMemory::IsFree(uint64_t iova, uint64_t length) const {
  const auto found = FirstBehind(iova);
  return found == ranges_.end() || (found->first > iova && found->first - iova >= length);
}

absl::Status VmMemory::CheckUser(User user) const {
  if (!user.has_value()) return absl::OkStatus();
  const auto foreign = std::find_if(ranges_.begin(), ranges_.end(), [&](const auto& entry) {
    return entry.second.owner != kAgent && entry.second.user != user;
  });
  if (foreign == ranges_.end()) return absl::OkStatus();
  return Error(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED)
      .Message("user {} is not the one who has handed the VM's memory at {:#x} over; VMMs of one VM run as one user",
               *user, foreign->first)
      .Meta("uid", std::to_string(*user));
}

bool VmMemory::HandedOver() const {
  return std::any_of(ranges_.begin(), ranges_.end(), [](const auto& entry) { return entry.second.owner != kAgent; });
}

absl::Status VmMemory::CheckReader(User user) const {
  VIOMMU_RETURN_IF_ERROR(CheckUser(user));
  if (!user.has_value() ||
      std::any_of(ranges_.begin(), ranges_.end(), [&](const auto& entry) { return entry.second.user == user; })) {
    return absl::OkStatus();
  }
  return Error(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED)
      .Message("user {} has handed no memory of the VM over; do that first", *user)
      .Meta("uid", std::to_string(*user));
}

absl::Status VmMemory::Check(uint64_t iova, const Range& range) const {
  VIOMMU_RETURN_IF_ERROR(CheckUser(range.user));
  if ((iova | range.length | range.offset) % kPageBytes != 0) {
    return InvalidField("iova", "address {:#x}, length {:#x} and offset {:#x} must be multiples of {} bytes", iova,
                        range.length, range.offset, kPageBytes);
  }
  if (GoesBeyondTheEnd(iova, range.length) || GoesBeyondTheEnd(range.offset, range.length)) {
    return InvalidField("length", "{:#x} bytes at {:#x} are nothing, or go beyond the end", range.length, iova);
  }
  if (!range.readable && !range.writable) return InvalidField("readable", "neither readable nor writable");
  if (!IsFree(iova, range.length)) {
    const auto found = FirstBehind(iova);
    return Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_MEMORY_TAKEN)
        .Message("{:#x} bytes at {:#x} overlap the {:#x} bytes that are mapped at {:#x}; unmap those first",
                 range.length, iova, found->second.length, found->first)
        .Field("iova", "overlaps what is mapped");
  }
  if (ranges_.size() >= kMaxRanges) {
    return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("the VM has {} ranges of memory, and no more are taken; map larger ones", ranges_.size())
        .Meta("limit", std::to_string(kMaxRanges));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint64_t>> VmMemory::Inside(Owner owner, uint64_t iova, uint64_t length) const {
  if (GoesBeyondTheEnd(iova, length)) {
    return InvalidField("length", "{:#x} bytes at {:#x} are nothing, or go beyond the end", length, iova);
  }
  const uint64_t last = iova + (length - 1);
  std::vector<uint64_t> found;
  for (auto range = FirstBehind(iova); range != ranges_.end() && range->first <= last; ++range) {
    if (range->second.owner != owner) continue;
    if (range->first < iova || last - range->first < range->second.length - 1) {
      return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_MEMORY_NOT_MAPPED)
          .Message("the {:#x} bytes at {:#x} lie only partly inside; mappings are taken away as they were made",
                   range->second.length, range->first);
    }
    found.push_back(range->first);
  }
  if (!found.empty()) return found;
  return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_MEMORY_NOT_MAPPED)
      .Message("this connection has mapped nothing of the {:#x} bytes at {:#x}", length, iova);
}

std::vector<uint64_t> VmMemory::Of(Owner owner) const {
  std::vector<uint64_t> found;
  for (const auto& [iova, range] : ranges_) {
    if (range.owner == owner) found.push_back(iova);
  }
  return found;
}

std::vector<uint64_t> VmMemory::Leaving() const {
  std::vector<uint64_t> found;
  for (const auto& [iova, range] : ranges_) {
    if (range.leaving) found.push_back(iova);
  }
  return found;
}

const VmMemory::Range* VmMemory::Covering(uint64_t iova, uint64_t length, uint64_t& start) const {
  if (GoesBeyondTheEnd(iova, length)) return nullptr;
  const auto found = FirstBehind(iova);
  if (found == ranges_.end() || found->first > iova || found->second.length - (iova - found->first) < length) {
    return nullptr;
  }
  start = found->first;
  return &found->second;
}

}  // namespace viommu::agent
