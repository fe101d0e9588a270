// The hardware of one emulated SMMUv3 (IHI 0070): registers, a thread that carries out commands, and the way of a
// device's access through stream table, context descriptors and translation tables, with caches that keep what they
// hold until a command removes it. What is and what is not there: docs/smmuv3.md.
//
// The host's driver (agent/smmuv3/vsmmu) does with it what Linux does with the real one:
//  - builds stream tables and stage-2 tables in memory, and programs registers;
//  - pushes commands into queue(), CMD_SYNC last, and waits with CommandQueue::WaitConsumed();
//  - answers the interrupts: global errors, events, page requests.
// In place of the ring at SMMU_CMDQ_BASE there is the process's own lock-free queue (agent/smmuv3/queue); CMDQ_PROD and
// CMDQ_CONS say where it stands. The event and the PRI queue are rings in memory as the architecture has them.
//
// Caches. A translation that was walked is filled into them only when no invalidation was carried out while it was
// being walked, because what was walked may be what was invalidated: otherwise a completed sync would not mean what it
// says. A transaction that has begun before a sync completes is itself complete before the sync is (4.7.3): a CMD_SYNC
// waits for the accesses that are under way (agent/smmuv3/emulator/in_flight.h). Those that stall are not waited for:
// they begin anew when they are resumed.
//
// A command that the SMMU cannot carry out stops the queue in front of it: CMDQ_CONS.ERR says why, GERROR.CMDQ_ERR
// becomes active, and nothing goes on until the host has written GERRORN (7.1). It then carries out again what stands
// there: the host replaces a bad command first, see ReplaceFailedCommand().
//
// Reset values: all 0 but GBPA.ABORT. As with the real one, nothing at all happens before CR0.CMDQEN is set, no event
// is recorded before EVENTQEN, and no interrupt is sent that IRQ_CTRL does not enable.
//
// Threads. All methods may be called from any thread, also from handlers where nothing else is said. Accesses run on
// the caller's thread, in parallel; one that hits in the caches takes one short lock for each page that it touches.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "agent/smmuv3/emulator/atc_invalidations.h"
#include "agent/smmuv3/emulator/caches.h"
#include "agent/smmuv3/emulator/event_queue.h"
#include "agent/smmuv3/emulator/in_flight.h"
#include "agent/smmuv3/emulator/interrupts.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/page_requests.h"
#include "agent/smmuv3/emulator/stalls.h"
#include "agent/smmuv3/emulator/transaction.h"
#include "agent/smmuv3/emulator/translate.h"
#include "agent/smmuv3/queue/command_queue.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/registers.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// Sizes of what the architecture leaves to the implementation.
struct SmmuOptions {
  uint32_t queue_log2_size = 12;    // entries of the command queue; at most IDR1.CMDQS and kMaxQueueLog2Size
  uint32_t tlb_capacity = 8192;     // entries
  uint32_t config_capacity = 4096;  // entries and descriptors
  uint32_t atc_capacity = 512;      // translations in each device
  uint32_t max_stalled = 64;        // transactions that may be stalled at a time; a further one is terminated
  // Throws cached entries out at random, by this seed, so that nobody relies on what is stale. Unset: never.
  std::optional<uint64_t> eviction_seed;
  // How long a device may take to answer an ATC invalidation (PCIe: about a minute; here what tests can wait for).
  std::chrono::nanoseconds atc_timeout = std::chrono::milliseconds(100);
  // Whether commands are carried out by a thread of the SMMU's own, as real ones are beside the CPUs. Without, whoever
  // waits for them carries them out: for one thread that has everything happen in an order that it can repeat. A CMDQV
  // beside it has none either.
  bool own_thread = true;
};

struct SmmuCounters {
  std::array<uint64_t, 256> executed = {};  // commands by opcode byte
  uint64_t command_errors = 0;
  uint64_t events_recorded = 0;
  uint64_t events_lost = 0;    // the event queue was full, off, or in error
  uint64_t fills_dropped = 0;  // fills that met an invalidation
  uint64_t transactions = 0;   // one for each page that an access touches
  uint64_t walks = 0;          // translations that the TLB did not have
  uint32_t tlb_entries = 0;
  uint32_t atc_entries = 0;
  uint32_t config_entries = 0;
  uint32_t stalled = 0;  // transactions waiting now
};

class EmulatedSmmu {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Interrupts that go by wire: those that no *_IRQ_CFG0 sends to memory. Each is called without locks held, on the
  // thread that caused it: the one that carries them out for commands, the caller's of an access or of WriteRegister().
  // It says "look", not how often: who has emptied a queue and written CONS reads PROD once more. A handler must not
  // destroy the SMMU, nor wait for the completion of commands.
  struct Handlers {
    std::function<void()> on_gerror;        // an error in GERROR has become active (IRQ_CTRL bit 0)
    std::function<void()> on_event;         // the event queue is no longer empty, or has overflowed (bit 2)
    std::function<void()> on_page_request;  // likewise, the PRI queue (bit 1)
    std::function<void()> on_sync;          // a CMD_SYNC that asks for an interrupt has completed
  };

  // Starts the thread, if it is to have one; the SMMU is off (CR0 = 0), with GBPA.ABORT set. `memory` outlives it.
  // Queues are as large as IDR1 allows; a size of 0 there is taken as 2^19.
  EmulatedSmmu(std::string name, const IdRegisters& idr, uint32_t iidr, uint32_t aidr, const SmmuOptions& options,
               Memory* memory, Handlers handlers);
  // Stops the thread. Commands that are still in the queue are not carried out, and waits for them end; stalled
  // transactions are terminated. No access may be under way on another thread, unless it is stalled.
  ~EmulatedSmmu();
  EmulatedSmmu(const EmulatedSmmu&) = delete;
  EmulatedSmmu& operator=(const EmulatedSmmu&) = delete;

  const std::string& name() const { return name_; }
  const Features& features() const { return features_; }

  // ---- Registers (6.3) ----
  // Reads of what is not there give 0, writes to it or to read-only registers do nothing. A wide register takes 64
  // bits. Writes to CR0, GBPA and IRQ_CTRL are acknowledged before the call returns; clearing CR0.SMMUEN waits for
  // accesses under way and terminates the stalled ones.
  uint64_t ReadRegister(Register reg) const;
  void WriteRegister(Register reg, uint64_t value) ABSL_LOCKS_EXCLUDED(state_mu_);

  // ---- Commands ----
  // The consumer's calls of the queue belong to the SMMU.
  CommandQueue<>& queue() { return queue_; }
  // Waits until everything in front of `end` has been carried out; false when `deadline` came first. Without a thread
  // of its own the SMMU does it in here (one caller at a time), and false says that it stands still: paused, off, or at
  // an error that nobody has acknowledged.
  [[nodiscard]] bool Complete(QueuePosition end, TimePoint deadline) ABSL_LOCKS_EXCLUDED(state_mu_);
  // While GERROR.CMDQ_ERR is active: the command at which the queue stands, and why.
  struct FailedCommand {
    CommandErrorCode code = CommandErrorCode::kNone;
    RawCommand command;
  };
  std::optional<FailedCommand> failed_command() const ABSL_LOCKS_EXCLUDED(state_mu_);
  // While GERROR.CMDQ_ERR is active: overwrites the command at which the queue stands, as a driver does in the ring.
  void ReplaceFailedCommand(const RawCommand& command) ABSL_LOCKS_EXCLUDED(state_mu_);
  // The next fetch of a command from memory aborts once (CERROR_ABT).
  void FailNextFetch() { fail_next_fetch_.store(true, std::memory_order_release); }
  // Carries out one command on behalf of another queue (agent/smmuv3/emulator/cmdqv.h), on the caller's thread; kNone
  // when it was carried out. A CMD_SYNC returns when everything before it on this queue is complete. `outstanding` is
  // what that queue is waiting for; without it all such callers share one. Not to be called from a handler.
  CommandErrorCode Execute(const RawCommand& command, AtcInvalidations::Outstanding* outstanding = nullptr);
  // The same without waiting for devices: nothing when a CMD_SYNC is not complete yet and is to be tried again.
  std::optional<CommandErrorCode> TryExecute(const RawCommand& command, AtcInvalidations::Outstanding& outstanding);

  // ---- Accesses of devices (see transaction.h) ----
  // A transaction that stalls waits until it is answered, or until `stall_deadline`.
  //
  // Translates without touching memory; fills caches and records events like an access.
  Outcome Translate(const Transaction& transaction, TimePoint stall_deadline);
  // Reads or writes memory from transaction.address on, which may span pages; stops at the first page that fails.
  // transaction.write is set as the call needs it. The outcome's translation is that of the first page. Where a page
  // ends as kRazWi, the rest of `out` becomes 0.
  Outcome Read(Transaction transaction, std::span<std::byte> out, TimePoint stall_deadline);
  Outcome Write(Transaction transaction, std::span<const std::byte> in, TimePoint stall_deadline);
  // A device's translation request (`write`: it asks for write permission, too); what comes back goes into the device's
  // cache.
  AtsCompletion RequestTranslation(const Transaction& transaction);
  // The same accesses by a device that uses ATS: it looks into its cache, requests what is not there, and sends
  // translated transactions. kAborted without an event: it got no permission. A device that is told that ATS is off for
  // it sends untranslated ones.
  Outcome ReadThroughAtc(Transaction transaction, std::span<std::byte> out, TimePoint stall_deadline);
  Outcome WriteThroughAtc(Transaction transaction, std::span<const std::byte> in, TimePoint stall_deadline);
  // A device's page request (PRI). False: the queue is full or off; the device has been sent an answer (8.1).
  bool RequestPage(const PageRequest& request);
  // Answers to page requests of a stream, by CMD_PRI_RESP or by the SMMU itself, in order.
  using PageResponse = smmuv3::PageResponse;
  std::vector<PageResponse> TakePageResponses(uint32_t sid);
  // The device stops answering ATC invalidations, or answers again: then first what it has not answered yet.
  void SetDeviceResponding(uint32_t sid, bool responding);

  // ---- Looking inside, for tests and status ----
  SmmuCounters GetCounters() const;
  // Command processing stands still between the two. Pause() returns when no command is being carried out any more.
  void Pause() ABSL_LOCKS_EXCLUDED(state_mu_);
  void Resume() ABSL_LOCKS_EXCLUDED(state_mu_);

 private:
  // What became of a run of commands: the first `done` were carried out; then came the end, a sync, or an error.
  struct Progress {
    uint64_t done = 0;
    CommandErrorCode error = CommandErrorCode::kNone;
  };
  // Does something at a physical address; false when the memory refuses.
  using PhysicalUse = absl::FunctionRef<bool(const Translation&)>;
  // Moves bytes [offset, offset + length) of an access to or from a physical address.
  using Move = absl::FunctionRef<bool(uint64_t physical, uint64_t offset, uint64_t length)>;

  // ---- Commands (smmu_commands.cc) ----
  void Run() ABSL_LOCKS_EXCLUDED(state_mu_);
  bool WaitWhileHalted() ABSL_LOCKS_EXCLUDED(state_mu_);
  bool Halted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mu_);
  // Carries out the next run of commands; false when there is none.
  bool CarryOut() ABSL_LOCKS_EXCLUDED(state_mu_);
  void ReportError(CommandErrorCode code, const RawCommand& command) ABSL_LOCKS_EXCLUDED(state_mu_);
  std::optional<RawCommand> TakeReplacement() ABSL_LOCKS_EXCLUDED(state_mu_);
  Progress ExecuteRun(std::span<const RawCommand> run);
  CommandErrorCode ExecuteOne(const RawCommand& raw, AtcInvalidations::Outstanding& outstanding);
  CommandErrorCode Sync(const Command& command, AtcInvalidations::Outstanding& outstanding);
  void Count(const RawCommand& command) { executed_[OpcodeByte(command)].fetch_add(1, std::memory_order_relaxed); }

  // ---- Registers (smmu_registers.cc) ----
  TranslationSettings Settings() const;
  uint64_t ReadInterruptConfig(Register reg) const;
  void WriteInterruptConfig(Register reg, uint64_t value);
  void WriteCr0(uint32_t value) ABSL_LOCKS_EXCLUDED(state_mu_);
  bool IsEnabled(BitField cr0_bit) const { return cr0_bit.Get(cr0_.load(std::memory_order_acquire)) != 0; }

  // ---- Accesses (smmu_accesses.cc) ----
  Outcome Attempt(const Transaction& transaction, TimePoint stall_deadline, PhysicalUse use);
  std::optional<Outcome> AttemptThroughAtc(const Transaction& transaction, TimePoint stall_deadline, PhysicalUse use);
  Outcome Transfer(Transaction transaction, uint64_t length, bool use_atc, TimePoint stall_deadline, Move move);
  Outcome ReadBytes(Transaction transaction, std::span<std::byte> out, bool use_atc, TimePoint stall_deadline);
  Outcome WriteBytes(Transaction transaction, std::span<const std::byte> in, bool use_atc, TimePoint stall_deadline);

  const std::string name_;
  const bool own_thread_;
  const IdRegisters idr_;
  const uint32_t iidr_;
  const uint32_t aidr_;
  const Features features_;
  Memory* const memory_;
  CommandQueue<> queue_;

  std::atomic<uint32_t> cr0_{0};
  std::atomic<uint32_t> cr1_{0};
  std::atomic<uint32_t> cr2_{0};
  std::atomic<uint32_t> gbpa_;
  std::atomic<uint64_t> strtab_base_{0};
  std::atomic<uint32_t> strtab_base_cfg_{0};
  std::atomic<uint64_t> cmdq_base_{0};

  mutable Caches caches_;
  Translator translator_;
  InFlight in_flight_;
  Interrupts interrupts_;
  EventQueue events_;
  PageRequests page_requests_;
  Stalls stalls_;
  AtcInvalidations atc_invalidations_;
  AtcInvalidations::Outstanding own_outstanding_;     // of queue()
  AtcInvalidations::Outstanding shared_outstanding_;  // of Execute() without its own

  mutable Mutex state_mu_;
  CondVar state_changed_;
  bool stopping_ ABSL_GUARDED_BY(state_mu_) = false;
  bool paused_ ABSL_GUARDED_BY(state_mu_) = false;
  bool executing_ ABSL_GUARDED_BY(state_mu_) = false;
  FailedCommand failed_ ABSL_GUARDED_BY(state_mu_);
  std::optional<RawCommand> replacement_ ABSL_GUARDED_BY(state_mu_);
  std::atomic<bool> fail_next_fetch_{false};

  std::array<std::atomic<uint64_t>, 256> executed_ = {};
  std::atomic<uint64_t> command_errors_{0};
  std::atomic<uint64_t> transactions_{0};
  std::thread thread_;  // last: it uses everything above
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_
