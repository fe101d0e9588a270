// One call that changes the record, from its arrival to its answer: the command for the writer and, when the caller
// waits for the host, the reactor, in one object.

#ifndef VIOMMU_SERVER_API_MUTATION_H_
#define VIOMMU_SERVER_API_MUTATION_H_

#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/credentials.h"
#include "common/error.h"
#include "common/grpc_error.h"
#include "common/uuid.h"
#include "server/api/apply_waits.h"
#include "server/api/authorise.h"
#include "server/api/caller.h"
#include "server/api/deadline.h"
#include "server/api/digest.h"
#include "server/api/fleet_service.h"
#include "server/api/limits.h"
#include "server/api/lookup.h"
#include "server/commit/command.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"

namespace viommu::server {

// Calls `visit` with every resource in the answer of a change, in order; they are of one kind.
template <typename Response, typename Visit>
void VisitResources(Response& response, Visit visit) {
  if constexpr (requires { response.mutable_vdevices(); }) {
    for (auto& vdevice : *response.mutable_vdevices()) visit(vdevice);
  } else if constexpr (requires { response.mutable_vdevice(); }) {
    visit(*response.mutable_vdevice());
  } else if constexpr (requires { response.mutable_nested_domain(); }) {
    visit(*response.mutable_nested_domain());
  } else if constexpr (requires { response.mutable_hw_queue(); }) {
    visit(*response.mutable_hw_queue());
  } else if constexpr (requires { response.mutable_viommu(); }) {
    visit(*response.mutable_viommu());
  } else if constexpr (requires { response.mutable_stage2_domain(); }) {
    visit(*response.mutable_stage2_domain());
  } else if constexpr (requires { response.mutable_quota(); }) {
    visit(*response.mutable_quota());
  } else {
    visit(*response.mutable_host());
  }
}

// The resource that a request is about: the one it names, or the one it makes; for what is made in a viommu, that.
template <typename Request>
std::string TargetOf(const Request& request) {
  if constexpr (requires { request.name(); }) {
    return request.name();
  } else if constexpr (requires { request.stage2_domain_id(); }) {
    return Stage2DomainName(request.stage2_domain_id());
  } else if constexpr (requires { request.viommu_id(); }) {
    return ViommuName(request.viommu_id());
  } else if constexpr (requires { request.quota(); }) {
    return request.quota().name();
  } else if constexpr (requires { request.vdevice(); }) {
    return request.vdevice();
  } else {
    return request.viommu();
  }
}

template <typename Request, typename Answer>
class Mutation final : public Command {
 public:
  // What the method of the service returns.
  static grpc::ServerUnaryReactor* Start(const FleetServiceParts& parts, grpc::CallbackServerContext* context,
                                         const Request* request, Answer* response) {
    auto mutation = std::make_unique<Mutation>(parts, context, request, response);
    absl::Status refused = mutation->Prepare();
    // Once the command is taken it can be over at any time: what is returned must be known before.
    grpc::ServerUnaryReactor* const reactor = mutation->PickReactor();
    if (refused.ok()) refused = parts.committer.Submit(mutation.get());
    Mutation* const taken = mutation.release();
    if (!refused.ok()) taken->Finish(refused);
    return reactor;
  }

  Mutation(const FleetServiceParts& parts, grpc::CallbackServerContext* context, const Request* request,
           Answer* response)
      : parts_(parts), context_(context), request_(*request), response_(response) {
    bytes = request_.ByteSizeLong();
  }

  absl::Status Judge(const Context& context, Draft& draft) override {
    VIOMMU_ASSIGN_OR_RETURN(*response_, server::Judge(request_, context, draft));
    return absl::OkStatus();
  }

  std::string Response() const override { return response_->SerializeAsString(); }

  absl::Status Replay(std::string_view answer) override {
    if (response_->ParseFromArray(answer.data(), static_cast<int>(answer.size()))) return absl::OkStatus();
    return Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_DAMAGED)
        .Message("the answer that was kept under request_id {} is damaged", request_id)
        .Meta("request_id", request_id);
  }

  bool Names(std::string_view resource) const override {
    if (resource == target) return true;
    if constexpr (requires { request_.device(); }) return resource == request_.device();
    if constexpr (requires { request_.assignments(); }) {
      return std::any_of(request_.assignments().begin(), request_.assignments().end(),
                         [&](const v1::VdevIdAssignment& assignment) { return resource == assignment.device(); });
    }
    return false;
  }

  void Done(absl::Status status, int64_t revision) override {
    if (status.ok()) {
      response_->set_revision(revision);
      if (place_ != 0) return AwaitHost();
    }
    Finish(status);
  }

 private:
  // Only calls that wait for the host want to know when their caller goes away; the others make do with gRPC's own
  // reactor, which is cheaper.
  class WaitReactor final : public grpc::ServerUnaryReactor {
   public:
    explicit WaitReactor(Mutation& mutation) : mutation_(mutation) {}
    void OnCancel() override { mutation_.parts_.waits.Cancel(mutation_.place_); }
    void OnDone() override { delete &mutation_; }

   private:
    Mutation& mutation_;
  };

  // gRPC builds its own reactor anew with every call of DefaultReactor: once.
  grpc::ServerUnaryReactor* PickReactor() {
    reactor_ = wait_reactor_.has_value() ? &*wait_reactor_ : context_->DefaultReactor();
    return reactor_;
  }

  // Checks what the rules do not, before anything is recorded.
  absl::Status Prepare() {
    VIOMMU_RETURN_IF_ERROR(CheckCaller(parts_, *context_));
    VIOMMU_RETURN_IF_ERROR(CheckRequestSize(request_));
    constexpr std::string_view kSuffix = "Request";
    method = Request::descriptor()->name();
    method.resize(method.size() - kSuffix.size());
    peer = context_->peer();
    caller = CallerName(PeerOf(*context_), peer);
    target = TargetOf(request_);
    validate_only = request_.validate_only();
    if (!request_.request_id().empty()) {
      if (!IsUuid(request_.request_id())) {
        return InvalidField("request_id", "must be a UUID in lower case, such as 3b241101-e2bb-4255-8caf-4136c566a962");
      }
      request_id = request_.request_id();
      fingerprint = Fingerprint(request_);
    }
    if constexpr (requires { request_.wait(); }) {
      if (!v1::Wait_IsValid(request_.wait())) {
        return InvalidField("wait", "{} is none of WAIT_ACCEPTED, WAIT_APPLIED", static_cast<int>(request_.wait()));
      }
      if (request_.wait() == v1::WAIT_APPLIED && !validate_only) {
        place_ = parts_.waits.Reserve(ExpectedBytes());
        if (place_ == 0) {
          return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
              .Message(
                  "too many calls wait for their hosts already, or they hold too much; nothing was changed. Try again "
                  "later, or ask for WAIT_ACCEPTED and watch the resource")
              .RetryAfter(std::chrono::seconds(1));
        }
        deadline_ = parts_.clock.Monotonic() + TimeToAnswer(parts_.clock.Now(), context_->deadline(), kMaxApplyWait);
        wait_reactor_.emplace(*this);
      }
    }
    return absl::OkStatus();
  }

  // What this call will hold while it waits: the request, the answer and what it waits for, which is the answer's
  // resources. How long those are is not known yet; what they have of the request is.
  size_t ExpectedBytes() const {
    size_t resources = 1;
    if constexpr (requires { request_.assignments(); }) resources = static_cast<size_t>(request_.assignments_size());
    return 3 * request_.SpaceUsedLong() + 2 * resources * kUsualResourceBytes;
  }

  void AwaitHost() {
    std::vector<RecordPtr> seen;
    Kind kind{};
    VisitResources(*response_, [&](const auto& resource) {
      using T = std::decay_t<decltype(resource)>;
      kind = KindOf<T>::value;
      seen.push_back(std::make_shared<const T>(resource));
    });
    waiting_ = true;
    const size_t held = request_.SpaceUsedLong() + 2 * response_->SpaceUsedLong();
    parts_.waits.Start(place_, held, kind, std::move(seen), deadline_,
                       [this](ApplyWaits::End end, const std::vector<RecordPtr>& settled, int64_t revision) {
                         HostAnswered(end, settled, revision);
                       });
  }

  void HostAnswered(ApplyWaits::End end, const std::vector<RecordPtr>& settled, int64_t revision) {
    switch (end) {
      case ApplyWaits::End::kApplied: {
        auto next = settled.begin();
        VisitResources(*response_, [&](auto& resource) {
          resource = static_cast<const std::decay_t<decltype(resource)>&>(**next++);
        });
        response_->set_revision(revision);
        return Finish(absl::OkStatus());
      }
      case ApplyWaits::End::kDeadline:
        return Finish(Recorded(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_NOT_YET_APPLIED,
                               "its host has not confirmed it before the deadline"));
      case ApplyWaits::End::kStopped:
        return Finish(Recorded(absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN,
                               "this server is stopping and cannot wait for the host"));
      case ApplyWaits::End::kCancelled:
        return Finish(absl::CancelledError("the caller went away"));
    }
  }

  // The change stands although the call fails.
  absl::Status Recorded(absl::StatusCode code, v1::ErrorReason reason, std::string_view why) {
    std::string name;
    std::string host;
    VisitResources(*response_, [&](const auto& resource) {
      if (!name.empty()) return;
      name = resource.name();
      host = HostOf(KindOf<std::decay_t<decltype(resource)>>::value, resource);
    });
    return Error(code, reason)
        .Message(
            "{} is recorded at revision {}, but {} ({}). Nothing needs to be done for it to go on; get or watch it, "
            "or repeat the call with the same request_id to wait again",
            name, response_->revision(), why, host)
        .Meta("revision", std::to_string(response_->revision()))
        .Meta("name", name)
        .Meta("host", host);
  }

  // Ends the call and this object.
  void Finish(const absl::Status& status) {
    grpc::ServerUnaryReactor* const reactor = reactor_;
    if (!wait_reactor_.has_value()) {
      delete this;
    } else if (!waiting_) {
      parts_.waits.Release(place_);
    }
    reactor->Finish(ToGrpcStatus(status));
  }

  const FleetServiceParts& parts_;
  grpc::CallbackServerContext* const context_;
  const Request& request_;  // gRPC's, like the response: both live until the call is over
  Answer* const response_;
  std::optional<WaitReactor> wait_reactor_;
  grpc::ServerUnaryReactor* reactor_ = nullptr;
  int64_t place_ = 0;     // among the waits; 0: does not wait
  bool waiting_ = false;  // has given its place to Start
  MonotonicTime deadline_;
};

// What a method of a service that changes the record returns.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* Mutate(const FleetServiceParts& parts, grpc::CallbackServerContext* context,
                                 const Request* request, Response* response) {
  return Mutation<Request, Response>::Start(parts, context, request, response);
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_MUTATION_H_
