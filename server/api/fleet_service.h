// The fleet service on gRPC's callback API: decodes, hands to the writer, the record or the sessions, encodes.
//
// No method blocks its thread. Reads copy a shared record out of the tables and are answered where they arrive; changes
// are answered on the writer's answering thread, or on that of ApplyWaits when the caller waits for the host; watches
// where gRPC reports that the last message is sent (ARCHITECTURE.md).

#ifndef VIOMMU_SERVER_API_FLEET_SERVICE_H_
#define VIOMMU_SERVER_API_FLEET_SERVICE_H_

#include <atomic>
#include <cstddef>

#include "common/clock.h"
#include "server/api/apply_waits.h"
#include "server/api/limits.h"
#include "server/api/watch_hub.h"
#include "server/commit/backups.h"
#include "server/commit/committer.h"
#include "server/sync/sessions.h"
#include "viommu/v1/fleet_service.grpc.pb.h"

namespace viommu::server {

// What the service works on; everything must outlive it.
struct FleetServiceParts {
  Committer& committer;
  ApplyWaits& waits;
  WatchHub& watches;
  Sessions& sessions;
  const Clock& clock;
  // Refuse callers whose certificate is made out to a host: for listeners that ask for certificates.
  bool refuse_hosts = false;
  size_t max_invalidations = kMaxInvalidations;
  Backups* backups = nullptr;  // of the operations service; nullptr: it offers none
};

class FleetService final : public v1::FleetService::CallbackService {
 public:
  explicit FleetService(const FleetServiceParts& parts) : parts_(parts), start_time_(parts.clock.Now()) {}

 private:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  // Reads: fleet_reads.cc.
  Reactor* GetServerStatus(Context* context, const v1::GetServerStatusRequest* request,
                           v1::GetServerStatusResponse* response) override;
  Reactor* GetHost(Context* context, const v1::GetHostRequest* request, v1::GetHostResponse* response) override;
  Reactor* ListHosts(Context* context, const v1::ListHostsRequest* request, v1::ListHostsResponse* response) override;
  Reactor* GetDevice(Context* context, const v1::GetDeviceRequest* request, v1::GetDeviceResponse* response) override;
  Reactor* ListDevices(Context* context, const v1::ListDevicesRequest* request,
                       v1::ListDevicesResponse* response) override;
  Reactor* GetStage2Domain(Context* context, const v1::GetStage2DomainRequest* request,
                           v1::GetStage2DomainResponse* response) override;
  Reactor* ListStage2Domains(Context* context, const v1::ListStage2DomainsRequest* request,
                             v1::ListStage2DomainsResponse* response) override;
  Reactor* GetViommu(Context* context, const v1::GetViommuRequest* request, v1::GetViommuResponse* response) override;
  Reactor* ListViommus(Context* context, const v1::ListViommusRequest* request,
                       v1::ListViommusResponse* response) override;
  Reactor* GetVdevice(Context* context, const v1::GetVdeviceRequest* request,
                      v1::GetVdeviceResponse* response) override;
  Reactor* ListVdevices(Context* context, const v1::ListVdevicesRequest* request,
                        v1::ListVdevicesResponse* response) override;
  Reactor* GetNestedDomain(Context* context, const v1::GetNestedDomainRequest* request,
                           v1::GetNestedDomainResponse* response) override;
  Reactor* ListNestedDomains(Context* context, const v1::ListNestedDomainsRequest* request,
                             v1::ListNestedDomainsResponse* response) override;
  Reactor* GetHwQueue(Context* context, const v1::GetHwQueueRequest* request,
                      v1::GetHwQueueResponse* response) override;
  Reactor* ListHwQueues(Context* context, const v1::ListHwQueuesRequest* request,
                        v1::ListHwQueuesResponse* response) override;
  Reactor* Invalidate(Context* context, const v1::InvalidateRequest* request,
                      v1::InvalidateResponse* response) override;

  // Changes: fleet_mutations.cc.
  Reactor* CordonHost(Context* context, const v1::CordonHostRequest* request,
                      v1::CordonHostResponse* response) override;
  Reactor* UncordonHost(Context* context, const v1::UncordonHostRequest* request,
                        v1::UncordonHostResponse* response) override;
  Reactor* CreateStage2Domain(Context* context, const v1::CreateStage2DomainRequest* request,
                              v1::CreateStage2DomainResponse* response) override;
  Reactor* DeleteStage2Domain(Context* context, const v1::DeleteStage2DomainRequest* request,
                              v1::DeleteStage2DomainResponse* response) override;
  Reactor* CreateViommu(Context* context, const v1::CreateViommuRequest* request,
                        v1::CreateViommuResponse* response) override;
  Reactor* UpdateViommuLabels(Context* context, const v1::UpdateViommuLabelsRequest* request,
                              v1::UpdateViommuLabelsResponse* response) override;
  Reactor* DeleteViommu(Context* context, const v1::DeleteViommuRequest* request,
                        v1::DeleteViommuResponse* response) override;
  Reactor* SetVdevId(Context* context, const v1::SetVdevIdRequest* request, v1::SetVdevIdResponse* response) override;
  Reactor* UnsetVdevId(Context* context, const v1::UnsetVdevIdRequest* request,
                       v1::UnsetVdevIdResponse* response) override;
  Reactor* RebindVdevId(Context* context, const v1::RebindVdevIdRequest* request,
                        v1::RebindVdevIdResponse* response) override;
  Reactor* BatchSetVdevIds(Context* context, const v1::BatchSetVdevIdsRequest* request,
                           v1::BatchSetVdevIdsResponse* response) override;
  Reactor* CreateNestedDomain(Context* context, const v1::CreateNestedDomainRequest* request,
                              v1::CreateNestedDomainResponse* response) override;
  Reactor* AttachDevice(Context* context, const v1::AttachDeviceRequest* request,
                        v1::AttachDeviceResponse* response) override;
  Reactor* DetachDevice(Context* context, const v1::DetachDeviceRequest* request,
                        v1::DetachDeviceResponse* response) override;
  Reactor* DeleteNestedDomain(Context* context, const v1::DeleteNestedDomainRequest* request,
                              v1::DeleteNestedDomainResponse* response) override;
  Reactor* CreateHwQueue(Context* context, const v1::CreateHwQueueRequest* request,
                         v1::CreateHwQueueResponse* response) override;
  Reactor* DeleteHwQueue(Context* context, const v1::DeleteHwQueueRequest* request,
                         v1::DeleteHwQueueResponse* response) override;

  // fleet_watch.cc.
  grpc::ServerWriteReactor<v1::WatchResponse>* Watch(Context* context, const v1::WatchRequest* request) override;

  const CommitCore& core() const { return parts_.committer.core(); }

  // Ends a call that reads, if the caller may call at all.
  Reactor* Answer(Context* context, const absl::Status& status) const;

  const FleetServiceParts parts_;
  const WallTime start_time_;
  std::atomic<size_t> invalidations_ = 0;  // under way
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_FLEET_SERVICE_H_
