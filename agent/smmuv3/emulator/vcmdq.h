// One command queue of the CMDQV: a ring in memory, its registers in the page that it shares with whoever owns it, and
// the rules of when it runs and when it stops. No thread of its own: Cmdqv calls Run() again and again.
//
// Trust. The owner may write any word of page and ring at any time. Every word is read once and then checked. What the
// owner cannot change: where the ring is, how long it is, how far the queue has come and whether it stands at an error:
// all that is kept here, and the page has copies. A PROD that makes no sense makes the queue run through its ring, and
// meet what is there.
//
// Threads. One at a time.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_VCMDQ_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_VCMDQ_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>

#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/vintf_filter.h"
#include "agent/smmuv3/spec/registers.h"
#include "agent/smmuv3/spec/words.h"
#include "agent/smmuv3/vintf/page.h"

namespace viommu::smmuv3 {

// Which queue a command comes from.
struct VcmdqId {
  uint32_t vintf = 0;
  uint32_t lvcmdq = 0;
};

// Carries out one command, which the interface has let through; kNone when it was carried out; nothing when it is not
// complete yet and is to be tried again later (a CMD_SYNC that waits for devices: other queues must not wait for it).
using CommandExecutor = std::function<std::optional<CommandErrorCode>(const RawCommand&, VcmdqId)>;

// Commands by opcode byte, as they stood in the ring.
struct VcmdqCounters {
  std::array<std::atomic<uint64_t>, 256> done = {};     // carried out
  std::array<std::atomic<uint64_t>, 256> refused = {};  // CERROR_ILL, each time that the queue met it
  std::array<std::atomic<uint64_t>, 256> failed =
      {};  // other errors; a fetch that aborted has no opcode, it is not here
  std::atomic<uint64_t> aborted_fetches{0};
};

class Vcmdq {
 public:
  // What Run() needs of the world.
  struct Environment {
    VintfPage* page = nullptr;
    VcmdqId id;
    const VintfFilter* filter = nullptr;
    Memory* memory = nullptr;
    const CommandExecutor* executor = nullptr;
    VcmdqCounters* counters = nullptr;
    uint32_t run_limit = 0;  // commands in one Run()
  };
  struct Turn {
    bool worked = false;        // something happened: look again soon
    bool waiting = false;       // at a command that is not complete yet: look again, whatever the registers say
    bool error_raised = false;  // GERROR has become active
  };

  // log2 of the number of entries.
  static constexpr uint32_t kMinLog2Size = 1;
  static constexpr uint32_t kMaxLog2Size = 19;

  bool assigned() const { return assigned_; }
  bool error_active() const { return error_ != CommandErrorCode::kNone; }

  // Gives the queue its ring (BASE), `base` aligned to its size, and resets its registers. It is off.
  void Assign(VintfPage& page, uint32_t lvcmdq, uint64_t base, uint32_t log2_size);
  // Switches it off whatever CONFIG says; it never runs again until it is assigned again.
  void Disable(VintfPage& page, uint32_t lvcmdq);
  // After Disable(): clears PROD, CONS, a pending error and BASE.
  void Release(VintfPage& page, uint32_t lvcmdq);

  // Follows CONFIG and GERRORN, and carries out at most run_limit commands, stopping at the end of the ring.
  Turn Run(const Environment& env);

 private:
  uint32_t PositionMask() const { return (2u << log2_size_) - 1; }
  void FollowConfig(const Environment& env, bool enable);
  // Carries out `count` entries from cons_ on, which do not go over the ring's end.
  void Consume(const Environment& env, uint32_t count, Turn& turn);
  // kNone, or why the queue stops at `raw`; nothing when it has to wait there.
  static std::optional<CommandErrorCode> ExecuteOne(const Environment& env, const RawCommand& raw);
  void PublishCons(const Environment& env) const;
  void Stop(const Environment& env, CommandErrorCode code, Turn& turn);

  bool assigned_ = false;
  bool running_ = false;
  uint64_t base_ = 0;
  uint32_t log2_size_ = 0;
  uint32_t cons_ = 0;    // index and wrap bit
  uint32_t gerror_ = 0;  // the register, of which the page has a copy
  CommandErrorCode error_ = CommandErrorCode::kNone;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_VCMDQ_H_
