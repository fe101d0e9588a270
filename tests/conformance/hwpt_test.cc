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

// ---- vSTEs ----------------------------------------------------------------------------------------------------------

constexpr uint64_t kConfig(uint64_t config) { return smmuv3::ste::kConfig.Set(smmuv3::ste::kValid.mask(), config); }

struct VsteRow {
  const char* name;
  RawVste vste;
  int result;
};

const VsteRow kVstes[] = {
    {"A8_Invalid", {0, 0}, 0},
    {"A8_InvalidWithGarbage", {~uint64_t{1}, ~uint64_t{0}}, 0},
    {"A8_InvalidWithStage2Config", {kConfig(7) & ~uint64_t{1}, 0}, 0},
    {"Abort", {kConfig(0), 0}, 0},
    {"Bypass", {kConfig(4), 0}, 0},
    {"Translate", {kConfig(5), 0}, 0},
    {"A9_Config1", {kConfig(1), 0}, EIO},
    {"A9_Config2", {kConfig(2), 0}, EIO},
    {"A9_Config3", {kConfig(3), 0}, EIO},
    {"A9_Config6", {kConfig(6), 0}, EIO},
    {"A9_Config7", {kConfig(7), 0}, EIO},
    {"S1FmtLinear", {smmuv3::ste::kS1Fmt.Set(kConfig(5), 0), 0}, 0},
    {"S1FmtTwoLevel4k", {smmuv3::ste::kS1Fmt.Set(kConfig(5), 1), 0}, 0},
    {"S1FmtTwoLevel64k", {smmuv3::ste::kS1Fmt.Set(kConfig(5), 2), 0}, 0},
    {"S1FmtReservedIsNotLookedAt", {smmuv3::ste::kS1Fmt.Set(kConfig(5), 3), 0}, 0},
    {"S1ContextPtr", {kConfig(5) | smmuv3::ste::kS1ContextPtr.mask(), 0}, 0},
    {"S1CdMax", {kConfig(5) | smmuv3::ste::kS1CdMax.mask(), 0}, 0},
    {"S1Dss", {kConfig(5), smmuv3::ste::kS1Dss.mask()}, 0},
    {"S1Cacheability", {kConfig(5), 0xfc}, 0},
    {"S1Stalld", {kConfig(5), smmuv3::ste::kS1Stalld.mask()}, 0},
    {"Eats0", {kConfig(5), 0}, 0},
    {"Eats1", {kConfig(5), smmuv3::ste::kEats.Set(0, 1)}, 0},
    {"A10_Eats2", {kConfig(5), smmuv3::ste::kEats.Set(0, 2)}, EIO},
    {"A10_Eats3", {kConfig(5), smmuv3::ste::kEats.Set(0, 3)}, EIO},
    {"A10_Eats2InBypass", {kConfig(4), smmuv3::ste::kEats.Set(0, 2)}, EIO},
    {"Everything",
     {kConfig(5) | (smmuv3::kVsteAllowed.dw0 & ~uint64_t{0xf}), 0xdfffffff & smmuv3::kVsteAllowed.dw1},
     0},
    {"A11_Cont", {kConfig(5), smmuv3::ste::kCont.mask()}, EIO},
    {"A11_Dcp", {kConfig(5), smmuv3::ste::kDcp.mask()}, EIO},
    {"A11_Ppar", {kConfig(5), smmuv3::ste::kPpar.mask()}, EIO},
    {"A11_Mev", {kConfig(5), smmuv3::ste::kMev.mask()}, EIO},
    {"A11_S2Fwb", {kConfig(5), smmuv3::ste::kS2Fwb.mask()}, EIO},
    {"A11_Strw", {kConfig(5), smmuv3::ste::kStrw.mask()}, EIO},
    {"A11_MemAttr", {kConfig(5), smmuv3::ste::kMemAttr.mask()}, EIO},
    {"A11_MtCfg", {kConfig(5), smmuv3::ste::kMtCfg.mask()}, EIO},
    {"A11_AllocCfg", {kConfig(5), smmuv3::ste::kAllocCfg.mask()}, EIO},
    {"A11_ShCfg", {kConfig(5), smmuv3::ste::kShCfg.mask()}, EIO},
    {"A11_NsCfg", {kConfig(5), smmuv3::ste::kNsCfg.mask()}, EIO},
    {"A11_PrivCfg", {kConfig(5), smmuv3::ste::kPrivCfg.mask()}, EIO},
    {"A11_InstCfg", {kConfig(5), smmuv3::ste::kInstCfg.mask()}, EIO},
    {"A11_ShCfgInAbort", {kConfig(0), smmuv3::ste::kShCfg.mask()}, EIO},
    {"A11_ShCfgInBypass", {kConfig(4), smmuv3::ste::kShCfg.mask()}, EIO},
};

class Vste : public ConformanceRows<VsteRow> {};
CONFORMANCE_ROWS(Vste, kVstes);

TEST_P(Vste, Alloc) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(row().result, vm->AllocNested(function.viommu, function.device, row().vste));
}

class VsteBits : public Conformance {};
CONFORMANCE_RIGS(VsteBits);

// Each bit by itself, on top of a vSTE that is fine.
TEST_P(VsteBits, A11_EveryBitOutsideTheMasks) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  for (uint32_t bit = 0; bit < 128; ++bit) {
    const RawVste only = {bit < 64 ? uint64_t{1} << bit : 0, bit < 64 ? 0 : uint64_t{1} << (bit - 64)};
    const bool allowed = ((only.dw0 & smmuv3::kVsteAllowed.dw0) | (only.dw1 & smmuv3::kVsteAllowed.dw1)) != 0;
    if (allowed) continue;
    for (const uint64_t config : {kConfig(0), kConfig(4), kConfig(5)}) {
      EXPECT_ERRNO(EIO, vm->AllocNested(function.viommu, function.device, {config | only.dw0, only.dw1}))
          << "bit " << bit << " of config " << config;
    }
  }
}

TEST_P(VsteBits, EveryBitInsideTheMasks) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  for (uint32_t bit = 4; bit < 128; ++bit) {
    const RawVste only = {bit < 64 ? uint64_t{1} << bit : 0, bit < 64 ? 0 : uint64_t{1} << (bit - 64)};
    if (((only.dw0 & smmuv3::kVsteAllowed.dw0) | (only.dw1 & smmuv3::kVsteAllowed.dw1)) == 0) continue;
    if (only.dw1 == (uint64_t{1} << smmuv3::ste::kEats.hi)) continue;  // EATS 2
    EXPECT_OK(vm->AllocNested(function.viommu, function.device, {kConfig(5) | only.dw0, only.dw1})) << "bit " << bit;
  }
}

TEST_P(VsteBits, TheMasksAreTheKernels) {
  EXPECT_EQ(smmuv3::kVsteAllowed.dw0, 0xf80f'ffff'ffff'ffffu);
  EXPECT_EQ(smmuv3::kVsteAllowed.dw1, 0x0000'0000'3800'00ffu);
}

TEST_P(VsteBits, ARefusedVsteLeavesNothingBehind) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  ASSERT_ERRNO(EIO, vm->AllocNested(function.viommu, function.device, {kConfig(6), 0}));
  EXPECT_OK(vm->Destroy(function.viommu));
}

}  // namespace
}  // namespace viommu::conformance
