// The agent's core: what should be, what is, and the way from one to the other.
//
// It takes commands (Accept), writes them to the journal before anything is done about them, and works them off in the
// order of their dependencies (Run), with waits between failed attempts that grow per resource. What became of each is
// collected for the session (TakeResults).
//
//   vdevices that go → what is to be made anew of something else, from the top down → devices of vdevices that come →
//   stage 2 → viommu → nested domain → vdevice, attach → nested domains, viommus, stage 2s that go
//
// Beliefs. In the boot in which the server last said that the agent has everything, the journal is enough to work from,
// also without a server. In another boot nothing from before is believed: no step is taken before the server's next
// sync mark. The objects of an earlier process are gone in either case, with the process that had them open, unless the
// backend kept their context and it was adopted (agent/reconcile/kept.h).
//
// Deterministic: time and randomness come in through Options, the backend and the journal's disk are seams. No threads
// of its own; not thread-safe (reconcile/driver.h makes it so).

#ifndef VIOMMU_AGENT_RECONCILE_RECONCILER_H_
#define VIOMMU_AGENT_RECONCILE_RECONCILER_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/reconcile/backoff.h"
#include "agent/reconcile/guest_events.h"
#include "agent/reconcile/journal.h"
#include "agent/reconcile/kept.h"
#include "agent/reconcile/realizer.h"
#include "agent/reconcile/targets.h"
#include "common/clock.h"
#include "common/uuid.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/local_service.pb.h"

namespace viommu::agent {

class Reconciler {
 public:
  struct Options {
    std::string host;        // "hosts/h1"
    std::string boot_id;     // of the running system
    std::string cluster_id;  // obey servers of this cluster only; empty: of the first one met
    const Clock* clock = &RealClock();
    RandomSource random;
    std::function<std::string()> new_agent_id = NewUuid;  // for a new journal
    std::chrono::nanoseconds first_retry = std::chrono::milliseconds(500);
    std::chrono::nanoseconds longest_retry = std::chrono::seconds(30);
    // Who reads viommus' event queues, and must outlive the reconciler; without, none are made.
    GuestEvents* events = nullptr;
    // Each outcome as it becomes known. Optional.
    std::function<void(ItemKind, v1::Outcome)> on_outcome;
  };

  // Everything must outlive it. Gives a new journal its identity.
  //   FAILED_PRECONDITION  the journal is of another host
  static absl::StatusOr<std::unique_ptr<Reconciler>> Open(Journal& journal, Backend& backend, Targets& targets,
                                                          const Inventory& inventory, Options options,
                                                          std::vector<AdoptedContext> adopted = {});

  // ---- The session

  // Fills in who the agent is and what it holds.
  void FillHello(v1::Hello& hello) const;

  // A session begins. Remembers the server's identity; results from here on are collected for it, beginning with a
  // repetition of everything that is known: the server may have lost it.
  //   FAILED_PRECONDITION  CLUSTER_MISMATCH, STORE_INCARNATION_MISMATCH, STALE_EPOCH, STORE_OUT_OF_DATE: not to be
  //   obeyed UNAVAILABLE          the journal
  absl::Status BeginSession(const v1::Welcome& welcome);
  void EndSession();

  // Takes commands, and leaves the backend alone. What is older than what is held, or was released, is answered and
  // changes nothing.
  //   FAILED_PRECONDITION  STALE_EPOCH
  //   INVALID_ARGUMENT     PROTOCOL_VIOLATION
  //   UNAVAILABLE          the journal; nothing was taken
  absl::Status Accept(const v1::Desired& desired);

  // Up to `max` results of the session, of each resource the latest. False when there are none.
  bool TakeResults(int max, v1::Results& results);
  bool has_results() const { return !outbox_.empty(); }

  // ---- The work

  // Works until about `max_changes` changes were made at the backend or nothing is due. Attempts that change nothing
  // (failures above all), and looks at resources that are not due, end it as well, after kAttemptsPerChange and
  // kLooksPerChange times as many; the next call goes on where this one ended. Returns when to come again: now or
  // earlier when there is more to do; nothing when only a command can change something.
  std::optional<MonotonicTime> Run(int max_changes);
  static constexpr uint64_t kAttemptsPerChange = 4;
  static constexpr uint64_t kLooksPerChange = 64;

  // ---- Guests' memory and hardware queues: see Realizer. What waits for memory is due again.
  absl::Status MapMemory(const std::string& vm, uint64_t iova, VmMemory::Range range);
  absl::StatusOr<uint64_t> UnmapMemory(VmMemory::Owner owner, const std::string& vm, uint64_t iova, uint64_t length) {
    return realizer_.UnmapMemory(owner, vm, iova, length);
  }
  absl::StatusOr<OpenedHwQueue> OpenHwQueue(VmMemory::Owner owner, VmMemory::User user, const std::string& name) {
    return realizer_.OpenHwQueue(owner, user, name);
  }
  absl::Status CheckReader(VmMemory::User user, const std::string& viommu) const {
    return realizer_.CheckReader(user, viommu);
  }
  std::map<std::string, uint64_t> UnclaimedBytes() const { return realizer_.UnclaimedBytes(); }
  void ForgetOwner(VmMemory::Owner owner) {
    ++bumps_;
    realizer_.ForgetOwner(owner);
  }

  // ---- Drift

  static constexpr int kMaxInspectedItems = 1000;
  static constexpr size_t kMaxInspectReplyBytes = size_t{1} << 20;  // of items; one alone may be longer
  static constexpr int kMaxStrays = 1000;                           // told in one reply

  // What is held after call.after_uid, as many as asked for and fit. With call.repair also begins to mend what is
  // missing or different among them, tries what has failed at once, and ends strays with the last items. Objects are
  // judged as they are at the backend when their context is first looked at.
  void Inspect(const v1::InspectCall& call, v1::InspectReply& reply);

  // Objects that are not as they should be, over everything that is held.
  struct DriftCounts {
    uint64_t missing = 0;
    uint64_t different = 0;
    uint64_t strays = 0;
    uint64_t unknown = 0;  // which the backend cannot tell
  };
  DriftCounts CountDrift() const;

  // ---- How it stands

  const HeldState& held() const { return journal_.state(); }
  int64_t revision() const { return revision_; }
  // Resources looked at by Run() so far.
  uint64_t looks() const { return looks_; }
  // Whether there are kernel objects of this item.
  bool HasObjects(const std::string& uid) const { return realizer_.HasObjects(uid); }
  // Whether work may be done: see Beliefs.
  bool believes() const { return believes_; }
  // "applied", "dormant", "failed", "releasing", "waiting".
  std::map<std::string, uint64_t> Counts() const;
  // Up to `max` held objects behind (name, uid) in the order of both.
  std::vector<v1::HeldObject> List(const std::pair<std::string, std::string>& after, size_t max) const;

 private:
  struct Runtime {
    Step last;
    bool attempted = false;  // `last` speaks of the current generation
    std::optional<v1::ItemResult> answer;
    Backoff backoff;
    MonotonicTime due{};
    uint64_t seen_version = 0;
    std::vector<int64_t> nonces;  // messages that wait for an answer

    explicit Runtime(Backoff b) : backoff(b) {}
  };
  // What an item that is not as it should be is in need of.
  enum class Task {
    kMake,
    kUnmake,   // and then kMake: what is there is not what it can come of
    kRelease,  // it is deleting
  };
  static constexpr size_t kTasks = 3;
  // How far a walk through the phases has come: of `phase` everything up to `after` was seen.
  struct Sweep {
    size_t phase = 0;
    std::string after;
    bool worked = false;  // something was attempted: walk again
  };

  Reconciler(Journal& journal, Backend& backend, Targets& targets, const Inventory& inventory, Options options);
  // Contexts that are kept and were not adopted are closed.
  void Adopt(std::vector<AdoptedContext> adopted);
  absl::Status Note(journal::Kept note);
  absl::Status NoteUser(journal::VmUser user);

  // Anything that could let a waiting resource go on changes it.
  uint64_t version() const { return realizer_.changes() + bumps_; }
  static size_t SetOf(ItemKind kind, Task task);
  Task TaskOf(const HeldItem& item) const;
  void Deactivate(ItemKind kind, const std::string& uid);
  bool IsDue(const Runtime& runtime, MonotonicTime now) const;
  // Tries what event queues are lacking, until one fails again or `stop_at` changes have been made. Returns when to
  // come again; nothing when none are lacking.
  std::optional<MonotonicTime> RetryEventQueues(MonotonicTime now, uint64_t stop_at);
  void Settle(const std::string& uid, const Step& step);
  // What was there of it has ended.
  void SettleUnmade(const HeldItem& item);
  void SettleReleased(const HeldItem& item, Runtime& runtime);
  void Answer(Runtime& runtime, v1::ItemResult result, ItemKind kind);
  // Queues the result for the session, if there is one.
  void Send(const v1::ItemResult& result);
  Runtime& RuntimeOf(const std::string& uid);
  void Activate(const std::string& uid);
  // What a message comes to.
  struct Sorting {
    journal::Record intent;
    journal::Record gone;                   // tombstones of what was never held
    std::map<std::string, int> in_message;  // uid → index in the intent
    std::vector<v1::ItemResult> answers;    // known at once
    std::vector<std::string> repeated;      // uids held already whose answer is still to come
  };
  // The fate of one item of a message.
  absl::Status Sort(const v1::Resource& item, Sorting& sorting) const;
  // uids of those of the items that are held, and whose objects cannot be changed to what they are to be.
  std::vector<std::string> FindOutdated(const journal::Intent& intent) const;
  void Expect(const std::string& uid, int64_t nonce);
  absl::Status AdvanceRevision(const v1::Desired& desired);
  absl::Status Begin(const HeldItem& item, Operation operation);

  Journal& journal_;
  Targets& targets_;
  const Options options_;
  Realizer realizer_;
  bool believes_ = false;
  absl::btree_map<std::string, std::unique_ptr<Runtime>> runtimes_;  // by uid, of held items
  // uids that are not as they should be, by kind and task.
  std::array<absl::btree_set<std::string>, kTasks * kItemKinds> active_;
  Sweep sweep_;
  Backoff queue_backoff_;
  std::optional<MonotonicTime> queues_due_;  // when lacking event queues are tried
  uint64_t looks_ = 0;
  uint64_t bumps_ = 0;

  // Of the session.
  bool in_session_ = false;
  bool in_sync_ = false;
  int64_t epoch_ = 0;
  int64_t revision_ = 0;
  int64_t last_nonce_ = 0;
  int64_t answered_nonce_ = 0;                           // as last told
  absl::btree_map<int64_t, int> open_nonces_;            // items without an answer, by message
  absl::btree_map<std::string, v1::ItemResult> outbox_;  // by uid
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_RECONCILER_H_
