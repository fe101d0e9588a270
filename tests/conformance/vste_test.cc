// What a guest may write in its stream table.

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

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
