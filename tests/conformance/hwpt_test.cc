// HWPT_ALLOC: stage 2, plain page tables and nested HWPTs, with the order of checks.

#include <array>

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

using agent::kHwptDirtyTracking;
using agent::kHwptFaultIdValid;
using agent::kHwptNestParent;
using agent::kHwptPasid;

constexpr uint32_t kUnknownFlag = 1u << 31;

class Hwpt : public Conformance {
 protected:
  void SetUp() override {
    Conformance::SetUp();
    if (IsSkipped()) return;
    vm_ = std::make_unique<Vm>(Open());
    f_ = vm_->PlugWithoutVdevice(A0());
  }
  void TearDown() override { vm_.reset(); }

  Vm& vm() { return *vm_; }
  absl::Status Alloc(const HwptAlloc& request) { return vm()->AllocHwpt(request).status(); }
  std::span<const std::byte> Vste(size_t bytes = 16) { return std::as_bytes(std::span(vste_)).first(bytes); }
  // A request for a nested HWPT that works.
  HwptAlloc NestedRequest() {
    return {.device = f_.device, .pt = f_.viommu, .data_type = HwptDataType::kArmSmmuv3, .data = Vste()};
  }
  HwptAlloc Stage2Request() { return {.flags = kHwptNestParent, .device = f_.device, .pt = vm().ioas()}; }

  Function f_;

 private:
  std::unique_ptr<Vm> vm_;
  const std::array<uint64_t, 3> vste_ = {smmuv3::kAbortVste.dw0, smmuv3::kAbortVste.dw1, 0};
};
CONFORMANCE_RIGS(Hwpt);

// ---- Over an IOAS ---------------------------------------------------------------------------------------------------

TEST_P(Hwpt, NestParent) { EXPECT_OK(Alloc(Stage2Request())); }

TEST_P(Hwpt, Plain) { EXPECT_OK(Alloc({.device = f_.device, .pt = vm().ioas()})); }

TEST_P(Hwpt, H1_DeviceIsAnIoas) {
  HwptAlloc request = Stage2Request();
  request.device = vm().ioas();
  EXPECT_ERRNO(ENOENT, Alloc(request));
}

TEST_P(Hwpt, H2_PtIsADevice) {
  HwptAlloc request = Stage2Request();
  request.pt = f_.device;
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, H3_NestParentWithAFaultQueue) {
  HwptAlloc request = Stage2Request();
  request.flags |= kHwptFaultIdValid;
  request.fault = Must(vm()->AllocFaultQueue());
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, H15_NoDevice) {
  HwptAlloc request = Stage2Request();
  request.device = kNoSuchId;
  EXPECT_ERRNO(ENOENT, Alloc(request));
  request.device = 0;
  EXPECT_ERRNO(ENOENT, Alloc(request));
}

TEST_P(Hwpt, PtIsUnknown) {
  HwptAlloc request = Stage2Request();
  request.pt = kNoSuchId;
  EXPECT_ERRNO(EINVAL, Alloc(request));
  request.pt = 0;
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, A20_NestParentWithDirtyTracking) {
  HwptAlloc request = Stage2Request();
  request.flags |= kHwptDirtyTracking;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, NestParentWithPasid) {
  HwptAlloc request = Stage2Request();
  request.flags |= kHwptPasid;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, NestParentWithAnUnknownFlag) {
  HwptAlloc request = Stage2Request();
  request.flags |= kUnknownFlag;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, PlainWithFlagsThatNobodyHas) {
  for (const uint32_t flags : {kUnknownFlag, kHwptDirtyTracking, kUnknownFlag | kHwptPasid}) {
    EXPECT_ERRNO(EOPNOTSUPP, Alloc({.flags = flags, .device = f_.device, .pt = vm().ioas()}));
  }
}

TEST_P(Hwpt, IoasWithData) {
  HwptAlloc request = Stage2Request();
  request.data_type = HwptDataType::kArmSmmuv3;
  request.data = Vste();
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
  request.flags = 0;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, NestParentOnOneStage) {
  NEED_DEVICE(pci, Role::kOneStage);
  HwptAlloc request = Stage2Request();
  request.device = vm().Bind(pci);
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, PlainOnOneStage) {
  NEED_DEVICE(pci, Role::kOneStage);
  const ObjectId device = vm().Bind(pci);
  const ObjectId hwpt = Must(vm()->AllocHwpt({.device = device, .pt = vm().ioas()}));
  EXPECT_OK(vm()->Attach(device, hwpt));
}

TEST_P(Hwpt, ManyStage2OverOneIoas) {
  for (int i = 0; i < 16; ++i) EXPECT_OK(Alloc(Stage2Request()));
}

TEST_P(Hwpt, ARefusedAllocLeavesTheIoasAlone) {
  Vm other(Open());
  NEED_DEVICE(a1, Role::kA1);
  const ObjectId device = other.Bind(a1);
  const ObjectId ioas = Must(other->AllocIoas());
  ASSERT_ERRNO(EOPNOTSUPP,
               other->AllocHwpt({.flags = kHwptNestParent | kHwptDirtyTracking, .device = device, .pt = ioas}));
  EXPECT_OK(other->Destroy(ioas));
}

// ---- Over a viommu --------------------------------------------------------------------------------------------------

TEST_P(Hwpt, Nested) { EXPECT_OK(Alloc(NestedRequest())); }

TEST_P(Hwpt, H4_DataWithoutType) {
  HwptAlloc request = NestedRequest();
  request.data_type = HwptDataType::kNone;
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, TypeWithoutData) {
  HwptAlloc request = NestedRequest();
  request.data = {};
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, NestedWithoutTypeAndData) { EXPECT_ERRNO(EOPNOTSUPP, Alloc({.device = f_.device, .pt = f_.viommu})); }

TEST_P(Hwpt, H5_UnknownDataType) {
  HwptAlloc request = NestedRequest();
  request.data_type = static_cast<HwptDataType>(0x7fff);
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, H5_DataTypeOfAnotherVendor) {
  HwptAlloc request = NestedRequest();
  request.data_type = HwptDataType::kVtdS1;
  EXPECT_ERRNO(EINVAL, Alloc(request));
  request.data_type = HwptDataType::kAmdGuest;
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, H6_A12_Data8Bytes) {
  HwptAlloc request = NestedRequest();
  request.data = Vste(8);
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, A12_Data15And1Bytes) {
  HwptAlloc request = NestedRequest();
  request.data = Vste(15);
  EXPECT_ERRNO(EINVAL, Alloc(request));
  request.data = Vste(1);
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, A12_Data24Bytes) {
  HwptAlloc request = NestedRequest();
  request.data = Vste(24);
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, H7_NestedAsNestParent) {
  HwptAlloc request = NestedRequest();
  request.flags = kHwptNestParent;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, NestedWithPasid) {
  HwptAlloc request = NestedRequest();
  request.flags = kHwptPasid;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, NestedWithDirtyTracking) {
  HwptAlloc request = NestedRequest();
  request.flags = kHwptDirtyTracking;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, V7_NestedWithAnUnknownFlag) {
  HwptAlloc request = NestedRequest();
  request.flags = kUnknownFlag;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, H9_TwoNestedOnOneViommu) {
  EXPECT_OK(Alloc(NestedRequest()));
  EXPECT_OK(Alloc(NestedRequest()));
}

TEST_P(Hwpt, H10_V7_BadFaultId) {
  HwptAlloc request = NestedRequest();
  request.flags = kHwptFaultIdValid;
  request.fault = kNoSuchId;
  EXPECT_ERRNO(ENOENT, Alloc(request));
  request.fault = 0;
  EXPECT_ERRNO(ENOENT, Alloc(request));
  request.fault = f_.viommu;
  EXPECT_ERRNO(ENOENT, Alloc(request));
}

TEST_P(Hwpt, WithAFaultQueue) {
  HwptAlloc request = NestedRequest();
  request.flags = kHwptFaultIdValid;
  request.fault = Must(vm()->AllocFaultQueue());
  EXPECT_OK(Alloc(request));
}

TEST_P(Hwpt, AFaultIdWithoutTheFlagIsIgnored) {
  HwptAlloc request = NestedRequest();
  request.fault = kNoSuchId;
  EXPECT_OK(Alloc(request));
}

TEST_P(Hwpt, ABadFaultIdLeavesNothingBehind) {
  HwptAlloc request = NestedRequest();
  request.flags = kHwptFaultIdValid;
  request.fault = kNoSuchId;
  ASSERT_ERRNO(ENOENT, Alloc(request));
  EXPECT_OK(vm()->Destroy(f_.viommu));
}

TEST_P(Hwpt, H11_NestedOnNested) {
  HwptAlloc request = NestedRequest();
  request.pt = Must(vm()->AllocHwpt(NestedRequest()));
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, NestedOnAVdevice) {
  HwptAlloc request = NestedRequest();
  request.pt = vm().Vdevice(f_.viommu, f_.device, 0x10);
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, A13_NestedOnAStage2) {
  HwptAlloc request = NestedRequest();
  request.pt = f_.stage2;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

// The kernel's core answers EINVAL for a parent that does not nest; it asks the driver's ability first, and Arm's has
// none.
TEST_P(Hwpt, H8_NestedOnAPlainHwpt) {
  HwptAlloc request = NestedRequest();
  request.pt = Must(vm()->AllocHwpt({.device = f_.device, .pt = vm().ioas()}));
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, A16_NestedForADeviceOfAnotherSmmu) {
  NEED_DEVICE(b0, Role::kB0);
  HwptAlloc request = NestedRequest();
  request.device = vm().Bind(b0);
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, NestedForAnotherDeviceOfTheSameSmmu) {
  NEED_DEVICE(a1, Role::kA1);
  HwptAlloc request = NestedRequest();
  request.device = vm().Bind(a1);
  EXPECT_OK(Alloc(request));
}

TEST_P(Hwpt, NestedNeedsNoVdevice) { EXPECT_OK(vm()->AllocNested(f_.viommu, f_.device, kTranslateVste)); }

// ---- The order of checks --------------------------------------------------------------------------------------------

TEST_P(Hwpt, OrderDataShapeBeforeDevice) {
  EXPECT_ERRNO(EINVAL, Alloc({.device = kNoSuchId, .pt = f_.viommu, .data = Vste()}));
}

TEST_P(Hwpt, OrderDeviceBeforePt) {
  EXPECT_ERRNO(ENOENT, Alloc({.flags = kHwptNestParent, .device = kNoSuchId, .pt = kNoSuchId}));
}

TEST_P(Hwpt, OrderPtBeforeFlags) {
  EXPECT_ERRNO(EINVAL, Alloc({.flags = kUnknownFlag, .device = f_.device, .pt = kNoSuchId}));
}

TEST_P(Hwpt, OrderSmmuBeforeFlags) {
  NEED_DEVICE(b0, Role::kB0);
  HwptAlloc request = NestedRequest();
  request.device = vm().Bind(b0);
  request.flags = kUnknownFlag;
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, OrderSmmuBeforeMissingData) {
  NEED_DEVICE(b0, Role::kB0);
  EXPECT_ERRNO(EINVAL, Alloc({.device = vm().Bind(b0), .pt = f_.viommu}));
}

TEST_P(Hwpt, OrderFlagsBeforeDataType) {
  HwptAlloc request = NestedRequest();
  request.flags = kHwptPasid;
  request.data_type = HwptDataType::kVtdS1;
  EXPECT_ERRNO(EOPNOTSUPP, Alloc(request));
}

TEST_P(Hwpt, OrderDataTypeBeforeVste) {
  const RawVste stage2 = {smmuv3::ste::kConfig.Set(1, 6), 0};
  HwptAlloc request = NestedRequest();
  request.data_type = HwptDataType::kVtdS1;
  request.data = std::as_bytes(std::span(&stage2, 1));
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

TEST_P(Hwpt, OrderDataLengthBeforeVste) {
  const RawVste stage2 = {smmuv3::ste::kConfig.Set(1, 6), 0};
  HwptAlloc request = NestedRequest();
  request.data = std::as_bytes(std::span(&stage2, 1)).first(8);
  EXPECT_ERRNO(EINVAL, Alloc(request));
}

// The fault queue is looked up when the driver has made the HWPT.
TEST_P(Hwpt, OrderVsteBeforeFault) {
  const RawVste stage2 = {smmuv3::ste::kConfig.Set(1, 6), 0};
  HwptAlloc request = NestedRequest();
  request.flags = kHwptFaultIdValid;
  request.fault = kNoSuchId;
  request.data = std::as_bytes(std::span(&stage2, 1));
  EXPECT_ERRNO(EIO, Alloc(request));
}

}  // namespace
}  // namespace viommu::conformance
