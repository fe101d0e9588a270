#include "agent/local/event_lister.h"

#include <optional>

#include "agent/smmuv3/spec/event.h"
#include "common/error.h"
#include "common/timestamp.h"

namespace viommu::agent {
namespace {

void Fill(const GuestEvent& event, v1::GuestEvent& told) {
  const smmuv3::Event record = smmuv3::DecodeEvent(event.record);
  told.set_number(event.number);
  *told.mutable_read_time() = ToTimestamp(event.time);
  told.set_event(smmuv3::EventName(static_cast<uint8_t>(record.id)));
  told.set_vdev_id(record.sid);
  if (record.ssv || record.id == smmuv3::EventId::kCBadSubstreamId) told.set_ssid(record.ssid);
  if (smmuv3::HasInputAddress(record.id)) told.set_address(record.address);
  told.set_text(smmuv3::ToString(record));
  for (const uint64_t word : event.record) told.add_record(word);
}

}  // namespace

absl::StatusOr<v1::ListGuestEventsResponse> EventLister::List(const v1::ListGuestEventsRequest& request) {
  const std::optional<GuestEvents::Events> events = events_.List(request.viommu(), request.after());
  if (!events) {
    VIOMMU_ASSIGN_OR_RETURN(const Targets::Lease lease, targets_.Acquire(request.viommu()));
    if (lease.object().kind != ItemKind::kViommu) {
      return InvalidField("viommu", "{} is none", request.viommu());
    }
    return Error(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED)
        .Message("{} has no event queue: the agent's log says why", request.viommu());
  }
  v1::ListGuestEventsResponse response;
  for (const GuestEvent& event : events->kept) Fill(event, *response.add_events());
  response.set_count(events->count);
  response.set_lost(events->lost);
  *response.mutable_queue_time() = ToTimestamp(events->since);
  return response;
}

}  // namespace viommu::agent
