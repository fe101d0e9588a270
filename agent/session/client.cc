#include "agent/session/client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/grpc_error.h"
#include "common/log.h"

namespace viommu::agent {
namespace {

// Ends after which only an operator can help.
bool IsRefusal(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::ERROR_REASON_CLUSTER_MISMATCH:
    case v1::ERROR_REASON_STORE_INCARNATION_MISMATCH:
    case v1::ERROR_REASON_STALE_EPOCH:
    case v1::ERROR_REASON_STORE_OUT_OF_DATE:
    case v1::ERROR_REASON_PROTOCOL_VERSION_UNSUPPORTED:
    case v1::ERROR_REASON_PROTOCOL_VIOLATION:
    case v1::ERROR_REASON_NOT_AUTHORIZED:
    // Another agent has this host, by its own state directory or by a copy of this one.
    case v1::ERROR_REASON_HOST_ALREADY_CONNECTED:
    case v1::ERROR_REASON_LIMIT_EXCEEDED:
      return true;
    default:
      return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
  }
}

v1::StateReason ToReason(const absl::Status& status) {
  v1::StateReason reason;
  const v1::ErrorReason known = ReasonOf(status);
  reason.set_reason(known != v1::ERROR_REASON_UNSPECIFIED ? ReasonName(known)
                                                          : std::string(absl::StatusCodeToString(status.code())));
  reason.set_message(std::string(status.message()));
  return reason;
}

}  // namespace

// The stream of one connection. gRPC calls On…Done() on its threads; everything else is the session's thread. Reads and
// writes are started outside of gRPC's own calls, so the stream is held: OnDone() does not come before Release(), or a
// write could be started on a call that is gone.
class SessionClient::Stream : public grpc::ClientBidiReactor<v1::ConnectRequest, v1::ConnectResponse> {
 public:
  explicit Stream(SessionClient& owner) : owner_(owner) {}

  void Start(v1::AgentService::Stub& stub) {
    stub.async()->Connect(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  const v1::ConnectResponse& incoming() const { return incoming_; }
  void ReadOn() {
    incoming_.Clear();
    StartRead(&incoming_);
  }
  void Write(v1::ConnectRequest request) {
    outgoing_ = std::move(request);
    StartWrite(&outgoing_);
  }
  // No more reads and writes will be started; OnDone() follows.
  void Release() {
    context_.TryCancel();
    RemoveHold();
  }

 private:
  void OnReadDone(bool ok) override {
    owner_.Happened([ok](Io& io) {
      io.message = ok;
      io.closed = !ok;
    });
  }
  void OnWriteDone(bool ok) override {
    owner_.Happened([ok](Io& io) {
      io.writing = false;
      io.write_failed = !ok;
    });
  }
  void OnDone(const grpc::Status& status) override {
    owner_.Happened([&status](Io& io) {
      io.end = status.ok() ? absl::UnavailableError("the server closed the session") : FromGrpcStatus(status);
    });
  }

  SessionClient& owner_;
  grpc::ClientContext context_;
  v1::ConnectResponse incoming_;  // gRPC's while a read is going on
  v1::ConnectRequest outgoing_;   // gRPC's while a write is going on
};

SessionClient::SessionClient(Options options, HostWork& work, InvalidateCalls& calls)
    : options_(std::move(options)), work_(work), calls_(calls) {}

SessionClient::~SessionClient() { Stop(); }

void SessionClient::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void SessionClient::Stop() {
  {
    MutexLock lock(mu_);
    stop_ = true;
    wake_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void SessionClient::Wake() {
  MutexLock lock(mu_);
  news_ = true;
  wake_.NotifyAll();
}

void SessionClient::AddReply(int64_t session, v1::InvalidateReply reply) {
  MutexLock lock(mu_);
  if (session != session_) return;
  replies_.push_back(std::move(reply));
  news_ = true;
  wake_.NotifyAll();
}

SessionStatus SessionClient::status() const {
  MutexLock lock(mu_);
  return status_;
}

void SessionClient::SetState(v1::SessionState state, const absl::Status& reason) {
  MutexLock lock(mu_);
  if (state == v1::SESSION_STATE_SYNCING && status_.state != v1::SESSION_STATE_SYNCING) ++status_.sessions;
  status_.state = state;
  status_.reason = reason.ok() ? v1::StateReason() : ToReason(reason);
}

std::chrono::nanoseconds SessionClient::AskedWait(const absl::Status& status) {
  const google::protobuf::Duration delay = DetailOf<google::rpc::RetryInfo>(status).retry_delay();
  const int64_t seconds =
      std::clamp<int64_t>(delay.seconds(), 0, std::chrono::duration_cast<std::chrono::seconds>(kLongestAsked).count());
  const std::chrono::nanoseconds asked = std::chrono::seconds(seconds) + std::chrono::nanoseconds(delay.nanos());
  return std::clamp<std::chrono::nanoseconds>(asked, std::chrono::nanoseconds(0), kLongestAsked);
}

void SessionClient::Loop() {
  Backoff lost(options_.first_retry, options_.longest_retry);
  Backoff refused(options_.first_refused_retry, options_.longest_refused_retry);
  for (int64_t number = 1;; ++number) {
    const absl::Status end = RunSession(number);
    const bool refusal = IsRefusal(end);
    SetState(refusal ? v1::SESSION_STATE_REFUSED : v1::SESSION_STATE_CONNECTING, end);
    if (lasted_) {
      lost.Reset();
      refused.Reset();
    }
    // On top of what was asked for: agents that were told the same time do not come back together.
    const std::chrono::nanoseconds wait = AskedWait(end) + (refusal ? refused : lost).Next(options_.random);
    MutexLock lock(mu_);
    if (stop_) return;
    VIOMMU_LOG(kWarning, refusal ? "session refused" : "session ended",
               {{"reason", ReasonName(ReasonOf(end))},
                {"status", end},
                {"retry_ms", std::chrono::duration_cast<std::chrono::milliseconds>(wait).count()}});
    const MonotonicTime until = options_.clock->Monotonic() + wait;
    for (auto now = options_.clock->Monotonic(); !stop_ && now < until; now = options_.clock->Monotonic()) {
      wake_.WaitFor(mu_, until - now);
    }
    if (stop_) return;
  }
}

absl::Status SessionClient::RunSession(int64_t number) {
  lasted_ = false;
  {
    MutexLock lock(mu_);
    if (stop_) return absl::CancelledError("the agent is stopping");
    session_ = number;
    replies_.clear();
    io_ = {};
    news_ = true;  // the hello
  }
  auto hello = options_.make_hello();
  VIOMMU_RETURN_IF_ERROR(hello.status());
  Session session(number, *std::move(hello), work_, calls_, options_.clock->Monotonic(), options_.random,
                  options_.fill_heartbeat);
  const auto stub = v1::AgentService::NewStub(options_.make_channel());
  Stream stream(*this);
  stream.Start(*stub);
  const absl::Status own = Converse(session, stream);
  lasted_ = session.HasLasted(options_.clock->Monotonic());
  stream.Release();
  MutexLock lock(mu_);
  while (!io_.end) wake_.Wait(mu_);  // gRPC has let go of the stream then
  // Our own reason to end it is the better one: the stream then only knows that it was cancelled.
  return own.ok() ? *io_.end : own;
}

// Until the server has ended the stream (OK), or there is a reason to end it.
absl::Status SessionClient::Converse(Session& session, Stream& stream) {
  while (true) {
    Io io;
    std::deque<v1::InvalidateReply> replies;
    {
      MutexLock lock(mu_);
      while (true) {
        if (stop_) return absl::CancelledError("the agent is stopping");
        const MonotonicTime now = options_.clock->Monotonic();
        if (io_.message || io_.closed || !session.Check(now).ok()) break;
        if (io_.can_write() && (news_ || session.Deadline() <= now)) break;
        // While a write is going on, only the server's silence counts.
        const MonotonicTime until = io_.can_write() ? session.Deadline() : session.SilenceDeadline();
        wake_.WaitFor(mu_, std::clamp<std::chrono::nanoseconds>(until - now, std::chrono::milliseconds(1),
                                                                std::chrono::seconds(60)));
      }
      replies.swap(replies_);
      if (io_.can_write()) news_ = false;
      io = io_;
    }
    for (auto& reply : replies) session.AddReply(std::move(reply));
    if (io.message) {
      VIOMMU_RETURN_IF_ERROR(session.Receive(stream.incoming(), options_.clock->Monotonic()));
      if (session.state() != v1::SESSION_STATE_CONNECTING && session.state() != status().state) {
        SetState(session.state(), absl::OkStatus());
        VIOMMU_LOG(kInfo, "session", {{"state", v1::SessionState_Name(session.state())}});
      }
      Happened([](Io& now) { now.message = false; });
      stream.ReadOn();
    }
    if (io.closed) return absl::OkStatus();
    VIOMMU_RETURN_IF_ERROR(session.Check(options_.clock->Monotonic()));
    if (!io.can_write()) continue;
    if (auto request = session.Next(options_.clock->Monotonic())) {
      {
        MutexLock lock(mu_);
        io_.writing = true;
        news_ = true;  // there may be more, after this write
      }
      stream.Write(*std::move(request));
    }
  }
}

}  // namespace viommu::agent
