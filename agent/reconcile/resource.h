// The fields that the kinds of resources an agent holds have in common.

#ifndef VIOMMU_AGENT_RECONCILE_RESOURCE_H_
#define VIOMMU_AGENT_RECONCILE_RESOURCE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "viommu/v1/resources.pb.h"

namespace viommu::agent {

// In the order in which they are made; the reverse is the order in which they go.
enum class ItemKind {
  kStage2Domain,
  kViommu,
  kNestedDomain,
  kVdevice,
  kHwQueue,
};
inline constexpr int kItemKinds = 5;

// "stage2", "viommu", "nested", "vdevice", "hw_queue": the words of HeldObject.kernel_ids and of the metrics.
std::string_view ItemKindName(ItemKind kind);

// Whether an agent holds resources of this kind; the functions below need one that it does.
bool IsHeldKind(const v1::Resource& resource);

ItemKind KindOf(const v1::Resource& resource);
const std::string& UidOf(const v1::Resource& resource);
const std::string& NameOf(const v1::Resource& resource);
int64_t GenerationOf(const v1::Resource& resource);
bool IsDeleting(const v1::Resource& resource);
void SetDeleting(v1::Resource& resource);

// Whether `next`, of the uid of `held`, is of another kind or name, which no record of that uid ever is. A rebind gives
// a vdevice another name.
bool ChangesIdentity(const v1::Resource& held, const v1::Resource& next);

// A field in which `next` differs from `held` and which no kernel object can change: what was made has to be made anew.
// Empty when there is none. Both are of one kind.
std::string_view ChangedImmutableField(const v1::Resource& held, const v1::Resource& next);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_RESOURCE_H_
