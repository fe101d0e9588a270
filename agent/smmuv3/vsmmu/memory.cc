// What is mapped in an IOAS, and in the tables over it.

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vsmmu/context.h"
#include "agent/smmuv3/vsmmu/context_errors.h"
#include "agent/smmuv3/vsmmu/invalidation_commands.h"
#include "common/mutation.h"

namespace viommu::agent {
namespace {

using smmuv3::Command;
using smmuv3::Opcode;
using smmuv3::RawCommand;

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kMaxU64 = std::numeric_limits<uint64_t>::max();

// Whether tables can hold a mapping of `length` > 0 bytes at `iova`.
bool Holds(const PageTable& table, uint64_t iova, uint64_t length) {
  const uint64_t end = uint64_t{1} << table.format().address_bits;
  return (iova | length) % table.page_bytes() == 0 && length <= end && iova <= end - length;
}

}  // namespace

absl::StatusOr<ObjectId> EmulatedContext::AllocIoas() {
  if (absl::Status status = host_->InjectedFailure(BackendOp::kAllocIoas); !status.ok()) return status;
  MutexLock lock(control_mu_);
  return table_.Add(std::make_unique<IoasObject>());
}

bool EmulatedContext::IsMapped(const IoasObject& ioas, uint64_t iova, uint64_t length) {
  // The first mapping behind the range must begin behind it, the one before it must end before it.
  const auto next = ioas.mappings.lower_bound(iova);
  if (next != ioas.mappings.end() && next->first - iova < length) return true;
  return next != ioas.mappings.begin() && iova - std::prev(next)->first < std::prev(next)->second.length;
}

// ---- Map ----

absl::Status EmulatedContext::MapIoas(ObjectId ioas_id, uint64_t iova, uint64_t length, const MemoryHandle& memory) {
  constexpr BackendOp kOp = BackendOp::kMapIoas;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* ioas = table_.Find<IoasObject>(ioas_id);
  if (ioas == nullptr) return NoObject(kOp, "IOAS", ioas_id);
  if (!memory.readable && !memory.writable) return CallError(kOp, EINVAL, "neither readable nor writable");
  if (length == 0 || (iova | length | memory.offset) % kPageSize != 0) {
    return CallError(kOp, EINVAL, "address, length and offset must be multiples of 4096 bytes, and the length not 0");
  }
  if (iova > kMaxU64 - (length - 1)) return CallError(kOp, EOVERFLOW, "beyond the end of the address space");
  for (const HwptObject* hwpt : ioas->hwpts) {
    if (Holds(*hwpt->table, iova, length)) continue;
    return CallError(kOp, EINVAL,
                     absl::StrCat("paging HWPT ", hwpt->id, " has pages of ", hwpt->table->page_bytes(),
                                  " bytes and addresses of ", hwpt->table->format().address_bits, " bits"));
  }
  const bool meets_window = iova < kMsiWindow + kMsiWindowBytes && iova + (length - 1) >= kMsiWindow;
  const bool attached = std::any_of(attachments_.begin(), attachments_.end(),
                                    [&](const auto& entry) { return TablesBelow(*entry.second.target).ioas == ioas; });
  if (meets_window && attached) {
    return CallError(kOp, EINVAL, "0x8000000 to 0x80fffff are for the interrupts of devices that are attached");
  }
  if (IsMapped(*ioas, iova, length)) return CallError(kOp, EEXIST, "overlaps a mapping");
  IoasMapping mapping{.length = length, .readable = memory.readable, .writable = memory.writable};
  const int error = host_->memory().MapFile(memory.fd, memory.offset, length, memory.writable, iova, &mapping.physical);
  if (error != 0) return CallError(kOp, error, absl::StrCat("file descriptor ", memory.fd, " cannot be mapped"));
  for (auto hwpt = ioas->hwpts.begin(); hwpt != ioas->hwpts.end(); ++hwpt) {
    if ((*hwpt)->table->Map(iova, mapping.physical, length, mapping.readable, mapping.writable)) continue;
    // Devices may have used the others already.
    bool confirmed = true;
    for (auto done = ioas->hwpts.begin(); done != hwpt; ++done) {
      confirmed = UnmapTable(**done, iova, length) && confirmed;
    }
    if (confirmed) host_->memory().UnmapFile(mapping.physical);
    return NoMemory(kOp);
  }
  ioas->mappings.emplace(iova, mapping);
  return absl::OkStatus();
}

absl::Status EmulatedContext::FillTable(BackendOp op, const IoasObject& ioas, PageTable& table) {
  for (const auto& [iova, mapping] : ioas.mappings) {
    if (!Holds(table, iova, mapping.length)) {
      return CallError(
          op, EADDRINUSE,
          absl::StrCat("what is mapped at ", iova, " does not fit tables with pages of ", table.page_bytes(),
                       " bytes and addresses of ", table.format().address_bits, " bits"));
    }
    if (!table.Map(iova, mapping.physical, mapping.length, mapping.readable, mapping.writable)) return NoMemory(op);
  }
  return absl::OkStatus();
}

// ---- Unmap ----

absl::StatusOr<uint64_t> EmulatedContext::UnmapIoas(ObjectId ioas_id, uint64_t iova, uint64_t length) {
  constexpr BackendOp kOp = BackendOp::kUnmapIoas;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* ioas = table_.Find<IoasObject>(ioas_id);
  if (ioas == nullptr) return NoObject(kOp, "IOAS", ioas_id);
  const bool everything = iova == 0 && length == kMaxU64;
  if (length == 0) return CallError(kOp, EINVAL, "length 0");
  if (iova > kMaxU64 - (length - 1)) return CallError(kOp, EOVERFLOW, "beyond the end of the address space");
  const uint64_t last = iova + (length - 1);
  auto begin = ioas->mappings.lower_bound(iova);
  if (begin != ioas->mappings.begin() && iova - std::prev(begin)->first < std::prev(begin)->second.length) --begin;
  // As Linux, which takes one mapping after the other: what comes before one that cannot go is gone all the same.
  uint64_t bytes = 0;
  absl::Status stopped;
  auto end = begin;
  for (; end != ioas->mappings.end() && end->first <= last; ++end) {
    if (end->second.pins != 0) {
      stopped = CallError(kOp, EBUSY, "the memory of a hardware queue is inside; destroy that first");
      break;
    }
    if (end->first < iova || last - end->first < end->second.length - 1) {
      stopped = CallError(kOp, ENOENT, "a mapping lies only partly inside");
      break;
    }
    bytes += end->second.length;
  }
  if (bytes == 0) {
    if (!stopped.ok()) return stopped;
    if (everything) return 0;
    return CallError(kOp, ENOENT, "nothing is mapped there");
  }
  const uint64_t first = begin->first;
  const uint64_t span = std::prev(end)->first + std::prev(end)->second.length - first;
  bool confirmed = !ioas->abandoned;
  for (HwptObject* hwpt : ioas->hwpts) confirmed = UnmapTable(*hwpt, first, span) && confirmed;
  for (auto mapping = begin; mapping != end; ++mapping) {
    // What an SMMU may still reach stays what it is, as long as the host lives.
    if (confirmed) host_->memory().UnmapFile(mapping->second.physical);
  }
  ioas->mappings.erase(begin, end);
  if (!stopped.ok()) return stopped;
  return bytes;
}

bool EmulatedContext::UnmapTable(HwptObject& hwpt, uint64_t begin, uint64_t length) {
  bool confirmed = true;
  const bool done =
      hwpt.table->Unmap(begin, length, [&](uint64_t input, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_) {
        if (!Mutated(Mutation::kKeepUnmapped)) confirmed = InvalidateHwpt(hwpt, input, bytes);
        return confirmed;
      });
  // Mappings go as a whole, and no block reaches across two of them: there is nothing to split.
  if (!done) std::abort();
  return confirmed;
}

bool EmulatedContext::InvalidateHwpt(const HwptObject& hwpt, uint64_t begin, uint64_t length) {
  const smmuv3::Granule granule = hwpt.table->format().granule;
  bool done = true;
  std::vector<RawCommand> commands;
  if (hwpt.asid != nullptr) {
    const uint16_t asid = hwpt.asid->asid();
    AppendTlbi({.opcode = Opcode::kTlbiNhVa, .asid = asid}, {.opcode = Opcode::kTlbiNhAsid, .asid = asid}, begin,
               length, granule, hwpt.smmu->features().ril, commands);
    done = hwpt.smmu->IssueAll(commands);
    return InvalidateAtcs(hwpt, begin, length) && done;
  }
  std::set<std::pair<HostSmmu*, uint16_t>> vmids;
  if (hwpt.vmid != nullptr) vmids.emplace(hwpt.smmu, hwpt.vmid->vmid());
  for (const ViommuObject* viommu : table_.All<ViommuObject>()) {
    if (viommu->stage2 == &hwpt) vmids.emplace(viommu->smmu, viommu->vmid->vmid());
  }
  // Devices may be attached under VMIDs whose viommu is gone, or that never had one.
  for (const auto& [group, attachment] : attachments_) {
    if (&TablesBelow(*attachment.target) != &hwpt) continue;
    for (const auto& lease : attachment.vmids) vmids.emplace(group->devices.front()->smmu, lease->vmid());
  }
  for (const auto& [smmu, vmid] : vmids) {
    commands.clear();
    AppendTlbi({.opcode = Opcode::kTlbiS2Ipa, .vmid = vmid}, {.opcode = Opcode::kTlbiS12Vmall, .vmid = vmid}, begin,
               length, granule, smmu->features().ril, commands);
    // Entries of both stages together go by guest addresses, which are not known here: all of them go.
    if (hwpt.nest_parent) commands.push_back(smmuv3::Encode({.opcode = Opcode::kTlbiNhAll, .vmid = vmid}));
    done = smmu->IssueAll(commands) && done;
  }
  return InvalidateAtcs(hwpt, begin, length) && done;
}

bool EmulatedContext::InvalidateAtcs(const HwptObject& hwpt, uint64_t begin, uint64_t length) {
  bool done = true;
  for (const auto& [group, attachment] : attachments_) {
    if (&TablesBelow(*attachment.target) != &hwpt) continue;
    for (const HostDevice* device : group->devices) {
      const uint32_t sid = device->spec.info.stream_id;
      if (!AtsEnabled(device->smmu->ReadSte(sid))) continue;
      // Under a guest's stage 1 the device's addresses are not known here.
      const RawCommand command =
          smmuv3::Encode(hwpt.nest_parent ? AllAtcInvalidation(sid) : AtcInvalidation(sid, begin, length));
      done = device->smmu->IssueAll({&command, 1}) && done;
    }
  }
  return done;
}

// ---- Ends ----

void EmulatedContext::ReleaseHwpt(HwptObject& hwpt) {
  std::erase(hwpt.ioas->hwpts, &hwpt);
  --hwpt.ioas->users;
  if (hwpt.faults != nullptr) --hwpt.faults->users;
  // The last ones to hold these: their translations go now.
  hwpt.vmid.reset();
  hwpt.asid.reset();
  // Whatever was given up waiting for, on any SMMU that has used the tables, must have been carried out by now.
  bool settled = true;
  for (const auto& smmu : host_->smmus()) {
    if (hwpt.smmu != nullptr && hwpt.smmu != smmu.get()) continue;
    settled = smmu->Settle() && settled;
  }
  if (settled) return;
  hwpt.table->Abandon();
  hwpt.cd.Abandon();
  hwpt.ioas->abandoned = true;
}

void EmulatedContext::ReleaseIoas(IoasObject& ioas) {
  if (ioas.abandoned) return;
  for (const auto& [iova, mapping] : ioas.mappings) host_->memory().UnmapFile(mapping.physical);
}

}  // namespace viommu::agent
