// Attaching, replacing and detaching, as far as it shows without an access of a device.

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

class Attach : public Conformance {};
CONFORMANCE_RIGS(Attach);

TEST_P(Attach, ToAnIoas) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_OK(vm->Attach(device, vm.ioas()));
}

// The tables that are made for it are an object with an id like any other.
TEST_P(Attach, ToAnIoasTakesAnId) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  const ObjectId ioas = vm.ioas();
  ASSERT_OK(vm->Attach(device, ioas));
  const ObjectId next = Must(vm->AllocIoas());
  EXPECT_EQ(next, ioas + 2);
  EXPECT_ERRNO(EBUSY, vm->Destroy(ioas + 1));
  ASSERT_OK(vm->Detach(device));
  EXPECT_EQ(Must(vm->AllocIoas()), ioas + 1);
}

TEST_P(Attach, TwoDevicesToOneIoas) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const ObjectId one = vm.Bind(A0());
  const ObjectId other = vm.Bind(a1);
  const ObjectId ioas = vm.ioas();
  ASSERT_OK(vm->Attach(one, ioas));
  ASSERT_OK(vm->Attach(other, ioas));
  EXPECT_EQ(Must(vm->AllocIoas()), ioas + 2);  // they share their tables
  ASSERT_OK(vm->Detach(one));
  EXPECT_ERRNO(EBUSY, vm->Destroy(ioas));
  ASSERT_OK(vm->Detach(other));
  EXPECT_OK(vm->Destroy(ioas));
}

TEST_P(Attach, ToAnIoasBehindTwoSmmus) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const ObjectId one = vm.Bind(A0());
  const ObjectId other = vm.Bind(b0);
  EXPECT_OK(vm->Attach(one, vm.ioas()));
  EXPECT_OK(vm->Attach(other, vm.ioas()));
}

TEST_P(Attach, ToAStage2) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_OK(vm->Attach(device, vm.Stage2(device)));
}

TEST_P(Attach, G13_TwoDevicesToOneHwpt) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const ObjectId one = vm.Bind(A0());
  const ObjectId other = vm.Bind(a1);
  const ObjectId stage2 = vm.Stage2(one);
  EXPECT_OK(vm->Attach(one, stage2));
  EXPECT_OK(vm->Attach(other, stage2));
  EXPECT_OK(vm->Detach(one));
  EXPECT_ERRNO(EBUSY, vm->Destroy(stage2));
  EXPECT_OK(vm->Detach(other));
  EXPECT_OK(vm->Destroy(stage2));
}

TEST_P(Attach, G13_H15_NoDevice) {
  Vm vm(Open());
  const ObjectId stage2 = vm.Stage2(vm.Bind(A0()));
  EXPECT_ERRNO(ENOENT, vm->Attach(kNoSuchId, stage2));
  EXPECT_ERRNO(ENOENT, vm->Attach(0, stage2));
}

TEST_P(Attach, ToNothing) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_ERRNO(ENOENT, vm->Attach(device, kNoSuchId));
  EXPECT_ERRNO(ENOENT, vm->Attach(device, 0));
}

TEST_P(Attach, ToWhatIsNoTable) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId queue = Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 1));
  for (const ObjectId id : {function.device, function.viommu, function.vdevice, queue}) {
    EXPECT_ERRNO(EINVAL, vm->Attach(function.device, id)) << id;
  }
}

TEST_P(Attach, Stage2OfAnotherSmmu) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const ObjectId stage2 = vm.Stage2(vm.Bind(A0()));
  EXPECT_ERRNO(expect().foreign_stage2, vm->Attach(vm.Bind(b0), stage2));
}

TEST_P(Attach, NestedOfAnotherSmmu) {
  NEED_DEVICE(b0, Role::kB0);
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId other = vm.Bind(b0);
  EXPECT_ERRNO(EINVAL, vm->Attach(other, vm.Nested(function, smmuv3::kAbortVste)));
  EXPECT_ERRNO(EINVAL, vm->Attach(other, vm.Nested(function, smmuv3::kBypassVste)));
}

TEST_P(Attach, A19_AbortWithoutVdevice) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_OK(vm->Attach(function.device, vm.Nested(function, smmuv3::kAbortVste)));
}

TEST_P(Attach, A19_InvalidWithoutVdevice) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_OK(vm->Attach(function.device, vm.Nested(function, RawVste{})));
}

TEST_P(Attach, A19_BypassWithoutVdevice) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_OK(vm->Attach(function.device, vm.Nested(function, smmuv3::kBypassVste)));
}

TEST_P(Attach, A19_D2_V8_TranslateWithoutVdevice) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  EXPECT_ERRNO(ENOENT, vm->Attach(function.device, nested));
  EXPECT_OK(vm->Destroy(nested));  // nothing was attached
}

TEST_P(Attach, V8_TranslateWithVdevice) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  EXPECT_OK(vm->Attach(function.device, nested));
  EXPECT_ERRNO(EBUSY, vm->Destroy(nested));
}

TEST_P(Attach, TranslateWithAVdeviceOfAnotherViommu) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  vm.Vdevice(vm.Viommu(function.device, function.stage2), function.device, 0x10);
  EXPECT_ERRNO(ENOENT, vm->Attach(function.device, vm.Nested(function, kTranslateVste)));
}

TEST_P(Attach, TranslateAfterTheVdeviceIsGone) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  ASSERT_OK(vm->Attach(function.device, nested));
  ASSERT_OK(vm->Destroy(function.vdevice));
  ASSERT_OK(vm->Detach(function.device));
  EXPECT_ERRNO(ENOENT, vm->Attach(function.device, nested));
}

TEST_P(Attach, ARefusedReplaceKeepsTheOld) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  const ObjectId old = vm.Nested(function, smmuv3::kBypassVste);
  ASSERT_OK(vm->Attach(function.device, old));
  ASSERT_ERRNO(ENOENT, vm->Attach(function.device, vm.Nested(function, kTranslateVste)));
  EXPECT_ERRNO(EBUSY, vm->Destroy(old));
  EXPECT_OK(vm->Detach(function.device));
  EXPECT_OK(vm->Destroy(old));
}

TEST_P(Attach, H13_ReplaceFreesTheOld) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId translate = vm.Nested(function, kTranslateVste);
  const ObjectId bypass = vm.Nested(function, smmuv3::kBypassVste);
  ASSERT_OK(vm->Attach(function.device, translate));
  for (int i = 0; i < 5; ++i) {
    EXPECT_OK(vm->Attach(function.device, bypass));
    EXPECT_OK(vm->Attach(function.device, translate));
  }
  EXPECT_OK(vm->Destroy(bypass));
  EXPECT_ERRNO(EBUSY, vm->Destroy(translate));
}

TEST_P(Attach, TwiceToTheSame) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  EXPECT_OK(vm->Attach(function.device, nested));
  EXPECT_OK(vm->Attach(function.device, nested));
  EXPECT_OK(vm->Detach(function.device));
  EXPECT_OK(vm->Destroy(nested));  // one attachment, one user
}

TEST_P(Attach, FromIoasToStage2ToNestedAndBack) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  EXPECT_OK(vm->Attach(function.device, vm.ioas()));
  EXPECT_OK(vm->Attach(function.device, function.stage2));
  EXPECT_OK(vm->Attach(function.device, nested));
  EXPECT_OK(vm->Attach(function.device, function.stage2));
  EXPECT_OK(vm->Attach(function.device, vm.ioas()));
  EXPECT_OK(vm->Destroy(nested));
}

TEST_P(Attach, DetachTwice) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  ASSERT_OK(vm->Attach(device, vm.ioas()));
  EXPECT_OK(vm->Detach(device));
  EXPECT_OK(vm->Detach(device));
}

TEST_P(Attach, ANestedHwptServesSeveralDevices) {
  NEED_DEVICE(a1, Role::kA1);
  Vm vm(Open());
  const Function one = vm.Plug(A0(), 0x10);
  const Function other = vm.Plug(a1, 0x20, &one);
  const ObjectId nested = vm.Nested(one, kTranslateVste);
  EXPECT_OK(vm->Attach(one.device, nested));
  EXPECT_OK(vm->Attach(other.device, nested));
  EXPECT_OK(vm->Detach(one.device));
  EXPECT_ERRNO(EBUSY, vm->Destroy(nested));
  EXPECT_OK(vm->Detach(other.device));
  EXPECT_OK(vm->Destroy(nested));
}

TEST_P(Attach, WithAFaultQueue) {
  NEED_CAPABILITY("fault_queue");
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId faults = Must(vm->AllocFaultQueue());
  const ObjectId nested = Must(vm->AllocNested(function.viommu, function.device, kTranslateVste, faults));
  EXPECT_OK(vm->Attach(function.device, nested));
  EXPECT_OK(vm->Detach(function.device));
  EXPECT_OK(vm->Destroy(nested));
}

TEST_P(Attach, DevicesOfTwoStreamsGoWithoutVdevice) {
  NEED_DEVICE(pci, Role::kTwoStreams);
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(pci);
  EXPECT_OK(vm->Attach(function.device, function.stage2));
  EXPECT_OK(vm->Attach(function.device, vm.Nested(function, smmuv3::kBypassVste)));
  EXPECT_ERRNO(ENOENT, vm->Attach(function.device, vm.Nested(function, kTranslateVste)));
}

// ---- Groups ----

TEST_P(Attach, GroupFollowsItsFirstDevice) {
  NEED_DEVICE(first, Role::kGroup0);
  NEED_DEVICE(second, Role::kGroup1);
  Vm vm(Open());
  const ObjectId one = vm.Bind(first);
  const ObjectId other = vm.Bind(second);
  const ObjectId stage2 = vm.Stage2(one);
  const ObjectId another = vm.Stage2(one);
  ASSERT_OK(vm->Attach(one, stage2));
  EXPECT_ERRNO(EINVAL, vm->Attach(other, another));
  EXPECT_OK(vm->Attach(other, stage2));
}

TEST_P(Attach, GroupStaysUntilItsLastDeviceGoes) {
  NEED_DEVICE(first, Role::kGroup0);
  NEED_DEVICE(second, Role::kGroup1);
  Vm vm(Open());
  const ObjectId one = vm.Bind(first);
  const ObjectId other = vm.Bind(second);
  const ObjectId stage2 = vm.Stage2(one);
  ASSERT_OK(vm->Attach(one, stage2));
  ASSERT_OK(vm->Attach(other, stage2));
  EXPECT_OK(vm->Detach(one));
  EXPECT_ERRNO(EBUSY, vm->Destroy(stage2));
  EXPECT_OK(vm->Detach(other));
  EXPECT_OK(vm->Destroy(stage2));
}

TEST_P(Attach, GroupIsReplacedTogether) {
  NEED_DEVICE(first, Role::kGroup0);
  NEED_DEVICE(second, Role::kGroup1);
  Vm vm(Open());
  const ObjectId one = vm.Bind(first);
  const ObjectId other = vm.Bind(second);
  const ObjectId stage2 = vm.Stage2(one);
  const ObjectId another = vm.Stage2(one);
  ASSERT_OK(vm->Attach(one, stage2));
  ASSERT_OK(vm->Attach(other, stage2));
  EXPECT_OK(vm->Attach(one, another));
  EXPECT_OK(vm->Destroy(stage2));
  EXPECT_ERRNO(EBUSY, vm->Destroy(another));
}

TEST_P(Attach, GroupTranslatesOnlyWhenEachHasAVdevice) {
  NEED_DEVICE(first, Role::kGroup0);
  NEED_DEVICE(second, Role::kGroup1);
  Vm vm(Open());
  const Function one = vm.Plug(first, 0x10);
  const Function other = vm.PlugWithoutVdevice(second, &one);
  const ObjectId nested = vm.Nested(one, kTranslateVste);
  EXPECT_ERRNO(ENOENT, vm->Attach(one.device, nested));
  vm.Vdevice(one.viommu, other.device, 0x20);
  EXPECT_OK(vm->Attach(one.device, nested));
}

}  // namespace
}  // namespace viommu::conformance
