// VDEVICE_ALLOC: guest StreamIDs, and the tombstones that unbinding leaves.

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

class Vdevice : public Conformance {
 protected:
  // Whether a command by this guest StreamID reaches a device of the viommu.
  absl::Status Reach(Vm& vm, ObjectId viommu, uint32_t vsid) {
    return vm.Send(viommu, smmuv3::Command{.opcode = smmuv3::Opcode::kCfgiCdAll, .sid = vsid}).status;
  }
};
CONFORMANCE_RIGS(Vdevice);

TEST_P(Vdevice, Alloc) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_OK(vm->AllocVdevice(function.viommu, function.device, 0x99));
  EXPECT_OK(Reach(vm, function.viommu, 0x99));
}

TEST_P(Vdevice, D1_NoDevice) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(ENOENT, vm->AllocVdevice(function.viommu, kNoSuchId, 0x99));
  EXPECT_ERRNO(ENOENT, vm->AllocVdevice(function.viommu, 0, 0x99));
}

TEST_P(Vdevice, NoViommu) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_ERRNO(ENOENT, vm->AllocVdevice(kNoSuchId, device, 0x99));
  EXPECT_ERRNO(ENOENT, vm->AllocVdevice(0, device, 0x99));
}

TEST_P(Vdevice, D8_SameDeviceAndId) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  EXPECT_ERRNO(EEXIST, vm->AllocVdevice(function.viommu, function.device, 0x99));
}

TEST_P(Vdevice, SameDeviceAnotherId) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  EXPECT_ERRNO(EEXIST, vm->AllocVdevice(function.viommu, function.device, 0x88));
}

TEST_P(Vdevice, SameDeviceAnotherViommu) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  const ObjectId other = vm.Viommu(function.device, function.stage2);
  EXPECT_ERRNO(EEXIST, vm->AllocVdevice(other, function.device, 0x88));
}

TEST_P(Vdevice, AnotherDeviceSameId) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  EXPECT_ERRNO(EEXIST, vm->AllocVdevice(function.viommu, vm.Bind(a1), 0x99));
}

TEST_P(Vdevice, AnotherDeviceAnotherId) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  vm.Plug(a1, 0x88, &function);
  EXPECT_OK(Reach(vm, function.viommu, 0x99));
  EXPECT_OK(Reach(vm, function.viommu, 0x88));
}

TEST_P(Vdevice, TheSameIdInTwoViommus) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  const ObjectId other = vm.Viommu(function.device, function.stage2);
  EXPECT_OK(vm->AllocVdevice(other, vm.Bind(a1), 0x99));
}

TEST_P(Vdevice, IdZero) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0);
  EXPECT_OK(Reach(vm, function.viommu, 0));
}

TEST_P(Vdevice, TheWidestIdOfACommand) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0xffff'ffff);
  EXPECT_OK(Reach(vm, function.viommu, 0xffff'ffff));
}

TEST_P(Vdevice, IdAboveTheSidSizeOfTheSmmu) {
  Vm vm(Open());
  const uint32_t sid_bits = SmmuOf(A0()).sid_bits;
  if (sid_bits >= 32) GTEST_SKIP() << "every StreamID is within SIDSIZE here";
  const Function function = vm.Plug(A0(), 1u << sid_bits);
  EXPECT_OK(Reach(vm, function.viommu, 1u << sid_bits));
}

TEST_P(Vdevice, IdOf33Bits) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(expect().wide_virt_id, vm->AllocVdevice(function.viommu, function.device, uint64_t{1} << 32));
  // Whether it was taken or not: a command has 32 bits, and they do not match.
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0));
}

TEST_P(Vdevice, IdOf64Bits) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(expect().wide_virt_id, vm->AllocVdevice(function.viommu, function.device, ~uint64_t{0}));
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0xffff'ffff));
}

TEST_P(Vdevice, A16_DeviceOfAnotherSmmu) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(EINVAL, vm->AllocVdevice(function.viommu, vm.Bind(b0), 0x99));
}

TEST_P(Vdevice, A17_DeviceOfTwoStreams) {
  NEED_DEVICE(pci, Role::kTwoStreams);
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(EOPNOTSUPP, vm->AllocVdevice(function.viommu, vm.Bind(pci), 0x99));
}

TEST_P(Vdevice, A17_LeavesTheIdFree) {
  NEED_DEVICE(pci, Role::kTwoStreams);
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  ASSERT_ERRNO(EOPNOTSUPP, vm->AllocVdevice(function.viommu, vm.Bind(pci), 0x99));
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0x99));
  EXPECT_OK(vm->AllocVdevice(function.viommu, function.device, 0x99));
}

TEST_P(Vdevice, DestroyFreesDeviceAndId) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  EXPECT_OK(vm->Destroy(function.vdevice));
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0x99));
  vm.Plug(a1, 0x99, &function);
  EXPECT_OK(vm->AllocVdevice(function.viommu, function.device, 0x88));
}

TEST_P(Vdevice, D9_AnotherIdForTheSameDevice) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->Destroy(function.vdevice));
  ASSERT_OK(vm->AllocVdevice(function.viommu, function.device, 0x88));
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0x99));
  EXPECT_OK(Reach(vm, function.viommu, 0x88));
}

TEST_P(Vdevice, NothingBlocksItsDestruction) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->Attach(function.device, vm.Nested(function, kTranslateVste)));
  EXPECT_OK(vm->Destroy(function.vdevice));
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0x99));
}

TEST_P(Vdevice, MovesToAnotherViommu) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  const ObjectId other = vm.Viommu(function.device, function.stage2);
  ASSERT_OK(vm->Destroy(function.vdevice));
  ASSERT_OK(vm->AllocVdevice(other, function.device, 0x99));
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0x99));
  EXPECT_OK(Reach(vm, other, 0x99));
}

// ---- The order of checks ----

TEST_P(Vdevice, OrderSmmuBeforeTakenId) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  EXPECT_ERRNO(EINVAL, vm->AllocVdevice(function.viommu, vm.Bind(b0), 0x99));
}

TEST_P(Vdevice, OrderSmmuBeforeTakenDevice) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const Function one = vm.Plug(A0(), 0x99);
  const ObjectId b = vm.Bind(b0);
  const ObjectId viommu = vm.Viommu(b, vm.Stage2(b));
  EXPECT_ERRNO(EINVAL, vm->AllocVdevice(viommu, one.device, 0x99));
}

TEST_P(Vdevice, OrderTakenIdBeforeStreams) {
  NEED_DEVICE(pci, Role::kTwoStreams);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  EXPECT_ERRNO(EEXIST, vm->AllocVdevice(function.viommu, vm.Bind(pci), 0x99));
}

// ---- Tombstones ----

TEST_P(Vdevice, D13_DestroyAfterUnbind) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->UnbindDevice(A0()));
  EXPECT_ERRNO(ENOENT, vm->Destroy(function.vdevice));
}

TEST_P(Vdevice, TombstoneIdIsNotReused) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->UnbindDevice(A0()));
  for (int i = 0; i < 20; ++i) EXPECT_NE(Must(vm->AllocIoas()), function.vdevice);
  EXPECT_ERRNO(ENOENT, vm->Destroy(function.vdevice));
}

TEST_P(Vdevice, TombstoneFreesTheGuestsId) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->UnbindDevice(A0()));
  EXPECT_ERRNO(EIO, Reach(vm, function.viommu, 0x99));
  const Function next = vm.Plug(a1, 0x99, &function);
  EXPECT_NE(next.vdevice, function.vdevice);
  EXPECT_OK(Reach(vm, function.viommu, 0x99));
}

TEST_P(Vdevice, TombstoneFreesTheDevice) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->UnbindDevice(A0()));
  const Function again = vm.Plug(A0(), 0x99, &function);
  EXPECT_NE(again.vdevice, function.vdevice);
}

TEST_P(Vdevice, TombstoneDoesNotHoldTheViommu) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->UnbindDevice(A0()));
  EXPECT_OK(vm->Destroy(function.viommu));
  EXPECT_OK(vm->Destroy(function.stage2));
}

TEST_P(Vdevice, TombstoneAfterUnbindWhileAttached) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  ASSERT_OK(vm->Attach(function.device, nested));
  ASSERT_OK(vm->UnbindDevice(A0()));
  EXPECT_ERRNO(ENOENT, vm->Destroy(function.vdevice));
  EXPECT_OK(vm->Destroy(nested));
  EXPECT_OK(vm->Destroy(function.viommu));
}

TEST_P(Vdevice, NoTombstoneWhenDestroyedFirst) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x99);
  ASSERT_OK(vm->Destroy(function.vdevice));
  ASSERT_OK(vm->UnbindDevice(A0()));
  EXPECT_EQ(Must(vm->AllocIoas()), function.device);
  EXPECT_EQ(Must(vm->AllocIoas()), function.vdevice);
}

TEST_P(Vdevice, ManyTombstones) {
  Vm vm(Open());
  const Function first = vm.Plug(A0(), 0x99);
  ObjectId last = first.vdevice;
  ASSERT_OK(vm->UnbindDevice(A0()));
  for (int i = 0; i < 10; ++i) {
    const Function next = vm.Plug(A0(), 0x99, &first);
    EXPECT_GT(next.vdevice, last);
    last = next.vdevice;
    ASSERT_OK(vm->UnbindDevice(A0()));
  }
}

}  // namespace
}  // namespace viommu::conformance
