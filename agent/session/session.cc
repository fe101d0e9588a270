#include "agent/session/session.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "common/version.h"

namespace viommu::agent {
namespace {

// Replies that wait to be written; a server that sends calls and does not read their answers is cut off there.
constexpr size_t kMaxReplies = 1024;
constexpr int kMaxInspections = 16;  // of these, answers to inspections, which are longer

std::chrono::nanoseconds FromProto(const google::protobuf::Duration& duration) {
  return std::chrono::seconds(duration.seconds()) + std::chrono::nanoseconds(duration.nanos());
}

absl::Status Violation(std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION).Message("{}", what);
}

}  // namespace

Session::Session(int64_t number, v1::Hello hello, HostWork& work, InvalidateCalls& calls, MonotonicTime now,
                 RandomSource random, std::function<void(v1::Heartbeat&)> fill_heartbeat)
    : number_(number),
      work_(work),
      calls_(calls),
      random_(std::move(random)),
      fill_heartbeat_(std::move(fill_heartbeat)),
      heard_(now),
      heartbeat_(MonotonicTime::max()) {
  hello.set_protocol_version(kProtocolVersion);
  hello.set_agent_version(std::string(Version()));
  hello.set_inspect(true);
  work_.FillHello(hello);
  hello.mutable_host()->set_agent_id(hello.agent_id());
  hello.mutable_host()->set_agent_version(hello.agent_version());
  hello_.emplace();
  *hello_->mutable_hello() = std::move(hello);
}

Session::~Session() {
  if (welcomed_) work_.EndSession();
}

absl::Status Session::Receive(const v1::ConnectResponse& message, MonotonicTime now) {
  heard_ = now;
  if (message.has_welcome()) {
    if (welcomed_ || hello_) return Violation("the server sent a welcome that was not due");
    VIOMMU_RETURN_IF_ERROR(Welcomed(message.welcome()));
    welcomed_at_ = now;
    heartbeat_ = now + HeartbeatInterval();
    return absl::OkStatus();
  }
  if (!welcomed_) return Violation("the server's first message is no welcome");
  switch (message.kind_case()) {
    case v1::ConnectResponse::kDesired:
      VIOMMU_RETURN_IF_ERROR(work_.Accept(message.desired()));
      if (message.desired().sync_mark()) state_ = v1::SESSION_STATE_SYNCED;
      return absl::OkStatus();
    case v1::ConnectResponse::kHeartbeat:
      if (message.heartbeat().epoch() != epoch_) {
        return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH)
            .Message("a heartbeat of epoch {} in a session of epoch {}", message.heartbeat().epoch(), epoch_);
      }
      return absl::OkStatus();
    case v1::ConnectResponse::kInvalidateCall: {
      if (replies_.size() >= kMaxReplies) return Violation("the server does not take the answers to its calls");
      const v1::InvalidateCall& call = message.invalidate_call();
      if (calls_.Submit(number_, call)) return absl::OkStatus();
      v1::InvalidateReply& reply = *replies_.emplace_back().mutable_invalidate_reply();
      reply.set_call_id(call.call_id());
      auto* stop = reply.mutable_result()->mutable_stop();
      stop->set_reason(ReasonName(v1::ERROR_REASON_OVERLOADED));
      stop->set_message("the agent has too many invalidations waiting; nothing was done, send them again later");
      return absl::OkStatus();
    }
    case v1::ConnectResponse::kInspectCall:
      if (inspections_ >= kMaxInspections) return Violation("the server does not take the answers to its inspections");
      ++inspections_;
      work_.Inspect(message.inspect_call(), *replies_.emplace_back().mutable_inspect_reply());
      return absl::OkStatus();
    default:
      // A newer server may say more than this agent knows; it must not rely on it with protocol version 1.
      return absl::OkStatus();
  }
}

absl::Status Session::Welcomed(const v1::Welcome& welcome) {
  VIOMMU_RETURN_IF_ERROR(work_.BeginSession(welcome));
  welcomed_ = true;
  state_ = v1::SESSION_STATE_SYNCING;
  epoch_ = welcome.epoch();
  lease_ = std::max<std::chrono::nanoseconds>(FromProto(welcome.lease()), kMinLease);
  return absl::OkStatus();
}

std::chrono::nanoseconds Session::HeartbeatInterval() const {
  const std::chrono::nanoseconds third = lease_ / 3;
  return third - std::chrono::nanoseconds(static_cast<int64_t>(static_cast<double>((third / 4).count()) * random_()));
}

std::optional<v1::ConnectRequest> Session::Next(MonotonicTime now) {
  if (hello_) return std::exchange(hello_, std::nullopt);
  if (!welcomed_) return std::nullopt;
  v1::ConnectRequest request;
  // Life first: a flood of results must not let the lease run out.
  if (heartbeat_ <= now) {
    heartbeat_ = now + HeartbeatInterval();
    request.mutable_heartbeat()->set_revision(work_.revision());
    request.mutable_heartbeat()->set_epoch(epoch_);
    if (fill_heartbeat_) fill_heartbeat_(*request.mutable_heartbeat());
    return request;
  }
  if (!replies_.empty()) {
    request = std::move(replies_.front());
    replies_.pop_front();
    if (request.has_inspect_reply()) --inspections_;
    return request;
  }
  if (work_.TakeResults(kMaxResultsPerMessage, *request.mutable_results())) return request;
  return std::nullopt;
}

MonotonicTime Session::Deadline() const { return std::min(heartbeat_, heard_ + lease_); }

absl::Status Session::Check(MonotonicTime now) const {
  if (now < heard_ + lease_) return absl::OkStatus();
  return Error(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_LEASE_EXPIRED)
      .Message("nothing was heard from the server for {} ms; what runs here goes on running",
               std::chrono::duration_cast<std::chrono::milliseconds>(lease_).count());
}

}  // namespace viommu::agent
