// The methods of the operations service that change nothing in the record.

#include "common/grpc_error.h"
#include "server/api/authorise.h"
#include "server/api/drain.h"
#include "server/api/list.h"
#include "server/api/lookup.h"
#include "server/api/operations_service.h"
#include "server/api/planning.h"
#include "server/api/watch_reactor.h"
#include "server/fleet/rules.h"

namespace viommu::server {

grpc::ServerUnaryReactor* OperationsService::Answer(Context* context, const absl::Status& status) const {
  const absl::Status allowed = CheckCaller(parts_, *context);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(allowed.ok() ? status : allowed));
  return reactor;
}

grpc::ServerUnaryReactor* OperationsService::GetQuota(Context* context, const v1::GetQuotaRequest* request,
                                                      v1::GetQuotaResponse* response) {
  if (const absl::Status bad = CheckName("name", Kind::kQuota, request->name()); !bad.ok()) return Answer(context, bad);
  bool found = false;
  core().Read([&](const Tables& tables, int64_t revision) {
    response->set_revision(revision);
    const auto quota = tables.Find<v1::Quota>(request->name());
    found = quota != nullptr;
    if (found) *response->mutable_quota() = WithUsage(*quota, tables);
  });
  return Answer(context, found ? absl::OkStatus() : NotFound(Kind::kQuota, request->name()));
}

grpc::ServerUnaryReactor* OperationsService::ListQuotas(Context* context, const v1::ListQuotasRequest* request,
                                                        v1::ListQuotasResponse* response) {
  return Answer(context, List(core(), *request, response));
}

grpc::ServerUnaryReactor* OperationsService::GetDrain(Context* context, const v1::GetDrainRequest* request,
                                                      v1::GetDrainResponse* response) {
  return Answer(context, ReadDrain(core(), parts_.clock.Now(), *request, response));
}

grpc::ServerWriteReactor<v1::WatchDrainResponse>* OperationsService::WatchDrain(Context* context,
                                                                                const v1::WatchDrainRequest* request) {
  if (const absl::Status refused = CheckCaller(parts_, *context); !refused.ok()) {
    return new RefusedWatch<v1::WatchDrainResponse>(refused);
  }
  return StartWatch<v1::WatchDrainResponse>(parts_.watches, parts_.clock, context,
                                            DrainFeed::Open(core(), parts_.clock, *request));
}

grpc::ServerUnaryReactor* OperationsService::FindPlacement(Context* context, const v1::FindPlacementRequest* request,
                                                           v1::FindPlacementResponse* response) {
  if (const absl::Status bad = CheckRequestSize(*request); !bad.ok()) return Answer(context, bad);
  return Answer(context, server::FindPlacement(core(), *request, response));
}

grpc::ServerUnaryReactor* OperationsService::CompareHosts(Context* context, const v1::CompareHostsRequest* request,
                                                          v1::CompareHostsResponse* response) {
  return Answer(context, server::CompareHosts(core(), *request, response));
}

}  // namespace viommu::server
