// One agent's session as a state machine: what came in decides what is to be done next. No gRPC, no threads, no clock.
//
// Inputs are methods; whoever drives the core calls Next after each of them, does what it says and calls it again,
// until there is nothing left to do. docs/protocol.md tells the story of a session.
//
// What it holds is bounded: names of resources that are to be sent (each once, however often it changes; they are the
// record's own), one message being written, `max_results` messages from the agent waiting for the writer, and
// `max_calls` invalidate and inspect calls of `max_call_bytes`.
//
// Not thread-safe.

#ifndef VIOMMU_SERVER_SYNC_SESSION_CORE_H_
#define VIOMMU_SERVER_SYNC_SESSION_CORE_H_

#include <google/protobuf/repeated_ptr_field.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/status/status.h"
#include "common/clock.h"
#include "server/commit/core.h"
#include "server/sync/desired.h"
#include "server/sync/difference.h"
#include "server/sync/sessions.h"
#include "viommu/v1/agent_service.pb.h"

namespace viommu::server {

class SessionCore {
 public:
  using HeldItems = google::protobuf::RepeatedPtrField<v1::HeldItem>;

  // The same for all sessions.
  struct Limits {
    std::chrono::milliseconds hello_timeout{10'000};  // from the stream's start to its hello
    std::chrono::milliseconds close_grace{5'000};     // for a message being written when the session ends
    std::chrono::milliseconds retry_delay{50};        // before results are offered again to a writer that was full
    size_t max_message_bytes = size_t{1} << 20;       // of one Desired
    int max_result_items = 1024;                      // of one message: they are one command of the one writer
    size_t max_results = 4;                           // messages not yet judged; no more are read meanwhile
    size_t max_calls = 256;                           // invalidate and inspect calls in flight
    size_t max_inspect_calls = 4;                     // of these, inspect calls: their replies are long
    size_t max_call_bytes = size_t{8} << 20;          // of calls in flight
    size_t max_unknown_uids = 65'536;                 // to be told after the hello's difference
  };

  enum class Phase {
    kHello,      // nothing heard yet
    kJudging,    // its hello is with the writer
    kComparing,  // the difference is being worked out
    kWaiting,    // welcome; others are being sent what they lack
    kSyncing,    // is being sent what it lacks
    kFollowing,  // has everything, gets changes
    kClosed,
  };

  // A call that is over, with the agent's reply to it.
  using CallDone = std::function<void(absl::StatusOr<v1::ConnectRequest>)>;
  struct Answer {
    CallDone done;
    absl::StatusOr<v1::ConnectRequest> reply;
  };

  // What is to be done, in the order of the members. Everything is said once.
  struct Step {
    std::unique_ptr<v1::Hello> hello;              // to be checked and judged: then HelloJudged, or Close
    std::vector<v1::Results> results;              // to be judged, in order: then ResultsJudged or ResultsNotTaken each
    std::unique_ptr<HeldItems> compare;            // work out the difference to these: then Compared
    bool want_slot = false;                        // ask to be let sync: then SlotGranted
    bool release_slot = false;                     // another one may sync; also when it was only waiting for it
    std::unique_ptr<v1::ConnectResponse> message;  // to be written: then Written
    std::optional<DesiredWork> desired;            // to be built: then Built
    bool read = false;                             // start reading: then Heard or StreamEnded
    bool ended = false;                            // the session is over
    std::vector<Answer> answers;                   // to be given
    bool cancel = false;                           // break the stream off: the write does not end by itself
    std::optional<absl::Status> finish;            // end the stream; nothing is done with it afterwards

    bool empty() const;
  };

  // `limits` and `identity` must outlive the core. `id` sets sessions apart.
  SessionCore(const Limits& limits, const Identity& identity, int64_t id, MonotonicTime now)
      : limits_(limits), identity_(identity), id_(id), last_heard_(now), lease_(limits.hello_timeout) {}

  // --- From the stream.

  void Heard(std::unique_ptr<v1::ConnectRequest> message, MonotonicTime now);
  // The agent ended the stream, or it broke.
  void StreamEnded();
  void Written(bool ok);

  // --- From the writer.

  // `lease`: how long the agent may be silent. `held`: as the hello had it. Not OK: the session is refused.
  void HelloJudged(const absl::Status& status, int64_t revision, std::chrono::milliseconds lease, HeldItems held,
                   MonotonicTime now);
  void ResultsJudged(const absl::Status& status);
  // The writer's queue was full.
  void ResultsNotTaken(v1::Results results, MonotonicTime now);

  // A change of this host's record at `revision`. For Concern kSend, kForget and kTearDown.
  void Changed(Concern concern, ResourceKey key, const std::string& uid, int64_t revision);
  // The agent holds the uid, and it is no record's.
  void TearDown(const std::string& uid);

  // --- From those who do what Next says.

  void Compared(Difference difference);
  void SlotGranted();
  // Returns the message to be written now, or nullptr when nothing was left to be said.
  std::unique_ptr<v1::ConnectResponse> Built(DesiredMessage built, MonotonicTime now);

  // --- From elsewhere.

  // OK, or `done` is handed back with why not, as Sessions::Invalidate tells.
  absl::Status Invalidate(const std::string& target_uid, const std::vector<v1::Command>& commands,
                          MonotonicTime deadline, Sessions::InvalidateCallback& done, MonotonicTime now);
  absl::Status Inspect(const v1::InspectCall& call, MonotonicTime deadline, Sessions::InspectCallback& done,
                       MonotonicTime now);
  // Ends the session with what the agent is to be told.
  void Close(const absl::Status& status);
  // Ends it without waiting for a message that is being written.
  void Abort() { abort_ = true; }
  void Tick(MonotonicTime now);

  // --- Outputs.

  // `followed`: every change up to this revision has been told by Changed.
  Step Next(int64_t followed, MonotonicTime now);
  // Whether Next has something to say after Changed or ResultsJudged; other inputs are always followed by Next.
  bool WantsNext() const;
  // When Tick and Next have something to do; may be early, never late.
  MonotonicTime NextDue() const;

  Phase phase() const { return phase_; }
  bool welcomed() const { return phase_ >= Phase::kComparing && phase_ != Phase::kClosed; }
  // Why it ended; only in kClosed.
  const absl::Status& why() const { return why_; }
  MonotonicTime silent_since() const { return last_heard_; }
  // Whether nothing was heard for longer than the lease.
  bool LeaseRanOut(MonotonicTime now) const { return !paused_ && now - last_heard_ >= lease_; }
  // What the agent last said is in use, of SMMUs that its hello named.
  const std::vector<v1::SmmuUsage>& usage() const { return usage_; }
  // Resources to be sent.
  size_t pending() const { return pending_.size() + unknown_uids_.size(); }
  // By how many revisions the agent is behind what concerns it; 0 when it has answered everything.
  int64_t Lag(int64_t followed) const;

 private:
  struct Call {
    MonotonicTime deadline;
    CallDone done;
    v1::ConnectRequest::KindCase reply = v1::ConnectRequest::KIND_NOT_SET;  // that answers it
    size_t bytes = 0;
    uint32_t commands = 0;
    std::unique_ptr<v1::ConnectResponse> message;  // until it is written
  };

  void HeardResults(v1::Results results);
  void HeardHeartbeat(v1::Heartbeat heartbeat);
  void HeardReply(v1::ConnectRequest reply);
  void Violation(const std::string& what);
  // Why a call of that length cannot be made now.
  absl::Status CheckCall(MonotonicTime deadline, size_t bytes, MonotonicTime now) const;
  void StartCall(Call call);
  void EndCall(absl::btree_map<int64_t, Call>::iterator call, absl::StatusOr<v1::ConnectRequest> reply);
  void NextWrite(Step& step, int64_t followed, MonotonicTime now);
  bool NextCall(Step& step);
  bool NextDesired(Step& step, int64_t followed);
  bool HasDesired() const;
  bool AllAnswered() const;
  void StartWrite(MonotonicTime now);
  // At most a third of the lease, and not the same for all: sessions that began together drift apart.
  std::chrono::nanoseconds HeartbeatInterval() const;

  const Limits& limits_;
  const Identity& identity_;
  const int64_t id_;

  Phase phase_ = Phase::kHello;
  absl::Status why_;
  bool ended_told_ = false;
  bool finished_ = false;
  bool abort_ = false;
  bool aborted_ = false;

  // Reading.
  bool reading_ = false;
  bool paused_ = false;  // reading waits for the writer: the agent's silence is our doing
  MonotonicTime last_heard_;
  std::chrono::milliseconds lease_;
  std::unique_ptr<v1::Hello> hello_;
  std::vector<v1::Results> results_;  // to be judged
  size_t judging_ = 0;                // results with the writer
  MonotonicTime retry_at_{};          // not before this are results offered to the writer

  // Writing.
  bool writing_ = false;
  bool building_ = false;      // a DesiredWork is out
  bool mark_written_ = false;  // the message being written has the sync mark
  MonotonicTime write_started_{};
  MonotonicTime closed_at_{};
  MonotonicTime next_heartbeat_ = MonotonicTime::max();
  bool welcome_due_ = false;
  bool heartbeat_due_ = false;
  bool calls_first_ = true;  // calls and changes take turns

  // What is to be sent.
  std::unique_ptr<HeldItems> compare_;
  bool want_slot_ = false;
  bool slot_ = false;  // has asked for one or has one
  bool release_slot_ = false;
  absl::btree_set<ResourceKey> pending_;
  ResourceKey last_sent_{Kind::kStage2Domain, ""};  // sending goes round in order, so that nothing waits for ever
  std::vector<std::string> unknown_uids_;
  int64_t nonce_ = 0;             // of the last Desired
  int64_t last_items_nonce_ = 0;  // of the last one with items
  int64_t answered_nonce_ = 0;
  int64_t claimed_ = 0;             // the agent was told that it has everything up to this revision
  std::vector<std::string> smmus_;  // as the hello named them, ordered
  std::vector<v1::SmmuUsage> usage_;
  int64_t settled_ = 0;  // all that concerns it up to this revision is answered
  // Once this nonce is answered, all up to this revision is; 0: none under way.
  int64_t checkpoint_nonce_ = 0;
  int64_t checkpoint_revision_ = 0;

  // Invalidate and inspect calls, by id; those from next_unwritten_call_ on wait to be written.
  absl::btree_map<int64_t, Call> calls_;
  int64_t last_call_id_ = 0;
  int64_t next_unwritten_call_ = 1;
  size_t call_bytes_ = 0;
  size_t inspect_calls_ = 0;
  bool inspects_ = false;  // the agent answers inspect calls
  std::vector<Answer> answers_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_SESSION_CORE_H_
