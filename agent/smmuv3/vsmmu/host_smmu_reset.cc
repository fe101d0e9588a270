// How an SMMU comes to life: the registers in the order in which Linux's arm_smmu_device_reset() writes them.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <tuple>
#include <utility>
#include <vector>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vsmmu/host_smmu.h"

namespace viommu::agent {
namespace {

using smmuv3::Features;
using smmuv3::Opcode;
using smmuv3::RawCommand;
using smmuv3::Register;

// CR1: write-back, inner shareable.
constexpr uint64_t kWriteBack = 1;
constexpr uint64_t kInnerShareable = 3;
constexpr uint32_t kMinOasBits = 32;

bool CanTranslate(const Features& features) {
  return features.aarch64 && features.oas_bits >= kMinOasBits && (features.stage1 || features.stage2) &&
         (features.gran4k || features.gran16k || features.gran64k);
}

// IDR1 says how large a ring may be; 0 is one entry.
uint32_t RingLog2(uint32_t largest) { return std::min(largest, kMaxRingLog2); }

}  // namespace

HostSmmu::HostSmmu(const EmulatedSmmuSpec& spec, const smmuv3::SmmuOptions& options,
                   std::chrono::nanoseconds sync_timeout, HostMemory* memory)
    : info_(spec.info),
      features_(smmuv3::DecodeIdRegisters(spec.info.idr)),
      can_translate_(CanTranslate(features_)),
      can_nest_(can_translate_ && smmuv3::CanNest(features_, spec.info.iidr)),
      can_viommu_(can_nest_ && (spec.canwbs || features_.fwb)),
      sync_timeout_(sync_timeout),
      memory_(memory),
      vmids_(features_.vmid_bits),
      asids_(features_.asid_bits),
      events_{.base = Register::kEventqBase,
              .prod = Register::kEventqProd,
              .cons = Register::kEventqCons,
              .record_words = std::tuple_size_v<smmuv3::RawEvent>,
              .log2_size = RingLog2(features_.eventq_log2_size)},
      page_requests_{.base = Register::kPriqBase,
                     .prod = Register::kPriqProd,
                     .cons = Register::kPriqCons,
                     .record_words = std::tuple_size_v<smmuv3::RawPageRequest>,
                     .log2_size = RingLog2(features_.priq_log2_size)},
      hardware_(spec.info.name, spec.info.idr, spec.info.iidr, spec.info.aidr, options, memory->memory(),
                {.on_gerror = [this] { OnGlobalError(); },
                 .on_event = [this] { OnEvent(); },
                 .on_page_request = [this] { OnPageRequest(); },
                 .on_sync = {}}) {
  if (info_.hw_queue.has_value()) {
    cmdqv_ = std::make_unique<HostCmdqv>(*info_.hw_queue, smmuv3::CmdqvOptions{.own_thread = options.own_thread},
                                         memory->memory(), &hardware_, [this] { static_cast<void>(Settle()); });
  }
}

std::unique_ptr<HostSmmu> HostSmmu::Create(const EmulatedSmmuSpec& spec, const smmuv3::SmmuOptions& options,
                                           std::chrono::nanoseconds sync_timeout, HostMemory* memory) {
  std::unique_ptr<HostSmmu> smmu(new HostSmmu(spec, options, sync_timeout, memory));
  if (!smmu->AllocateTables()) return nullptr;
  smmu->Reset();
  return smmu;
}

bool HostSmmu::AllocateTables() {
  for (Ring* ring : {&events_, &page_requests_}) {
    const auto record_log2 = static_cast<uint32_t>(std::countr_zero(ring->record_words * sizeof(uint64_t)));
    ring->pages = HostPages::Allocate(memory_, ring->log2_size + record_log2);
    if (ring->pages.empty()) return false;
  }
  MutexLock lock(streams_mu_);
  streams_ = StreamTable::Create(features_, memory_);
  return streams_ != nullptr;
}

void HostSmmu::EnableRing(const Ring& ring) {
  namespace base = smmuv3::queue_base;
  const uint64_t value = base::kHint.mask() | (ring.pages.address() & base::kAddr.mask());
  hardware_.WriteRegister(ring.base, base::kLog2Size.Set(value, ring.log2_size));
  hardware_.WriteRegister(ring.prod, 0);
  hardware_.WriteRegister(ring.cons, 0);
}

void HostSmmu::Enable(smmuv3::BitField cr0_bit) {
  hardware_.WriteRegister(Register::kCr0, hardware_.ReadRegister(Register::kCr0) | cr0_bit.mask());
  // Acknowledged before the write returns; a driver of the real thing polls.
  if ((hardware_.ReadRegister(Register::kCr0Ack) & cr0_bit.mask()) == 0) std::abort();
}

void HostSmmu::Reset() {
  namespace cr0 = smmuv3::cr0;
  namespace cr1 = smmuv3::cr1;
  namespace cr2 = smmuv3::cr2;
  // Whatever was there before: everything is aborted, nothing runs.
  hardware_.WriteRegister(Register::kGbpa, smmuv3::gbpa::kUpdate.mask() | smmuv3::gbpa::kAbort.mask());
  hardware_.WriteRegister(Register::kCr0, 0);

  uint64_t attributes = 0;
  for (const smmuv3::BitField field : {cr1::kQueueIc, cr1::kQueueOc, cr1::kTableIc, cr1::kTableOc}) {
    attributes = field.Set(attributes, kWriteBack);
  }
  for (const smmuv3::BitField field : {cr1::kQueueSh, cr1::kTableSh}) {
    attributes = field.Set(attributes, kInnerShareable);
  }
  hardware_.WriteRegister(Register::kCr1, attributes);
  hardware_.WriteRegister(Register::kCr2, cr2::kPtm.mask() | cr2::kRecInvSid.mask());

  {
    MutexLock lock(streams_mu_);
    hardware_.WriteRegister(Register::kStrtabBase,
                            smmuv3::strtab_base::kRa.mask() | (streams_->base() & smmuv3::strtab_base::kAddr.mask()));
    hardware_.WriteRegister(Register::kStrtabBaseCfg, streams_->base_cfg());
  }

  Enable(cr0::kCmdqEn);
  std::vector<RawCommand> forget = {smmuv3::Encode({.opcode = Opcode::kCfgiSteRange, .range = smmuv3::kCfgiRangeAll})};
  if (features_.hyp) forget.push_back(smmuv3::Encode({.opcode = Opcode::kTlbiEl2All}));
  forget.push_back(smmuv3::Encode({.opcode = Opcode::kTlbiNsnhAll}));
  static_cast<void>(Issue(forget));

  EnableRing(events_);
  Enable(cr0::kEventqEn);
  if (features_.pri) {
    EnableRing(page_requests_);
    Enable(cr0::kPriqEn);
  }
  // Translated transactions are looked at: a device behind an entry without ATS cannot send any.
  if (features_.ats) Enable(cr0::kAtsChk);

  namespace irq = smmuv3::irq_ctrl;
  const uint64_t interrupts =
      irq::kGerrorIrqEn.mask() | irq::kEventqIrqEn.mask() | (features_.pri ? irq::kPriqIrqEn.mask() : 0);
  hardware_.WriteRegister(Register::kIrqCtrl, interrupts);
  Enable(cr0::kSmmuEn);
}

}  // namespace viommu::agent
