// VIOMMU_ALLOC, and whose the VMIDs are.

#include <set>

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

class Viommu : public Conformance {
 protected:
  absl::Status Alloc(Vm& vm, ObjectId device, ObjectId stage2, ViommuType type = ViommuType::kArmSmmuv3) {
    return vm->AllocViommu(device, stage2, type).status();
  }
};
CONFORMANCE_RIGS(Viommu);

TEST_P(Viommu, Alloc) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_OK(Alloc(vm, device, vm.Stage2(device)));
}

TEST_P(Viommu, V1_Stage2IdZero) {
  Vm vm(Open());
  EXPECT_ERRNO(ENOENT, Alloc(vm, vm.Bind(A0()), 0));
}

TEST_P(Viommu, V2_HwptThatIsNoNestParent) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  const ObjectId hwpt = Must(vm->AllocHwpt({.device = device, .pt = vm.ioas()}));
  EXPECT_ERRNO(EINVAL, Alloc(vm, device, hwpt));
}

TEST_P(Viommu, V3_UnknownType) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, device, vm.Stage2(device), static_cast<ViommuType>(0xdead)));
}

TEST_P(Viommu, TypeDefault) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, device, vm.Stage2(device), ViommuType::kDefault));
}

TEST_P(Viommu, V6_NoDevice) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_ERRNO(ENOENT, Alloc(vm, kNoSuchId, vm.Stage2(device)));
  EXPECT_ERRNO(ENOENT, Alloc(vm, 0, vm.Stage2(device)));
}

TEST_P(Viommu, OnANestedHwpt) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(ENOENT, Alloc(vm, function.device, vm.Nested(function, smmuv3::kAbortVste)));
}

TEST_P(Viommu, OnAViommu) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(ENOENT, Alloc(vm, function.device, function.viommu));
}

TEST_P(Viommu, HardwareQueuesWhereThereAreNone) {
  Vm vm(Open());
  if (SmmuOf(A0()).hw_queue.has_value()) GTEST_SKIP() << "SMMU A has hardware queues";
  const ObjectId device = vm.Bind(A0());
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, device, vm.Stage2(device), ViommuType::kTegra241Cmdqv));
}

TEST_P(Viommu, OfTheOrdinaryTypeHasNoHardwareQueues) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(EOPNOTSUPP, vm->AllocHwQueue(function.viommu, HwQueueType::kTegra241Cmdqv, 0, kMemoryBase, 4096));
  EXPECT_ERRNO(EOPNOTSUPP, vm->MapVintf(function.viommu));
}

TEST_P(Viommu, OnOneStage) {
  NEED_DEVICE(pci, Role::kOneStage);
  Vm vm(Open());
  const ObjectId stage2 = vm.Stage2(vm.Bind(A0()));
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, vm.Bind(pci), stage2));
}

TEST_P(Viommu, AroundTheCache) {
  NEED_DEVICE(pci, Role::kAroundCache);
  Vm vm(Open());
  const ObjectId device = vm.Bind(pci);
  const ObjectId stage2 = vm.Stage2(device);  // nests all the same
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, device, stage2));
}

TEST_P(Viommu, A15_Stage2OfAnotherSmmu) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const ObjectId stage2 = vm.Stage2(vm.Bind(A0()));
  EXPECT_ERRNO(expect().foreign_stage2, Alloc(vm, vm.Bind(b0), stage2));
}

TEST_P(Viommu, OneStage2EachForTwoSmmus) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const ObjectId a = vm.Bind(A0());
  const ObjectId b = vm.Bind(b0);
  EXPECT_OK(Alloc(vm, a, vm.Stage2(a)));
  EXPECT_OK(Alloc(vm, b, vm.Stage2(b)));
}

TEST_P(Viommu, SeveralOnOneStage2) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  const ObjectId stage2 = vm.Stage2(device);
  std::set<ObjectId> ids;
  for (int i = 0; i < 100; ++i) ids.insert(vm.Viommu(device, stage2));
  EXPECT_EQ(ids.size(), 100u);
  for (const ObjectId id : ids) EXPECT_OK(vm->Destroy(id));
  EXPECT_OK(vm->Destroy(stage2));
}

TEST_P(Viommu, NeedsNoVdeviceOfItsDevice) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  const ObjectId other = vm.Bind(a1);
  EXPECT_OK(vm->AllocVdevice(function.viommu, other, 0x10));
}

TEST_P(Viommu, SurvivesTheDeviceItWasMadeWith) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  ASSERT_OK(vm->UnbindDevice(A0()));
  const ObjectId other = vm.Bind(a1);
  EXPECT_OK(vm->AllocVdevice(function.viommu, other, 0x10));
  EXPECT_OK(vm->AllocNested(function.viommu, other, smmuv3::kBypassVste));
}

// ---- The order of checks ----

TEST_P(Viommu, OrderTypeDefaultBeforeDevice) {
  Vm vm(Open());
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, kNoSuchId, kNoSuchId, ViommuType::kDefault));
}

TEST_P(Viommu, OrderDeviceBeforeUnknownType) {
  Vm vm(Open());
  EXPECT_ERRNO(ENOENT, Alloc(vm, kNoSuchId, kNoSuchId, static_cast<ViommuType>(0xdead)));
}

TEST_P(Viommu, OrderTypeBeforeStage2) {
  Vm vm(Open());
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, vm.Bind(A0()), kNoSuchId, static_cast<ViommuType>(0xdead)));
}

TEST_P(Viommu, OrderAbilityBeforeStage2) {
  NEED_DEVICE(pci, Role::kOneStage);
  Vm vm(Open());
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(vm, vm.Bind(pci), kNoSuchId));
}

// ---- VMIDs ----

TEST_P(Viommu, VmidsOfOneStage2) {
  Vm vm(Open());
  if (!backend().GetCapabilities().reports_vmid) GTEST_SKIP() << "the backend does not tell VMIDs";
  const ObjectId device = vm.Bind(A0());
  const ObjectId stage2 = vm.Stage2(device);
  const auto one = Must(vm->AllocViommu(device, stage2, ViommuType::kArmSmmuv3)).vmid;
  const auto other = Must(vm->AllocViommu(device, stage2, ViommuType::kArmSmmuv3)).vmid;
  ASSERT_TRUE(one.has_value() && other.has_value());
  EXPECT_EQ(*one == *other, expect().vmid_owner == agent::VmidOwner::kStage2);
  EXPECT_NE(*one, 0);
  EXPECT_NE(*other, 0);
}

TEST_P(Viommu, VmidsOfTwoVmsDiffer) {
  NEED_DEVICE(a1, Role::kA1);
  if (!backend().GetCapabilities().reports_vmid) GTEST_SKIP() << "the backend does not tell VMIDs";
  Vm one(Open());
  Vm other(Open());
  const ObjectId d0 = one.Bind(A0());
  const ObjectId d1 = other.Bind(a1);
  EXPECT_NE(Must(one->AllocViommu(d0, one.Stage2(d0), ViommuType::kArmSmmuv3)).vmid,
            Must(other->AllocViommu(d1, other.Stage2(d1), ViommuType::kArmSmmuv3)).vmid);
}

TEST_P(Viommu, A18_VmidsUsedUp) {
  NEED_DEVICE(b0, Role::kB0);
  if (SmmuOf(b0).vmid_bits != 8) GTEST_SKIP() << "the second SMMU has more VMIDs than one wants to use up";
  Vm vm(Open());
  const ObjectId device = vm.Bind(b0);
  std::vector<ObjectId> ids;
  if (expect().vmid_owner == agent::VmidOwner::kStage2) {
    for (int i = 0; i < 255; ++i) ids.push_back(vm.Stage2(device));
    EXPECT_ERRNO(ENOSPC, vm->AllocStage2(device, vm.ioas()));
    EXPECT_OK(vm->Destroy(ids[17]));
    EXPECT_OK(vm->AllocStage2(device, vm.ioas()));
    EXPECT_ERRNO(ENOSPC, vm->AllocStage2(device, vm.ioas()));
  } else {
    const ObjectId stage2 = vm.Stage2(device);
    for (int i = 0; i < 255; ++i) ids.push_back(vm.Viommu(device, stage2));
    EXPECT_ERRNO(ENOSPC, Alloc(vm, device, stage2));
    EXPECT_OK(vm->Destroy(ids[17]));
    EXPECT_OK(Alloc(vm, device, stage2));
    EXPECT_ERRNO(ENOSPC, Alloc(vm, device, stage2));
  }
}

TEST_P(Viommu, VmidsUsedUpOnOneSmmuAreThereOnAnother) {
  NEED_DEVICE(b0, Role::kB0);
  if (SmmuOf(b0).vmid_bits != 8) GTEST_SKIP() << "the second SMMU has more VMIDs than one wants to use up";
  Vm vm(Open());
  const ObjectId b = vm.Bind(b0);
  const bool by_stage2 = expect().vmid_owner == agent::VmidOwner::kStage2;
  const ObjectId stage2 = vm.Stage2(b);
  if (!by_stage2) vm.Viommu(b, stage2);
  for (int i = 1; i < 255; ++i) by_stage2 ? vm.Stage2(b) : vm.Viommu(b, stage2);
  const ObjectId a = vm.Bind(A0());
  EXPECT_OK(Alloc(vm, a, vm.Stage2(a)));
}

TEST_P(Viommu, VmidsOfAClosedContextAreFree) {
  NEED_DEVICE(b0, Role::kB0);
  if (SmmuOf(b0).vmid_bits != 8) GTEST_SKIP() << "the second SMMU has more VMIDs than one wants to use up";
  for (int round = 0; round < 3; ++round) {
    Vm vm(Open());
    const ObjectId device = vm.Bind(b0);
    for (int i = 0; i < 200; ++i) vm.Viommu(device, vm.Stage2(device));
  }
}

TEST_P(Viommu, VmidsAreCounted) {
  const std::string smmu = Info(A0()).smmu;
  const uint64_t before = StatsOf(smmu).vmids_used;
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  const ObjectId stage2 = vm.Stage2(device);
  const uint64_t with_stage2 = StatsOf(smmu).vmids_used;
  vm.Viommu(device, stage2);
  vm.Viommu(device, stage2);
  const uint64_t with_viommus = StatsOf(smmu).vmids_used;
  const bool by_stage2 = expect().vmid_owner == agent::VmidOwner::kStage2;
  EXPECT_EQ(with_stage2 - before, by_stage2 ? 1u : 0u);
  EXPECT_EQ(with_viommus - with_stage2, by_stage2 ? 0u : 2u);
  vm.Close();
  EXPECT_EQ(StatsOf(smmu).vmids_used, before);
  const uint32_t bits = SmmuOf(A0()).vmid_bits;
  EXPECT_EQ(StatsOf(smmu).vmids_total, (uint64_t{1} << bits) - 1);
}

}  // namespace
}  // namespace viommu::conformance
