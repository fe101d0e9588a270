// In which points an emulated backend behaves like a given kernel. Each switch is one observable difference, with a row
// in docs/personalities.md.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_PERSONALITY_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_PERSONALITY_H_

#include <string>

#include "agent/backend.h"

namespace viommu::agent {

struct Personality {
  // "strict", "linux-7.2"; what an inventory file calls it.
  std::string name;

  // Whether one stage-2 HWPT serves viommus on several SMMUs. Linux 7.2: one per SMMU, another SMMU's viommu gets
  // EINVAL.
  Stage2Sharing stage2_sharing = Stage2Sharing::kShared;

  // Who takes a VMID. Linux 7.2: the stage-2 HWPT; all viommus on it share that VMID.
  VmidOwner vmid_owner = VmidOwner::kViommu;

  // Whether Invalidate() takes a nested HWPT besides a viommu. Linux 7.2 on Arm: EOPNOTSUPP.
  bool invalidate_by_nested = true;

  // Whether `handled` counts commands that have taken effect and nothing else. Linux 7.2 counts the commands that it
  // has converted, up to 62 of which were never issued.
  bool exact_handled = true;

  // Whether `handled` is 0 when there is no memory for an invalidation (ENOMEM). Linux 7.2 leaves the number that was
  // asked for.
  bool no_memory_handled_none = true;

  // Whether Invalidate() without commands succeeds, to probe for a data type. Linux 7.2 on Arm: EINVAL.
  bool empty_invalidate = true;

  // Whether every bit of a command is checked. Linux 7.2 checks opcode and StreamID; the SMMU stumbles over the rest,
  // and the call succeeds all the same.
  bool check_command_fields = true;

  // Whether a device that is bound already, here or in another context, is EBUSY, and so the others of its group
  // elsewhere. Linux 7.2: EINVAL, because a VFIO device is opened once; EPERM for the others, whose group has an owner.
  bool bound_device_is_busy = true;

  // Whether a guest StreamID above 32 bits is refused. Linux 7.2 takes it, although no command can name it.
  bool check_virt_id = true;
};

// What this project's record and the kernels after 7.2 aim at.
Personality Strict();
// Linux 7.2.
Personality Linux72();

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_PERSONALITY_H_
