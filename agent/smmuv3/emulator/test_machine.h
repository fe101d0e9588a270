// A machine with one SMMU for tests: host memory, the memory of one guest, and what a driver does.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_TEST_MACHINE_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_TEST_MACHINE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "agent/smmuv3/emulator/physical_memory.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/emulator/test_tables.h"
#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/event.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::smmuv3 {

// Everything that the emulated SMMU can do, with 48-bit addresses.
inline constexpr Features kFullFeatures = {.stage2 = true,
                                           .stage1 = true,
                                           .aarch64 = true,
                                           .coherent = true,
                                           .hyp = true,
                                           .ats = true,
                                           .asid_bits = 16,
                                           .msi = true,
                                           .pri = true,
                                           .vmid_bits = 16,
                                           .two_level_cd = true,
                                           .stall_model = StallModel::kStallOrTerminate,
                                           .two_level_st = true,
                                           .sid_bits = 16,
                                           .ssid_bits = 16,
                                           .priq_log2_size = 8,
                                           .eventq_log2_size = 8,
                                           .cmdq_log2_size = 10,
                                           .override_perms = true,
                                           .had = true,
                                           .xnx = true,
                                           .fwb = true,
                                           .ril = true,
                                           .oas_bits = 48,
                                           .gran4k = true,
                                           .gran16k = true,
                                           .gran64k = true,
                                           .vax = false};

inline constexpr auto kNever = EmulatedSmmu::TimePoint::max();

// Memory that can hold an access up.
class TestMemory : public PhysicalMemory {
 public:
  bool Read(uint64_t address, std::span<std::byte> out) override {
    if (on_access) on_access(address);
    return PhysicalMemory::Read(address, out);
  }
  bool ReadWord(uint64_t address, uint64_t& value) override {
    if (on_access) on_access(address);
    return PhysicalMemory::ReadWord(address, value);
  }
  // Called with the address of each read, on the thread that reads. Set while nobody reads.
  std::function<void(uint64_t address)> on_access;
};

// Aligned to cache lines, which the address sanitizer's stack frames are not: it lives on the heap or in a fixture.
class TestMachine {
 public:
  static constexpr uint64_t kHostBase = 0x1'0000'0000;
  static constexpr uint64_t kGuestBase = 0x2'0000'0000;  // where guest memory is in truth
  static constexpr uint64_t kGuestIpa = 0x4000'0000;     // where the guest believes it
  static constexpr uint64_t kHole = 0x7'0000'0000;       // no memory
  static constexpr uint64_t kBytes = 16 << 20;
  static constexpr uint32_t kLog2Streams = 8;
  static constexpr uint32_t kLog2Events = 4;

  explicit TestMachine(const Features& features = kFullFeatures, const SmmuOptions& options = {})
      : host(&memory, kHostBase, kHostBase, kBytes),
        guest(&memory, kGuestBase, kGuestIpa, kBytes),
        smmu("smmu", EncodeIdRegisters(features), 0, 0, options, &memory,
             {.on_gerror = [this] { OnGerror(); },
              .on_event = [this] { ++event_interrupts; },
              .on_page_request = [this] { ++page_interrupts; },
              .on_sync = [this] { ++sync_interrupts; }}) {
    stream_table_ = host.AllocatePage(kSteBytes << kLog2Streams);
    event_queue_ = host.AllocatePage();
    page_queue_ = host.AllocatePage();
    smmu.WriteRegister(Register::kStrtabBase, stream_table_);
    smmu.WriteRegister(Register::kStrtabBaseCfg, kLog2Streams);
    smmu.WriteRegister(Register::kEventqBase, event_queue_ | kLog2Events);
    smmu.WriteRegister(Register::kPriqBase, page_queue_ | kLog2Events);
    smmu.WriteRegister(Register::kCr2, cr2::kRecInvSid.mask());
    smmu.WriteRegister(Register::kIrqCtrl, 7);
    smmu.WriteRegister(Register::kCr0, kCr0);
  }

  static constexpr uint32_t kCr0 = 0xf | 1 << 4;  // everything on, ATSCHK too

  // ---- The driver ----
  void SetSte(uint32_t sid, const Ste& entry) {
    const RawSte raw = EncodeSte(entry);
    for (size_t i = raw.dw.size(); i > 0; --i) host.Write(SteAt(sid) + (i - 1) * 8, raw.dw[i - 1]);
  }
  uint64_t SteAt(uint32_t sid) const { return stream_table_ + uint64_t{sid} * kSteBytes; }
  static void SetCd(TestRegion& region, uint64_t place, const Cd& descriptor) {
    const RawCd raw = EncodeCd(descriptor);
    for (size_t i = raw.size(); i > 0; --i) region.Write(place + (i - 1) * 8, raw[i - 1]);
  }

  QueuePosition Push(const std::vector<Command>& commands) {
    std::vector<RawCommand> raw;
    for (const Command& command : commands) raw.push_back(Encode(command));
    raw.push_back(Encode({.opcode = Opcode::kSync}));
    return *smmu.queue().Push(raw, kNever);
  }
  // Carries the commands out and waits for a CMD_SYNC behind them.
  void Issue(const std::vector<Command>& commands) { ASSERT_TRUE(smmu.Complete(Push(commands), kNever)); }
  void InvalidateConfig() { Issue({{.opcode = Opcode::kCfgiSteRange, .range = kCfgiRangeAll}}); }
  void InvalidateAll() {
    Issue({{.opcode = Opcode::kCfgiSteRange, .range = kCfgiRangeAll},
           {.opcode = Opcode::kTlbiNsnhAll},
           {.opcode = Opcode::kTlbiEl2All}});
  }

  // What has been recorded since the last call.
  std::vector<Event> TakeEvents() {
    std::vector<Event> events;
    auto cons = static_cast<uint32_t>(smmu.ReadRegister(Register::kEventqCons));
    while (true) {
      const auto prod = static_cast<uint32_t>(smmu.ReadRegister(Register::kEventqProd));
      constexpr uint32_t kPosition = (2 << kLog2Events) - 1;
      if (((prod ^ cons) & kPosition) == 0) return events;
      const uint64_t place = event_queue_ + (cons & ((1 << kLog2Events) - 1)) * sizeof(RawEvent);
      RawEvent raw;
      for (size_t i = 0; i < raw.size(); ++i) raw[i] = host.Read(place + i * 8);
      events.push_back(DecodeEvent(raw));
      // Acknowledges an overflow as it goes.
      cons = ((cons + 1) & kPosition) | (prod & 0x8000'0000);
      smmu.WriteRegister(Register::kEventqCons, cons);
    }
  }
  uint64_t event_queue() const { return event_queue_; }
  uint64_t page_queue() const { return page_queue_; }

  // ---- Configurations ----
  static Ste AbortSte() { return {.valid = true, .config = SteConfig::kAbort}; }
  static Ste BypassSte() { return {.valid = true, .config = SteConfig::kBypass}; }
  static Ste Stage1Ste(uint64_t context_ptr, uint16_t vmid = 0) {
    return {.valid = true, .config = SteConfig::kStage1, .s1_context_ptr = context_ptr, .s2_vmid = vmid};
  }
  static Ste Stage2Ste(const TestTables& tables, uint16_t vmid) {
    Ste entry{.valid = true, .config = SteConfig::kStage2, .s2_vmid = vmid};
    entry.s2_t0sz = static_cast<uint8_t>(64 - tables.input_bits());
    entry.s2_sl0 = static_cast<uint8_t>(Stage2Sl0(tables.granule(), tables.start_level()));
    entry.s2_tg = static_cast<uint8_t>(Tg0Codec::Encode(tables.granule()));
    entry.s2_ps = 5;  // 48 bits
    entry.s2_aa64 = true;
    entry.s2_record = true;
    entry.s2_ttb = tables.root();
    return entry;
  }
  static Ste NestedSte(uint64_t context_ptr, const TestTables& tables, uint16_t vmid) {
    Ste entry = Stage2Ste(tables, vmid);
    entry.config = SteConfig::kNested;
    entry.s1_context_ptr = context_ptr;
    return entry;
  }
  // A context with one table for low addresses; faults are recorded and abort.
  static Cd MakeCd(const TestTables& tables, uint16_t asid) {
    Cd descriptor{.valid = true, .ips = 5, .aa64 = true, .record = true, .abort = true, .asid = asid};
    descriptor.ttb0 = {
        .tsz = static_cast<uint8_t>(64 - tables.input_bits()), .granule = tables.granule(), .ttb = tables.root()};
    descriptor.ttb1.disabled = true;
    return descriptor;
  }

  // ---- Devices ----
  // The first word at an address, as the device reads it.
  Outcome Read(const Transaction& transaction, uint64_t& value) {
    return smmu.Read(transaction, std::as_writable_bytes(std::span(&value, 1)), kNever);
  }
  std::optional<uint64_t> Read(uint32_t sid, uint64_t address) {
    return Read(Transaction{.sid = sid, .address = address});
  }
  std::optional<uint64_t> Read(const Transaction& transaction) {
    uint64_t value = 0;
    if (Read(transaction, value).result != TransactionResult::kDone) return std::nullopt;
    return value;
  }
  Outcome Write(const Transaction& transaction, uint64_t value) {
    return smmu.Write(transaction, std::as_bytes(std::span(&value, 1)), kNever);
  }

  TestMemory memory;
  TestRegion host;
  TestRegion guest;
  std::atomic<int> gerror_interrupts{0};
  std::atomic<int> event_interrupts{0};
  std::atomic<int> page_interrupts{0};
  std::atomic<int> sync_interrupts{0};
  // What to do about a global error, on the thread that caused it.
  std::function<void()> on_gerror;

 private:
  void OnGerror() {
    ++gerror_interrupts;
    if (on_gerror) on_gerror();
  }

  uint64_t stream_table_ = 0;
  uint64_t event_queue_ = 0;
  uint64_t page_queue_ = 0;

 public:
  EmulatedSmmu smmu;  // last: its thread uses everything above
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_TEST_MACHINE_H_
