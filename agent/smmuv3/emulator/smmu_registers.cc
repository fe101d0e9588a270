#include <bit>

#include "agent/smmuv3/emulator/smmu.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kCr0Bits = static_cast<uint32_t>(cr0::kSmmuEn.mask() | cr0::kPriqEn.mask() | cr0::kEventqEn.mask() |
                                                    cr0::kCmdqEn.mask() | cr0::kAtsChk.mask());
constexpr uint32_t kCr2Bits = static_cast<uint32_t>(cr2::kE2h.mask() | cr2::kRecInvSid.mask() | cr2::kPtm.mask());
constexpr uint32_t kGbpaUpdate = static_cast<uint32_t>(gbpa::kUpdate.mask());

Interrupt InterruptOf(Register reg) {
  switch (reg) {
    case Register::kEventqIrqCfg0:
    case Register::kEventqIrqCfg1:
    case Register::kEventqIrqCfg2:
      return Interrupt::kEventq;
    case Register::kPriqIrqCfg0:
    case Register::kPriqIrqCfg1:
    case Register::kPriqIrqCfg2:
      return Interrupt::kPriq;
    default:
      return Interrupt::kGerror;
  }
}

// Index and wrap bit of a position in a queue of 2^n entries.
uint64_t AsIndex(uint64_t position, uint64_t capacity) { return position & (2 * capacity - 1); }

}  // namespace

TranslationSettings EmulatedSmmu::Settings() const {
  TranslationSettings settings;
  const uint32_t cr0 = cr0_.load(std::memory_order_acquire);
  const uint32_t cr2 = cr2_.load(std::memory_order_relaxed);
  settings.enabled = cr0::kSmmuEn.Get(cr0) != 0;
  settings.check_ats = cr0::kAtsChk.Get(cr0) != 0;
  settings.e2h = cr2::kE2h.Get(cr2) != 0;
  settings.record_bad_sid = cr2::kRecInvSid.Get(cr2) != 0;
  settings.abort_disabled = gbpa::kAbort.Get(gbpa_.load(std::memory_order_relaxed)) != 0;
  settings.stream_table = {strtab_base_.load(std::memory_order_relaxed),
                           strtab_base_cfg_.load(std::memory_order_relaxed)};
  return settings;
}

uint64_t EmulatedSmmu::ReadInterruptConfig(Register reg) const {
  const InterruptConfig config = interrupts_.config(InterruptOf(reg));
  switch (reg) {
    case Register::kGerrorIrqCfg0:
    case Register::kEventqIrqCfg0:
    case Register::kPriqIrqCfg0:
      return config.address;
    case Register::kGerrorIrqCfg1:
    case Register::kEventqIrqCfg1:
    case Register::kPriqIrqCfg1:
      return config.data;
    default:
      return config.attributes;
  }
}

void EmulatedSmmu::WriteInterruptConfig(Register reg, uint64_t value) {
  const Interrupt interrupt = InterruptOf(reg);
  InterruptConfig config = interrupts_.config(interrupt);
  switch (reg) {
    case Register::kGerrorIrqCfg0:
    case Register::kEventqIrqCfg0:
    case Register::kPriqIrqCfg0:
      config.address = value & irq_cfg0::kAddr.mask();
      break;
    case Register::kGerrorIrqCfg1:
    case Register::kEventqIrqCfg1:
    case Register::kPriqIrqCfg1:
      config.data = static_cast<uint32_t>(value);
      break;
    default:
      config.attributes = static_cast<uint32_t>(value);
      break;
  }
  interrupts_.WriteConfig(interrupt, config);
}

uint64_t EmulatedSmmu::ReadRegister(Register reg) const {
  switch (reg) {
    case Register::kIdr0:
    case Register::kIdr1:
    case Register::kIdr2:
    case Register::kIdr3:
    case Register::kIdr4:
    case Register::kIdr5:
      return idr_[(static_cast<uint32_t>(reg) - static_cast<uint32_t>(Register::kIdr0)) / sizeof(uint32_t)];
    case Register::kIidr:
      return iidr_;
    case Register::kAidr:
      return aidr_;
    case Register::kCr0:
    case Register::kCr0Ack:
      return cr0_.load(std::memory_order_acquire);
    case Register::kCr1:
      return cr1_.load(std::memory_order_relaxed);
    case Register::kCr2:
      return cr2_.load(std::memory_order_relaxed);
    case Register::kGbpa:
      return gbpa_.load(std::memory_order_relaxed);
    case Register::kIrqCtrl:
    case Register::kIrqCtrlAck:
      return interrupts_.control();
    case Register::kGerror:
      return interrupts_.gerror();
    case Register::kGerrorn:
      return interrupts_.gerrorn();
    case Register::kGerrorIrqCfg0:
    case Register::kGerrorIrqCfg1:
    case Register::kGerrorIrqCfg2:
    case Register::kEventqIrqCfg0:
    case Register::kEventqIrqCfg1:
    case Register::kEventqIrqCfg2:
    case Register::kPriqIrqCfg0:
    case Register::kPriqIrqCfg1:
    case Register::kPriqIrqCfg2:
      return ReadInterruptConfig(reg);
    case Register::kStrtabBase:
      return strtab_base_.load(std::memory_order_relaxed);
    case Register::kStrtabBaseCfg:
      return strtab_base_cfg_.load(std::memory_order_relaxed);
    case Register::kCmdqBase:
      return cmdq_base_.load(std::memory_order_relaxed);
    case Register::kCmdqProd:
      return AsIndex(queue_.GetStats().pushed, queue_.capacity());
    case Register::kCmdqCons: {
      const QueueStats stats = queue_.GetStats();
      MutexLock lock(state_mu_);
      return cmdq_cons::kErr.Set(AsIndex(stats.pushed - stats.depth, stats.capacity),
                                 static_cast<uint64_t>(failed_.code));
    }
    case Register::kEventqBase:
      return events_.base();
    case Register::kEventqProd:
      return events_.prod();
    case Register::kEventqCons:
      return events_.cons();
    case Register::kPriqBase:
      return page_requests_.base();
    case Register::kPriqProd:
      return page_requests_.prod();
    case Register::kPriqCons:
      return page_requests_.cons();
  }
  return 0;
}

void EmulatedSmmu::WriteCr0(uint32_t value) {
  uint32_t bits = kCr0Bits;
  if (!features_.ats) bits &= ~static_cast<uint32_t>(cr0::kAtsChk.mask());
  if (!features_.pri) bits &= ~static_cast<uint32_t>(cr0::kPriqEn.mask());
  value &= bits;
  const bool enabled = cr0::kSmmuEn.Get(value) != 0;
  {
    // The SMMU's thread looks at the register with this lock.
    MutexLock lock(state_mu_);
    cr0_.store(value, std::memory_order_release);
    state_changed_.NotifyAll();
  }
  events_.SetEnabled(cr0::kEventqEn.Get(value) != 0);
  page_requests_.SetEnabled(enabled && cr0::kPriqEn.Get(value) != 0);
  if (enabled) return;
  // In this order: what has begun to translate may still begin to stall (6.3.9.6).
  in_flight_.Wait();
  stalls_.Terminate(std::nullopt);
}

void EmulatedSmmu::WriteRegister(Register reg, uint64_t value) {
  const auto low = static_cast<uint32_t>(value);
  // What translation depends on changes only while it is off (6.3.9.6).
  const bool off = !IsEnabled(cr0::kSmmuEn);
  switch (reg) {
    case Register::kCr0:
      WriteCr0(low);
      break;
    case Register::kCr1:
      if (off) cr1_.store(low, std::memory_order_relaxed);
      break;
    case Register::kCr2:
      if (off) cr2_.store(low & kCr2Bits, std::memory_order_relaxed);
      break;
    case Register::kGbpa:
      // Takes effect with UPDATE set, which reads as 0 when it is done (6.3.14).
      if ((low & kGbpaUpdate) != 0) gbpa_.store(low & ~kGbpaUpdate, std::memory_order_relaxed);
      break;
    case Register::kIrqCtrl:
      interrupts_.WriteControl(low);
      break;
    case Register::kGerrorn: {
      interrupts_.WriteGerrorn(low);
      events_.Retry();
      MutexLock lock(state_mu_);
      state_changed_.NotifyAll();
      break;
    }
    case Register::kGerrorIrqCfg0:
    case Register::kGerrorIrqCfg1:
    case Register::kGerrorIrqCfg2:
    case Register::kEventqIrqCfg0:
    case Register::kEventqIrqCfg1:
    case Register::kEventqIrqCfg2:
    case Register::kPriqIrqCfg0:
    case Register::kPriqIrqCfg1:
    case Register::kPriqIrqCfg2:
      WriteInterruptConfig(reg, value);
      break;
    case Register::kStrtabBase:
      if (off) strtab_base_.store(value, std::memory_order_relaxed);
      break;
    case Register::kStrtabBaseCfg:
      if (off) strtab_base_cfg_.store(low, std::memory_order_relaxed);
      break;
    case Register::kCmdqBase:
      if (!IsEnabled(cr0::kCmdqEn)) cmdq_base_.store(value, std::memory_order_relaxed);
      break;
    case Register::kEventqBase:
      events_.WriteBase(value);
      break;
    case Register::kEventqProd:
      events_.WriteProd(low);
      break;
    case Register::kEventqCons:
      events_.WriteCons(low);
      break;
    case Register::kPriqBase:
      page_requests_.WriteBase(value);
      break;
    case Register::kPriqProd:
      page_requests_.WriteProd(low);
      break;
    case Register::kPriqCons:
      page_requests_.WriteCons(low);
      break;
    default:
      break;
  }
}

}  // namespace viommu::smmuv3
