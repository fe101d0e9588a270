// How the driver brings an SMMU up, and what it keeps.

#include "agent/smmuv3/vsmmu/host_smmu.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <utility>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/registers.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/test_host.h"

namespace viommu::agent {
namespace {

using smmuv3::Register;

class HostSmmuTest : public testing::Test {
 protected:
  HostSmmuTest() : inventory_(MakeTestInventory(Strict())), memory_(48) {}

  std::unique_ptr<HostSmmu> Make(size_t index) {
    return HostSmmu::Create(inventory_.smmus[index], {}, std::chrono::seconds(1), &memory_);
  }

  EmulatedInventory inventory_;
  HostMemory memory_;
};

TEST_F(HostSmmuTest, ProgramsTheRegisters) {
  const std::unique_ptr<HostSmmu> smmu = Make(0);
  const auto read = [&](Register reg) { return smmu->hardware().ReadRegister(reg); };
  namespace cr0 = smmuv3::cr0;
  const uint64_t enabled =
      cr0::kSmmuEn.mask() | cr0::kPriqEn.mask() | cr0::kEventqEn.mask() | cr0::kCmdqEn.mask() | cr0::kAtsChk.mask();
  EXPECT_EQ(read(Register::kCr0), enabled);
  EXPECT_EQ(read(Register::kCr0Ack), enabled);
  EXPECT_EQ(read(Register::kCr1), 0xd75u);
  EXPECT_EQ(read(Register::kCr2), 6u);
  EXPECT_EQ(read(Register::kGbpa), smmuv3::gbpa::kAbort.mask());
  EXPECT_EQ(read(Register::kIrqCtrl), 7u);
  EXPECT_EQ(read(Register::kStrtabBaseCfg), 16u | 8u << 6 | 1u << 16);
  EXPECT_GE(read(Register::kStrtabBase) & smmuv3::strtab_base::kAddr.mask(), HostMemory::kFirstAddress);
  // As large as IDR1 has them.
  EXPECT_EQ(smmuv3::queue_base::kLog2Size.Get(read(Register::kEventqBase)), 5u);
  EXPECT_EQ(smmuv3::queue_base::kLog2Size.Get(read(Register::kPriqBase)), 5u);
  // Everything that could be remembered from before is forgotten.
  const smmuv3::SmmuCounters counters = smmu->hardware().GetCounters();
  EXPECT_EQ(counters.executed[static_cast<uint8_t>(smmuv3::Opcode::kCfgiSteRange)], 1u);
  EXPECT_EQ(counters.executed[static_cast<uint8_t>(smmuv3::Opcode::kTlbiNsnhAll)], 1u);
  EXPECT_EQ(counters.executed[static_cast<uint8_t>(smmuv3::Opcode::kSync)], 1u);
}

TEST_F(HostSmmuTest, GivesItsMemoryBack) {
  for (uint32_t skip = 0; skip < 3; ++skip) {
    memory_.FailNext(skip);
    EXPECT_EQ(Make(0), nullptr) << skip;
    EXPECT_EQ(memory_.GetStats().table_bytes, 0u);
  }
  Make(0).reset();
  EXPECT_EQ(memory_.GetStats().table_bytes, 0u);
}

TEST_F(HostSmmuTest, EntriesHaveToFitTheTable) {
  const std::unique_ptr<HostSmmu> smmu = Make(0);
  EXPECT_TRUE(smmu->HasSte(0xffff));
  EXPECT_FALSE(smmu->HasSte(0x10000));
  memory_.FailNext(0);
  EXPECT_FALSE(smmu->ReserveSte(0x123));
  ASSERT_TRUE(smmu->ReserveSte(0x123));
  const smmuv3::RawSte entry = smmuv3::MakeStage2Ste({.vmid = 3, .s2ttb = 0x1000}, false);
  smmu->InstallSte(0x123, entry, {});
  EXPECT_EQ(smmu->ReadSte(0x123), entry);
}

TEST_F(HostSmmuTest, TagsAreLeased) {
  const std::unique_ptr<HostSmmu> smmu = Make(1);
  auto vmid = smmu->TakeVmid();
  auto asid = smmu->TakeAsid();
  EXPECT_EQ(vmid->vmid(), 1);
  EXPECT_EQ(asid->asid(), 1);
  EXPECT_EQ(smmu->TakeVmid()->vmid(), 2);
  EXPECT_EQ(smmu->GetStats().vmids_used, 1u);
  vmid.reset();
  asid.reset();
  EXPECT_EQ(smmu->GetStats().vmids_used, 0u);
  EXPECT_EQ(smmu->TakeAsid()->asid(), 1);
  // An SMMU that does not answer may still have entries under the tag.
  vmid = smmu->TakeVmid();
  smmu->hardware().Pause();
  vmid.reset();
  smmu->hardware().Resume();
  EXPECT_EQ(smmu->GetStats().vmids_used, 1u);
  EXPECT_EQ(smmu->GetStats().sync_timeouts, 1u);
  EXPECT_TRUE(smmu->Settle());
}

}  // namespace
}  // namespace viommu::agent
