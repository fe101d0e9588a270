// Invalidations: a guest's commands become the host's, in groups under one sync each.

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/guest_command.h"
#include "agent/smmuv3/vsmmu/context.h"
#include "common/mutation.h"

namespace viommu::agent {
namespace {

using smmuv3::GuestCommandRule;
using smmuv3::Opcode;
using smmuv3::RawCommand;

absl::Status Error(int error_number, absl::string_view message) {
  return ErrnoStatus(error_number, BackendOpName(BackendOp::kInvalidate), message);
}

absl::Status Refusal(const RawCommand& raw, size_t index, absl::string_view why) {
  return Error(EIO, absl::StrCat("command ", index, " (", smmuv3::OpcodeName(smmuv3::OpcodeByte(raw)), "): ", why));
}

// Turns guest commands into host commands, up to the first that is not acceptable; returns how many. `rule` says what
// is wrong with that one; kNone: its StreamID.
size_t Convert(ViommuObject& viommu, const Personality& personality, std::span<const RawCommand> group,
               std::array<RawCommand, kMaxGroup>& converted, GuestCommandRule& rule) {
  const smmuv3::Features& features = viommu.smmu->features();
  const uint16_t vmid = viommu.vmid->vmid();
  ReaderLock lock(viommu.sids_mu);
  for (size_t i = 0; i < group.size(); ++i) {
    RawCommand raw = group[i];
    rule = personality.check_command_fields ? CheckGuestCommand(raw, features)
                                            : smmuv3::CheckGuestOpcode(smmuv3::OpcodeByte(raw));
    if (rule != GuestCommandRule::kNone) return i;
    switch (static_cast<Opcode>(smmuv3::OpcodeByte(raw))) {
      case Opcode::kTlbiNsnhAll:
        if (Mutated(Mutation::kInvalidateEverybody)) break;
        // As it is it would reach every VM of the SMMU.
        raw = {smmuv3::kVmidField.Set(static_cast<uint64_t>(Opcode::kTlbiNhAll), vmid), 0};
        break;
      case Opcode::kCfgiCd:
      case Opcode::kCfgiCdAll:
      case Opcode::kAtcInv: {
        const auto sid = viommu.sids.find(smmuv3::kSidField.Get(raw.dw0));
        if (sid == viommu.sids.end()) return i;
        raw.dw0 = smmuv3::kSidField.Set(raw.dw0, sid->second);
        break;
      }
      default:
        raw.dw0 = smmuv3::kVmidField.Set(raw.dw0, vmid);
        break;
    }
    converted[i] = raw;
  }
  return group.size();
}

void CountAll(HostSmmu& smmu, std::span<const RawCommand> commands, InvalidationOutcome outcome) {
  for (const RawCommand& raw : commands) smmu.Count(smmuv3::OpcodeByte(raw), outcome);
}

}  // namespace

InvalidateResult EmulatedContext::InvalidateViommu(ViommuObject& viommu, std::span<const RawCommand> commands) {
  const Personality& personality = host_->personality();
  HostSmmu& smmu = *viommu.smmu;
  std::array<RawCommand, kMaxGroup> converted;
  for (size_t start = 0; start < commands.size(); start += kMaxGroup) {
    const std::span<const RawCommand> group = commands.subspan(start, std::min(kMaxGroup, commands.size() - start));
    GuestCommandRule rule = GuestCommandRule::kNone;
    const size_t good = Convert(viommu, personality, group, converted, rule);
    if (good < group.size()) {
      // Nothing of the group was issued. Linux 7.2 counts what it had converted all the same.
      CountAll(smmu, group.first(good), InvalidationOutcome::kFailed);
      CountAll(smmu, group.subspan(good, 1), InvalidationOutcome::kRefused);
      const RawCommand& bad = group[good];
      const char* opcode_reason = smmuv3::DescribeGuestOpcode(smmuv3::OpcodeByte(bad));
      const std::string why =
          rule == GuestCommandRule::kNone
              ? absl::StrCat("no vdevice of viommu ", viommu.id, " has StreamID ", smmuv3::kSidField.Get(bad.dw0))
              : std::string(opcode_reason != nullptr ? opcode_reason : DescribeGuestCommandRule(rule));
      return {Refusal(bad, start + good, why), static_cast<uint32_t>(personality.exact_handled ? start : start + good)};
    }
    if (!smmu.Issue({converted.data(), group.size()})) {
      CountAll(smmu, group, InvalidationOutcome::kFailed);
      return {
          Error(ETIMEDOUT, absl::StrCat("SMMU ", smmu.info().name, " did not complete a sync in time; commands ", start,
                                        " to ", start + group.size() - 1, " may or may not have taken effect")),
          static_cast<uint32_t>(personality.exact_handled ? start : start + group.size() - 1)};
    }
    CountAll(smmu, group, InvalidationOutcome::kDone);
  }
  return {absl::OkStatus(), static_cast<uint32_t>(commands.size())};
}

InvalidateResult EmulatedContext::InvalidateRaw(ObjectId id, const InvalidateArray& array) {
  const Personality& personality = host_->personality();
  if (absl::Status status = host_->InjectedFailure(BackendOp::kInvalidate); !status.ok()) {
    const bool all = StatusErrno(status) == ENOMEM && !personality.no_memory_handled_none;
    return {status, all ? array.entry_count : 0};
  }
  if (array.entry_count > 0) {
    if (array.entries == nullptr) return {Error(EINVAL, "entries at address null"), 0};
    if (array.entry_length == 0 || array.entry_length > kMaxInvalidateEntryBytes) {
      return {Error(EINVAL, absl::StrCat("entries of ", array.entry_length, " bytes; 1 to ", kMaxInvalidateEntryBytes)),
              0};
    }
    if (array.entry_count > kMaxInvalidateEntries) {
      return {Error(EINVAL, absl::StrCat(array.entry_count, " commands in one call; at most ", kMaxInvalidateEntries)),
              0};
    }
  }
  Object* object = table_.Pin(id);
  if (object == nullptr) return {Error(ENOENT, absl::StrCat("no object ", id)), 0};
  struct Unpinner {
    Object* pinned;
    ~Unpinner() { ObjectTable::Unpin(pinned); }
  } const unpinner{object};

  ViommuObject* viommu = nullptr;
  if (object->kind == ObjectKind::kViommu) {
    viommu = static_cast<ViommuObject*>(object);
  } else if (object->kind == ObjectKind::kNested) {
    if (!personality.invalidate_by_nested) {
      return {Error(EOPNOTSUPP, absl::StrCat("nested HWPT ", id, " takes no invalidations here; name its viommu")), 0};
    }
    viommu = static_cast<NestedObject*>(object)->viommu;
  } else {
    return {Error(EINVAL, absl::StrCat("object ", id, " is a ", ObjectKindName(object->kind),
                                       "; invalidations go to a viommu or nested HWPT")),
            0};
  }
  if (array.data_type != InvalidateDataType::kArmSmmuv3) {
    return {Error(EINVAL, absl::StrCat("data type ", static_cast<uint32_t>(array.data_type),
                                       "; a viommu takes ARM_SMMUV3 (1)")),
            0};
  }
  if (array.entry_count == 0) {
    if (personality.empty_invalidate) return {absl::OkStatus(), 0};
    return {Error(EINVAL, "no commands"), 0};
  }
  if (array.entry_length == sizeof(RawCommand) &&
      reinterpret_cast<uintptr_t>(array.entries) % alignof(RawCommand) == 0) {
    return InvalidateViommu(*viommu, {static_cast<const RawCommand*>(array.entries), array.entry_count});
  }
  std::vector<RawCommand> commands(array.entry_count);
  const std::span bytes(static_cast<const std::byte*>(array.entries), size_t{array.entry_length} * array.entry_count);
  for (uint32_t i = 0; i < array.entry_count; ++i) {
    const auto entry = bytes.subspan(size_t{i} * array.entry_length, array.entry_length);
    const auto known = entry.first(std::min(entry.size(), sizeof(RawCommand)));
    std::memcpy(&commands[i], known.data(), known.size());
    const auto rest = entry.subspan(known.size());
    if (std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; })) {
      return {Error(E2BIG, absl::StrCat("entry ", i, " is longer than a command, and its rest is not zero")), 0};
    }
  }
  return InvalidateViommu(*viommu, commands);
}

}  // namespace viommu::agent
