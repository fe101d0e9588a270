#include "agent/smmuv3/emulator/interrupts.h"

#include <span>
#include <utility>

#include "agent/smmuv3/spec/registers.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kErrors = static_cast<uint32_t>(
    gerror::kCmdq.mask() | gerror::kEventqAbt.mask() | gerror::kPriqAbt.mask() | gerror::kMsiCmdqAbt.mask() |
    gerror::kMsiEventqAbt.mask() | gerror::kMsiPriqAbt.mask() | gerror::kMsiGerrorAbt.mask() | gerror::kSfm.mask());
constexpr uint32_t kControls =
    static_cast<uint32_t>(irq_ctrl::kGerrorIrqEn.mask() | irq_ctrl::kPriqIrqEn.mask() | irq_ctrl::kEventqIrqEn.mask());

BitField EnableOf(Interrupt interrupt) {
  switch (interrupt) {
    case Interrupt::kGerror:
      return irq_ctrl::kGerrorIrqEn;
    case Interrupt::kEventq:
      return irq_ctrl::kEventqIrqEn;
    case Interrupt::kPriq:
      break;
  }
  return irq_ctrl::kPriqIrqEn;
}

BitField AbortOf(Interrupt interrupt) {
  switch (interrupt) {
    case Interrupt::kGerror:
      return gerror::kMsiGerrorAbt;
    case Interrupt::kEventq:
      return gerror::kMsiEventqAbt;
    case Interrupt::kPriq:
      break;
  }
  return gerror::kMsiPriqAbt;
}

void Pull(const std::function<void()>& wire) {
  if (wire) wire();
}

}  // namespace

Interrupts::Interrupts(const Features& features, Memory* memory, Wires wires)
    : has_msi_(features.msi),
      // Addresses are cut to what there is (3.4.3).
      address_mask_(features.oas_bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << features.oas_bits) - 1),
      memory_(memory),
      wires_(std::move(wires)) {}

bool Interrupts::Write(uint64_t address, uint32_t data) {
  return memory_->Write(address & address_mask_, std::as_bytes(std::span<const uint32_t>(&data, 1)));
}

void Interrupts::Raise(Interrupt interrupt) {
  InterruptConfig config;
  {
    MutexLock lock(mu_);
    if (EnableOf(interrupt).Get(control_) == 0) return;
    config = configs_[static_cast<size_t>(interrupt)];
  }
  if (has_msi_ && config.address != 0) {
    if (!Write(config.address, config.data)) RaiseError(AbortOf(interrupt));
    return;
  }
  switch (interrupt) {
    case Interrupt::kGerror:
      return Pull(wires_.gerror);
    case Interrupt::kEventq:
      return Pull(wires_.eventq);
    case Interrupt::kPriq:
      return Pull(wires_.priq);
  }
}

void Interrupts::SignalSync(uint64_t address, uint32_t data) {
  if (has_msi_ && address != 0 && !Write(address, data)) RaiseError(gerror::kMsiCmdqAbt);
  Pull(wires_.sync);
}

void Interrupts::RaiseError(BitField error) {
  {
    MutexLock lock(mu_);
    if (error.Get(gerror_ ^ gerrorn_) != 0) return;
    gerror_ ^= static_cast<uint32_t>(error.mask());
  }
  // An interrupt that tells of its own failure would fail as well: the error is active by now, and that ends it here.
  Raise(Interrupt::kGerror);
}

bool Interrupts::IsActive(BitField error) const {
  MutexLock lock(mu_);
  return error.Get(gerror_ ^ gerrorn_) != 0;
}

uint32_t Interrupts::gerror() const {
  MutexLock lock(mu_);
  return gerror_;
}

uint32_t Interrupts::gerrorn() const {
  MutexLock lock(mu_);
  return gerrorn_;
}

void Interrupts::WriteGerrorn(uint32_t value) {
  MutexLock lock(mu_);
  gerrorn_ = value & kErrors;
}

uint32_t Interrupts::control() const {
  MutexLock lock(mu_);
  return control_;
}

void Interrupts::WriteControl(uint32_t value) {
  MutexLock lock(mu_);
  control_ = value & kControls;
}

InterruptConfig Interrupts::config(Interrupt interrupt) const {
  MutexLock lock(mu_);
  return configs_[static_cast<size_t>(interrupt)];
}

void Interrupts::WriteConfig(Interrupt interrupt, const InterruptConfig& config) {
  MutexLock lock(mu_);
  if (!has_msi_ || EnableOf(interrupt).Get(control_) != 0) return;
  configs_[static_cast<size_t>(interrupt)] = config;
}

}  // namespace viommu::smmuv3
