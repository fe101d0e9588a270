// GetDrift: a read, and with `repair` a change as well.

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "common/credentials.h"
#include "common/error.h"
#include "common/grpc_error.h"
#include "server/api/authorise.h"
#include "server/api/caller.h"
#include "server/api/deadline.h"
#include "server/api/drift.h"
#include "server/api/limits.h"
#include "server/api/operations_service.h"
#include "server/commit/command.h"

namespace viommu::server {
namespace {

// A repair, once the agent has answered: what its journal has otherwise is recorded anew, and the audit log tells of
// it.
class Repair final : public Command {
 public:
  Repair(const FleetServiceParts& parts, const grpc::CallbackServerContext& context, std::string host) : parts_(parts) {
    method = "GetDrift";
    peer = context.peer();
    caller = CallerName(PeerOf(context), peer);
    target = std::move(host);
  }

  // `answer`: the comparison; then this deletes itself.
  void Start(absl::StatusOr<ToTell> answer, grpc::ServerUnaryReactor* reactor) {
    answer_ = std::move(answer);
    reactor_ = reactor;
    if (answer_.ok()) parts_.sessions.TearDown(target, answer_->unknown);
    if (absl::Status refused = parts_.committer.Submit(this); !refused.ok()) Done(std::move(refused), 0);
  }

  absl::Status Judge(const Context& context, Draft& draft) override {
    if (!answer_.ok()) return answer_.status();
    DesireAnew(answer_->anew, context, draft);
    return absl::OkStatus();
  }

  void Done(absl::Status status, int64_t /*revision*/) override {
    // Without a change of the record only the entry of the audit log can have failed: the call has happened.
    const bool changes = answer_.ok() && !answer_->anew.empty();
    reactor_->Finish(ToGrpcStatus(changes ? status : answer_.status()));
    delete this;
  }

 private:
  const FleetServiceParts& parts_;
  absl::StatusOr<ToTell> answer_;
  grpc::ServerUnaryReactor* reactor_ = nullptr;
};

}  // namespace

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
  const auto repair =
      request->repair()
          ? std::make_shared<std::unique_ptr<Repair>>(std::make_unique<Repair>(parts_, *context, request->host()))
          : nullptr;
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  parts_.sessions.Inspect(
      request->host(), *call, std::chrono::time_point_cast<std::chrono::system_clock::duration>(deadline),
      [this, reactor, request, response, repair, call = *call](absl::StatusOr<v1::InspectReply> reply) {
        --inspections_;
        absl::StatusOr<ToTell> to_tell =
            reply.ok() ? FillDrift(core(), *request, call, *reply, response) : absl::StatusOr<ToTell>(reply.status());
        if (repair != nullptr) return repair->release()->Start(std::move(to_tell), reactor);
        reactor->Finish(ToGrpcStatus(to_tell.status()));
      });
  return reactor;
}

}  // namespace viommu::server
