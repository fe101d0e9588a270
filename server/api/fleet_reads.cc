// The methods of the fleet service that change nothing in the record.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/grpc_error.h"
#include "common/timestamp.h"
#include "common/version.h"
#include "server/api/authorise.h"
#include "server/api/deadline.h"
#include "server/api/fleet_service.h"
#include "server/api/invalidate.h"
#include "server/api/limits.h"
#include "server/api/list.h"
#include "server/api/lookup.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

// Copies the resource of that name to `*resource`.
template <typename T, typename Response>
absl::Status Get(const CommitCore& core, const std::string& name, T* resource, Response* response) {
  VIOMMU_RETURN_IF_ERROR(CheckName("name", KindOf<T>::value, name));
  std::shared_ptr<const T> found;
  core.Read([&](const Tables& tables, int64_t at) {
    found = tables.Find<T>(name);
    response->set_revision(at);
  });
  if (found == nullptr) return NotFound(KindOf<T>::value, name);
  *resource = *found;
  return absl::OkStatus();
}

// Adds what the host's agent says is in use there.
void AddUsage(const Sessions& sessions, v1::Host& host) {
  const std::vector<v1::SmmuUsage> usage = sessions.UsageOf(host.name());
  for (v1::Smmu& smmu : *host.mutable_smmus()) {
    const auto found = std::find_if(usage.begin(), usage.end(),
                                    [&smmu](const v1::SmmuUsage& each) { return each.name() == smmu.name(); });
    if (found == usage.end()) continue;
    smmu.mutable_host_vmids()->set_used(found->vmids_used());
    smmu.mutable_host_vmids()->set_total(found->vmids_total());
  }
}

}  // namespace

grpc::ServerUnaryReactor* FleetService::Answer(Context* context, const absl::Status& status) const {
  const absl::Status allowed = CheckCaller(parts_, *context);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(allowed.ok() ? status : allowed));
  return reactor;
}

grpc::ServerUnaryReactor* FleetService::GetServerStatus(Context* context, const v1::GetServerStatusRequest*,
                                                        v1::GetServerStatusResponse* response) {
  const Identity& identity = core().identity();
  response->set_cluster_id(identity.cluster_id);
  response->set_store_incarnation(identity.store_incarnation);
  response->set_epoch(identity.epoch);
  response->set_version(std::string(Version()));
  *response->mutable_start_time() = ToTimestamp(start_time_);
  const absl::Status writable = core().writable();
  response->set_writable(writable.ok());
  response->set_writable_reason(std::string(writable.message()));
  response->set_connected_hosts(parts_.sessions.stats().connected);
  response->set_oldest_revision(core().log().oldest());
  core().Read([response](const Tables& tables, int64_t revision) {
    for (const Kind kind : kKinds) (*response->mutable_resources())[std::string(KindName(kind))] = tables.size(kind);
    response->set_revision(revision);
  });
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* FleetService::GetHost(Context* context, const v1::GetHostRequest* request,
                                                v1::GetHostResponse* response) {
  if (const absl::Status bad = CheckName("name", Kind::kHost, request->name()); !bad.ok()) return Answer(context, bad);
  bool found = false;
  core().Read([&](const Tables& tables, int64_t revision) {
    response->set_revision(revision);
    const auto host = tables.Find<v1::Host>(request->name());
    found = host != nullptr;
    if (found) *response->mutable_host() = WithBudgets(*host, tables);
  });
  if (found) AddUsage(parts_.sessions, *response->mutable_host());
  return Answer(context, found ? absl::OkStatus() : NotFound(Kind::kHost, request->name()));
}

grpc::ServerUnaryReactor* FleetService::GetDevice(Context* context, const v1::GetDeviceRequest* request,
                                                  v1::GetDeviceResponse* response) {
  return Answer(context, Get(core(), request->name(), response->mutable_device(), response));
}

grpc::ServerUnaryReactor* FleetService::GetStage2Domain(Context* context, const v1::GetStage2DomainRequest* request,
                                                        v1::GetStage2DomainResponse* response) {
  return Answer(context, Get(core(), request->name(), response->mutable_stage2_domain(), response));
}

grpc::ServerUnaryReactor* FleetService::GetViommu(Context* context, const v1::GetViommuRequest* request,
                                                  v1::GetViommuResponse* response) {
  return Answer(context, Get(core(), request->name(), response->mutable_viommu(), response));
}

grpc::ServerUnaryReactor* FleetService::GetVdevice(Context* context, const v1::GetVdeviceRequest* request,
                                                   v1::GetVdeviceResponse* response) {
  return Answer(context, Get(core(), request->name(), response->mutable_vdevice(), response));
}

grpc::ServerUnaryReactor* FleetService::GetNestedDomain(Context* context, const v1::GetNestedDomainRequest* request,
                                                        v1::GetNestedDomainResponse* response) {
  return Answer(context, Get(core(), request->name(), response->mutable_nested_domain(), response));
}

grpc::ServerUnaryReactor* FleetService::GetHwQueue(Context* context, const v1::GetHwQueueRequest* request,
                                                   v1::GetHwQueueResponse* response) {
  return Answer(context, Get(core(), request->name(), response->mutable_hw_queue(), response));
}

grpc::ServerUnaryReactor* FleetService::ListHosts(Context* context, const v1::ListHostsRequest* request,
                                                  v1::ListHostsResponse* response) {
  const absl::Status status = List(core(), *request, response);
  for (v1::Host& host : *response->mutable_hosts()) AddUsage(parts_.sessions, host);
  return Answer(context, status);
}

grpc::ServerUnaryReactor* FleetService::ListDevices(Context* context, const v1::ListDevicesRequest* request,
                                                    v1::ListDevicesResponse* response) {
  return Answer(context, List(core(), *request, response));
}

grpc::ServerUnaryReactor* FleetService::ListStage2Domains(Context* context, const v1::ListStage2DomainsRequest* request,
                                                          v1::ListStage2DomainsResponse* response) {
  return Answer(context, List(core(), *request, response));
}

grpc::ServerUnaryReactor* FleetService::ListViommus(Context* context, const v1::ListViommusRequest* request,
                                                    v1::ListViommusResponse* response) {
  return Answer(context, List(core(), *request, response));
}

grpc::ServerUnaryReactor* FleetService::ListVdevices(Context* context, const v1::ListVdevicesRequest* request,
                                                     v1::ListVdevicesResponse* response) {
  return Answer(context, List(core(), *request, response));
}

grpc::ServerUnaryReactor* FleetService::ListNestedDomains(Context* context, const v1::ListNestedDomainsRequest* request,
                                                          v1::ListNestedDomainsResponse* response) {
  return Answer(context, List(core(), *request, response));
}

grpc::ServerUnaryReactor* FleetService::ListHwQueues(Context* context, const v1::ListHwQueuesRequest* request,
                                                     v1::ListHwQueuesResponse* response) {
  return Answer(context, List(core(), *request, response));
}

grpc::ServerUnaryReactor* FleetService::Invalidate(Context* context, const v1::InvalidateRequest* request,
                                                   v1::InvalidateResponse* response) {
  if (const absl::Status bad = CheckCaller(parts_, *context); !bad.ok()) return Answer(context, bad);
  if (const absl::Status bad = CheckRequestSize(*request); !bad.ok()) return Answer(context, bad);
  if (const absl::Status bad = CheckInvalidate(*request); !bad.ok()) return Answer(context, bad);
  const absl::StatusOr<InvalidateTarget> target = FindInvalidateTarget(core(), request->target());
  if (!target.ok()) return Answer(context, target.status());
  if (invalidations_.fetch_add(1) >= parts_.max_invalidations) {
    --invalidations_;
    return Answer(context, Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
                               .Message("{} calls of Invalidate are under way, which is the limit; try again when some "
                                        "are answered",
                                        parts_.max_invalidations)
                               .RetryAfter(std::chrono::milliseconds(100)));
  }
  response->set_revision(target->revision);
  const WallTime now = parts_.clock.Now();
  const auto deadline = now + TimeToAnswer(now, context->deadline(), kMaxInvalidateWait);
  // The answer may come before this returns: the reactor is known to gRPC by then or takes note.
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  parts_.sessions.Invalidate(target->host, target->uid, {request->commands().begin(), request->commands().end()},
                             std::chrono::time_point_cast<std::chrono::system_clock::duration>(deadline),
                             [this, reactor, response](absl::StatusOr<v1::InvalidationResult> result) {
                               --invalidations_;
                               if (result.ok()) *response->mutable_result() = *std::move(result);
                               reactor->Finish(ToGrpcStatus(result.status()));
                             });
  return reactor;
}

}  // namespace viommu::server
