// The hardware of one emulated SMMUv3 (IHI 0070): registers, a thread that carries out commands, and the way of a
// device's access through stream table, context descriptors and translation tables, with caches that keep what they
// hold until a command removes it.
//
// The host's driver (agent/smmuv3/vsmmu) does with it what Linux does with the real one:
//  - builds stream tables and stage-2 tables in memory, and programs registers;
//  - pushes commands into queue(), CMD_SYNC last, and waits with CommandQueue::WaitConsumed();
//  - answers the interrupts: global errors, events, page requests.
// In place of the ring at SMMU_CMDQ_BASE there is the process's own lock-free queue (agent/smmuv3/queue); CMDQ_PROD and
// CMDQ_CONS say where it stands. The event and the PRI queue are rings in memory as the architecture has them.
//
// Caches. A translation that was walked is filled into them only when no invalidation was carried out while it was being
// walked, because what was walked may be what was invalidated: otherwise a completed sync would not mean what it says.
// A transaction that has begun before a sync completes is itself complete before the sync is (3.21): a CMD_SYNC waits for
// the accesses that are under way.
//
// A command that the SMMU cannot carry out stops the queue in front of it: CMDQ_CONS.ERR says why, GERROR.CMDQ_ERR
// becomes active, and nothing goes on until the host has written GERRORN (7.1). It then carries out again what stands
// there: the host replaces a bad command first, see ReplaceFailedCommand().
//
// Threads. All methods may be called from any thread. Handlers run as said at each; they must not destroy the SMMU.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_SMMU_H_

// CONTRACT (implementation to follow): public interface.

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
};

struct SmmuCounters {
  std::array<uint64_t, 256> executed = {};  // commands by opcode byte
  uint64_t command_errors = 0;
  uint64_t events_recorded = 0;
  uint64_t events_lost = 0;    // the event queue was full
  uint64_t fills_dropped = 0;  // fills that met an invalidation
  uint64_t transactions = 0;
  uint64_t walks = 0;          // translations that the TLB did not have
  uint32_t tlb_entries = 0;
  uint32_t atc_entries = 0;
  uint32_t config_entries = 0;
  uint32_t stalled = 0;        // transactions waiting now
};

class EmulatedSmmu {
 public:
  // Interrupts. Each is called without locks held, on the thread that caused it: a command's (the SMMU's own thread) or
  // a transaction's (the caller's of Access()). Coalesced like edge interrupts: it says "look", not how often.
  struct Handlers {
    std::function<void()> on_gerror;  // GERROR has changed
    std::function<void()> on_event;   // the event queue is no longer empty, or has overflowed
    std::function<void()> on_page_request;  // likewise, the PRI queue
  };

  // Starts the thread; the SMMU is off (CR0 = 0), with GBPA.ABORT set. `memory` outlives it.
  EmulatedSmmu(std::string name, const IdRegisters& idr, uint32_t iidr, uint32_t aidr, const SmmuOptions& options,
               Memory* memory, Handlers handlers);
  // Stops the thread. Commands that are still in the queue are not carried out; stalled transactions are terminated.
  ~EmulatedSmmu();

  const std::string& name() const;
  const Features& features() const;

  // ---- Registers (6.3) ----
  // Reads of what is not there give 0, writes to it or to read-only registers do nothing. A wide register takes 64 bits.
  // Writes to CR0 are acknowledged (CR0ACK) before the call returns.
  uint64_t ReadRegister(Register reg) const;
  void WriteRegister(Register reg, uint64_t value);

  // ---- Commands ----
  // The consumer's calls of the queue belong to the SMMU's thread.
  CommandQueue<>& queue();
  // While GERROR.CMDQ_ERR is active: the command at which the queue stands, and why.
  struct FailedCommand { CommandErrorCode code; RawCommand command; };
  std::optional<FailedCommand> failed_command() const;
  // While GERROR.CMDQ_ERR is active: overwrites the command at which the queue stands, as a driver does in the ring.
  void ReplaceFailedCommand(const RawCommand& command);
  // The next fetch of a command from memory aborts once (CERROR_ABT).
  void FailNextFetch();
  // Carries out one command on behalf of another queue (agent/smmuv3/emulator/cmdqv.h); kNone when it was carried out.
  // A CMD_SYNC returns when everything before it on this queue is complete.
  CommandErrorCode Execute(const RawCommand& command);

  // ---- Accesses of devices (see transaction.h) ----
  // Translates without touching memory; fills caches and records events like an access.
  Outcome Translate(const Transaction& transaction, TimePoint stall_deadline);
  // Reads or writes memory, which may span pages; stops at the first page that fails.
  Outcome Read(Transaction transaction, std::span<std::byte> out, TimePoint stall_deadline);
  Outcome Write(Transaction transaction, std::span<const std::byte> in, TimePoint stall_deadline);
  // A device's translation request; what comes back goes into the device's cache, which Read() and Write() of that
  // stream then look at first (as translated transactions) when `use_atc` says so.
  AtsCompletion RequestTranslation(const Transaction& transaction);
  Outcome ReadThroughAtc(...); Outcome WriteThroughAtc(...);
  // A device's page request (PRI). False: the queue is full or off; the device has been sent an answer (8.1).
  bool RequestPage(const PageRequest& request);
  // Answers to page requests of a stream, by CMD_PRI_RESP or by the SMMU itself, in order.
  struct PageResponse { uint32_t sid; bool ssv; uint32_t ssid; uint16_t group; uint8_t response; };
  std::vector<PageResponse> TakePageResponses(uint32_t sid);
  // The device stops answering ATC invalidations, or answers again.
  void SetDeviceResponding(uint32_t sid, bool responding);

  // ---- Looking inside, for tests and status ----
  SmmuCounters GetCounters() const;
  void Pause();   // command processing stands still between the two
  void Resume();
};
}
#endif
