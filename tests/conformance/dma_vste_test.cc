// Accesses by what the guest's stream table entry says.

#include <array>

#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

using smmuv3::S1Fmt;

class DmaVste : public DmaSuite {};
CONFORMANCE_RIGS(DmaVste);

TEST_P(DmaVste, AbortRefuses) {
  memory().Filled(kOld);
  guest().Attach(smmuv3::kAbortVste);
  EXPECT_EQ(Read(kMemoryBase), kRefused);
  EXPECT_FALSE(Write(kMemoryBase, kNew));
}

TEST_P(DmaVste, A8_InvalidRefuses) {
  guest().Attach(RawVste{~uint64_t{1}, ~uint64_t{0}});
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaVste, BypassIsTheGuestsPhysicalMemory) {
  const uint64_t page = memory().Filled(kOld);
  guest().Attach(smmuv3::kBypassVste);
  EXPECT_EQ(Read(page), kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(memory().Read(page), kNew);
  EXPECT_EQ(Read(kMemoryBase + kMemoryBytes), kRefused);
}

TEST_P(DmaVste, A19_BypassWithoutVdevice) {
  const uint64_t page = memory().Filled(kOld);
  const Function function = vm().PlugWithoutVdevice(A0());
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kBypassVste)));
  EXPECT_EQ(Read(page), kOld);
}

TEST_P(DmaVste, Translate) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa + 4088), kOld);
  EXPECT_EQ(Read(kVa + 4096), kRefused);
  EXPECT_EQ(Read(kVa - 8), kRefused);
}

TEST_P(DmaVste, TranslateWrites) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  guest().Start();
  EXPECT_TRUE(Write(kVa + 16, kNew));
  EXPECT_EQ(memory().Read(page + 16), kNew);
}

TEST_P(DmaVste, TranslateAcrossPagesThatAreApart) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  memory().Alloc(4096);
  guest().tables().Map(kVa + 4096, memory().Filled(kNew));
  guest().Start();
  std::array<uint64_t, 2> words = {};
  EXPECT_TRUE(rig().dma()->Read({.device = A0(), .address = kVa + 4088}, std::as_writable_bytes(std::span(words))).ok);
  EXPECT_EQ(words[0], kOld);
  EXPECT_EQ(words[1], kNew);
}

TEST_P(DmaVste, AnAccessThatRunsIntoAHoleIsRefused) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  std::array<uint64_t, 2> words = {};
  EXPECT_FALSE(rig().dma()->Read({.device = A0(), .address = kVa + 4088}, std::as_writable_bytes(std::span(words))).ok);
}

TEST_P(DmaVste, GuestPhysicalAddressesMeanNothingBehindStage1) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaVste, FromTranslateToBypassToAbortAndBack) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  const RawVste translate = guest().cds().Vste();
  for (int i = 0; i < 3; ++i) {
    guest().Attach(smmuv3::kBypassVste);
    EXPECT_EQ(Read(page), kOld);
    EXPECT_EQ(Read(kVa), kRefused);
    guest().Attach(smmuv3::kAbortVste);
    EXPECT_EQ(Read(page), kRefused);
    guest().Attach(translate);
    EXPECT_EQ(Read(kVa), kOld);
    EXPECT_EQ(Read(page), kRefused);
  }
}

TEST_P(DmaVste, ToStage2AndBack) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_OK(vm()->Attach(guest().function().device, guest().function().stage2));
  EXPECT_EQ(Read(page), kOld);
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaVste, DetachBlocksAndAttachUnblocks) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_OK(vm()->Detach(guest().function().device));
  EXPECT_EQ(Read(kVa), kRefused);
  guest().Attach(guest().cds().Vste());
  EXPECT_EQ(Read(kVa), kOld);
}

TEST_P(DmaVste, AnotherVsteTakesEffectAtOnce) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  Stage1 tables(memory(), Granule::k4k);
  tables.Map(kVa, memory().Filled(kNew));
  CdTable cds(memory(), S1Fmt::kLinear, 0);
  cds.Set(0, MakeCd(kAsid + 1, tables, Ips()));
  guest().Attach(cds.Vste());
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaVste, DestroyingTheVdeviceWhileAttachedChangesNothing) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().tables().Map(kVa + 4096, memory().Filled(kNew));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_OK(vm()->Destroy(guest().function().vdevice));
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa + 4096), kNew);  // walks go on, too
}

TEST_P(DmaVste, StreamsOfATwoStreamDeviceFollowTogether) {
  NEED_DEVICE(pci, Role::kTwoStreams);
  NEED_DMA(pci);
  const uint64_t page = memory().Filled(kOld);
  const Function function = vm().PlugWithoutVdevice(pci);
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kBypassVste)));
  EXPECT_EQ(Read({.device = pci, .address = page}), kOld);
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kAbortVste)));
  EXPECT_EQ(Read({.device = pci, .address = page}), kRefused);
}

TEST_P(DmaVste, ARefusedReplaceLeavesTheOldTranslation) {
  const uint64_t page = memory().Filled(kOld);
  const Function function = vm().PlugWithoutVdevice(A0());
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kBypassVste)));
  ASSERT_ERRNO(ENOENT, vm()->Attach(function.device, vm().Nested(function, kTranslateVste)));
  EXPECT_EQ(Read(page), kOld);
}

}  // namespace
}  // namespace viommu::conformance
