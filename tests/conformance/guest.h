// What a guest's kernel builds in its memory so that devices go through stage 1: context descriptors and tables.
//
// Words are written as the SMMU reads them: single-copy atomic, a descriptor after what it points at.

#ifndef VIOMMU_TESTS_CONFORMANCE_GUEST_H_
#define VIOMMU_TESTS_CONFORMANCE_GUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/descriptor.h"
#include "agent/smmuv3/spec/ste.h"
#include "tests/conformance/vm.h"

namespace viommu::conformance {

using smmuv3::Granule;

// The last 64 KiB of a VM's memory, and where tables map them; away from what cases map.
inline constexpr uint64_t kScratchBytes = 65536;
inline constexpr uint64_t kScratchIpa = kMemoryBase + kMemoryBytes - kScratchBytes;
inline constexpr uint64_t kScratchVa = 0x7000'0000;

// Hands out guest-physical addresses in a VM's memory, and never takes them back.
class GuestMemory {
 public:
  // With `scratch`, every tree of tables over it maps kScratchVa to kScratchIpa (DmaScratch).
  explicit GuestMemory(MemoryFile& file, bool scratch = false) : file_(file), scratch_(scratch) {}
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // Zeros. Ends the process when there is no room.
  uint64_t Alloc(uint64_t bytes, uint64_t alignment = 4096);
  // `bytes` of this word over and over.
  uint64_t Filled(uint64_t word, uint64_t bytes = 4096, uint64_t alignment = 4096);

  void Write(uint64_t address, uint64_t word);
  uint64_t Read(uint64_t address) const;
  bool scratch() const { return scratch_; }

 private:
  uint64_t* Word(uint64_t address) const;

  MemoryFile& file_;
  const bool scratch_;
  uint64_t next_ = 0x10000;  // offset; what lies below, cases may use as they like
};

// Attributes of a page or block.
struct PageAttributes {
  bool writable = true;
  bool accessed = true;  // AF
  bool global = false;   // nG = 0
  bool contiguous = false;
};

// One tree of stage-1 tables.
class Stage1 {
 public:
  // Input addresses of `bits` bits; what stands above them in an address does not matter here (TTB0, or TTB1).
  Stage1(GuestMemory& memory, Granule granule, uint32_t bits = 48);

  Granule granule() const { return granule_; }
  uint32_t bits() const { return bits_; }
  uint64_t root() const { return root_; }

  // Writes the descriptor for `va` at this level, and the tables above it that are missing. What stood there stays in
  // the SMMU's caches.
  void Map(uint64_t va, uint64_t output, const PageAttributes& attributes = {}, uint32_t level = smmuv3::kLastLevel);
  void Unmap(uint64_t va, uint32_t level = smmuv3::kLastLevel);
  // The address of the descriptor for `va` at this level; the tables above it are made when they are missing.
  uint64_t Slot(uint64_t va, uint32_t level = smmuv3::kLastLevel);

 private:
  GuestMemory& memory_;
  const Granule granule_;
  const uint32_t bits_;
  uint64_t root_ = 0;
};

// A context descriptor for these tables, as Linux would write it: faults abort and are recorded. `ips` is coded as
// IDR5.OAS.
smmuv3::Cd MakeCd(uint16_t asid, const Stage1& lower, uint8_t ips, const Stage1* upper = nullptr);

// A table of context descriptors.
class CdTable {
 public:
  // For 2^`max_log2` SubstreamIDs.
  CdTable(GuestMemory& memory, smmuv3::S1Fmt format, uint32_t max_log2);

  void Set(uint32_t ssid, const smmuv3::Cd& descriptor) { Set(ssid, smmuv3::EncodeCd(descriptor)); }
  void Set(uint32_t ssid, const smmuv3::RawCd& raw);
  // V = 0.
  void Clear(uint32_t ssid);
  // The vSTE that names this table.
  RawVste Vste(smmuv3::S1Dss dss = smmuv3::S1Dss::kTerminate, uint8_t eats = smmuv3::kEatsAbort) const;

 private:
  uint64_t Slot(uint32_t ssid);

  GuestMemory& memory_;
  const smmuv3::S1Fmt format_;
  const uint32_t max_log2_;
  uint64_t base_ = 0;
};

// ---- Commands as a guest sends them ---------------------------------------------------------------------------------

smmuv3::Command NhAll();
smmuv3::Command NsnhAll();
smmuv3::Command NhAsid(uint16_t asid);
smmuv3::Command NhVa(uint16_t asid, uint64_t va);
smmuv3::Command NhVaa(uint64_t va);
smmuv3::Command CfgiCd(uint32_t vsid, uint32_t ssid = 0);
smmuv3::Command CfgiCdAll(uint32_t vsid);
smmuv3::Command AtcInv(uint32_t vsid, uint64_t address, uint8_t size_log2);
smmuv3::Command AtcInvAll(uint32_t vsid);

// ---- A guest with one device ----------------------------------------------------------------------------------------

inline constexpr uint32_t kGuestVsid = 0x55;  // no device's physical StreamID
inline constexpr uint16_t kAsid = 5;
inline constexpr uint64_t kVa = 0x12'3456'7000;

// A VM with a device, one address space, and a context descriptor for it; nothing is attached before Start().
class Guest {
 public:
  // `ips` is coded as IDR5.OAS. The device goes on top of `beside`'s stage 2 and viommu where that is given.
  Guest(Vm& vm, GuestMemory& memory, const std::string& pci, uint32_t vsid, uint8_t ips, Granule granule = Granule::k4k,
        const Function* beside = nullptr);

  Vm& vm() { return vm_; }
  GuestMemory& memory() { return memory_; }
  const Function& function() const { return function_; }
  const std::string& pci() const { return function_.pci; }
  uint32_t vsid() const { return function_.vsid; }
  uint8_t ips() const { return ips_; }
  Stage1& tables() { return tables_; }
  CdTable& cds() { return cds_; }

  // Writes the context descriptor and attaches the device to a nested HWPT that translates.
  void Start(uint16_t asid = kAsid);
  // Attaches the device to a new nested HWPT, and destroys the one before it.
  void Attach(const RawVste& vste, ObjectId fault = 0);
  // Expects that the commands are taken.
  void Send(std::span<const smmuv3::Command> commands);
  void Send(const smmuv3::Command& command) { Send({&command, 1}); }

 private:
  Vm& vm_;
  GuestMemory& memory_;
  const Function function_;
  const uint8_t ips_;
  Stage1 tables_;
  CdTable cds_;
  ObjectId nested_ = 0;
};

// ---- Suites with accesses of devices --------------------------------------------------------------------------------

// What pages hold that are told apart.
inline constexpr uint64_t kOld = 0x0101'0101'0101'0101;
inline constexpr uint64_t kNew = 0x0202'0202'0202'0202;
// What an access gives that is refused.
inline constexpr std::nullopt_t kRefused = std::nullopt;

// Skips its cases where device A0 cannot be made to access memory.
class DmaConformance : public ConformanceBase {
 protected:
  using ConformanceBase::ConformanceBase;
  void SetUp() override;
  void TearDown() override {
    guest_.reset();
    memory_.reset();
    vm_.reset();
  }

  Vm& vm() { return *vm_; }
  GuestMemory& memory() { return *memory_; }
  uint8_t Ips() { return static_cast<uint8_t>(SmmuOf(A0()).idr[5] & 7) > 5 ? 5 : SmmuOf(A0()).idr[5] & 7; }
  // A guest with device A0; made by the first call.
  Guest& guest(Granule granule = Granule::k4k);

  // The word at `address` as the device reads it; nothing when it is refused.
  std::optional<uint64_t> Read(const DmaAddress& from);
  std::optional<uint64_t> Read(uint64_t address) { return Read({.device = A0(), .address = address}); }
  bool Write(const DmaAddress& to, uint64_t word);
  bool Write(uint64_t address, uint64_t word) { return Write({.device = A0(), .address = address}, word); }
  // `address` was `old` when it was last read and is `now` in the tables, without an invalidation that covers it.
  void ExpectStale(const DmaAddress& from, uint64_t old, std::optional<uint64_t> now);
  void ExpectStale(uint64_t address, uint64_t old, std::optional<uint64_t> now) {
    ExpectStale({.device = A0(), .address = address}, old, now);
  }

 private:
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<Guest> guest_;
};

class DmaSuite : public DmaConformance, public testing::WithParamInterface<RigFactory> {
 protected:
  using DmaConformance::DmaConformance;
  const RigFactory& factory() const override { return GetParam(); }
};

template <typename Row>
class DmaRows : public DmaConformance, public testing::WithParamInterface<std::tuple<RigFactory, Row>> {
 protected:
  using ParamSource = testing::WithParamInterface<std::tuple<RigFactory, Row>>;
  const RigFactory& factory() const override { return std::get<0>(ParamSource::GetParam()); }
  const Row& row() const { return std::get<1>(ParamSource::GetParam()); }
};

// Skips the case unless the device can be made to access memory in this way.
#define NEED_DMA(pci) \
  if (!rig().dma()->Reaches(pci)) GTEST_SKIP() << "the rig cannot make this device access memory"
#define NEED_SECOND_VM() \
  if (rig().dma()->NeedsScratch()) GTEST_SKIP() << "the rig's devices can show what they read in one VM alone"
#define NEED_PASIDS(pci) \
  if (!rig().dma()->HasPasids(pci)) GTEST_SKIP() << "the rig cannot make a device access memory with a PASID"
#define NEED_ATS(pci) \
  if (!rig().dma()->HasAts(pci)) GTEST_SKIP() << "the rig cannot make a device use ATS"

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_GUEST_H_
