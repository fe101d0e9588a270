#include "agent/local/local_service.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "agent/reconcile/resource.h"
#include "common/error.h"
#include "common/grpc_error.h"
#include "common/timestamp.h"

namespace viommu::agent {
namespace {

// A page token is where the page before ended: its last (name, uid).
std::string MakeToken(const v1::Resource& last) { return absl::WebSafeBase64Escape(NameOf(last) + "\n" + UidOf(last)); }

absl::StatusOr<std::pair<std::string, std::string>> ParseToken(const std::string& token) {
  std::pair<std::string, std::string> after;
  if (token.empty()) return after;
  std::string text;
  const bool decoded = absl::WebSafeBase64Unescape(token, &text);
  const size_t split = text.find('\n');
  if (!decoded || split == std::string::npos || split == 0 || split + 1 == text.size()) {
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PAGE_TOKEN_INVALID)
        .Message("page_token is none of this agent's; begin again without one")
        .Field("page_token", "not a token");
  }
  after.first = text.substr(0, split);
  after.second = text.substr(split + 1);
  return after;
}

uint64_t Executed(const SmmuStats& stats) {
  uint64_t sum = 0;
  for (const auto& count : stats.invalidations) sum += count.done;
  return sum;
}

uint64_t Syncs(const SmmuStats& stats) {
  uint64_t sum = 0;
  for (const uint64_t count : stats.sync_latency.counts) sum += count;
  return sum;
}

}  // namespace

LocalServiceImpl::LocalServiceImpl(Sources sources, const Backend& backend, Invalidator& invalidator)
    : sources_(std::move(sources)), backend_(backend), invalidator_(invalidator) {}

grpc::Status LocalServiceImpl::GetAgentStatus(grpc::ServerContext*, const v1::GetAgentStatusRequest*,
                                              v1::GetAgentStatusResponse* response) {
  sources_.fill_status(*response);
  response->set_host(sources_.host);
  *response->mutable_start_time() = ToTimestamp(sources_.start_time);
  for (const SmmuStats& stats : backend_.GetStats()) {
    auto* smmu = response->add_smmus();
    smmu->set_name(sources_.host + "/smmus/" + stats.smmu);
    smmu->set_vmids_used(stats.vmids_used);
    smmu->set_commands(Executed(stats));
    smmu->set_syncs(Syncs(stats));
    smmu->set_queue_depth(stats.queue_depth);
  }
  return grpc::Status::OK;
}

grpc::Status LocalServiceImpl::ListHeldObjects(grpc::ServerContext*, const v1::ListHeldObjectsRequest* request,
                                               v1::ListHeldObjectsResponse* response) {
  if (request->page_size() < 0) {
    return ToGrpcStatus(InvalidField("page_size", "{} is negative", request->page_size()));
  }
  const auto after = ParseToken(request->page_token());
  if (!after.ok()) return ToGrpcStatus(after.status());
  const size_t size =
      request->page_size() == 0 ? kDefaultPageSize : std::min(kMaxPageSize, static_cast<size_t>(request->page_size()));
  // One more tells whether there is another page.
  std::vector<v1::HeldObject> objects = sources_.list(*after, size + 1);
  size_t bytes = 0;
  for (auto& object : objects) {
    if (static_cast<size_t>(response->objects_size()) == size || bytes > kMaxPageBytes) break;
    bytes += object.ByteSizeLong();
    *response->add_objects() = std::move(object);
  }
  if (static_cast<size_t>(response->objects_size()) < objects.size())
    response->set_next_page_token(MakeToken(response->objects(response->objects_size() - 1).resource()));
  return grpc::Status::OK;
}

grpc::Status LocalServiceImpl::LocalInvalidate(grpc::ServerContext*, const v1::LocalInvalidateRequest* request,
                                               v1::LocalInvalidateResponse* response) {
  if (request->target().empty()) {
    return ToGrpcStatus(InvalidField("target", "is empty; name a viommu or nested domain of this host"));
  }
  auto result = invalidator_.Invalidate(request->target(), request->commands());
  if (!result.ok()) return ToGrpcStatus(result.status());
  *response->mutable_result() = *std::move(result);
  return grpc::Status::OK;
}

}  // namespace viommu::agent
