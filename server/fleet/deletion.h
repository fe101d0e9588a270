// How things end: everything is first DELETING, and goes when its host has confirmed. Internal to fleet/.

#ifndef VIOMMU_SERVER_FLEET_DELETION_H_
#define VIOMMU_SERVER_FLEET_DELETION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/fleet/draft.h"
#include "server/fleet/rules.h"

namespace viommu::server {

// Things that stand in the way of a deletion. What is DELETING itself does not: nobody would lose anything.
class InTheWay {
 public:
  void Add(const std::string& name);
  // HAS_CHILDREN with the number and the first few names, unless there are none.
  absl::Status Check(const std::string& parent, std::string_view way_out) const;

 private:
  static constexpr size_t kMaxNamed = 3;

  int64_t count_ = 0;
  std::vector<std::string> first_;
};

// Adds what is in a viommu and not DELETING.
void FindInTheWay(const View& view, const std::string& viommu, InTheWay& found);

// Each marks what is not DELETING yet; a viommu with everything in it. They return the record as it is then.
v1::Vdevice Release(const v1::Vdevice& vdevice, const Context& context, Draft& draft);
v1::NestedDomain Release(const v1::NestedDomain& nested, const Context& context, Draft& draft);
v1::HwQueue Release(const v1::HwQueue& queue, const Context& context, Draft& draft);
v1::Viommu Release(const v1::Viommu& viommu, const Context& context, Draft& draft);
v1::Stage2Domain Release(const v1::Stage2Domain& stage2, const Context& context, Draft& draft);

// LIMIT_EXCEEDED when a deletion has touched more records than one change may.
absl::Status CheckCascade(const Draft& draft, const std::string& parent);

// The host has confirmed that something DELETING is gone: takes it away. A viommu or stage-2 domain with something
// below it stays, remembers the confirmation, and goes along with the last of those.
void ConfirmReleased(const v1::Vdevice& vdevice, const Context& context, Draft& draft);
void ConfirmReleased(const v1::NestedDomain& nested, const Context& context, Draft& draft);
void ConfirmReleased(const v1::HwQueue& queue, const Context& context, Draft& draft);
void ConfirmReleased(const v1::Viommu& viommu, const Context& context, Draft& draft);
void ConfirmReleased(const v1::Stage2Domain& stage2, const Context& context, Draft& draft);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_DELETION_H_
