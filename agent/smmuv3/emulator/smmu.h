// The hardware of one emulated SMMUv3: a thread that takes commands from the command queue and carries them out against
// the caches, in order, and completes syncs by moving the consumer's position past them (IHI 0070, chapters 4 and 7).
//
// What the host's driver does with it (agent/smmuv3/vsmmu):
//  - writes stream table entries, which the SMMU reads into its configuration cache when it needs them;
//  - pushes commands, CMD_SYNC last, and waits with CommandQueue::WaitConsumed();
//  - answers the interrupts: command errors and events.
//
// What a walk of translation tables does with it: asks the caches; on a miss takes FillEpoch(), walks, and fills with
// that epoch. A fill is dropped when an invalidation was carried out in between, because what was walked may be what
// was invalidated: otherwise a completed sync would not mean what it says.
//
// A command that the SMMU cannot carry out stops the queue in front of it: CMDQ_CONS.ERR says why, GERROR.CMDQ_ERR
// becomes active, and nothing goes on until the host has acknowledged (7.1).
//
// Threads. All methods may be called from any thread. Handlers run as said at each; they must not destroy the SMMU.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "agent/smmuv3/emulator/device_caches.h"
#include "agent/smmuv3/emulator/tlb.h"
#include "agent/smmuv3/queue/command_queue.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/event.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/ste.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// Sizes of what the architecture leaves to the implementation.
struct SmmuOptions {
  uint32_t queue_log2_size = 12;    // entries of the command queue; at most IDR1.CMDQS and kMaxQueueLog2Size
  uint32_t tlb_capacity = 8192;     // entries
  uint32_t config_capacity = 4096;  // entries and descriptors
  uint32_t atc_capacity = 512;      // translations in each device
};

// CMDQ_CONS.ERR (7.1). Fetch aborts cannot happen to a queue inside the process.
enum class CommandErrorCode : uint8_t { kNone = 0, kIllegal = 1 };

struct CommandError {
  CommandErrorCode code = CommandErrorCode::kNone;
  RawCommand command;
};

struct SmmuCounters {
  std::array<uint64_t, 256> executed = {};  // commands by opcode byte
  uint64_t command_errors = 0;
  uint64_t fills_dropped = 0;  // fills that met an invalidation
  uint32_t tlb_entries = 0;
  uint32_t atc_entries = 0;
  uint32_t config_entries = 0;
};

class EmulatedSmmu {
 public:
  // Called on the SMMU's thread when a command error has become active. The queue stands still until
  // AcknowledgeCommandError(), which may be called from in here.
  using CommandErrorHandler = std::function<void(const CommandError&)>;
  // Called with each record on the thread that raised it.
  using EventHandler = std::function<void(const RawEvent&)>;

  // Starts the thread. Stream table entries are all invalid at first.
  EmulatedSmmu(std::string name, const Features& features, const SmmuOptions& options, CommandErrorHandler on_error,
               EventHandler on_event);
  // Stops the thread. Commands that are still in the queue are not carried out, nobody may wait for them.
  ~EmulatedSmmu();
  EmulatedSmmu(const EmulatedSmmu&) = delete;
  EmulatedSmmu& operator=(const EmulatedSmmu&) = delete;

  const std::string& name() const { return name_; }
  const Features& features() const { return features_; }

  // ---- The host's driver ----

  // The consumer's calls of the queue belong to the SMMU's thread.
  CommandQueue<>& queue() { return queue_; }

  // Memory of the stream table. A write becomes effective when a CMD_CFGI_STE and a sync behind it have completed.
  void WriteSte(uint32_t sid, const RawSte& entry) ABSL_LOCKS_EXCLUDED(table_mu_);
  RawSte ReadSte(uint32_t sid) const ABSL_LOCKS_EXCLUDED(table_mu_);

  // GERROR and CMDQ_CONS.ERR: the command error that is active, if one is.
  std::optional<CommandError> ActiveCommandError() const ABSL_LOCKS_EXCLUDED(state_mu_);
  // The host has replaced the bad command by a CMD_SYNC and written GERRORN: the queue goes on behind it. Does nothing
  // when no error is active.
  void AcknowledgeCommandError() ABSL_LOCKS_EXCLUDED(state_mu_);

  // ---- Walks ----

  // Number of invalidations carried out so far.
  uint64_t FillEpoch() const { return epoch_.load(std::memory_order_acquire); }

  // False: dropped, see above.
  bool InsertTlb(const TlbEntry& entry, uint64_t epoch) ABSL_LOCKS_EXCLUDED(cache_mu_);
  bool InsertSte(uint32_t sid, const RawSte& entry, uint64_t epoch) ABSL_LOCKS_EXCLUDED(cache_mu_);
  bool InsertCd(uint32_t sid, uint32_t ssid, const RawCd& descriptor, uint64_t epoch) ABSL_LOCKS_EXCLUDED(cache_mu_);
  bool InsertAtc(uint32_t sid, const AtcEntry& entry, uint64_t epoch) ABSL_LOCKS_EXCLUDED(cache_mu_);

  std::optional<TlbEntry> LookupTlb(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                    uint64_t address) const ABSL_LOCKS_EXCLUDED(cache_mu_);
  std::optional<TlbEntry> LookupTlbTable(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                         uint64_t address) const ABSL_LOCKS_EXCLUDED(cache_mu_);
  std::optional<RawSte> LookupSte(uint32_t sid) const ABSL_LOCKS_EXCLUDED(cache_mu_);
  std::optional<RawCd> LookupCd(uint32_t sid, uint32_t ssid) const ABSL_LOCKS_EXCLUDED(cache_mu_);
  std::optional<AtcEntry> LookupAtc(uint32_t sid, std::optional<uint32_t> ssid, uint64_t address) const
      ABSL_LOCKS_EXCLUDED(cache_mu_);

  // Records an event, with the physical StreamID.
  void RaiseEvent(const RawEvent& record) { on_event_(record); }

  // ---- Everybody ----

  SmmuCounters GetCounters() const ABSL_LOCKS_EXCLUDED(cache_mu_);

  // Command processing stands still between the two, as when a device does not answer an ATC invalidation. Returns when
  // no command is being carried out any more.
  void Pause() ABSL_LOCKS_EXCLUDED(state_mu_);
  void Resume() ABSL_LOCKS_EXCLUDED(state_mu_);

 private:
  // What became of a run of commands: the first `done` were carried out; then came the end, a sync, or an illegal one.
  struct Progress {
    uint64_t done = 0;
    bool illegal = false;
  };

  void Run() ABSL_LOCKS_EXCLUDED(state_mu_, cache_mu_);
  // False: the SMMU is being destroyed.
  bool WaitWhilePaused() ABSL_LOCKS_EXCLUDED(state_mu_);
  bool ReportAndWait(const RawCommand& command) ABSL_LOCKS_EXCLUDED(state_mu_);
  Progress Execute(std::span<const RawCommand> run) ABSL_LOCKS_EXCLUDED(cache_mu_);
  void ExecuteOne(const Command& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(cache_mu_);
  bool MayFill(uint64_t epoch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(cache_mu_);

  const std::string name_;
  const Features features_;
  const CommandErrorHandler on_error_;
  const EventHandler on_event_;
  CommandQueue<> queue_;

  mutable Mutex table_mu_;
  absl::flat_hash_map<uint32_t, RawSte> stream_table_ ABSL_GUARDED_BY(table_mu_);

  mutable Mutex cache_mu_;
  Tlb tlb_ ABSL_GUARDED_BY(cache_mu_);
  ConfigCache config_ ABSL_GUARDED_BY(cache_mu_);
  AtcCaches atc_ ABSL_GUARDED_BY(cache_mu_);
  uint64_t fills_dropped_ ABSL_GUARDED_BY(cache_mu_) = 0;
  std::atomic<uint64_t> epoch_{0};  // changes under cache_mu_ alone

  mutable Mutex state_mu_;
  CondVar state_changed_;
  bool stopping_ ABSL_GUARDED_BY(state_mu_) = false;
  bool paused_ ABSL_GUARDED_BY(state_mu_) = false;
  bool executing_ ABSL_GUARDED_BY(state_mu_) = false;
  std::optional<CommandError> error_ ABSL_GUARDED_BY(state_mu_);

  std::array<std::atomic<uint64_t>, 256> executed_ = {};
  std::atomic<uint64_t> command_errors_{0};
  std::thread thread_;  // last: it uses everything above
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_
