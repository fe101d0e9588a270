// Global errors and interrupts of an SMMU (IHI 0070, 3.18, 6.3.18 to 6.3.23, 7.5).
//
// An interrupt is a write to memory (MSI) where its *_IRQ_CFG0 has an address and IDR0.MSI is set, else a wire: a
// handler that is called. An MSI that the memory refuses is a global error itself.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_INTERRUPTS_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_INTERRUPTS_H_

#include <array>
#include <cstdint>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/spec/bits.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

enum class Interrupt : uint8_t { kGerror, kEventq, kPriq };

// *_IRQ_CFG0 to 2.
struct InterruptConfig {
  uint64_t address = 0;
  uint32_t data = 0;
  uint32_t attributes = 0;
};

// Thread-safe. Handlers are called without locks held, on the thread that caused the interrupt.
class Interrupts {
 public:
  struct Wires {
    std::function<void()> gerror;
    std::function<void()> eventq;
    std::function<void()> priq;
    std::function<void()> sync;
  };

  Interrupts(const Features& features, Memory* memory, Wires wires);

  // ---- Interrupts ----
  void Raise(Interrupt interrupt) ABSL_LOCKS_EXCLUDED(mu_);
  // CMD_SYNC with CS = SIG_IRQ: writes `data` when there are MSIs and `address` is not 0, and pulls the wire.
  void SignalSync(uint64_t address, uint32_t data) ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Global errors ----
  // Makes the error active, with its interrupt; does nothing when it is active already.
  void RaiseError(BitField error) ABSL_LOCKS_EXCLUDED(mu_);
  bool IsActive(BitField error) const ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Registers ----
  uint32_t gerror() const ABSL_LOCKS_EXCLUDED(mu_);
  uint32_t gerrorn() const ABSL_LOCKS_EXCLUDED(mu_);
  void WriteGerrorn(uint32_t value) ABSL_LOCKS_EXCLUDED(mu_);
  uint32_t control() const ABSL_LOCKS_EXCLUDED(mu_);
  void WriteControl(uint32_t value) ABSL_LOCKS_EXCLUDED(mu_);
  InterruptConfig config(Interrupt interrupt) const ABSL_LOCKS_EXCLUDED(mu_);
  // Ignored while the interrupt is enabled: the registers are read-only then (6.3.18).
  void WriteConfig(Interrupt interrupt, const InterruptConfig& config) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  bool Write(uint64_t address, uint32_t data);

  const bool has_msi_;
  const uint64_t address_mask_;
  Memory* const memory_;
  const Wires wires_;
  mutable Mutex mu_;
  uint32_t gerror_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t gerrorn_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t control_ ABSL_GUARDED_BY(mu_) = 0;
  std::array<InterruptConfig, 3> configs_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_INTERRUPTS_H_
