// Runs a Reconciler in a thread of its own and lets other threads talk to it.
//
// Locking. One mutex guards the reconciler. The thread works in portions of a bounded number of backend changes and
// lets waiting callers in between two of them, so a call waits for one portion at most (that many calls of the backend
// and writes to the journal), or for a few where callers come without end: the thread gives way for kLongestLetIn at
// most, so that they slow the work down and do not stop it. Invalidations do not come this way: they share only Targets
// with the reconciler.

#ifndef VIOMMU_AGENT_RECONCILE_DRIVER_H_
#define VIOMMU_AGENT_RECONCILE_DRIVER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "agent/reconcile/reconciler.h"
#include "agent/session/host_work.h"
#include "common/mutex.h"

namespace viommu::agent {

// What the agent's journal amounts to.
struct JournalStats {
  uint64_t size_bytes = 0;
  uint64_t compactions = 0;
  size_t tombstones = 0;
};

class Driver : public HostWork {
 public:
  static constexpr std::chrono::milliseconds kLongestLetIn{10};

  struct Options {
    int portion_changes = 64;  // changes at the backend between two looks at who is waiting
    const Clock* clock = &RealClock();
    // Each portion's time. Optional.
    std::function<void(std::chrono::nanoseconds)> on_portion;
  };

  // `journal` is the reconciler's, and must outlive the driver.
  Driver(std::unique_ptr<Reconciler> reconciler, const Journal& journal, Options options);
  // Stops; the kernel's objects go with the reconciler.
  ~Driver() override;

  void Start();
  // Returns after the portion that is running. What is made is there until the driver is destroyed. Idempotent.
  void Stop();

  // Called, with no lock held, when there are results. Before Start().
  void OnResults(std::function<void()> on_results) { on_results_ = std::move(on_results); }

  void FillHello(v1::Hello& hello) override;
  absl::Status BeginSession(const v1::Welcome& welcome) override;
  void EndSession() override;
  absl::Status Accept(const v1::Desired& desired) override;
  bool TakeResults(int max, v1::Results& results) override;
  void Inspect(const v1::InspectCall& call, v1::InspectReply& reply) override;
  int64_t revision() override;

  // See Realizer.
  absl::Status MapMemory(const std::string& vm, uint64_t iova, VmMemory::Range range);
  absl::StatusOr<uint64_t> UnmapMemory(VmMemory::Owner owner, const std::string& vm, uint64_t iova, uint64_t length);
  absl::StatusOr<OpenedHwQueue> OpenHwQueue(VmMemory::Owner owner, VmMemory::User user, const std::string& name);
  absl::Status CheckReader(VmMemory::User user, const std::string& viommu);
  std::map<std::string, uint64_t> UnclaimedBytes();
  // Not after Stop(): then it is the agent that goes, and not the owner.
  void ForgetOwner(VmMemory::Owner owner);

  std::map<std::string, uint64_t> Counts();
  Reconciler::DriftCounts CountDrift();
  std::vector<v1::HeldObject> List(const std::pair<std::string, std::string>& after, size_t max);
  bool HasObjects(const std::string& uid);
  journal::Identity identity();
  bool believes();
  JournalStats journal_stats();

 private:
  // Runs `f` on the reconciler, between two portions.
  template <typename F>
  auto Call(F&& f) ABSL_LOCKS_EXCLUDED(mu_);
  // The same for a call that may make work.
  template <typename F>
  auto CallForWork(F&& f) ABSL_LOCKS_EXCLUDED(mu_);
  void Loop();
  // One portion, or a wait for something to do. Whether there are results; sets `stop` at the end.
  bool Turn(bool& stop) ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  const Journal& journal_;
  std::function<void()> on_results_;
  std::atomic<int> callers_{0};  // waiting for their turn

  Mutex mu_;
  CondVar wake_;
  std::unique_ptr<Reconciler> reconciler_ ABSL_GUARDED_BY(mu_) ABSL_PT_GUARDED_BY(mu_);
  bool news_ ABSL_GUARDED_BY(mu_) = true;  // a call may have made work
  std::optional<MonotonicTime> due_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_DRIVER_H_
