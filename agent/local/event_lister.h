// Tells the events of viommus' guests, for those who may know them.

#ifndef VIOMMU_AGENT_LOCAL_EVENT_LISTER_H_
#define VIOMMU_AGENT_LOCAL_EVENT_LISTER_H_

#include "absl/status/statusor.h"
#include "agent/reconcile/guest_events.h"
#include "agent/reconcile/targets.h"
#include "viommu/v1/local_service.pb.h"

namespace viommu::agent {

// Thread-safe. Waits for no work of the reconciler.
class EventLister {
 public:
  // Both must outlive it.
  EventLister(const GuestEvents& events, Targets& targets) : events_(events), targets_(targets) {}

  //   NOT_FOUND            VIOMMU_NOT_FOUND: not held here
  //   FAILED_PRECONDITION  NOT_REALIZED: without its first vdevice it has no events
  //   UNIMPLEMENTED        NOT_OFFERED: the backend has made no queue for it
  absl::StatusOr<v1::ListGuestEventsResponse> List(const v1::ListGuestEventsRequest& request);

 private:
  const GuestEvents& events_;
  Targets& targets_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_EVENT_LISTER_H_
