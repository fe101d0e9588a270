// Hardware queues through the seam: what they need, in which order they are refused, and that devices see what they do.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vintf/producer.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/smmuv3/vsmmu/test_guest.h"
#include "agent/smmuv3/vsmmu/test_host.h"

namespace viommu::agent {
namespace {

using smmuv3::Encode;
using smmuv3::Opcode;
using smmuv3::RawCommand;
using smmuv3::VcmdqProducer;
using smmuv3::VintfPage;
using std::chrono::steady_clock;
using WaitResult = VcmdqProducer::WaitResult;

constexpr uint32_t kVirtSid = 0x10;
constexpr uint64_t kPage = TestGuest::kPage;
constexpr uint64_t kBase = TestGuest::kBase;
// Rings for queues, behind what TestGuest gives out.
constexpr uint64_t kRings = kBase + TestGuest::kBytes / 2;

steady_clock::time_point Soon() { return steady_clock::now() + std::chrono::minutes(2); }

int Errno(const absl::Status& status) { return StatusErrno(status); }
template <typename T>
int Errno(const absl::StatusOr<T>& result) {
  return StatusErrno(result.status());
}

// SMMU a has two interfaces of two queues and two slots, the others have none.
class HwQueuesTest : public testing::TestWithParam<Personality> {
 protected:
  HwQueuesTest() {
    EmulatedInventory inventory = MakeTestInventory(GetParam());
    inventory.smmus[0].info.hw_queue = HwQueueInventory{.vintfs = 2, .queues_per_vintf = 2, .sid_slots = 2};
    backend_ = *EmulatedBackend::Create(std::move(inventory));
    context_ = *backend_->OpenContext();
    device_ = *context_->BindDevice(kDeviceA0);
    ioas_ = *context_->AllocIoas();
    EXPECT_TRUE(context_->MapIoas(ioas_, kBase, TestGuest::kBytes, guest_.handle()).ok());
    stage2_ = *context_->AllocStage2(device_, ioas_);
    viommu_ = AllocViommu();
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, TestGuest::kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, guest_.handle().fd, 0));
  }
  ~HwQueuesTest() override { munmap(memory_, TestGuest::kBytes); }

  ObjectId AllocViommu() {
    const absl::StatusOr<ViommuHandle> viommu = context_->AllocViommu(device_, stage2_, ViommuType::kTegra241Cmdqv);
    EXPECT_TRUE(viommu.ok()) << viommu.status();
    return viommu.ok() ? viommu->id : 0;
  }
  absl::StatusOr<ObjectId> AllocQueue(uint32_t index, uint64_t iova, uint64_t length = kPage) {
    return context_->AllocHwQueue(viommu_, HwQueueType::kTegra241Cmdqv, index, iova, length);
  }
  // Maps the viommu's page, as a VMM does, and runs queue `index` with its ring at `iova`.
  VcmdqProducer Run(uint32_t index, uint64_t iova, uint64_t length = kPage) {
    const VintfMapping mapping = *context_->MapVintf(viommu_);
    std::shared_ptr<VintfPage> page = VintfPage::Map(mapping.fd, mapping.offset, mapping.length);
    close(mapping.fd);
    VcmdqProducer producer(std::move(page), index, std::span(memory_ + (iova - kBase), length));
    EXPECT_TRUE(producer.Enable(Soon()));
    return producer;
  }
  InvalidationCount Count(Opcode opcode) const {
    for (const SmmuStats& stats : backend_->GetStats()) {
      for (const InvalidationCount& count : stats.invalidations) {
        if (stats.smmu == "a" && count.opcode == static_cast<uint8_t>(opcode)) return count;
      }
    }
    return {};
  }
  std::optional<uint64_t> Read(uint64_t address) {
    uint64_t word = 0;
    const DmaResult result = *backend_->device_dma()->Read({.pci_address = kDeviceA0, .address = address},
                                                           std::as_writable_bytes(std::span(&word, 1)));
    if (result.outcome != DmaResult::Outcome::kDone) return std::nullopt;
    return word;
  }

  TestGuest guest_;
  std::unique_ptr<EmulatedBackend> backend_;
  std::unique_ptr<Context> context_;
  ObjectId device_ = 0, ioas_ = 0, stage2_ = 0, viommu_ = 0;
  std::byte* memory_ = nullptr;
};

TEST_P(HwQueuesTest, TheBackendSaysWhetherItHasThem) {
  const auto available = [](const EmulatedBackend& backend) {
    const Capabilities capabilities = backend.GetCapabilities();
    return std::any_of(capabilities.others.begin(), capabilities.others.end(),
                       [](const Capability& c) { return c.name == "hw_queue" && c.available; });
  };
  EXPECT_TRUE(available(*backend_));
  EXPECT_FALSE(available(*MakeTestBackend(GetParam())));
}

TEST_P(HwQueuesTest, AnSmmuWithoutQueuesHasNoViommuOfThatType) {
  const ObjectId device = *context_->BindDevice(kDeviceB0);
  const ObjectId stage2 = *context_->AllocStage2(device, ioas_);
  EXPECT_EQ(Errno(context_->AllocViommu(device, stage2, ViommuType::kTegra241Cmdqv)), EOPNOTSUPP);
  // Which is looked at before the stage 2.
  EXPECT_EQ(Errno(context_->AllocViommu(device, 999, ViommuType::kTegra241Cmdqv)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocViommu(device_, stage2_, static_cast<ViommuType>(3))), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocViommu(device_, 999, ViommuType::kTegra241Cmdqv)), ENOENT);
}

TEST_P(HwQueuesTest, InterfacesRunOut) {
  const ObjectId second = AllocViommu();
  const uint64_t vmids = backend_->GetStats()[0].vmids_used;
  EXPECT_EQ(Errno(context_->AllocViommu(device_, stage2_, ViommuType::kTegra241Cmdqv)), ENOSPC);
  EXPECT_EQ(backend_->GetStats()[0].vmids_used, vmids);
  // Those without queues do not.
  EXPECT_TRUE(context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3).ok());
  EXPECT_TRUE(context_->Destroy(second).ok());
  AllocViommu();
}

TEST_P(HwQueuesTest, VdevicesTakeSlots) {
  const ObjectId other = *context_->BindDevice(kDeviceA1);
  const ObjectId third = *context_->BindDevice(kDeviceGroup0);
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, device_, 1u << 20)), EINVAL);
  const ObjectId first = *context_->AllocVdevice(viommu_, device_, (1u << 20) - 1);
  EXPECT_TRUE(context_->AllocVdevice(viommu_, other, kVirtSid).ok());
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, third, 0x11)), ENOSPC);
  // What is taken is said before that.
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, third, kVirtSid)), EEXIST);
  const ObjectId two_streams = *context_->BindDevice(kDeviceTwoStreams);
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, two_streams, 1u << 20)), EOPNOTSUPP);
  EXPECT_TRUE(context_->Destroy(first).ok());
  EXPECT_TRUE(context_->AllocVdevice(viommu_, third, 0x11).ok());
  // A vdevice that goes with its device gives its slot back, too.
  ASSERT_TRUE(context_->UnbindDevice(kDeviceA1).ok());
  EXPECT_TRUE(context_->AllocVdevice(viommu_, device_, kVirtSid).ok());
}

TEST_P(HwQueuesTest, WideStreamIdsAreFineWithoutQueues) {
  const ObjectId plain = context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3)->id;
  EXPECT_TRUE(context_->AllocVdevice(plain, device_, 1u << 20).ok());
}

TEST_P(HwQueuesTest, ChecksInTheKernelsOrder) {
  const auto alloc = [&](ObjectId viommu, HwQueueType type, uint32_t index, uint64_t iova, uint64_t length) {
    return Errno(context_->AllocHwQueue(viommu, type, index, iova, length));
  };
  constexpr auto kType = HwQueueType::kTegra241Cmdqv;
  const ObjectId plain = context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3)->id;
  constexpr uint64_t kNowhere = 0x1000;
  // Each call breaks its own rule and all that come after.
  EXPECT_EQ(alloc(999, HwQueueType::kDefault, 9, ~uint64_t{0}, 0), EOPNOTSUPP);
  EXPECT_EQ(alloc(999, kType, 9, ~uint64_t{0}, 0), EINVAL);
  EXPECT_EQ(alloc(999, kType, 9, ~uint64_t{0}, kPage), EOVERFLOW);
  EXPECT_EQ(alloc(999, kType, 9, kNowhere, 48), ENOENT);
  EXPECT_EQ(alloc(plain, kType, 9, kNowhere, 48), EOPNOTSUPP);
  EXPECT_EQ(alloc(viommu_, static_cast<HwQueueType>(2), 9, kNowhere, 48), EOPNOTSUPP);
  EXPECT_EQ(alloc(viommu_, kType, 9, kNowhere, 48), ENOENT);
  EXPECT_EQ(alloc(viommu_, kType, 9, kBase + TestGuest::kBytes - 32, 48), ENOENT);
  EXPECT_EQ(alloc(viommu_, kType, 2, kRings, 48), EINVAL);
  EXPECT_EQ(alloc(viommu_, kType, 1, kRings, 48), EIO);
  EXPECT_EQ(alloc(viommu_, kType, 0, kRings, 48), EINVAL);
  EXPECT_EQ(alloc(viommu_, kType, 0, kRings, 16), EINVAL);
  EXPECT_EQ(alloc(viommu_, kType, 0, kRings + 16, 32), EINVAL);
  EXPECT_EQ(alloc(viommu_, kType, 0, kRings + kPage, 2 * kPage), EINVAL);
  ASSERT_TRUE(AllocQueue(0, kRings).ok());
  EXPECT_EQ(alloc(viommu_, kType, 0, kRings, 48), EEXIST);
  EXPECT_TRUE(AllocQueue(1, kRings + kPage + 32, 32).ok());
}

TEST_P(HwQueuesTest, MemoryInSeveralPiecesIsRefused) {
  // Two mappings beside each other for the guest, which are not beside each other in memory: another one has the place.
  constexpr uint64_t kElsewhere = 0x100000;
  ASSERT_TRUE(context_->MapIoas(ioas_, 2 * kElsewhere, kPage, guest_.handle()).ok());
  ASSERT_TRUE(context_->MapIoas(ioas_, kElsewhere + kPage, kPage, guest_.handle()).ok());
  ASSERT_TRUE(context_->MapIoas(ioas_, kElsewhere, kPage, guest_.handle()).ok());
  EXPECT_EQ(Errno(AllocQueue(0, kElsewhere, 2 * kPage)), EFAULT);
  EXPECT_TRUE(AllocQueue(0, kElsewhere).ok());
}

TEST_P(HwQueuesTest, MemoryStaysAsLongAsItsQueue) {
  constexpr uint64_t kElsewhere = 0x100000;
  ASSERT_TRUE(context_->MapIoas(ioas_, kElsewhere, kPage, guest_.handle()).ok());
  ASSERT_TRUE(context_->MapIoas(ioas_, kElsewhere + kPage, kPage, guest_.handle(kPage)).ok());
  const ObjectId queue = *AllocQueue(0, kElsewhere);
  EXPECT_EQ(Errno(context_->UnmapIoas(ioas_, kElsewhere, kPage)), EBUSY);
  EXPECT_EQ(Errno(context_->UnmapIoas(ioas_, kElsewhere, 2 * kPage)), EBUSY);
  EXPECT_EQ(Errno(context_->UnmapIoas(ioas_, 0, ~uint64_t{0})), EBUSY);
  EXPECT_EQ(*context_->UnmapIoas(ioas_, kElsewhere + kPage, kPage), kPage);
  EXPECT_TRUE(context_->Destroy(queue).ok());
  EXPECT_EQ(*context_->UnmapIoas(ioas_, kElsewhere, kPage), kPage);
}

TEST_P(HwQueuesTest, QueuesGoInFallingOrder) {
  const ObjectId first = *AllocQueue(0, kRings);
  const ObjectId second = *AllocQueue(1, kRings + kPage);
  EXPECT_EQ(Errno(context_->Destroy(first)), EBUSY);
  EXPECT_EQ(Errno(context_->Destroy(viommu_)), EBUSY);
  EXPECT_TRUE(context_->Destroy(second).ok());
  EXPECT_TRUE(context_->Destroy(first).ok());
  EXPECT_EQ(Errno(context_->Destroy(first)), ENOENT);
  EXPECT_TRUE(AllocQueue(0, kRings + kPage).ok());
}

TEST_P(HwQueuesTest, AMappedPageHoldsTheViommu) {
  const ObjectId plain = context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3)->id;
  EXPECT_EQ(Errno(context_->MapVintf(999)), ENOENT);
  EXPECT_EQ(Errno(context_->MapVintf(plain)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->UnmapVintf(viommu_)), EINVAL);
  for (int i = 0; i < 2; ++i) {
    const VintfMapping mapping = *context_->MapVintf(viommu_);
    EXPECT_EQ(mapping.offset, 0u);
    EXPECT_EQ(mapping.length, 0x10000u);
    close(mapping.fd);
  }
  EXPECT_EQ(Errno(context_->Destroy(viommu_)), EBUSY);
  EXPECT_TRUE(context_->UnmapVintf(viommu_).ok());
  EXPECT_EQ(Errno(context_->Destroy(viommu_)), EBUSY);
  EXPECT_TRUE(context_->UnmapVintf(viommu_).ok());
  EXPECT_TRUE(context_->Destroy(viommu_).ok());
}

// The whole way: a device reads through its old translation until the guest's own queue has invalidated it.
TEST_P(HwQueuesTest, ADeviceSeesWhatTheQueueInvalidates) {
  constexpr uint64_t kInput = 0x70000000;
  constexpr uint16_t kAsid = 5;
  ASSERT_TRUE(context_->AllocVdevice(viommu_, device_, kVirtSid).ok());
  const uint64_t cd = guest_.NewPage(), ttb = guest_.NewPage(), before = guest_.NewPage(), after = guest_.NewPage();
  guest_.WriteCd(cd, ttb, kAsid);
  guest_.Map(ttb, kInput, before);
  guest_.Word(before).store(0x1111);
  guest_.Word(after).store(0x2222);
  const ObjectId nested = *context_->AllocNested(viommu_, device_, TestGuest::Vste(cd));
  ASSERT_TRUE(context_->Attach(device_, nested).ok());
  ASSERT_TRUE(AllocQueue(0, kRings).ok());
  VcmdqProducer queue = Run(0, kRings);
  const auto invalidate = [&](const smmuv3::Command& command) {
    const RawCommand raw = Encode(command);
    queue.Submit({&raw, 1}, Soon());
    return queue.Sync(Soon());
  };

  EXPECT_EQ(Read(kInput), 0x1111u);
  guest_.Map(ttb, kInput, after);
  EXPECT_EQ(Read(kInput), 0x1111u);
  // The wrong ASID, the wrong address: nothing changes.
  EXPECT_EQ(invalidate({.opcode = Opcode::kTlbiNhAsid, .asid = kAsid + 1}), WaitResult::kDone);
  EXPECT_EQ(invalidate({.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = kInput + kPage}), WaitResult::kDone);
  EXPECT_EQ(Read(kInput), 0x1111u);
  // The right ones, whatever VMID the guest writes.
  EXPECT_EQ(invalidate({.opcode = Opcode::kTlbiNhVa, .vmid = 0x77, .asid = kAsid, .address = kInput}),
            WaitResult::kDone);
  EXPECT_EQ(Read(kInput), 0x2222u);
  guest_.Map(ttb, kInput, before);
  EXPECT_EQ(invalidate({.opcode = Opcode::kTlbiNhAsid, .asid = kAsid}), WaitResult::kDone);
  EXPECT_EQ(Read(kInput), 0x1111u);
  EXPECT_EQ(invalidate({.opcode = Opcode::kAtcInv, .sid = kVirtSid, .size = smmuv3::kAtcSizeAll}), WaitResult::kDone);

  EXPECT_EQ(Count(Opcode::kTlbiNhVa).done, 2u);
  EXPECT_EQ(Count(Opcode::kTlbiNhAsid).done, 2u);
  EXPECT_EQ(Count(Opcode::kAtcInv).done, 1u);
}

TEST_P(HwQueuesTest, ErrorsAreCountedAndBecomeEvents) {
  const ObjectId veventq = *context_->AllocVeventq(viommu_, VeventqType::kTegra241Cmdqv, 4);
  ASSERT_TRUE(AllocQueue(0, kRings).ok());
  ASSERT_TRUE(AllocQueue(1, kRings + kPage).ok());
  VcmdqProducer queue = Run(1, kRings + kPage);
  // The physical StreamID of a device of this very viommu.
  ASSERT_TRUE(context_->AllocVdevice(viommu_, device_, kVirtSid).ok());
  const RawCommand physical = Encode({.opcode = Opcode::kAtcInv, .sid = kSidA0});
  queue.Submit({&physical, 1}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  std::vector<Vevent> events;
  while (events.empty()) events = *context_->ReadVeventq(veventq, 4);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].sequence, 0u);
  EXPECT_EQ(events[0].record[0], 2u);
  EXPECT_EQ(events[0].record[1], 0u);
  EXPECT_EQ(Count(Opcode::kAtcInv).refused, 1u);
  // The guest mends it.
  queue.ReplaceFailed(Encode({.opcode = Opcode::kSync}));
  queue.Acknowledge();
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  // The slow way is open all the time, and refuses what it refuses.
  const RawCommand slow = Encode({.opcode = Opcode::kTlbiNhAll});
  EXPECT_TRUE(context_->Invalidate(viommu_, InvalidateDataType::kArmSmmuv3, {&slow, 1}).status.ok());
}

TEST_P(HwQueuesTest, AQueueThatGoesIsDeadForItsOwner) {
  const ObjectId id = *AllocQueue(0, kRings);
  VcmdqProducer old = Run(0, kRings);
  ASSERT_TRUE(context_->Destroy(id).ok());
  EXPECT_EQ(old.Sync(steady_clock::now()), WaitResult::kTimedOut);
  ASSERT_TRUE(AllocQueue(0, kRings + kPage).ok());
  VcmdqProducer queue = Run(0, kRings + kPage);
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
}

TEST_P(HwQueuesTest, AContextThatEndsTakesEverythingWithIt) {
  ASSERT_TRUE(context_->AllocVdevice(viommu_, device_, kVirtSid).ok());
  ASSERT_TRUE(context_->AllocVeventq(viommu_, VeventqType::kTegra241Cmdqv, 4).ok());
  ASSERT_TRUE(AllocQueue(0, kRings).ok());
  ASSERT_TRUE(AllocQueue(1, kRings + kPage).ok());
  VcmdqProducer first = Run(0, kRings);
  VcmdqProducer second = Run(1, kRings + kPage);
  const std::vector<RawCommand> commands(200, Encode({.opcode = Opcode::kTlbiNhAsid, .asid = 1}));
  first.Submit(commands, Soon());
  second.Submit(commands, Soon());
  AllocViommu();
  context_.reset();
  EXPECT_EQ(backend_->GetStats()[0].vmids_used, 0u);
  // Both interfaces are there again.
  context_ = *backend_->OpenContext();
  device_ = *context_->BindDevice(kDeviceA0);
  ioas_ = *context_->AllocIoas();
  stage2_ = *context_->AllocStage2(device_, ioas_);
  AllocViommu();
  AllocViommu();
}

INSTANTIATE_TEST_SUITE_P(Personalities, HwQueuesTest, testing::Values(Strict(), Linux72()),
                         [](const auto& suite) { return suite.param.name == "strict" ? "Strict" : "Linux72"; });

TEST(HwQueueInventoryTest, HasLimits) {
  for (const HwQueueInventory bad :
       {HwQueueInventory{0, 2, 2}, HwQueueInventory{64, 2, 2}, HwQueueInventory{1, 0, 2}, HwQueueInventory{1, 129, 2},
        HwQueueInventory{1, 2, 0}, HwQueueInventory{1, 2, 17}}) {
    EmulatedInventory inventory = MakeTestInventory(Strict());
    inventory.smmus[0].info.hw_queue = bad;
    EXPECT_FALSE(EmulatedBackend::Create(std::move(inventory)).ok());
  }
  EmulatedInventory inventory = MakeTestInventory(Strict());
  inventory.smmus[0].info.hw_queue = HwQueueInventory{63, 128, 16};
  EXPECT_TRUE(EmulatedBackend::Create(std::move(inventory)).ok());
}

}  // namespace
}  // namespace viommu::agent
