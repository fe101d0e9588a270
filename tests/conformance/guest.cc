#include "tests/conformance/guest.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace viommu::conformance {

using smmuv3::Cd;
using smmuv3::Command;
using smmuv3::Encode;
using smmuv3::Opcode;
using smmuv3::S1Fmt;

// ---- Memory ---------------------------------------------------------------------------------------------------------

uint64_t GuestMemory::Alloc(uint64_t bytes, uint64_t alignment) {
  const uint64_t offset = (next_ + alignment - 1) / alignment * alignment;
  if (offset + bytes > file_.bytes() - (scratch_ ? kScratchBytes : 0)) std::abort();
  next_ = offset + bytes;
  return kMemoryBase + offset;
}

uint64_t GuestMemory::Filled(uint64_t word, uint64_t bytes, uint64_t alignment) {
  const uint64_t address = Alloc(bytes, alignment);
  for (uint64_t at = 0; at < bytes; at += 8) Write(address + at, word);
  return address;
}

uint64_t* GuestMemory::Word(uint64_t address) const {
  return reinterpret_cast<uint64_t*>(file_.data() + (address - kMemoryBase));
}

void GuestMemory::Write(uint64_t address, uint64_t word) {
  std::atomic_ref<uint64_t>(*Word(address)).store(word, std::memory_order_release);
}

uint64_t GuestMemory::Read(uint64_t address) const {
  return std::atomic_ref<uint64_t>(*Word(address)).load(std::memory_order_acquire);
}

// ---- Tables ---------------------------------------------------------------------------------------------------------

Stage1::Stage1(GuestMemory& memory, Granule granule, uint32_t bits) : memory_(memory), granule_(granule), bits_(bits) {
  const uint64_t page = uint64_t{1} << smmuv3::GranuleLog2(granule);
  root_ = memory_.Alloc(page, page);
  if (memory_.scratch()) Map(kScratchVa, kScratchIpa);
}

uint64_t Stage1::Slot(uint64_t va, uint32_t level) {
  va &= (uint64_t{1} << bits_) - 1;
  const uint64_t page = uint64_t{1} << smmuv3::GranuleLog2(granule_);
  uint64_t table = root_;
  for (uint32_t at = smmuv3::Stage1Start(granule_, bits_);; ++at) {
    const uint64_t index = (va >> smmuv3::LevelShift(granule_, at)) & (page / smmuv3::kDescriptorBytes - 1);
    const uint64_t slot = table + index * smmuv3::kDescriptorBytes;
    if (at == level) return slot;
    uint64_t entry = memory_.Read(slot);
    if (smmuv3::KindOf(entry, granule_, at, false) != smmuv3::DescriptorKind::kTable) {
      entry = smmuv3::EncodeTable(memory_.Alloc(page, page), granule_);
      memory_.Write(slot, entry);
    }
    table = smmuv3::NextTableOf(entry, granule_);
  }
}

void Stage1::Map(uint64_t va, uint64_t output, const PageAttributes& attributes, uint32_t level) {
  const smmuv3::Stage1Leaf leaf = {
      .ap = static_cast<uint8_t>(smmuv3::kApUnprivileged | (attributes.writable ? 0 : smmuv3::kApReadOnly)),
      .sh = 3,
      .af = attributes.accessed,
      .ng = !attributes.global,
      .contiguous = attributes.contiguous};
  memory_.Write(Slot(va, level), smmuv3::EncodeStage1Leaf(leaf, output, granule_, level));
}

void Stage1::Unmap(uint64_t va, uint32_t level) { memory_.Write(Slot(va, level), 0); }

Cd MakeCd(uint16_t asid, const Stage1& lower, uint8_t ips, const Stage1* upper) {
  const auto table = [](const Stage1& tables) {
    return smmuv3::CdTable{.tsz = static_cast<uint8_t>(64 - tables.bits()),
                           .granule = tables.granule(),
                           .ir = 1,
                           .orgn = 1,
                           .sh = 3,
                           .ttb = tables.root()};
  };
  Cd descriptor;
  descriptor.valid = descriptor.aa64 = descriptor.record = descriptor.abort = descriptor.aset = true;
  descriptor.ips = ips;
  descriptor.asid = asid;
  descriptor.mair = 0xff;  // attribute 0: normal memory, write-back
  descriptor.ttb0 = table(lower);
  descriptor.ttb1 = table(upper != nullptr ? *upper : lower);
  if (upper == nullptr) {
    descriptor.ttb1.disabled = true;
    descriptor.ttb1.ttb = 0;
  }
  return descriptor;
}

CdTable::CdTable(GuestMemory& memory, S1Fmt format, uint32_t max_log2)
    : memory_(memory), format_(format), max_log2_(max_log2) {
  if (format == S1Fmt::kLinear) {
    const uint64_t bytes = uint64_t{smmuv3::kCdBytes} << max_log2;
    base_ = memory_.Alloc(bytes, std::max<uint64_t>(bytes, 4096));
  } else {
    const uint32_t leaf = format == S1Fmt::kTwoLevel4k ? smmuv3::kCdsPerLeaf4kLog2 : smmuv3::kCdsPerLeaf64kLog2;
    const uint64_t bytes = max_log2 > leaf ? uint64_t{smmuv3::kCdL1Bytes} << (max_log2 - leaf) : smmuv3::kCdL1Bytes;
    base_ = memory_.Alloc(bytes, std::max<uint64_t>(bytes, 4096));
  }
}

uint64_t CdTable::Slot(uint32_t ssid) {
  if (format_ == S1Fmt::kLinear) return base_ + uint64_t{ssid} * smmuv3::kCdBytes;
  const uint32_t leaf = format_ == S1Fmt::kTwoLevel4k ? smmuv3::kCdsPerLeaf4kLog2 : smmuv3::kCdsPerLeaf64kLog2;
  const uint64_t l1 = base_ + (ssid >> leaf) * smmuv3::kCdL1Bytes;
  smmuv3::CdL1 entry = smmuv3::DecodeCdL1(memory_.Read(l1));
  if (!entry.valid) {
    const uint64_t bytes = uint64_t{smmuv3::kCdBytes} << leaf;
    entry = {.valid = true, .l2_ptr = memory_.Alloc(bytes, bytes)};
    memory_.Write(l1, smmuv3::EncodeCdL1(entry));
  }
  return entry.l2_ptr + (ssid & ((1u << leaf) - 1)) * smmuv3::kCdBytes;
}

void CdTable::Set(uint32_t ssid, const smmuv3::RawCd& raw) {
  const uint64_t slot = Slot(ssid);
  for (uint32_t word = 1; word < raw.size(); ++word) memory_.Write(slot + word * 8, raw[word]);
  memory_.Write(slot, raw[0]);
}

void CdTable::Clear(uint32_t ssid) { memory_.Write(Slot(ssid), 0); }

RawVste CdTable::Vste(smmuv3::S1Dss dss, uint8_t eats) const {
  namespace ste = smmuv3::ste;
  RawVste vste = {ste::kValid.mask() | (base_ & ste::kS1ContextPtr.mask()), 0};
  vste.dw0 = ste::kConfig.Set(vste.dw0, static_cast<uint64_t>(smmuv3::SteConfig::kStage1));
  vste.dw0 = ste::kS1Fmt.Set(vste.dw0, static_cast<uint64_t>(format_));
  vste.dw0 = ste::kS1CdMax.Set(vste.dw0, max_log2_);
  vste.dw1 = ste::kS1Dss.Set(vste.dw1, static_cast<uint64_t>(dss));
  vste.dw1 = ste::kS1Cir.Set(vste.dw1, 1);
  vste.dw1 = ste::kS1Cor.Set(vste.dw1, 1);
  vste.dw1 = ste::kS1Csh.Set(vste.dw1, 3);
  vste.dw1 = ste::kEats.Set(vste.dw1, eats);
  return vste;
}

// ---- Commands -------------------------------------------------------------------------------------------------------

Command NhAll() { return {.opcode = Opcode::kTlbiNhAll}; }
Command NsnhAll() { return {.opcode = Opcode::kTlbiNsnhAll}; }
Command NhAsid(uint16_t asid) { return {.opcode = Opcode::kTlbiNhAsid, .asid = asid}; }
Command NhVa(uint16_t asid, uint64_t va) { return {.opcode = Opcode::kTlbiNhVa, .asid = asid, .address = va}; }
Command NhVaa(uint64_t va) { return {.opcode = Opcode::kTlbiNhVaa, .address = va}; }
Command CfgiCd(uint32_t vsid, uint32_t ssid) {
  return {.opcode = Opcode::kCfgiCd, .sid = vsid, .ssid = ssid, .leaf = true};
}
Command CfgiCdAll(uint32_t vsid) { return {.opcode = Opcode::kCfgiCdAll, .sid = vsid}; }
Command AtcInv(uint32_t vsid, uint64_t address, uint8_t size_log2) {
  return {.opcode = Opcode::kAtcInv, .sid = vsid, .address = address, .size = size_log2};
}
Command AtcInvAll(uint32_t vsid) { return AtcInv(vsid, 0, smmuv3::kAtcSizeAll); }

// ---- Guest ----------------------------------------------------------------------------------------------------------

Guest::Guest(Vm& vm, GuestMemory& memory, const std::string& pci, uint32_t vsid, uint8_t ips, Granule granule,
             const Function* beside)
    : vm_(vm),
      memory_(memory),
      function_(vm.Plug(pci, vsid, beside)),
      ips_(ips),
      tables_(memory, granule),
      cds_(memory, S1Fmt::kLinear, 0) {}

void Guest::Start(uint16_t asid) {
  cds_.Set(0, MakeCd(asid, tables_, ips_));
  Attach(cds_.Vste());
}

void Guest::Attach(const RawVste& vste, ObjectId fault) {
  const ObjectId next = Must(vm_->AllocNested(function_.viommu, function_.device, vste, fault));
  EXPECT_OK(vm_->Attach(function_.device, next));
  if (nested_ != 0) {
    EXPECT_OK(vm_->Destroy(nested_));
  }
  nested_ = next;
}

void Guest::Send(std::span<const Command> commands) {
  std::vector<RawCommand> raw;
  for (const Command& command : commands) raw.push_back(Encode(command));
  EXPECT_OK(vm_.Send(function_.viommu, raw));
}

// ---- Fixture --------------------------------------------------------------------------------------------------------

void DmaConformance::SetUp() {
  ConformanceBase::SetUp();
  if (IsSkipped()) return;
  if (rig().dma() == nullptr) GTEST_SKIP() << "the rig cannot make devices access memory";
  NEED_DMA(A0());
  vm_ = std::make_unique<Vm>(Open());
  const bool scratch = rig().dma()->NeedsScratch();
  memory_ = std::make_unique<GuestMemory>(vm_->memory(), scratch);
  if (scratch) {
    rig().dma()->UseScratch({.addresses = {kScratchVa, kScratchIpa},
                             .data = vm_->memory().data() + (kScratchIpa - kMemoryBase),
                             .bytes = 4096});
  }
}

Guest& DmaConformance::guest(Granule granule) {
  if (guest_ == nullptr) guest_ = std::make_unique<Guest>(*vm_, *memory_, A0(), kGuestVsid, Ips(), granule);
  return *guest_;
}

std::optional<uint64_t> DmaConformance::Read(const DmaAddress& from) {
  uint64_t word = 0;
  if (!rig().dma()->Read(from, std::as_writable_bytes(std::span(&word, 1))).ok) return std::nullopt;
  return word;
}

bool DmaConformance::Write(const DmaAddress& to, uint64_t word) {
  return rig().dma()->Write(to, std::as_bytes(std::span(&word, 1))).ok;
}

void DmaConformance::ExpectStale(const DmaAddress& from, uint64_t old, std::optional<uint64_t> now) {
  const std::optional<uint64_t> got = Read(from);
  if (rig().keeps_stale_entries()) {
    EXPECT_EQ(got, old) << "the entry should have stayed";
  } else {
    EXPECT_TRUE(got == old || got == now);
  }
}

}  // namespace viommu::conformance
