// The CMDQV beside one SMMU: virtual interfaces that guests own, each with queues of its own, and a thread that carries
// out what guests put into them. Offsets, fields and words: agent/smmuv3/spec/cmdqv.h.
//
// The host's driver programs it through the methods below, which stand for the configuration page and for page 1 of the
// interfaces; page 0 of an interface is the memory that DupPage() hands out.
//
// Turns. The thread goes round: it looks at the registers of every queue, which costs little where nothing has changed,
// and takes at most run_limit commands; then it is the next queue's turn. A guest that always has something waiting, or
// whose queue meets an error again as soon as it is acknowledged, takes its turn and no more. When a round finds
// nothing the thread spins for a moment, yields for some more, then sleeps: until a producer wakes it through the
// interface's wake word, or for max_sleep, whichever is first. It sleeps on the words of the interfaces that had work
// last, max_wake_words of them, because each costs about as much as a short sleep is worth; a command of another one
// may have to wait for max_sleep. After some sleeps through which nothing came at all they are long ones, on the words
// of all interfaces: what then waits for long_sleep is the command of a producer that does not wake. An interface whose
// wake word wakes the thread for nothing is left out for the rest of that sleep.
//
// Errors. A command that cannot be carried out stops its queue: CONS.ERR says why, GERROR becomes active, the queue's
// bit in LVCMDQ_ERR_MAP and the interface's in VINTF_ERR_MAP are set until the owner has acknowledged, and the error
// handler runs. Nothing is skipped: after the acknowledgement the hardware carries out what then stands at CONS.
//
// Threads. All methods from any thread. They wait at most for the turn of one queue, and go before the next one of that
// interface. The executor runs on the thread with that interface's lock held and must not call back; the error handler
// runs there without locks, and must not destroy the CMDQV.
//
// Misuse by the driver (an interface that is off, a queue that is taken, numbers out of range) ends the process.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_CMDQV_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_CMDQV_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/vcmdq.h"
#include "agent/smmuv3/emulator/vintf_filter.h"
#include "agent/smmuv3/spec/cmdqv.h"
#include "agent/smmuv3/vintf/page.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// What there is (CMDQV_PARAM); each at least 1.
struct CmdqvParameters {
  uint32_t vintfs = 2;            // with number 0; at most kMaxVintfs
  uint32_t queues_per_vintf = 2;  // at most kMaxLvcmdqsPerVintf
  uint32_t sid_slots = 16;        // of an interface; at most kMaxSidSlots
};

struct CmdqvOptions {
  uint32_t run_limit = 64;  // commands of one queue in one turn
  int spins = 64;           // empty rounds before the thread yields
  int yields = 16;          // and further ones before it sleeps
  std::chrono::nanoseconds max_sleep = std::chrono::milliseconds(1);
  std::chrono::nanoseconds long_sleep = std::chrono::milliseconds(16);  // after 16 of those
  uint32_t max_wake_words = 16;  // interfaces in a short sleep, at most kMaxVintfs
  // Without a thread what waits is carried out by RunTurns() alone: for one thread that has everything happen in an
  // order that it can repeat.
  bool own_thread = true;
};

// LVCMDQ_ERR_MAP of an interface: bit n of word n / 64 is its queue n.
using LvcmdqErrMap = std::array<uint64_t, 2>;

class Cmdqv {
 public:
  using ErrorHandler = std::function<void(const LvcmdqErrMap& map)>;

  // `memory` outlives it. The thread, if there is to be one, starts with the first queue.
  Cmdqv(const CmdqvParameters& parameters, const CmdqvOptions& options, Memory* memory, CommandExecutor executor);
  // Stops the thread. What is still in queues is not carried out.
  ~Cmdqv();
  Cmdqv(const Cmdqv&) = delete;
  Cmdqv& operator=(const Cmdqv&) = delete;

  const CmdqvParameters& parameters() const { return parameters_; }

  // ---- Interfaces ----

  // Gives an interface that is off to an owner: VMID, HYP_OWN, no SID slot in use, and a page 0 that no former owner
  // has ever seen. `on_error` is told of errors of its queues; it may be called once more, late, after DisableVintf().
  // False, with errno, when there is no memory for the page.
  [[nodiscard]] bool EnableVintf(uint32_t vintf, uint16_t vmid, bool hyp_own, ErrorHandler on_error);
  // Takes it back. Its queues have been released before. Who still has the page mapped has memory that nobody looks at.
  void DisableVintf(uint32_t vintf);
  // The page, for mmap(fd, 0, kPageBytes): a new descriptor that the caller owns; -1 with errno.
  int DupPage(uint32_t vintf);

  // SID_MATCH and SID_REPLACE. `slot.virt_sid` has 20 bits.
  void SetSidSlot(uint32_t vintf, uint32_t index, const SidSlot& slot);
  void ClearSidSlot(uint32_t vintf, uint32_t index);

  uint64_t VintfErrMap() const { return vintf_err_map_.load(std::memory_order_acquire); }
  LvcmdqErrMap ErrMap(uint32_t vintf) const;

  // ---- Queues ----

  // Puts queue `lvcmdq` of the interface at physical address `base`, aligned to its size of 2^log2_size commands
  // (BASE, CMDQ_ALLOC_MAP). The owner switches it on.
  void AssignQueue(uint32_t vintf, uint32_t lvcmdq, uint64_t base, uint32_t log2_size);
  // Without a thread of its own: gives every queue its turn until none has anything to do. With one: does nothing. From
  // one thread at a time.
  void RunTurns();
  // Switches the queue off for good. When it returns, no command of this queue is being carried out nor will be.
  void DisableQueue(uint32_t vintf, uint32_t lvcmdq);
  // After DisableQueue(): clears its registers and a pending error. The queue can be assigned again.
  void ReleaseQueue(uint32_t vintf, uint32_t lvcmdq);

  // ---- Looking inside, for tests and status ----

  const VcmdqCounters& counters() const { return counters_; }
  // Times that the thread went to sleep, long ones among them, and times that it woke up for nothing.
  uint64_t sleeps() const { return sleeps_.load(std::memory_order_relaxed); }
  uint64_t long_sleeps() const { return long_sleeps_.load(std::memory_order_relaxed); }
  uint64_t vain_wakes() const { return vain_wakes_.load(std::memory_order_relaxed); }

 private:
  struct Vintf {
    Mutex mu;
    bool enabled ABSL_GUARDED_BY(mu) = false;
    VintfFilter filter ABSL_GUARDED_BY(mu);
    std::shared_ptr<VintfPage> page ABSL_GUARDED_BY(mu);
    std::shared_ptr<const ErrorHandler> on_error ABSL_GUARDED_BY(mu);
    std::vector<Vcmdq> queues ABSL_GUARDED_BY(mu);
    uint32_t assigned ABSL_GUARDED_BY(mu) = 0;  // queues
    std::array<std::atomic<uint64_t>, 2> err_map = {};
  };
  // A queue that the thread looks at, and what it saw when it last had nothing to do there.
  struct Watch {
    std::shared_ptr<VintfPage> page;
    VcmdqId id;
    uint32_t config = 0;
    uint32_t prod = 0;
    uint32_t gerrorn = 0;
    bool idle = false;
  };
  // An interface whose wake word the thread sleeps on.
  struct Sleeper {
    std::shared_ptr<VintfPage> page;
    uint64_t last_work = 0;
    uint32_t wakes = 0;  // in this sleep
  };
  class ControlLock;

  Vintf& At(uint32_t vintf, uint32_t lvcmdq = 0);
  static Vcmdq& QueueAt(Vintf& v, uint32_t lvcmdq) ABSL_EXCLUSIVE_LOCKS_REQUIRED(v.mu);
  // Shows whether the queue stands at an error in both maps.
  void ShowError(Vintf& v, uint32_t vintf, uint32_t lvcmdq, bool error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(v.mu);
  void StartThread() ABSL_LOCKS_EXCLUDED(thread_mu_);
  void WakeThread();

  // The thread's.
  void Run();
  // One turn for every queue; true when something happened.
  bool Round();
  void CollectWatches();
  Vcmdq::Turn Turn(VcmdqId id);
  // Returns when there may be something to do; true when the time went by, nobody woke the thread and no queue waits.
  bool Sleep(bool long_one);
  void CollectSleepers(uint32_t most);
  // Sleeps; whose word was woken, where that is known.
  Sleeper* WaitForWake(uint32_t seen, std::chrono::steady_clock::time_point deadline);
  // After a wake: the words are set again, and who woke is counted. False when it cannot be told who it was.
  bool ArmAgain(Sleeper* woken);

  const CmdqvParameters parameters_;
  const CmdqvOptions options_;
  Memory* const memory_;
  const CommandExecutor executor_;
  std::vector<std::unique_ptr<Vintf>> vintfs_;

  std::atomic<uint64_t> vintf_err_map_{0};  // VINTF_ERR_MAP
  std::atomic<uint32_t> control_calls_{0};  // that wait for an interface's lock
  // Changes whenever queues come and go, and at the end; the thread sleeps on this word, too.
  uint32_t attention_ = 0;
  std::atomic<bool> stopping_{false};
  VcmdqCounters counters_;
  std::atomic<uint64_t> sleeps_{0};
  std::atomic<uint64_t> long_sleeps_{0};
  std::atomic<uint64_t> vain_wakes_{0};

  // The thread's.
  std::vector<Watch> watches_;
  uint32_t watches_of_ = 0;  // attention_ for which they are
  // When each interface had work, in turns; 0: never.
  std::array<uint64_t, cmdqv::kMaxVintfs> last_work_ = {};
  uint64_t turns_ = 0;
  std::vector<Sleeper> sleepers_;

  Mutex thread_mu_;
  std::thread thread_ ABSL_GUARDED_BY(thread_mu_);
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_CMDQV_H_
