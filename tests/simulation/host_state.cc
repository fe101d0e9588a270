#include "tests/simulation/host_state.h"

#include <algorithm>

namespace viommu::simulation {

using server::Kind;

bool IsForHosts(Kind kind) { return kind != Kind::kHost && kind != Kind::kDevice && kind != Kind::kQuota; }

bool HostState::MayObey(const Checker& checker, const Timeline& timeline) const {
  int64_t newest = obeyed.revision;
  // What was told and never synced may be lost with the power: it proves nothing where the store has skipped it
  // (docs/adr/0009).
  for (const auto& [behind, up_to] : timeline.gaps) {
    if (behind < newest && newest <= up_to) newest = std::max(obeyed.generation, obeyed.released);
  }
  return obeyed.timeline == 0 || checker.IsPastOf(timeline.id, obeyed.timeline, newest);
}

}  // namespace viommu::simulation
