#include "agent/local/local_service.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "agent/errno_status.h"
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

v1::AccessDmaResponse::Outcome OutcomeOf(DmaResult::Outcome outcome) {
  switch (outcome) {
    case DmaResult::Outcome::kDone:
      return v1::AccessDmaResponse::OUTCOME_DONE;
    case DmaResult::Outcome::kAborted:
      return v1::AccessDmaResponse::OUTCOME_ABORTED;
    case DmaResult::Outcome::kIgnored:
      return v1::AccessDmaResponse::OUTCOME_IGNORED;
    case DmaResult::Outcome::kTimedOut:
      return v1::AccessDmaResponse::OUTCOME_TIMED_OUT;
    case DmaResult::Outcome::kNoMemory:
      return v1::AccessDmaResponse::OUTCOME_NO_MEMORY;
  }
  return v1::AccessDmaResponse::OUTCOME_UNSPECIFIED;
}

}  // namespace

LocalServiceImpl::LocalServiceImpl(Sources sources, Backend& backend, Invalidator& invalidator)
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

grpc::Status LocalServiceImpl::AccessDma(grpc::ServerContext*, const v1::AccessDmaRequest* request,
                                         v1::AccessDmaResponse* response) {
  return ToGrpcStatus(Access(*request, *response));
}

grpc::Status LocalServiceImpl::ListGuestEvents(grpc::ServerContext*, const v1::ListGuestEventsRequest* request,
                                               v1::ListGuestEventsResponse* response) {
  auto events = sources_.list_events(*request);
  if (!events.ok()) return ToGrpcStatus(events.status());
  *response = *std::move(events);
  return grpc::Status::OK;
}

absl::Status LocalServiceImpl::Access(const v1::AccessDmaRequest& request, v1::AccessDmaResponse& response) {
  DeviceDma* const dma = backend_.device_dma();
  if (dma == nullptr) {
    return Error(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED)
        .Message("the devices of this host are real, and access memory when their drivers say so");
  }
  const std::string prefix = sources_.host + "/devices/";
  if (request.device().substr(0, prefix.size()) != prefix) {
    return InvalidField("device", "\"{}\" is no device of this host: {}{{pci address}}", request.device(), prefix);
  }
  DmaRequest access;
  access.pci_address = request.device().substr(prefix.size());
  access.address = request.address();
  if (request.has_pasid()) access.pasid = request.pasid();
  access.use_ats = request.use_ats();
  access.privileged = request.privileged();
  absl::StatusOr<DmaResult> result;
  std::string data;
  const auto bytes = [&data] { return std::as_writable_bytes(std::span(data.data(), data.size())); };
  switch (request.kind()) {
    case v1::AccessDmaRequest::KIND_TRANSLATE:
      result = dma->Translate(access, /*write=*/false);
      break;
    case v1::AccessDmaRequest::KIND_READ:
      if (request.length() == 0 || request.length() > kMaxDmaBytes) {
        return InvalidField("length", "{} must be 1 to {} bytes", request.length(), kMaxDmaBytes);
      }
      data.resize(request.length());
      result = dma->Read(access, bytes());
      break;
    case v1::AccessDmaRequest::KIND_WRITE:
      if (request.data().empty() || request.data().size() > kMaxDmaBytes) {
        return InvalidField("data", "{} must be 1 to {} bytes", request.data().size(), kMaxDmaBytes);
      }
      data = request.data();
      result = dma->Write(access, bytes());
      break;
    default:
      return InvalidField("kind", "is required: KIND_TRANSLATE, KIND_READ or KIND_WRITE");
  }
  if (StatusErrno(result.status()) == ENODEV) {
    return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_DEVICE_NOT_FOUND)
        .Message("there is no {}; get devices to see which there are", request.device())
        .Meta("name", request.device())
        .Resource("viommu.v1.Device", request.device());
  }
  if (!result.ok()) return InvalidField("pasid", "{}", std::string(result.status().message()));
  response.set_outcome(OutcomeOf(result->outcome));
  response.set_bytes_done(result->bytes);
  response.set_event(result->event);
  if (result->outcome != DmaResult::Outcome::kDone) return absl::OkStatus();
  response.set_physical_address(result->output);
  response.set_block_bytes(uint64_t{1} << result->span_log2);
  if (request.kind() == v1::AccessDmaRequest::KIND_READ) response.set_data(std::move(data));
  return absl::OkStatus();
}

}  // namespace viommu::agent
