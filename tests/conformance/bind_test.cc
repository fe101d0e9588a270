// Binding devices, and the inventory.

#include <algorithm>

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

class Bind : public Conformance {};
CONFORMANCE_RIGS(Bind);

TEST_P(Bind, UnknownDevice) {
  Vm vm(Open());
  EXPECT_ERRNO(ENODEV, vm->BindDevice("ffff:ff:1f.7"));
  EXPECT_ERRNO(ENODEV, vm->BindDevice(""));
  EXPECT_ERRNO(ENODEV, vm->BindDevice("nonsense"));
}

TEST_P(Bind, Twice) {
  Vm vm(Open());
  vm.Bind(A0());
  EXPECT_ERRNO(expect().bound_device, vm->BindDevice(A0()));
}

TEST_P(Bind, InAnotherContext) {
  Vm one(Open());
  Vm other(Open());
  one.Bind(A0());
  EXPECT_ERRNO(expect().bound_device, other->BindDevice(A0()));
}

TEST_P(Bind, AgainAfterUnbind) {
  Vm one(Open());
  Vm other(Open());
  one.Bind(A0());
  EXPECT_OK(one->UnbindDevice(A0()));
  EXPECT_OK(other->BindDevice(A0()));
  EXPECT_ERRNO(expect().bound_device, one->BindDevice(A0()));
}

TEST_P(Bind, AgainAfterClose) {
  Vm one(Open());
  one.Bind(A0());
  one.Close();
  Vm other(Open());
  EXPECT_OK(other->BindDevice(A0()));
}

TEST_P(Bind, TwoDevicesInTwoContexts) {
  NEED_DEVICE(a1, Role::kA1);
  Vm one(Open());
  Vm other(Open());
  EXPECT_OK(one->BindDevice(A0()));
  EXPECT_OK(other->BindDevice(a1));
}

TEST_P(Bind, GroupInTwoContexts) {
  NEED_DEVICE(first, Role::kGroup0);
  NEED_DEVICE(second, Role::kGroup1);
  Vm one(Open());
  Vm other(Open());
  EXPECT_OK(one->BindDevice(first));
  EXPECT_ERRNO(expect().group_elsewhere, other->BindDevice(second));
  EXPECT_OK(one->BindDevice(second));
  EXPECT_OK(one->UnbindDevice(first));
  EXPECT_ERRNO(expect().group_elsewhere, other->BindDevice(first));
  EXPECT_OK(one->UnbindDevice(second));
  EXPECT_OK(other->BindDevice(first));
}

TEST_P(Bind, IncoherentDevice) {
  NEED_DEVICE(pci, Role::kIncoherent);
  Vm vm(Open());
  EXPECT_ERRNO(EINVAL, vm->BindDevice(pci));
}

TEST_P(Bind, UnbindWhatIsNotBound) {
  Vm vm(Open());
  EXPECT_ERRNO(ENOENT, vm->UnbindDevice(A0()));
  EXPECT_ERRNO(ENOENT, vm->UnbindDevice("ffff:ff:1f.7"));
}

TEST_P(Bind, UnbindTwice) {
  Vm vm(Open());
  vm.Bind(A0());
  EXPECT_OK(vm->UnbindDevice(A0()));
  EXPECT_ERRNO(ENOENT, vm->UnbindDevice(A0()));
}

TEST_P(Bind, UnbindAnotherContextsDevice) {
  Vm one(Open());
  Vm other(Open());
  one.Bind(A0());
  EXPECT_ERRNO(ENOENT, other->UnbindDevice(A0()));
  EXPECT_ERRNO(expect().bound_device, other->BindDevice(A0()));
}

TEST_P(Bind, UnbindDetaches) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  const ObjectId stage2 = vm.Stage2(device);
  ASSERT_OK(vm->Attach(device, stage2));
  ASSERT_ERRNO(EBUSY, vm->Destroy(stage2));
  EXPECT_OK(vm->UnbindDevice(A0()));
  EXPECT_OK(vm->Destroy(stage2));
}

TEST_P(Bind, UnbindFreesTheId) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_OK(vm->UnbindDevice(A0()));
  EXPECT_ERRNO(ENOENT, vm->GetHwInfo(device));
  EXPECT_EQ(Must(vm->AllocIoas()), device);
}

TEST_P(Bind, ABoundDeviceIsNotAttached) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_OK(vm->Detach(device));
  EXPECT_OK(vm->Detach(device));
}

TEST_P(Bind, EveryDeviceOfTheInventoryBindsOrSaysWhy) {
  for (const agent::DeviceInfo& device : Must(backend().Discover()).devices) {
    Vm vm(Open());
    const absl::Status status = vm->BindDevice(device.pci_address).status();
    if (device.pci_address == rig().Device(Role::kIncoherent)) {
      EXPECT_ERRNO(EINVAL, status);
    } else {
      EXPECT_OK(status) << device.pci_address;
    }
  }
}

class Discovery : public Conformance {};
CONFORMANCE_RIGS(Discovery);

TEST_P(Discovery, IsSortedAndHasNoDoubles) {
  const agent::Inventory inventory = Must(backend().Discover());
  for (size_t i = 1; i < inventory.smmus.size(); ++i) {
    EXPECT_LT(inventory.smmus[i - 1].name, inventory.smmus[i].name);
  }
  for (size_t i = 1; i < inventory.devices.size(); ++i) {
    EXPECT_LT(inventory.devices[i - 1].pci_address, inventory.devices[i].pci_address);
  }
}

TEST_P(Discovery, EveryDeviceIsBehindAnSmmuOfTheInventory) {
  const agent::Inventory inventory = Must(backend().Discover());
  for (const agent::DeviceInfo& device : inventory.devices) {
    const auto smmu = std::find_if(inventory.smmus.begin(), inventory.smmus.end(),
                                   [&](const agent::SmmuInfo& info) { return info.name == device.smmu; });
    ASSERT_NE(smmu, inventory.smmus.end()) << device.pci_address;
    EXPECT_LT(device.stream_id, uint64_t{1} << smmu->sid_bits);
    EXPECT_LE(device.max_pasid_log2, smmu->ssid_bits);
    EXPECT_TRUE(smmu->ats || !device.ats);
  }
}

TEST_P(Discovery, StatsAreInTheSameOrder) {
  const agent::Inventory inventory = Must(backend().Discover());
  const std::vector<agent::SmmuStats> stats = backend().GetStats();
  ASSERT_EQ(stats.size(), inventory.smmus.size());
  for (size_t i = 0; i < stats.size(); ++i) EXPECT_EQ(stats[i].smmu, inventory.smmus[i].name);
}

TEST_P(Discovery, BindingChangesNothing) {
  const agent::Inventory before = Must(backend().Discover());
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_OK(vm->Attach(function.device, function.stage2));
  EXPECT_EQ(Must(backend().Discover()), before);
}

TEST_P(Discovery, CapabilitiesFitThePersonality) {
  const agent::Capabilities capabilities = backend().GetCapabilities();
  EXPECT_EQ(capabilities.stage2_sharing, expect().stage2_sharing);
  EXPECT_EQ(capabilities.vmid_owner, expect().vmid_owner);
  EXPECT_EQ(capabilities.invalidate_by_nested, expect().invalidate_by_nested == 0);
  for (const agent::Capability& capability : capabilities.others) {
    EXPECT_FALSE(capability.name.empty());
    EXPECT_TRUE(capability.available || !capability.reason.empty()) << capability.name;
  }
}

TEST_P(Discovery, CapabilityExactHandled) {
  bool exact = false;
  for (const agent::Capability& capability : backend().GetCapabilities().others) {
    if (capability.name == "exact_handled") exact = capability.available;
  }
  EXPECT_EQ(exact, expect().exact_handled);
}

// ---- GET_HW_INFO ----------------------------------------------------------------------------------------------------

class HwInfo : public Conformance {};
CONFORMANCE_RIGS(HwInfo);

TEST_P(HwInfo, I1_UnknownDevice) {
  Vm vm(Open());
  EXPECT_ERRNO(ENOENT, vm->GetHwInfo(1));
}

TEST_P(HwInfo, TellsTheRegistersOfTheSmmu) {
  Vm vm(Open());
  const agent::HwInfo info = Must(vm->GetHwInfo(vm.Bind(A0())));
  const agent::SmmuInfo smmu = SmmuOf(A0());
  EXPECT_EQ(info.idr, smmu.idr);
  EXPECT_EQ(info.iidr, smmu.iidr);
  EXPECT_EQ(info.aidr, smmu.aidr);
}

TEST_P(HwInfo, DevicesOfOneSmmuSayTheSame) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  EXPECT_EQ(Must(vm->GetHwInfo(vm.Bind(A0()))).idr, Must(vm->GetHwInfo(vm.Bind(a1))).idr);
}

TEST_P(HwInfo, I5_Pasids) {
  NEED_DEVICE(pci, Role::kPasid);
  Vm vm(Open());
  EXPECT_GT(Must(vm->GetHwInfo(vm.Bind(pci))).max_pasid_log2, 0u);
}

TEST_P(HwInfo, I5_FitsTheInventory) {
  for (const agent::DeviceInfo& device : Must(backend().Discover()).devices) {
    if (device.pci_address == rig().Device(Role::kIncoherent)) continue;
    Vm vm(Open());
    const agent::HwInfo info = Must(vm->GetHwInfo(vm.Bind(device.pci_address)));
    EXPECT_EQ(info.max_pasid_log2, device.max_pasid_log2) << device.pci_address;
    EXPECT_EQ(info.ats_not_supported, !device.ats) << device.pci_address;
  }
}

TEST_P(HwInfo, AfterUnbind) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  ASSERT_OK(vm->UnbindDevice(A0()));
  EXPECT_ERRNO(ENOENT, vm->GetHwInfo(device));
}

}  // namespace
}  // namespace viommu::conformance
