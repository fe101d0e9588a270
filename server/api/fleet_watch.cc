// Watches.

#include <memory>
#include <utility>

#include "server/api/authorise.h"
#include "server/api/fleet_service.h"
#include "server/api/watch_feed.h"
#include "server/api/watch_reactor.h"

namespace viommu::server {

grpc::ServerWriteReactor<v1::WatchResponse>* FleetService::Watch(Context* context, const v1::WatchRequest* request) {
  if (const absl::Status refused = CheckCaller(parts_, *context); !refused.ok()) {
    return new RefusedWatch<v1::WatchResponse>(refused);
  }
  std::shared_ptr<void> place;
  if (request->start_revision() == 0) {
    auto taken = parts_.watches.TakeSnapshotPlace();
    if (!taken.ok()) return new RefusedWatch<v1::WatchResponse>(taken.status());
    place = *std::move(taken);
  }
  return StartWatch<v1::WatchResponse>(parts_.watches, parts_.clock, context,
                                       WatchFeed::Open(core(), *request, parts_.clock.Monotonic(), std::move(place)));
}

}  // namespace viommu::server
