// The emulated backend through the seam: objects, attaching, who blocks whom, what each call refuses.

#include "agent/smmuv3/vsmmu/emulated_backend.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/test_guest.h"
#include "agent/smmuv3/vsmmu/test_host.h"

namespace viommu::agent {
namespace {

using smmuv3::ConfigOf;
using smmuv3::RawSte;
using smmuv3::RawVste;
using smmuv3::SteConfig;
using testing::HasSubstr;

constexpr RawVste kTranslate = {0x1000'000b, 0};

// One VM with both devices of SMMU a bound, a stage 2 and a viommu there.
class EmulatedBackendTest : public testing::TestWithParam<Personality> {
 protected:
  EmulatedBackendTest() : backend_(MakeTestBackend(GetParam())), context_(*backend_->OpenContext()) {
    device_ = *context_->BindDevice(kDeviceA0);
    second_ = *context_->BindDevice(kDeviceA1);
    ioas_ = *context_->AllocIoas();
    stage2_ = *context_->AllocStage2(device_, ioas_);
    const ViommuHandle viommu = *context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3);
    viommu_ = viommu.id;
    vmid_ = *viommu.vmid;
  }

  bool strict() const { return GetParam().vmid_owner == VmidOwner::kViommu; }
  RawSte Ste(uint32_t sid) { return backend_->ReadSte("a", sid); }
  uint64_t VmidsUsed(size_t smmu = 0) { return backend_->GetStats()[smmu].vmids_used; }
  template <typename T>
  static int Errno(const absl::StatusOr<T>& result) {
    return StatusErrno(result.status());
  }
  static int Errno(const absl::Status& status) { return StatusErrno(status); }

  std::unique_ptr<EmulatedBackend> backend_;
  std::unique_ptr<Context> context_;
  ObjectId device_ = 0, second_ = 0, ioas_ = 0, stage2_ = 0, viommu_ = 0;
  uint16_t vmid_ = 0;
};

TEST_P(EmulatedBackendTest, IdsAreTheLowestFreeFromOneAndReusedAtOnce) {
  EXPECT_EQ(device_, 1u);
  EXPECT_EQ(second_, 2u);
  EXPECT_EQ(ioas_, 3u);
  EXPECT_EQ(stage2_, 4u);
  EXPECT_EQ(viommu_, 5u);
  EXPECT_EQ(*context_->AllocNested(viommu_, device_, smmuv3::kAbortVste), 6u);
  EXPECT_EQ(*context_->AllocIoas(), 7u);
  EXPECT_TRUE(context_->Destroy(6).ok());
  EXPECT_EQ(Errno(context_->Destroy(6)), ENOENT);
  EXPECT_EQ(*context_->AllocVdevice(viommu_, device_, 0x10), 6u);
  EXPECT_EQ(Errno(context_->Destroy(0)), ENOENT);
  EXPECT_EQ(Errno(context_->Destroy(99)), ENOENT);
}

TEST_P(EmulatedBackendTest, DevicesAreBoundOnceOnTheHost) {
  auto other = *backend_->OpenContext();
  const int taken = strict() ? EBUSY : EINVAL;
  EXPECT_EQ(Errno(context_->BindDevice(kDeviceA0)), taken);
  EXPECT_EQ(Errno(other->BindDevice(kDeviceA0)), taken);
  EXPECT_EQ(Errno(other->BindDevice("0000:ff:00.0")), ENODEV);
  EXPECT_EQ(Errno(other->BindDevice(kDeviceIncoherent)), EINVAL);
  EXPECT_EQ(Errno(other->UnbindDevice(kDeviceA0)), ENOENT);
  EXPECT_TRUE(context_->UnbindDevice(kDeviceA0).ok());
  EXPECT_TRUE(other->BindDevice(kDeviceA0).ok());
  EXPECT_EQ(Errno(context_->Destroy(second_)), EBUSY);
}

TEST_P(EmulatedBackendTest, AGroupBelongsToOneContext) {
  auto other = *backend_->OpenContext();
  ASSERT_TRUE(context_->BindDevice(kDeviceGroup0).ok());
  EXPECT_EQ(Errno(other->BindDevice(kDeviceGroup1)), strict() ? EBUSY : EPERM);
  EXPECT_TRUE(context_->BindDevice(kDeviceGroup1).ok());
}

TEST_P(EmulatedBackendTest, ClosingAContextFreesEverything) {
  ASSERT_TRUE(context_->AllocVdevice(viommu_, device_, 0x10).ok());
  const ObjectId nested = *context_->AllocNested(viommu_, device_, kTranslate);
  ASSERT_TRUE(context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 8).ok());
  ASSERT_TRUE(context_->Attach(device_, nested).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kNested);
  context_.reset();
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kAbort);
  EXPECT_EQ(VmidsUsed(), 0u);
  auto other = *backend_->OpenContext();
  EXPECT_TRUE(other->BindDevice(kDeviceA0).ok());
}

TEST_P(EmulatedBackendTest, WhoBlocksWhom) {
  EXPECT_EQ(Errno(context_->Destroy(ioas_)), EBUSY);
  EXPECT_EQ(Errno(context_->Destroy(stage2_)), EBUSY);
  const ObjectId vdevice = *context_->AllocVdevice(viommu_, device_, 0x10);
  EXPECT_EQ(Errno(context_->Destroy(viommu_)), EBUSY);
  const ObjectId nested = *context_->AllocNested(viommu_, device_, kTranslate);
  const ObjectId veventq = *context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 8);
  ASSERT_TRUE(context_->Attach(device_, nested).ok());
  EXPECT_EQ(Errno(context_->Destroy(nested)), EBUSY);
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  EXPECT_TRUE(context_->Destroy(nested).ok());
  EXPECT_EQ(Errno(context_->Destroy(viommu_)), EBUSY);
  EXPECT_TRUE(context_->Destroy(veventq).ok());
  EXPECT_EQ(Errno(context_->Destroy(viommu_)), EBUSY);
  EXPECT_TRUE(context_->Destroy(vdevice).ok());
  EXPECT_TRUE(context_->Destroy(viommu_).ok());
  EXPECT_EQ(Errno(context_->Destroy(stage2_)), EBUSY);
  ASSERT_TRUE(context_->Detach(device_).ok());
  EXPECT_TRUE(context_->Detach(device_).ok());
  EXPECT_TRUE(context_->Destroy(stage2_).ok());
  EXPECT_TRUE(context_->Destroy(ioas_).ok());
  EXPECT_EQ(VmidsUsed(), 0u);
}

TEST_P(EmulatedBackendTest, UnbindingLeavesATombstone) {
  const ObjectId vdevice = *context_->AllocVdevice(viommu_, device_, 0x10);
  ASSERT_TRUE(context_->UnbindDevice(kDeviceA0).ok());
  EXPECT_EQ(Errno(context_->Destroy(vdevice)), ENOENT);
  // The guest's StreamID is free again, the object's id is not.
  const ObjectId again = *context_->AllocVdevice(viommu_, second_, 0x10);
  EXPECT_EQ(again, device_);
  EXPECT_EQ(*context_->AllocIoas(), vdevice + 1);
  EXPECT_EQ(Errno(context_->Destroy(vdevice)), ENOENT);
}

TEST_P(EmulatedBackendTest, ListsWhatIsThere) {
  const ObjectId vdevice = *context_->AllocVdevice(viommu_, device_, 0x10);
  const ObjectId nested = *context_->AllocNested(viommu_, device_, kTranslate);
  const ObjectId veventq = *context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 8);
  const ObjectId faults = *context_->AllocFaultQueue();
  ASSERT_TRUE(context_->Attach(device_, nested).ok());
  std::vector<ObjectInfo> expected = {
      {.id = device_, .kind = ObjectKind::kDevice, .parent = nested, .pci_address = kDeviceA0, .smmu = "a"},
      {.id = second_, .kind = ObjectKind::kDevice, .pci_address = kDeviceA1, .smmu = "a"},
      {.id = ioas_, .kind = ObjectKind::kIoas},
      {.id = stage2_, .kind = ObjectKind::kHwpt, .parent = ioas_, .smmu = strict() ? "" : "a"},
      {.id = viommu_, .kind = ObjectKind::kViommu, .parent = stage2_, .smmu = "a", .type = ViommuType::kArmSmmuv3},
      {.id = vdevice, .kind = ObjectKind::kVdevice, .parent = viommu_, .device = device_, .virt_id = 0x10},
      {.id = nested, .kind = ObjectKind::kNested, .parent = viommu_, .vste = kTranslate},
      {.id = veventq, .kind = ObjectKind::kVeventq, .parent = viommu_},
      {.id = faults, .kind = ObjectKind::kFaultQueue}};
  EXPECT_EQ(*context_->Objects(), expected);

  // The id of a vdevice that the kernel took back stays unused: nothing is listed under it.
  ASSERT_TRUE(context_->UnbindDevice(kDeviceA0).ok());
  std::erase_if(expected, [&](const ObjectInfo& info) { return info.id == device_ || info.id == vdevice; });
  EXPECT_EQ(*context_->Objects(), expected);
  EXPECT_TRUE((*backend_->OpenContext())->Objects()->empty());
}

TEST_P(EmulatedBackendTest, VdevicesAreUnique) {
  ASSERT_TRUE(context_->AllocVdevice(viommu_, device_, 0x10).ok());
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, device_, 0x11)), EEXIST);
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, second_, 0x10)), EEXIST);
  const ViommuHandle other = *context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3);
  EXPECT_EQ(Errno(context_->AllocVdevice(other.id, device_, 0x10)), EEXIST);
  EXPECT_TRUE(context_->AllocVdevice(other.id, second_, 0x10).ok());
}

TEST_P(EmulatedBackendTest, VdevicesThatCannotBe) {
  EXPECT_EQ(Errno(context_->AllocVdevice(99, device_, 1)), ENOENT);
  EXPECT_EQ(Errno(context_->AllocVdevice(stage2_, device_, 1)), ENOENT);
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, 99, 1)), ENOENT);
  const ObjectId behind_b = *context_->BindDevice(kDeviceB0);
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, behind_b, 1)), EINVAL);
  const ObjectId two_streams = *context_->BindDevice(kDeviceTwoStreams);
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, two_streams, 1)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocVdevice(viommu_, device_, uint64_t{1} << 32)), strict() ? EINVAL : 0);
}

TEST_P(EmulatedBackendTest, Stage2AndViommuThatCannotBe) {
  EXPECT_EQ(Errno(context_->AllocStage2(99, ioas_)), ENOENT);
  EXPECT_EQ(Errno(context_->AllocStage2(device_, 99)), EINVAL);
  EXPECT_EQ(Errno(context_->AllocViommu(device_, stage2_, ViommuType::kDefault)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocViommu(device_, stage2_, ViommuType::kTegra241Cmdqv)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocViommu(99, stage2_, ViommuType::kArmSmmuv3)), ENOENT);
  EXPECT_EQ(Errno(context_->AllocViommu(device_, 99, ViommuType::kArmSmmuv3)), ENOENT);
  EXPECT_EQ(Errno(context_->AllocViommu(device_, ioas_, ViommuType::kArmSmmuv3)), ENOENT);
  const ObjectId one_stage = *context_->BindDevice(kDeviceOneStage);
  EXPECT_EQ(Errno(context_->AllocStage2(one_stage, ioas_)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocViommu(one_stage, stage2_, ViommuType::kArmSmmuv3)), EOPNOTSUPP);
  const ObjectId around_cache = *context_->BindDevice(kDeviceAroundCache);
  const ObjectId its_stage2 = *context_->AllocStage2(around_cache, ioas_);
  EXPECT_EQ(Errno(context_->AllocViommu(around_cache, its_stage2, ViommuType::kArmSmmuv3)), EOPNOTSUPP);
}

TEST_P(EmulatedBackendTest, OneStage2ForSeveralSmmusOrNot) {
  const ObjectId behind_b = *context_->BindDevice(kDeviceB0);
  const auto viommu = context_->AllocViommu(behind_b, stage2_, ViommuType::kArmSmmuv3);
  EXPECT_EQ(Errno(viommu), strict() ? 0 : EINVAL);
  EXPECT_EQ(Errno(context_->Attach(behind_b, stage2_)), strict() ? 0 : EINVAL);
}

TEST_P(EmulatedBackendTest, WhoTakesAVmid) {
  EXPECT_EQ(VmidsUsed(), 1u);
  const ViommuHandle other = *context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3);
  EXPECT_EQ(*other.vmid == vmid_, !strict());
  EXPECT_EQ(VmidsUsed(), strict() ? 2u : 1u);
  EXPECT_TRUE(context_->AllocStage2(device_, ioas_).ok());
  EXPECT_EQ(VmidsUsed(), 2u);
  EXPECT_TRUE(context_->Destroy(other.id).ok());
  EXPECT_EQ(VmidsUsed(), strict() ? 1u : 2u);
}

TEST_P(EmulatedBackendTest, VmidsRunOut) {
  const ObjectId behind_b = *context_->BindDevice(kDeviceB0);  // 8-bit VMIDs
  for (int i = 0; i < 255; ++i) {
    const auto stage2 = context_->AllocStage2(behind_b, ioas_);
    ASSERT_TRUE(stage2.ok()) << i;
    if (strict()) {
      ASSERT_TRUE(context_->AllocViommu(behind_b, *stage2, ViommuType::kArmSmmuv3).ok()) << i;
    }
  }
  if (strict()) {
    EXPECT_EQ(Errno(context_->AllocViommu(behind_b, stage2_, ViommuType::kArmSmmuv3)), ENOSPC);
    EXPECT_EQ(Errno(context_->Attach(behind_b, stage2_)), ENOSPC);
  } else {
    EXPECT_EQ(Errno(context_->AllocStage2(behind_b, ioas_)), ENOSPC);
  }
  EXPECT_EQ(VmidsUsed(1), 255u);
  EXPECT_EQ(backend_->GetStats()[1].vmids_total, 255u);
}

TEST_P(EmulatedBackendTest, AsidsRunOut) {
  EmulatedInventory inventory = MakeTestInventory(GetParam());
  smmuv3::Features features = smmuv3::DecodeIdRegisters(inventory.smmus[0].info.idr);
  features.asid_bits = 8;
  inventory.smmus[0].info = MakeSmmuInfo("a", smmuv3::EncodeIdRegisters(features), 0, 0);
  const auto backend = *EmulatedBackend::Create(std::move(inventory));
  const auto context = *backend->OpenContext();
  const HwptAlloc plain = {.device = *context->BindDevice(kDeviceA0), .pt = *context->AllocIoas()};
  for (int i = 0; i < 255; ++i) ASSERT_TRUE(context->AllocHwpt(plain).ok()) << i;
  EXPECT_EQ(Errno(context->AllocHwpt(plain)), ENOSPC);
}

TEST_P(EmulatedBackendTest, ListsSmmusAndDevicesInOrder) {
  EmulatedInventory inventory = MakeTestInventory(GetParam());
  std::reverse(inventory.smmus.begin(), inventory.smmus.end());
  std::reverse(inventory.devices.begin(), inventory.devices.end());
  const auto backend = *EmulatedBackend::Create(std::move(inventory));
  EXPECT_EQ(backend->GetStats().front().smmu, "a");
  const Inventory listed = *backend->Discover();
  EXPECT_EQ(listed.smmus.front().name, "a");
  EXPECT_EQ(listed.devices.front().pci_address, kDeviceA0);
}

TEST_P(EmulatedBackendTest, NestedRefusals) {
  EXPECT_EQ(Errno(context_->AllocNested(viommu_, 99, kTranslate)), ENOENT);
  EXPECT_EQ(Errno(context_->AllocNested(99, device_, kTranslate)), EINVAL);
  EXPECT_EQ(Errno(context_->AllocNested(ioas_, device_, kTranslate)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocNested(device_, device_, kTranslate)), EINVAL);
  EXPECT_EQ(Errno(context_->AllocNested(stage2_, device_, kTranslate)), EOPNOTSUPP);
  const ObjectId behind_b = *context_->BindDevice(kDeviceB0);
  EXPECT_EQ(Errno(context_->AllocNested(viommu_, behind_b, kTranslate)), EINVAL);
  for (const uint64_t config : {1, 2, 3, 6, 7}) {
    EXPECT_EQ(Errno(context_->AllocNested(viommu_, device_, {1 | config << 1, 0})), EIO) << config;
  }
  EXPECT_EQ(Errno(context_->AllocNested(viommu_, device_, {0xb, uint64_t{2} << 28})), EIO);
  EXPECT_EQ(Errno(context_->AllocNested(viommu_, device_, {0xb | uint64_t{1} << 52, 0})), EIO);
  EXPECT_TRUE(context_->AllocNested(viommu_, device_, {~uint64_t{1}, ~uint64_t{0}}).ok());
}

TEST_P(EmulatedBackendTest, AttachWritesThePhysicalEntry) {
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kAbort);
  const ObjectId abort = *context_->AllocNested(viommu_, device_, smmuv3::kAbortVste);
  const ObjectId bypass = *context_->AllocNested(viommu_, device_, smmuv3::kBypassVste);
  const ObjectId translate = *context_->AllocNested(viommu_, device_, {kTranslate.dw0, uint64_t{1} << 28});
  // For the guest's global bypass attribute these two need no vdevice.
  ASSERT_TRUE(context_->Attach(device_, abort).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kAbort);
  ASSERT_TRUE(context_->Attach(device_, bypass).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kStage2);
  EXPECT_EQ(VmidOf(Ste(kSidA0)), vmid_);
  EXPECT_TRUE(AtsEnabled(Ste(kSidA0)));
  EXPECT_EQ(Errno(context_->Attach(device_, translate)), ENOENT);
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kStage2);
  ASSERT_TRUE(context_->AllocVdevice(viommu_, device_, 0x10).ok());
  ASSERT_TRUE(context_->Attach(device_, translate).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kNested);
  EXPECT_EQ(Ste(kSidA0).dw[0] & ~smmuv3::ste::kConfig.mask(), kTranslate.dw0 & ~smmuv3::ste::kConfig.mask());
  EXPECT_TRUE(AtsEnabled(Ste(kSidA0)));
  EXPECT_EQ(VmidOf(Ste(kSidA0)), vmid_);
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kStage2);
  EXPECT_EQ(VmidOf(Ste(kSidA0)), vmid_);
  ASSERT_TRUE(context_->Detach(device_).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidA0)), SteConfig::kAbort);
}

TEST_P(EmulatedBackendTest, AttachRefusals) {
  EXPECT_EQ(Errno(context_->Attach(99, stage2_)), ENOENT);
  EXPECT_EQ(Errno(context_->Attach(device_, 99)), ENOENT);
  EXPECT_EQ(Errno(context_->Attach(device_, viommu_)), EINVAL);
  EXPECT_EQ(Errno(context_->Detach(99)), ENOENT);
  const ObjectId behind_b = *context_->BindDevice(kDeviceB0);
  const ObjectId nested = *context_->AllocNested(viommu_, device_, smmuv3::kBypassVste);
  EXPECT_EQ(Errno(context_->Attach(behind_b, nested)), EINVAL);
  // A vdevice in another viommu does not count.
  const ViommuHandle other = *context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3);
  ASSERT_TRUE(context_->AllocVdevice(other.id, device_, 0x10).ok());
  const ObjectId translate = *context_->AllocNested(viommu_, device_, kTranslate);
  EXPECT_EQ(Errno(context_->Attach(device_, translate)), ENOENT);
}

TEST_P(EmulatedBackendTest, AGroupIsAttachedAsAWhole) {
  const ObjectId one = *context_->BindDevice(kDeviceGroup0);
  const ObjectId two = *context_->BindDevice(kDeviceGroup1);
  const ObjectId bypass = *context_->AllocNested(viommu_, device_, smmuv3::kBypassVste);
  ASSERT_TRUE(context_->Attach(one, bypass).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidGroup0)), SteConfig::kStage2);
  EXPECT_EQ(ConfigOf(Ste(kSidGroup1)), SteConfig::kStage2);
  EXPECT_EQ(Errno(context_->Attach(two, stage2_)), EINVAL);
  ASSERT_TRUE(context_->Attach(two, bypass).ok());
  ASSERT_TRUE(context_->Detach(one).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidGroup0)), SteConfig::kStage2);
  EXPECT_EQ(Errno(context_->Destroy(bypass)), EBUSY);
  ASSERT_TRUE(context_->Detach(two).ok());
  EXPECT_EQ(ConfigOf(Ste(kSidGroup0)), SteConfig::kAbort);
  EXPECT_TRUE(context_->Destroy(bypass).ok());
}

TEST_P(EmulatedBackendTest, AVmidIsNotFreeWhileAStreamTableEntryNamesIt) {
  const ObjectId vdevice = *context_->AllocVdevice(viommu_, device_, 0x10);
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  ASSERT_TRUE(context_->Destroy(vdevice).ok());
  ASSERT_TRUE(context_->Destroy(viommu_).ok());
  EXPECT_EQ(VmidOf(Ste(kSidA0)), vmid_);
  EXPECT_EQ(VmidsUsed(), 1u);
  const ViommuHandle next = *context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3);
  EXPECT_EQ(*next.vmid == vmid_, !strict());
  ASSERT_TRUE(context_->Detach(device_).ok());
  EXPECT_EQ(VmidsUsed(), 1u);
}

TEST_P(EmulatedBackendTest, FreedVmidsLeaveNothingInTheTlb) {
  TestGuest guest;
  ASSERT_TRUE(context_->MapIoas(ioas_, TestGuest::kBase, TestGuest::kBytes, guest.handle()).ok());
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  const DmaRequest access{.pci_address = kDeviceA0, .address = TestGuest::kBase};
  ASSERT_EQ(backend_->device_dma()->Translate(access, false)->outcome, DmaResult::Outcome::kDone);
  EXPECT_GT(backend_->GetStats()[0].tlb_entries, 0u);
  ASSERT_TRUE(context_->Detach(device_).ok());
  ASSERT_TRUE(context_->Destroy(viommu_).ok());
  ASSERT_TRUE(context_->Destroy(stage2_).ok());
  EXPECT_EQ(backend_->GetStats()[0].tlb_entries, 0u);
}

TEST_P(EmulatedBackendTest, MemoryMaps) {
  const int fd = memfd_create("guest", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, 0x3000), 0);
  const MemoryHandle memory{.fd = fd};
  EXPECT_EQ(Errno(context_->MapIoas(99, 0x10000, 0x2000, memory)), ENOENT);
  EXPECT_TRUE(context_->MapIoas(ioas_, 0x10000, 0x2000, memory).ok());
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, 0x11000, 0x1000, memory)), EEXIST);
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, 0xf000, 0x2000, memory)), EEXIST);
  EXPECT_TRUE(context_->MapIoas(ioas_, 0x12000, 0x1000, memory).ok());
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, 0x20001, 0x1000, memory)), EINVAL);
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, 0x20000, 0, memory)), EINVAL);
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, 0x20000, 0x1000, {.fd = fd, .readable = false, .writable = false})), EINVAL);
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, ~uint64_t{0xfff}, 0x2000, memory)), EOVERFLOW);
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, 0x20000, 0x1000, {.fd = -1})), EBADF);
  // The file ends there; the tables do not reach so far.
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, 0x20000, 0x2000, {.fd = fd, .offset = 0x2000})), EINVAL);
  EXPECT_EQ(Errno(context_->MapIoas(ioas_, uint64_t{1} << 48, 0x1000, memory)), EINVAL);
  close(fd);
  EXPECT_EQ(Errno(context_->UnmapIoas(ioas_, 0x10000, 0x1000)), ENOENT);
  EXPECT_EQ(Errno(context_->UnmapIoas(ioas_, 0x11000, 0x2000)), ENOENT);
  EXPECT_EQ(Errno(context_->UnmapIoas(ioas_, 0x30000, 0x1000)), ENOENT);
  EXPECT_EQ(*context_->UnmapIoas(ioas_, 0x10000, 0x2000), 0x2000u);
  EXPECT_EQ(*context_->UnmapIoas(ioas_, 0, ~uint64_t{0}), 0x1000u);
  EXPECT_EQ(*context_->UnmapIoas(ioas_, 0, ~uint64_t{0}), 0u);
}

TEST_P(EmulatedBackendTest, WhatIsMappedMustFitNewTables) {
  TestGuest guest;
  const ObjectId other = *context_->AllocIoas();
  ASSERT_TRUE(context_->MapIoas(other, uint64_t{1} << 48, 0x1000, guest.handle()).ok());
  EXPECT_EQ(Errno(context_->AllocStage2(device_, other)), EADDRINUSE);
  EXPECT_EQ(Errno(context_->Attach(device_, other)), EADDRINUSE);
  EXPECT_EQ(VmidsUsed(), 1u);
  ASSERT_TRUE(context_->UnmapIoas(other, 0, ~uint64_t{0}).ok());
  EXPECT_TRUE(context_->AllocStage2(device_, other).ok());
}

TEST_P(EmulatedBackendTest, TheWindowForInterruptsIsNotForMemory) {
  TestGuest guest;
  constexpr uint64_t kWindow = 0x800'0000;
  const auto map = [&](uint64_t iova, uint64_t length) {
    return Errno(context_->MapIoas(ioas_, iova, length, guest.handle()));
  };
  EXPECT_EQ(map(kWindow + 0xf'f000, 0x1000), 0);
  EXPECT_EQ(Errno(context_->Attach(device_, stage2_)), EADDRINUSE);
  ASSERT_TRUE(context_->UnmapIoas(ioas_, 0, ~uint64_t{0}).ok());
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  EXPECT_EQ(map(kWindow, 0x1000), EINVAL);
  EXPECT_EQ(map(kWindow - 0x1000, 0x2000), EINVAL);
  EXPECT_EQ(map(kWindow + 0xf'f000, 0x2000), EINVAL);
  EXPECT_EQ(map(kWindow - 0x1000, 0x1000), 0);
  EXPECT_EQ(map(kWindow + 0x10'0000, 0x1000), 0);
  // Under a nested HWPT it is the same; without a device it is memory like any other.
  ASSERT_TRUE(context_->Attach(device_, *context_->AllocNested(viommu_, device_, smmuv3::kBypassVste)).ok());
  EXPECT_EQ(map(kWindow, 0x1000), EINVAL);
  ASSERT_TRUE(context_->Detach(device_).ok());
  EXPECT_EQ(map(kWindow, 0x1000), 0);
}

TEST_P(EmulatedBackendTest, HwptFlagsAndData) {
  const auto alloc = [&](const HwptAlloc& request) { return Errno(context_->AllocHwpt(request)); };
  const std::array<std::byte, 24> data = {};
  const auto bytes = [&](size_t count) { return std::span<const std::byte>(data).first(count); };
  using enum HwptDataType;
  EXPECT_EQ(alloc({.device = device_, .pt = ioas_, .data = bytes(16)}), EINVAL);
  EXPECT_EQ(alloc({.device = device_, .pt = ioas_, .data_type = kArmSmmuv3}), EINVAL);
  EXPECT_EQ(alloc({.device = ioas_, .pt = ioas_}), ENOENT);
  EXPECT_EQ(alloc({.device = device_, .pt = 99}), EINVAL);
  EXPECT_EQ(alloc({.device = device_, .pt = device_}), EINVAL);
  EXPECT_EQ(alloc({.flags = 16, .device = device_, .pt = ioas_}), EOPNOTSUPP);
  for (const uint32_t flag : {kHwptDirtyTracking, kHwptFaultIdValid, kHwptPasid}) {
    EXPECT_EQ(alloc({.flags = kHwptNestParent | flag, .device = device_, .pt = ioas_}), EOPNOTSUPP) << flag;
  }
  EXPECT_EQ(alloc({.flags = kHwptDirtyTracking, .device = device_, .pt = ioas_}), EOPNOTSUPP);
  EXPECT_EQ(alloc({.device = device_, .pt = ioas_, .data_type = kArmSmmuv3, .data = bytes(16)}), EOPNOTSUPP);
  const ObjectId spare = *context_->AllocIoas();
  EXPECT_EQ(alloc({.flags = kHwptFaultIdValid, .device = device_, .pt = spare, .fault = 99}), ENOENT);
  EXPECT_TRUE(context_->Destroy(spare).ok());
  EXPECT_EQ(alloc({.flags = kHwptPasid, .device = device_, .pt = ioas_}), 0);
  const auto nested = [&](uint32_t flags, HwptDataType type, size_t size, ObjectId fault = 0) {
    return alloc(
        {.flags = flags, .device = device_, .pt = viommu_, .data_type = type, .data = bytes(size), .fault = fault});
  };
  EXPECT_EQ(nested(0, kArmSmmuv3, 16), 0);
  EXPECT_EQ(nested(0, kNone, 0), EOPNOTSUPP);
  EXPECT_EQ(nested(0, kArmSmmuv3, 8), EINVAL);
  EXPECT_EQ(nested(0, kArmSmmuv3, 24), EINVAL);
  EXPECT_EQ(nested(0, kVtdS1, 16), EINVAL);
  EXPECT_EQ(nested(kHwptNestParent, kArmSmmuv3, 16), EOPNOTSUPP);
  EXPECT_EQ(nested(kHwptPasid, kArmSmmuv3, 16), EOPNOTSUPP);
  EXPECT_EQ(nested(1u << 31, kArmSmmuv3, 16), EOPNOTSUPP);
  EXPECT_EQ(nested(kHwptFaultIdValid, kArmSmmuv3, 16, 99), ENOENT);
  const ObjectId faults = *context_->AllocFaultQueue();
  EXPECT_EQ(nested(kHwptFaultIdValid, kArmSmmuv3, 16, faults), 0);
  EXPECT_EQ(Errno(context_->Destroy(faults)), EBUSY);
}

TEST_P(EmulatedBackendTest, OneStageAlone) {
  const ObjectId device = *context_->BindDevice(kDeviceOneStage);
  EXPECT_EQ(Errno(context_->AllocStage2(device, ioas_)), EOPNOTSUPP);
  ASSERT_TRUE(context_->Attach(device, ioas_).ok());
  EXPECT_EQ(ConfigOf(backend_->ReadSte("c", 0x300)), SteConfig::kStage1);
}

TEST_P(EmulatedBackendTest, Stage2Alone) {
  EmulatedInventory inventory = MakeTestInventory(GetParam());
  smmuv3::Features features = smmuv3::DecodeIdRegisters(inventory.smmus[2].info.idr);
  features.stage1 = false;
  features.stage2 = true;
  inventory.smmus[2].info = MakeSmmuInfo("c", smmuv3::EncodeIdRegisters(features), 0, 0);
  const auto backend = *EmulatedBackend::Create(std::move(inventory));
  const auto context = *backend->OpenContext();
  const ObjectId device = *context->BindDevice(kDeviceOneStage);
  const ObjectId ioas = *context->AllocIoas();
  EXPECT_EQ(Errno(context->AllocHwpt({.flags = kHwptPasid, .device = device, .pt = ioas})), EOPNOTSUPP);
  ASSERT_TRUE(context->Attach(device, ioas).ok());
  EXPECT_EQ(ConfigOf(backend->ReadSte("c", 0x300)), SteConfig::kStage2);
}

TEST_P(EmulatedBackendTest, AStage2ThatAnotherSmmuDoesNotRead) {
  EmulatedInventory inventory = MakeTestInventory(GetParam());
  inventory.smmus[3].canwbs = true;
  const auto backend = *EmulatedBackend::Create(std::move(inventory));
  const auto context = *backend->OpenContext();
  const ObjectId stage2 = *context->AllocStage2(*context->BindDevice(kDeviceA0), *context->AllocIoas());
  const ObjectId without_fwb = *context->BindDevice(kDeviceAroundCache);
  EXPECT_EQ(Errno(context->AllocViommu(without_fwb, stage2, ViommuType::kArmSmmuv3)), EINVAL);
  EXPECT_EQ(Errno(context->Attach(without_fwb, stage2)), EINVAL);
  EXPECT_EQ(Errno(context->Attach(*context->BindDevice(kDeviceOneStage), stage2)), EINVAL);
}

TEST_P(EmulatedBackendTest, EventQueues) {
  EXPECT_EQ(Errno(context_->AllocVeventq(viommu_, VeventqType::kDefault, 8)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 0)), EINVAL);
  EXPECT_EQ(Errno(context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, kMaxVeventqDepth + 1)), EINVAL);
  EXPECT_EQ(Errno(context_->AllocVeventq(99, VeventqType::kArmSmmuv3, 8)), ENOENT);
  const ObjectId veventq = *context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 8);
  EXPECT_EQ(Errno(context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 8)), EEXIST);
  EXPECT_TRUE(context_->AllocVeventq(viommu_, VeventqType::kTegra241Cmdqv, 8).ok());
  EXPECT_TRUE(context_->ReadVeventq(veventq, 9)->empty());
  EXPECT_EQ(Errno(context_->ReadVeventq(viommu_, 9)), ENOENT);
  EXPECT_EQ(Errno(context_->ReadFaults(veventq, 9)), ENOENT);
}

TEST_P(EmulatedBackendTest, HardwareQueuesNeedAnSmmuThatHasThem) {
  EXPECT_EQ(Errno(context_->AllocHwQueue(viommu_, HwQueueType::kDefault, 0, 0, 0x1000)), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->AllocHwQueue(viommu_, HwQueueType::kTegra241Cmdqv, 0, 0, 0)), EINVAL);
  EXPECT_EQ(Errno(context_->AllocHwQueue(viommu_, HwQueueType::kTegra241Cmdqv, 0, ~uint64_t{0}, 2)), EOVERFLOW);
  EXPECT_EQ(Errno(context_->AllocHwQueue(99, HwQueueType::kTegra241Cmdqv, 0, 0, 0x1000)), ENOENT);
  EXPECT_EQ(Errno(context_->AllocHwQueue(viommu_, HwQueueType::kTegra241Cmdqv, 0, 0, 0x1000)), EOPNOTSUPP);
}

TEST_P(EmulatedBackendTest, SaysWhatItIs) {
  const Capabilities capabilities = backend_->GetCapabilities();
  EXPECT_EQ(capabilities.backend, "emulated/" + GetParam().name);
  EXPECT_EQ(capabilities.stage2_sharing, GetParam().stage2_sharing);
  const auto inventory = backend_->Discover();
  ASSERT_TRUE(inventory.ok());
  EXPECT_EQ(inventory->smmus[0].name, "a");
  EXPECT_EQ(inventory->devices[0].pci_address, kDeviceA0);
  const HwInfo info = *context_->GetHwInfo(device_);
  EXPECT_EQ(info.idr, inventory->smmus[0].idr);
  EXPECT_FALSE(info.ats_not_supported);
  EXPECT_TRUE(context_->GetHwInfo(second_)->ats_not_supported);
  EXPECT_EQ(Errno(context_->GetHwInfo(99)), ENOENT);
}

TEST_P(EmulatedBackendTest, FailuresCanBeAskedFor) {
  backend_->FailNext(BackendOp::kAllocVdevice, ENOMEM, 1);
  ASSERT_TRUE(context_->AllocVdevice(viommu_, device_, 1).ok());
  const auto failed = context_->AllocVdevice(viommu_, second_, 2);
  EXPECT_EQ(Errno(failed), ENOMEM);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("VDEVICE_ALLOC: ENOMEM"));
  EXPECT_TRUE(context_->AllocVdevice(viommu_, second_, 2).ok());
  backend_->FailNext(BackendOp::kOpenContext, EMFILE);
  EXPECT_EQ(Errno(backend_->OpenContext()), EMFILE);
}

INSTANTIATE_TEST_SUITE_P(Personalities, EmulatedBackendTest, testing::Values(Strict(), Linux72()),
                         [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; });

TEST(EmulatedBackendCreateTest, RefusesAnInventoryThatMakesNoSense) {
  EXPECT_EQ(EmulatedBackend::Create({}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace viommu::agent
