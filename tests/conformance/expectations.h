// In which points personalities of a backend answer differently: the one place where the suite knows them apart.
//
// A case states what holds for all of them, and takes from here what does not.

#ifndef VIOMMU_TESTS_CONFORMANCE_EXPECTATIONS_H_
#define VIOMMU_TESTS_CONFORMANCE_EXPECTATIONS_H_

#include <cerrno>
#include <cstdint>

#include "agent/backend.h"

namespace viommu::conformance {

// Commands that go to the SMMU under one sync (Linux: CMDQ_BATCH_ENTRIES - 1).
inline constexpr uint32_t kGroup = 63;

// Errors are errno numbers; 0: the call succeeds.
struct Expectations {
  const char* personality;

  agent::Stage2Sharing stage2_sharing;
  agent::VmidOwner vmid_owner;

  // AllocViommu() on a stage 2, and Attach() to it, where the stage 2 was made for a device behind another SMMU.
  int foreign_stage2;
  // Invalidate() by the id of a nested HWPT.
  int invalidate_by_nested;
  // Invalidate() without a command.
  int empty_invalidate;
  // BindDevice() of a device that is bound already.
  int bound_device;
  // BindDevice() of a device while another one of its group is bound in another context.
  int group_elsewhere;
  // AllocVdevice() with a guest StreamID of more than 32 bits.
  int wide_virt_id;
  // A command with a bit that the architecture does not define there, or with fields that do not go together.
  int bad_command_bits;
  // Whether `handled` counts what has taken effect and nothing else.
  bool exact_handled;

  // InvalidateResult::handled when the command at index `bad` is refused.
  constexpr uint32_t HandledUpTo(uint32_t bad) const { return exact_handled ? bad / kGroup * kGroup : bad; }
  // InvalidateResult::handled when the sync behind a group of `size` commands, the first at index `first`, times out.
  constexpr uint32_t HandledAtTimeout(uint32_t first, uint32_t size) const {
    return exact_handled ? first : first + size - 1;
  }
};

inline constexpr Expectations kLinux72 = {
    .personality = "linux-7.2",
    .stage2_sharing = agent::Stage2Sharing::kPerSmmu,
    .vmid_owner = agent::VmidOwner::kStage2,
    .foreign_stage2 = EINVAL,
    .invalidate_by_nested = EOPNOTSUPP,
    .empty_invalidate = EINVAL,
    .bound_device = EINVAL,
    .group_elsewhere = EPERM,
    .wide_virt_id = 0,
    .bad_command_bits = 0,
    .exact_handled = false,
};

inline constexpr Expectations kStrict = {
    .personality = "strict",
    .stage2_sharing = agent::Stage2Sharing::kShared,
    .vmid_owner = agent::VmidOwner::kViommu,
    .foreign_stage2 = 0,
    .invalidate_by_nested = 0,
    .empty_invalidate = 0,
    .bound_device = EBUSY,
    .group_elsewhere = EBUSY,
    .wide_virt_id = EINVAL,
    .bad_command_bits = EIO,
    .exact_handled = true,
};

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_EXPECTATIONS_H_
