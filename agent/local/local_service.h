// The agent's local service: what VMMs and operators on the host talk to. See viommu/v1/local_service.proto.
//
// Threads: any; calls run beside each other. Status and lists wait for the reconciler's current portion of work,
// invalidations do not.

#ifndef VIOMMU_AGENT_LOCAL_LOCAL_SERVICE_H_
#define VIOMMU_AGENT_LOCAL_LOCAL_SERVICE_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/local/invalidator.h"
#include "common/clock.h"
#include "viommu/v1/local_service.grpc.pb.h"

namespace viommu::agent {

class LocalServiceImpl final : public v1::LocalService::Service {
 public:
  static constexpr size_t kDefaultPageSize = 100;
  static constexpr size_t kMaxPageSize = 1000;
  static constexpr size_t kMaxPageBytes = 2 << 20;  // a page ends with the object that goes beyond it

  struct Sources {
    // Everything of the status but the SMMUs and the start time.
    std::function<void(v1::GetAgentStatusResponse&)> fill_status;
    // Held objects behind (name, uid), at most `max`.
    std::function<std::vector<v1::HeldObject>(const std::pair<std::string, std::string>& after, size_t max)> list;
    std::function<absl::StatusOr<v1::ListGuestEventsResponse>(const v1::ListGuestEventsRequest&)> list_events;
    std::string host;  // "hosts/h1"
    WallTime start_time;
  };

  static constexpr uint32_t kMaxDmaBytes = 65536;  // of one access

  // Both must outlive it.
  LocalServiceImpl(Sources sources, Backend& backend, Invalidator& invalidator);

  grpc::Status GetAgentStatus(grpc::ServerContext* context, const v1::GetAgentStatusRequest* request,
                              v1::GetAgentStatusResponse* response) override;
  grpc::Status ListHeldObjects(grpc::ServerContext* context, const v1::ListHeldObjectsRequest* request,
                               v1::ListHeldObjectsResponse* response) override;
  grpc::Status LocalInvalidate(grpc::ServerContext* context, const v1::LocalInvalidateRequest* request,
                               v1::LocalInvalidateResponse* response) override;
  grpc::Status AccessDma(grpc::ServerContext* context, const v1::AccessDmaRequest* request,
                         v1::AccessDmaResponse* response) override;
  grpc::Status ListGuestEvents(grpc::ServerContext* context, const v1::ListGuestEventsRequest* request,
                               v1::ListGuestEventsResponse* response) override;

 private:
  absl::Status Access(const v1::AccessDmaRequest& request, v1::AccessDmaResponse& response);

  const Sources sources_;
  Backend& backend_;
  Invalidator& invalidator_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_LOCAL_SERVICE_H_
