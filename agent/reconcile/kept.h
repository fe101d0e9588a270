// Finds again what an earlier process of this boot has left with the backend, by what the journal says of it.
//
// Ids of kernel objects are worth nothing without the descriptors that they belong to, and a context cannot be asked
// what it holds. So one is adopted as a whole or not at all: of this boot, with no change under way when its process
// ended, of resources that are held, and everything in it as the backend can see it to be. What was to be made anew of
// something else goes on being so (Realizer::Unmake), but for what tells the SMMU. Whatever is in doubt is
// destroyed and made anew, and the log says what was lost.

#ifndef VIOMMU_AGENT_RECONCILE_KEPT_H_
#define VIOMMU_AGENT_RECONCILE_KEPT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/reconcile/held_state.h"

namespace viommu::agent {

// The context of a VM. What it holds is HeldState::kept() of the VM.
struct AdoptedContext {
  std::string vm;
  std::unique_ptr<Context> context;
};

// What the backend has to find of a context of this boot; FAILED_PRECONDITION says what is in doubt.
absl::StatusOr<KeptContext> DescribeKept(const KeptState& kept, const HeldState& held, const std::string& boot_id);

// Before the backend is asked for anything else. Logs what was found and what was lost.
std::vector<AdoptedContext> AdoptKept(const HeldState& held, Backend& backend, const std::string& boot_id);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_KEPT_H_
