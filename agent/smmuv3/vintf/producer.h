// The producer of one guest-owned command queue (Tegra241 VCMDQ): what a VMM, or an agent inside the guest, links to
// put commands into a queue that AllocHwQueue() made, through the page that MapVintf() gave. It needs no gRPC and no
// agent in its address space: a page, and the queue's memory.
//
//   auto page = VintfPage::Map(fd, offset, length);
//   VcmdqProducer queue(page, 0, ring);
//   if (!queue.Enable(deadline)) ...
//   queue.Submit(commands, deadline);
//   queue.Sync(deadline);
//
// What a queue carries: CMD_TLBI_NH_ASID, CMD_TLBI_NH_VA, CMD_ATC_INV with the guest's StreamIDs, and CMD_SYNC without
// a signal. The VMID of a command does not matter. Everything else goes the slow way, through Invalidate().
//
// Errors. The hardware stops in front of a command that it cannot carry out and says why: WaitResult::kError. Nothing
// behind it has been carried out, everything in front of it has. The owner replaces the command (ReplaceFailed()),
// acknowledges (Acknowledge()), and the hardware goes on where it stopped: what it had been given is still there.
//
// Threads. One producer at a time for each queue: calls on one object need a lock around them. Queues are independent.

#ifndef VIOMMU_AGENT_SMMUV3_VINTF_PRODUCER_H_
#define VIOMMU_AGENT_SMMUV3_VINTF_PRODUCER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "agent/smmuv3/spec/words.h"
#include "agent/smmuv3/vintf/page.h"

namespace viommu::smmuv3 {

class VcmdqProducer {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  enum class WaitResult : uint8_t {
    kDone,
    kError,     // the queue stands at an error; error() says which
    kTimedOut,  // the deadline came first
  };
  struct SubmitResult {
    WaitResult result = WaitResult::kDone;
    size_t submitted = 0;  // commands that are in the queue now, from the front
  };
  struct QueueError {
    uint32_t code = 0;   // CommandErrorCode of agent/smmuv3/spec/registers.h: 1 CERROR_ILL, 2 CERROR_ABT, ...
    uint32_t index = 0;  // place in the ring of the command that the hardware stands at
    RawCommand command;  // what is there
  };

  // `ring` is the queue's memory, as long as AllocHwQueue() was told: 16 bytes times a power of two from 2 to 2^19.
  // It outlives the producer.
  VcmdqProducer(std::shared_ptr<VintfPage> page, uint32_t lvcmdq, std::span<std::byte> ring);

  // Switches the queue off, empties it, forgets a pending error, and switches it on. False when the hardware did not
  // follow until `deadline`.
  [[nodiscard]] bool Enable(TimePoint deadline);
  // Switches the queue off; what is in it is not carried out.
  [[nodiscard]] bool Disable(TimePoint deadline);

  // Puts the commands into the queue, in order; waits for room as long as `deadline` allows. Does not wait for them to
  // be carried out.
  SubmitResult Submit(std::span<const RawCommand> commands, TimePoint deadline);

  // Puts a CMD_SYNC into the queue and waits until it is complete: everything submitted before has taken effect. After
  // kTimedOut it is still in the queue, or did not fit in.
  WaitResult Sync(TimePoint deadline);

  // Entries that the hardware has not taken yet.
  uint32_t pending() const;
  uint32_t capacity() const { return mask_ / 2 + 1; }

  // While there is an error.
  std::optional<QueueError> error() const;
  // While there is an error: overwrites the command that the hardware stands at; a CMD_SYNC skips it.
  void ReplaceFailed(const RawCommand& command);
  // The hardware goes on, with the command that it stood at.
  void Acknowledge();

 private:
  uint32_t Cons() const;
  bool InError() const;
  void Write(uint32_t position, const RawCommand& command);
  // Writes a register and wakes the hardware.
  void Ring(cmdqv::QueueRegister reg, uint32_t value);
  template <typename Ready>
  bool WaitFor(Ready ready, TimePoint deadline) const;

  const std::shared_ptr<VintfPage> page_;
  const uint32_t lvcmdq_;
  uint64_t* const words_;
  const uint32_t mask_;  // of a position: index and wrap bit
  uint32_t prod_ = 0;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_VINTF_PRODUCER_H_
