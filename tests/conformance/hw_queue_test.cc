// HW_QUEUE_ALLOC and the registers of hardware queues (Tegra241 CMDQV).

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::Opcode;

constexpr uint64_t kQueueBytes = 4096;  // 256 commands
constexpr uint32_t kEntries = kQueueBytes / 16;
constexpr uint64_t kAll = ~uint64_t{0};

// A viommu with hardware queues for device kQueue0.
struct QueueVm {
  explicit QueueVm(std::unique_ptr<Context> context, const std::string& pci)
      : vm(std::move(context)), memory(vm.memory()) {
    function.pci = pci;
    function.device = vm.Bind(pci);
    function.stage2 = vm.Stage2(function.device);
    function.viommu = vm.Viommu(function.device, function.stage2, ViommuType::kTegra241Cmdqv);
  }
  absl::StatusOr<ObjectId> Alloc(uint32_t index, uint64_t iova, uint64_t length = kQueueBytes,
                                 HwQueueType type = HwQueueType::kTegra241Cmdqv) {
    return vm->AllocHwQueue(function.viommu, type, index, iova, length);
  }
  uint64_t Room(uint64_t bytes = kQueueBytes) { return memory.Alloc(bytes, bytes); }

  Vm vm;
  GuestMemory memory;
  Function function;
};

class HwQueue : public Conformance {
 protected:
  void SetUp() override {
    Conformance::SetUp();
    if (IsSkipped()) return;
    pci_ = rig().Device(Role::kQueue0);
    if (pci_.empty()) GTEST_SKIP() << "the rig lacks " << RoleName(Role::kQueue0);
    q_ = std::make_unique<QueueVm>(Open(), pci_);
  }
  void TearDown() override { q_.reset(); }

  QueueVm& q() { return *q_; }
  const std::string& pci() const { return pci_; }
  agent::HwQueueInventory Inventory() { return SmmuOf(pci_).hw_queue.value_or(agent::HwQueueInventory{}); }

 private:
  std::string pci_;
  std::unique_ptr<QueueVm> q_;
};
CONFORMANCE_RIGS(HwQueue);

TEST_P(HwQueue, Alloc) { EXPECT_OK(q().Alloc(0, q().Room())); }

TEST_P(HwQueue, Q1_TypeDefault) {
  EXPECT_ERRNO(EOPNOTSUPP, q().Alloc(0, q().Room(), kQueueBytes, HwQueueType::kDefault));
}

TEST_P(HwQueue, UnknownType) {
  EXPECT_ERRNO(EOPNOTSUPP, q().Alloc(0, q().Room(), kQueueBytes, static_cast<HwQueueType>(0x77)));
}

TEST_P(HwQueue, Q2_LengthZero) { EXPECT_ERRNO(EINVAL, q().Alloc(0, q().Room(), 0)); }

TEST_P(HwQueue, Q3_Overflow) { EXPECT_ERRNO(EOVERFLOW, q().Alloc(0, ~uint64_t{0} - 4095, 8192)); }

TEST_P(HwQueue, Q4_Unmapped) { EXPECT_ERRNO(ENOENT, q().Alloc(0, 0x8000'0000)); }

TEST_P(HwQueue, Q4_BelowAllThatIsMapped) { EXPECT_ERRNO(ENOENT, q().Alloc(0, 0)); }

// The hardware takes one physical address. Two files are not in one piece; two halves of one may be, and may not.
TEST_P(HwQueue, MemoryOfTwoFiles) {
  constexpr uint64_t kAt = 0x8000'0000;
  MemoryFile first(kQueueBytes), second(kQueueBytes);
  ASSERT_OK(q().vm->MapIoas(q().vm.ioas(), kAt, kQueueBytes, first.handle()));
  // Lies where the second one would follow the first.
  MemoryFile between(kQueueBytes);
  ASSERT_OK(q().vm->MapIoas(q().vm.ioas(), 2 * kAt + kQueueBytes, kQueueBytes, between.handle()));
  ASSERT_OK(q().vm->MapIoas(q().vm.ioas(), kAt + kQueueBytes, kQueueBytes, second.handle()));
  EXPECT_ERRNO(EFAULT, q().Alloc(0, kAt, 2 * kQueueBytes));
  EXPECT_OK(q().Alloc(0, kAt));
}

TEST_P(HwQueue, Q4_HalfMapped) {
  EXPECT_ERRNO(ENOENT, q().Alloc(0, kMemoryBase + kMemoryBytes - kQueueBytes, 2 * kQueueBytes));
}

TEST_P(HwQueue, Q5_Index1First) {
  if (Inventory().queues_per_vintf < 2) GTEST_SKIP() << "an interface has one queue here";
  EXPECT_ERRNO(EIO, q().Alloc(1, q().Room()));
}

TEST_P(HwQueue, Q6_IndexTooHigh) {
  EXPECT_ERRNO(EINVAL, q().Alloc(Inventory().queues_per_vintf, q().Room()));
  EXPECT_ERRNO(EINVAL, q().Alloc(~0u, q().Room()));
}

TEST_P(HwQueue, Q7_IndexTwice) {
  ASSERT_OK(q().Alloc(0, q().Room()));
  EXPECT_ERRNO(EEXIST, q().Alloc(0, q().Room()));
}

TEST_P(HwQueue, Q8_MemoryStaysMapped) {
  // Mappings of their own, so that they can be unmapped one by one.
  MemoryFile file(2 * kQueueBytes);
  ASSERT_OK(q().vm->MapIoas(q().vm.ioas(), 0x8000'0000, kQueueBytes, file.handle()));
  ASSERT_OK(q().vm->MapIoas(q().vm.ioas(), 0x8000'0000 + kQueueBytes, kQueueBytes, file.handle(kQueueBytes)));
  const ObjectId queue = Must(q().Alloc(0, 0x8000'0000));
  EXPECT_ERRNO(EBUSY, q().vm->UnmapIoas(q().vm.ioas(), 0x8000'0000, kQueueBytes));
  EXPECT_OK(q().vm->UnmapIoas(q().vm.ioas(), 0x8000'0000 + kQueueBytes, kQueueBytes));
  EXPECT_OK(q().vm->Destroy(queue));
  EXPECT_OK(q().vm->UnmapIoas(q().vm.ioas(), 0x8000'0000, kQueueBytes));
}

// What lies before the queue's memory goes, although the call fails; what lies behind it stays.
TEST_P(HwQueue, Q8_UnmapUpToItsMemory) {
  MemoryFile file(4 * kQueueBytes);
  const ObjectId ioas = q().vm.ioas();
  ASSERT_OK(q().vm->MapIoas(ioas, 0x8000'0000, kQueueBytes, file.handle()));
  ASSERT_OK(q().vm->MapIoas(ioas, 0x8000'0000 + kQueueBytes, 2 * kQueueBytes, file.handle(kQueueBytes)));
  ASSERT_OK(q().vm->MapIoas(ioas, 0x8000'0000 + 3 * kQueueBytes, kQueueBytes, file.handle(3 * kQueueBytes)));
  const ObjectId queue = Must(q().Alloc(0, 0x8000'0000 + kQueueBytes));
  EXPECT_ERRNO(EBUSY, q().vm->UnmapIoas(ioas, 0x8000'0000, 4 * kQueueBytes));
  EXPECT_ERRNO(ENOENT, q().vm->UnmapIoas(ioas, 0x8000'0000, kQueueBytes));
  // That it is in use is seen before that it lies only partly inside.
  EXPECT_ERRNO(EBUSY, q().vm->UnmapIoas(ioas, 0x8000'0000, 2 * kQueueBytes));
  EXPECT_OK(q().vm->Destroy(queue));
  EXPECT_EQ(Must(q().vm->UnmapIoas(ioas, 0x8000'0000, 4 * kQueueBytes)), 3 * kQueueBytes);
}

TEST_P(HwQueue, Q8_UnmapOfEverything) {
  const ObjectId queue = Must(q().Alloc(0, q().Room()));
  EXPECT_ERRNO(EBUSY, q().vm->UnmapIoas(q().vm.ioas(), 0, kAll));
  EXPECT_OK(q().vm->Destroy(queue));
  EXPECT_OK(q().vm->UnmapIoas(q().vm.ioas(), 0, kAll));
}

TEST_P(HwQueue, Q10_DescendingDestroy) {
  if (Inventory().queues_per_vintf < 2) GTEST_SKIP() << "an interface has one queue here";
  const ObjectId zero = Must(q().Alloc(0, q().Room()));
  const ObjectId one = Must(q().Alloc(1, q().Room()));
  EXPECT_ERRNO(EBUSY, q().vm->Destroy(zero));
  EXPECT_OK(q().vm->Destroy(one));
  EXPECT_OK(q().vm->Destroy(zero));
  EXPECT_OK(q().Alloc(0, q().Room()));
}

TEST_P(HwQueue, LengthThatIsNoPowerOfTwo) { EXPECT_ERRNO(EINVAL, q().Alloc(0, q().Room(8192), 3 * 1024)); }

TEST_P(HwQueue, LengthBelow32) {
  const uint64_t room = q().Room();
  EXPECT_ERRNO(EINVAL, q().Alloc(0, room, 16));
  EXPECT_OK(q().Alloc(0, room, 32));
}

TEST_P(HwQueue, LengthAboveTheSmmus) {
  const uint64_t most = uint64_t{16} << ((SmmuOf(pci()).idr[1] >> 21) & 31);
  if (4 * most > kMemoryBytes) GTEST_SKIP() << "the queues of this SMMU are larger than the memory here";
  EXPECT_ERRNO(EINVAL, q().Alloc(0, q().Room(2 * most), 2 * most));
}

TEST_P(HwQueue, MemoryThatIsNotAlignedToItsLength) { EXPECT_ERRNO(EINVAL, q().Alloc(0, q().Room(8192) + 2048, 4096)); }

TEST_P(HwQueue, KeepsItsViommu) {
  const ObjectId queue = Must(q().Alloc(0, q().Room()));
  EXPECT_ERRNO(EBUSY, q().vm->Destroy(q().function.viommu));
  EXPECT_OK(q().vm->Destroy(queue));
  EXPECT_OK(q().vm->Destroy(q().function.viommu));
}

TEST_P(HwQueue, InterfacesAreUsedUp) {
  const uint32_t interfaces = Inventory().vintfs;
  if (interfaces > 64) GTEST_SKIP() << "this SMMU has more interfaces than one wants to use up";
  std::vector<ObjectId> viommus = {q().function.viommu};
  while (viommus.size() < interfaces) {
    viommus.push_back(q().vm.Viommu(q().function.device, q().function.stage2, ViommuType::kTegra241Cmdqv));
  }
  EXPECT_ERRNO(ENOSPC, q().vm->AllocViommu(q().function.device, q().function.stage2, ViommuType::kTegra241Cmdqv));
  EXPECT_OK(q().vm->Destroy(viommus.back()));
  EXPECT_OK(q().vm->AllocViommu(q().function.device, q().function.stage2, ViommuType::kTegra241Cmdqv));
}

TEST_P(HwQueue, InterfacesOfAClosedContextAreFree) {
  const uint32_t interfaces = Inventory().vintfs;
  if (interfaces > 64) GTEST_SKIP() << "this SMMU has more interfaces than one wants to use up";
  TearDown();
  for (uint32_t i = 0; i <= interfaces; ++i) {
    QueueVm one(Open(), pci());
    ASSERT_NE(one.function.viommu, 0u) << i;
  }
}

TEST_P(HwQueue, GuestIdsOf20Bits) {
  EXPECT_ERRNO(EINVAL, q().vm->AllocVdevice(q().function.viommu, q().function.device, 1u << 20));
  EXPECT_OK(q().vm->AllocVdevice(q().function.viommu, q().function.device, (1u << 20) - 1));
}

TEST_P(HwQueue, SidSlotsAreUsedUp) {
  NEED_DEVICE(other, Role::kQueue1);
  if (Inventory().sid_slots != 1) GTEST_SKIP() << "an interface has more StreamID slots than there are devices";
  const ObjectId first = q().vm.Vdevice(q().function.viommu, q().function.device, 0x10);
  const ObjectId device = q().vm.Bind(other);
  EXPECT_ERRNO(ENOSPC, q().vm->AllocVdevice(q().function.viommu, device, 0x20));
  EXPECT_OK(q().vm->Destroy(first));
  EXPECT_OK(q().vm->AllocVdevice(q().function.viommu, device, 0x20));
}

TEST_P(HwQueue, InvalidateWorksBeside) {
  q().vm.Vdevice(q().function.viommu, q().function.device, 0x10);
  ASSERT_OK(q().Alloc(0, q().Room()));
  EXPECT_OK(q().vm.Send(q().function.viommu, NsnhAll()));
  EXPECT_OK(q().vm.Send(q().function.viommu, CfgiCdAll(0x10)));
}

TEST_P(HwQueue, V11_AMappingKeepsTheViommu) {
  const agent::VintfMapping mapping = Must(q().vm->MapVintf(q().function.viommu));
  EXPECT_GE(mapping.fd, 0);
  EXPECT_EQ(mapping.length, 65536u);
  EXPECT_ERRNO(EBUSY, q().vm->Destroy(q().function.viommu));
  EXPECT_OK(q().vm->UnmapVintf(q().function.viommu));
  EXPECT_OK(q().vm->Destroy(q().function.viommu));
  close(mapping.fd);
}

TEST_P(HwQueue, WhatIsNotMappedIsNotUnmapped) { EXPECT_ERRNO(EINVAL, q().vm->UnmapVintf(q().function.viommu)); }

TEST_P(HwQueue, MappingsAreCounted) {
  const agent::VintfMapping one = Must(q().vm->MapVintf(q().function.viommu));
  const agent::VintfMapping other = Must(q().vm->MapVintf(q().function.viommu));
  EXPECT_OK(q().vm->UnmapVintf(q().function.viommu));
  EXPECT_ERRNO(EBUSY, q().vm->Destroy(q().function.viommu));
  EXPECT_OK(q().vm->UnmapVintf(q().function.viommu));
  EXPECT_OK(q().vm->Destroy(q().function.viommu));
  close(one.fd);
  close(other.fd);
}

// ---- The order of checks ----

TEST_P(HwQueue, OrderTypeBeforeLength) {
  EXPECT_ERRNO(EOPNOTSUPP, q().vm->AllocHwQueue(kNoSuchId, HwQueueType::kDefault, 0, 0, 0));
}

TEST_P(HwQueue, OrderLengthBeforeViommu) {
  EXPECT_ERRNO(EINVAL, q().vm->AllocHwQueue(kNoSuchId, HwQueueType::kTegra241Cmdqv, 0, 0, 0));
}

TEST_P(HwQueue, OrderOverflowBeforeViommu) {
  EXPECT_ERRNO(EOVERFLOW, q().vm->AllocHwQueue(kNoSuchId, HwQueueType::kTegra241Cmdqv, 0, kAll, 4096));
}

TEST_P(HwQueue, OrderMemoryBeforeIndex) { EXPECT_ERRNO(ENOENT, q().Alloc(~0u, 0x8000'0000)); }

TEST_P(HwQueue, OrderIndexBeforeShape) {
  ASSERT_OK(q().Alloc(0, q().Room()));
  EXPECT_ERRNO(EEXIST, q().Alloc(0, q().Room(8192), 3 * 1024));
}

// ---- A guest that runs a queue --------------------------------------------------------------------------------------

// Page 0 of a virtual interface.
class Registers {
 public:
  explicit Registers(const agent::VintfMapping& mapping) : length_(mapping.length) {
    void* page =
        mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_SHARED, mapping.fd, static_cast<off_t>(mapping.offset));
    EXPECT_NE(page, MAP_FAILED);
    page_ = page == MAP_FAILED ? nullptr : static_cast<std::byte*>(page);
    close(mapping.fd);
  }
  ~Registers() {
    if (page_ != nullptr) munmap(page_, length_);
  }
  Registers(const Registers&) = delete;
  Registers& operator=(const Registers&) = delete;

  static constexpr uint32_t kCons = 0x0, kProd = 0x4, kConfig = 0x8, kStatus = 0xc, kGerror = 0x10, kGerrorn = 0x14;
  uint32_t Get(uint32_t queue, uint32_t offset) const { return At(queue, offset).load(std::memory_order_acquire); }
  void Put(uint32_t queue, uint32_t offset, uint32_t value) {
    At(queue, offset).store(value, std::memory_order_seq_cst);
  }

 private:
  std::atomic_ref<uint32_t> At(uint32_t queue, uint32_t offset) const {
    return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(page_ + queue * 0x80 + offset));
  }
  const uint64_t length_;
  std::byte* page_ = nullptr;
};

class DmaHwQueue : public DmaSuite {
 protected:
  void SetUp() override {
    DmaSuite::SetUp();
    if (IsSkipped()) return;
    pci_ = rig().Device(Role::kQueue0);
    if (pci_.empty()) GTEST_SKIP() << "the rig lacks " << RoleName(Role::kQueue0);
    NEED_DMA(pci_);
    q_ = std::make_unique<QueueVm>(Open(), pci_);
    q_->function.vdevice = q_->vm.Vdevice(q_->function.viommu, q_->function.device, kVsid);
    ring_ = q_->Room();
    queue_ = Must(q_->Alloc(0, ring_));
    registers_ = std::make_unique<Registers>(Must(q_->vm->MapVintf(q_->function.viommu)));
    registers_->Put(0, Registers::kConfig, 1);
    ASSERT_TRUE(Until([&] { return (registers_->Get(0, Registers::kStatus) & 1) != 0; }));
    tables_ = std::make_unique<Stage1>(q_->memory, Granule::k4k);
    cds_ = std::make_unique<CdTable>(q_->memory, smmuv3::S1Fmt::kLinear, 0);
  }
  void TearDown() override {
    registers_.reset();
    cds_.reset();
    tables_.reset();
    q_.reset();
    DmaSuite::TearDown();
  }

  template <typename Condition>
  static bool Until(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }

  QueueVm& q() { return *q_; }
  Registers& registers() { return *registers_; }
  const std::string& QueueDevice() const { return pci_; }
  DmaAddress AtDevice(uint64_t address) const { return {.device = pci_, .address = address}; }
  std::optional<uint64_t> ReadQueueDevice(uint64_t address) { return Read(AtDevice(address)); }

  // A page at kVa that the TLB knows.
  void Fill(uint8_t eats = smmuv3::kEatsAbort) {
    tables_->Map(kVa, q().memory.Filled(kOld));
    cds_->Set(0, MakeCd(kAsid, *tables_, Ips()));
    ASSERT_OK(
        q().vm->Attach(q().function.device, q().vm.Nested(q().function, cds_->Vste(smmuv3::S1Dss::kTerminate, eats))));
    ASSERT_EQ(ReadQueueDevice(kVa), kOld);
  }
  void Move() { tables_->Map(kVa, q().memory.Filled(kNew)); }

  // Puts commands into the ring and a CMD_SYNC behind them, as a guest does without any call.
  void Push(std::vector<Command> commands, bool sync = true) {
    if (sync) commands.push_back({.opcode = Opcode::kSync});
    for (const Command& command : commands) Replace(prod_++, command);
    registers().Put(0, Registers::kProd, prod_ & (2 * kEntries - 1));
  }
  // The position at which the next command goes.
  uint32_t Next() const { return prod_; }
  void Replace(uint32_t position, const Command& command) {
    const RawCommand raw = Encode(command);
    const uint64_t at = ring_ + (position % kEntries) * 16;
    q().memory.Write(at, raw.dw0);
    q().memory.Write(at + 8, raw.dw1);
  }
  bool Consumed() {
    constexpr uint32_t kMask = 2 * kEntries - 1;
    return Until([&] { return (registers().Get(0, Registers::kCons) & kMask) == (prod_ & kMask); });
  }
  bool Stopped() {
    return Until([&] { return registers().Get(0, Registers::kGerror) != registers().Get(0, Registers::kGerrorn); });
  }
  uint32_t Error() { return (registers().Get(0, Registers::kCons) >> 24) & 0x7f; }

  static constexpr uint32_t kVsid = 0x10;

 private:
  std::string pci_;
  std::unique_ptr<QueueVm> q_;
  uint64_t ring_ = 0;
  ObjectId queue_ = 0;
  std::unique_ptr<Registers> registers_;
  std::unique_ptr<Stage1> tables_;
  std::unique_ptr<CdTable> cds_;
  uint32_t prod_ = 0;
};
CONFORMANCE_RIGS(DmaHwQueue);

TEST_P(DmaHwQueue, NhVaTakesEffect) {
  Fill();
  Move();
  ASSERT_EQ(ReadQueueDevice(kVa), kOld);
  Push({NhVa(kAsid, kVa)});
  ASSERT_TRUE(Consumed());
  EXPECT_EQ(ReadQueueDevice(kVa), kNew);
}

TEST_P(DmaHwQueue, NhAsidTakesEffect) {
  Fill();
  Move();
  Push({NhAsid(kAsid)});
  ASSERT_TRUE(Consumed());
  EXPECT_EQ(ReadQueueDevice(kVa), kNew);
}

TEST_P(DmaHwQueue, OtherAsidDoesNothing) {
  Fill();
  Move();
  Push({NhAsid(kAsid + 1)});
  ASSERT_TRUE(Consumed());
  ExpectStale(AtDevice(kVa), kOld, kNew);
}

TEST_P(DmaHwQueue, AForeignVmidIsReplaced) {
  Fill();
  Move();
  Command command = NhVa(kAsid, kVa);
  command.vmid = 0x7ffe;
  Push({command});
  ASSERT_TRUE(Consumed());
  EXPECT_EQ(ReadQueueDevice(kVa), kNew);
}

TEST_P(DmaHwQueue, GoesAroundItsRing) {
  for (int i = 0; i < 10; ++i) {
    Push(std::vector<Command>(100, NhAsid(kAsid)));
    ASSERT_TRUE(Consumed()) << i;
  }
}

TEST_P(DmaHwQueue, AtcInvOfItsVsid) {
  Push({AtcInvAll(kVsid)});
  EXPECT_TRUE(Consumed());
}

TEST_P(DmaHwQueue, AtcInvReachesTheDevice) {
  NEED_ATS(QueueDevice());
  Fill(smmuv3::kEatsTranslate);
  DmaAddress from = AtDevice(kVa);
  from.use_ats = true;
  ASSERT_EQ(Read(from), kOld);
  Move();
  Push({NhVa(kAsid, kVa)});
  ASSERT_TRUE(Consumed());
  ExpectStale(from, kOld, kNew);
  // Nobody's StreamID.
  Push({AtcInvAll(kVsid + 1)});
  ASSERT_TRUE(Stopped());
  ExpectStale(from, kOld, kNew);
  Replace(Next() - 2, AtcInvAll(kVsid));
  registers().Put(0, Registers::kGerrorn, registers().Get(0, Registers::kGerror));
  ASSERT_TRUE(Consumed());
  EXPECT_EQ(Read(from), kNew);
}

// The guest does with its own queue what the host does with its one: it puts a CMD_SYNC in place of the bad command and
// acknowledges.
TEST_P(DmaHwQueue, OtherCommandsStopTheQueue) {
  for (const Opcode opcode :
       {Opcode::kTlbiNhAll, Opcode::kTlbiNhVaa, Opcode::kTlbiNsnhAll, Opcode::kCfgiCd, Opcode::kCfgiCdAll,
        Opcode::kCfgiSte, Opcode::kTlbiS12Vmall, Opcode::kTlbiEl2All, Opcode::kResume, Opcode::kPriResp}) {
    SCOPED_TRACE(smmuv3::OpcodeName(static_cast<uint8_t>(opcode)));
    const uint32_t bad = Next() + 1;
    Push({NhAsid(kAsid), Command{.opcode = opcode, .sid = kVsid}, NhAsid(kAsid)});
    ASSERT_TRUE(Stopped());
    EXPECT_EQ(Error(), 1u);  // CERROR_ILL
    EXPECT_EQ(registers().Get(0, Registers::kCons) & (2 * kEntries - 1), bad & (2 * kEntries - 1));
    Replace(bad, {.opcode = Opcode::kSync});
    registers().Put(0, Registers::kGerrorn, registers().Get(0, Registers::kGerror));
    ASSERT_TRUE(Consumed());
  }
}

TEST_P(DmaHwQueue, AStoppedQueueIsReported) {
  const ObjectId events = Must(q().vm->AllocVeventq(q().function.viommu, VeventqType::kTegra241Cmdqv, 8));
  Push({Command{.opcode = Opcode::kTlbiNhAll}});
  std::vector<Vevent> got;
  ASSERT_TRUE(Until([&] { return !(got = Must(q().vm->ReadVeventq(events, 8))).empty(); }));
  ASSERT_EQ(got.size(), 1u);
  EXPECT_FALSE(got[0].lost);
  // A bit for each queue of the interface.
  EXPECT_EQ(got[0].record[0], 1u);
  EXPECT_EQ(got[0].record[1], 0u);
}

TEST_P(DmaHwQueue, TheHostGoesOnWhenAGuestsQueueStops) {
  Push({Command{.opcode = Opcode::kTlbiNhAll}});
  ASSERT_TRUE(Stopped());
  EXPECT_OK(q().vm.Send(q().function.viommu, NsnhAll()));
}

TEST_P(DmaHwQueue, AnUnknownVsidStopsTheQueue) {
  Push({AtcInvAll(0x77)});
  EXPECT_TRUE(Stopped());
}

}  // namespace
}  // namespace viommu::conformance
