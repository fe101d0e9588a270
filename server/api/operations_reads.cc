// The methods of the operations service that change nothing in the record.

#include <memory>

#include "common/error.h"
#include "common/grpc_error.h"
#include "server/api/authorise.h"
#include "server/api/deadline.h"
#include "server/api/drain.h"
#include "server/api/drift.h"
#include "server/api/limits.h"
#include "server/api/list.h"
#include "server/api/lookup.h"
#include "server/api/mention.h"
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

grpc::ServerUnaryReactor* OperationsService::GetDrift(Context* context, const v1::GetDriftRequest* request,
                                                      v1::GetDriftResponse* response) {
  if (const absl::Status bad = CheckCaller(parts_, *context); !bad.ok()) return Answer(context, bad);
  const absl::StatusOr<v1::InspectCall> call = AskForDrift(core(), *request);
  if (!call.ok()) return Answer(context, call.status());
  if (inspections_.fetch_add(1) >= kMaxInspections) {
    --inspections_;
    return Answer(context, Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
                               .Message("{} calls of GetDrift are under way, which is the limit; try again when some "
                                        "are answered",
                                        kMaxInspections)
                               .RetryAfter(std::chrono::milliseconds(100)));
  }
  const WallTime now = parts_.clock.Now();
  const auto deadline = now + TimeToAnswer(now, context->deadline(), kMaxInspectWait);
  // Callbacks are copied.
  const auto mention = request->repair() ? std::make_shared<Mention>("GetDrift", *context) : nullptr;
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  parts_.sessions.Inspect(
      request->host(), *call, std::chrono::time_point_cast<std::chrono::system_clock::duration>(deadline),
      [this, reactor, request, response, mention, call = *call](absl::StatusOr<v1::InspectReply> reply) {
        --inspections_;
        if (mention != nullptr) mention->Say(parts_.committer, request->host(), reply.status());
        const absl::Status status = reply.ok() ? FillDrift(core(), *request, call, *reply, response) : reply.status();
        reactor->Finish(ToGrpcStatus(status));
      });
  return reactor;
}

}  // namespace viommu::server
