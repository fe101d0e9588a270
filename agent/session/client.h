// Keeps a session with the server: connects, says hello, carries messages both ways, and begins again after every end,
// with growing waits.
//
// Threads. One thread thinks (the Session's logic, and through it the journal); gRPC's threads only hand over what they
// read and wrote. One message is read ahead at most, and one write is in flight, so a slow disk holds the server back
// through the stream's flow control instead of filling memory.
//
// Ends. A server that is gone or silent is tried again after 0.2 s to 15 s, doubling, with jitter. A server that
// refused this agent or gave its host to another one, or that this agent refuses to obey, is tried again after 15 s to
// 60 s: an operator has to act. Whatever the reason, not before the server's RetryInfo (of at most kLongestAsked), and
// the waits begin anew only after a session that was in sync and lasted for a lease: a session that is accepted and
// ended again and again is tried ever more slowly.

#ifndef VIOMMU_AGENT_SESSION_CLIENT_H_
#define VIOMMU_AGENT_SESSION_CLIENT_H_

#include <grpcpp/channel.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/reconcile/backoff.h"
#include "agent/session/host_work.h"
#include "agent/session/session.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "viommu/v1/agent_service.grpc.pb.h"

namespace viommu::agent {

struct SessionStatus {
  v1::SessionState state = v1::SESSION_STATE_CONNECTING;
  v1::StateReason reason;  // of the last end; empty while the session is up
  uint64_t sessions = 0;   // welcomed so far
};

class SessionClient {
 public:
  static constexpr std::chrono::minutes kLongestAsked{5};

  struct Options {
    std::function<std::shared_ptr<grpc::Channel>()> make_channel;  // called before each attempt
    // Called before each hello: the host and its devices as they are then.
    std::function<absl::StatusOr<v1::Hello>()> make_hello;
    std::function<void(v1::Heartbeat&)> fill_heartbeat;  // with what is in use now; optional
    RandomSource random;
    const Clock* clock = &RealClock();
    std::chrono::nanoseconds first_retry = std::chrono::milliseconds(200);
    std::chrono::nanoseconds longest_retry = std::chrono::seconds(15);
    std::chrono::nanoseconds first_refused_retry = std::chrono::seconds(30);
    std::chrono::nanoseconds longest_refused_retry = std::chrono::seconds(60);
  };

  // How long a session that ended so asks to be left alone; nothing, or up to kLongestAsked.
  static std::chrono::nanoseconds AskedWait(const absl::Status& end);

  // Both must outlive it.
  SessionClient(Options options, HostWork& work, InvalidateCalls& calls);
  ~SessionClient();

  void Start();
  // Ends the session. Nothing of the host is touched. Idempotent.
  void Stop();

  // Results may be there. Any thread.
  void Wake();
  // An invalidation was carried out. Any thread; of an earlier session: dropped.
  void AddReply(int64_t session, v1::InvalidateReply reply);

  SessionStatus status() const;

 private:
  class Stream;

  // What has happened on the stream.
  struct Io {
    bool message = false;  // one was read and is being used
    bool closed = false;   // no more messages will come
    bool writing = false;
    bool write_failed = false;
    std::optional<absl::Status> end;  // nothing more will happen; after Release() only

    bool can_write() const { return !writing && !write_failed && !closed; }
  };

  void Loop();
  // One connection, from hello to its end.
  absl::Status RunSession(int64_t number);
  absl::Status Converse(Session& session, Stream& stream);
  // Changes io_ and wakes the session's thread.
  template <typename F>
  void Happened(F&& change) {
    MutexLock lock(mu_);
    change(io_);
    wake_.NotifyAll();
  }
  void SetState(v1::SessionState state, const absl::Status& reason);

  const Options options_;
  HostWork& work_;
  InvalidateCalls& calls_;

  mutable Mutex mu_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  bool news_ ABSL_GUARDED_BY(mu_) = false;  // something for the conversation to look at
  int64_t session_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<v1::InvalidateReply> replies_ ABSL_GUARDED_BY(mu_);  // of session_; as many as calls were submitted
  Io io_ ABSL_GUARDED_BY(mu_);
  SessionStatus status_ ABSL_GUARDED_BY(mu_);
  bool lasted_ = false;  // of the session's thread: Session::HasLasted() of the last one
  std::thread thread_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SESSION_CLIENT_H_
