// Invalidations through the seam: which commands pass, what they reach, what is counted, and how they run side by side.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/smmuv3/vsmmu/test_host.h"

namespace viommu::agent {
namespace {

using smmuv3::Command;
using smmuv3::Encode;
using smmuv3::Opcode;
using smmuv3::RawCommand;
using testing::HasSubstr;

constexpr uint32_t kVirtSid = 0x10;

class InvalidateTest : public testing::TestWithParam<Personality> {
 protected:
  InvalidateTest() : InvalidateTest(MakeTestInventory(GetParam())) {}
  explicit InvalidateTest(EmulatedInventory inventory)
      : backend_(*EmulatedBackend::Create(std::move(inventory))),
        smmu_(backend_->FindSmmu("a")),
        context_(*backend_->OpenContext()) {
    device_ = *context_->BindDevice(kDeviceA0);
    ioas_ = *context_->AllocIoas();
    stage2_ = *context_->AllocStage2(device_, ioas_);
    const ViommuHandle viommu = *context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3);
    viommu_ = viommu.id;
    vmid_ = *viommu.vmid;
    EXPECT_TRUE(context_->AllocVdevice(viommu_, device_, kVirtSid).ok());
  }

  bool strict() const { return GetParam().exact_handled; }
  InvalidateResult Invalidate(const std::vector<RawCommand>& commands) {
    return context_->Invalidate(viommu_, InvalidateDataType::kArmSmmuv3, commands);
  }
  void Fill(uint16_t vmid, uint64_t address, uint16_t asid = 5) {
    ASSERT_TRUE(smmu_->InsertTlb({.vmid = vmid, .asid = asid, .address = address}, smmu_->FillEpoch()));
  }
  bool Cached(uint16_t vmid, uint64_t address, uint16_t asid = 5) {
    return smmu_->LookupTlb(smmuv3::TlbRegime::kNsEl1, smmuv3::TlbStage::kStage1, vmid, asid, address).has_value();
  }
  // How often the hardware has carried out the opcode.
  uint64_t Executed(Opcode opcode) { return smmu_->GetCounters().executed[static_cast<uint8_t>(opcode)]; }
  InvalidationCount Counted(Opcode opcode) {
    const SmmuStats stats = backend_->GetStats()[0];
    for (const InvalidationCount& count : stats.invalidations) {
      if (count.opcode == static_cast<uint8_t>(opcode)) return count;
    }
    return {};
  }

  std::unique_ptr<EmulatedBackend> backend_;
  smmuv3::EmulatedSmmu* smmu_;
  std::unique_ptr<Context> context_;
  ObjectId device_ = 0, ioas_ = 0, stage2_ = 0, viommu_ = 0;
  uint16_t vmid_ = 0;
};

constexpr RawCommand kSync = {0x46, 0};
const RawCommand kNhAll = Encode({.opcode = Opcode::kTlbiNhAll});

TEST_P(InvalidateTest, ReachesTheVmsOwnEntriesOnly) {
  const auto foreign = static_cast<uint16_t>(vmid_ + 1);
  Fill(vmid_, 0x1000);
  Fill(foreign, 0x1000);
  // The VMID that the guest writes does not matter.
  const InvalidateResult result = Invalidate({Encode({.opcode = Opcode::kTlbiNhAll, .vmid = foreign})});
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.handled, 1u);
  EXPECT_FALSE(Cached(vmid_, 0x1000));
  EXPECT_TRUE(Cached(foreign, 0x1000));
}

TEST_P(InvalidateTest, EverythingNonSecureBecomesEverythingOfTheVm) {
  const auto foreign = static_cast<uint16_t>(vmid_ + 1);
  Fill(vmid_, 0x1000);
  Fill(foreign, 0x1000);
  const RawCommand raw = Encode({.opcode = Opcode::kTlbiNsnhAll});
  EXPECT_TRUE(Invalidate({raw}).status.ok());
  EXPECT_FALSE(Cached(vmid_, 0x1000));
  EXPECT_TRUE(Cached(foreign, 0x1000));
  EXPECT_EQ(Executed(Opcode::kTlbiNsnhAll), 0u);
  EXPECT_EQ(Counted(Opcode::kTlbiNsnhAll).done, 1u);
  // Other words of it are dropped, or refused where somebody looks.
  EXPECT_EQ(StatusErrno(Invalidate({{raw.dw0, 0xff}}).status), strict() ? EIO : 0);
}

TEST_P(InvalidateTest, GuestStreamIdsBecomePhysicalOnes) {
  const uint64_t epoch = smmu_->FillEpoch();
  ASSERT_TRUE(smmu_->InsertCd(kSidA0, 3, {}, epoch));
  ASSERT_TRUE(smmu_->InsertCd(kSidA0, 4, {}, epoch));
  ASSERT_TRUE(smmu_->InsertCd(kVirtSid, 3, {}, epoch));
  ASSERT_TRUE(smmu_->InsertAtc(kSidA0, {.address = 0x1000}, epoch));
  ASSERT_TRUE(Invalidate({Encode({.opcode = Opcode::kCfgiCd, .sid = kVirtSid, .ssid = 3, .leaf = true})}).status.ok());
  EXPECT_FALSE(smmu_->LookupCd(kSidA0, 3).has_value());
  EXPECT_TRUE(smmu_->LookupCd(kSidA0, 4).has_value());
  EXPECT_TRUE(smmu_->LookupCd(kVirtSid, 3).has_value());
  ASSERT_TRUE(Invalidate({Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVirtSid}),
                          Encode({.opcode = Opcode::kAtcInv, .sid = kVirtSid, .size = 52})})
                  .status.ok());
  EXPECT_FALSE(smmu_->LookupCd(kSidA0, 4).has_value());
  EXPECT_FALSE(smmu_->LookupAtc(kSidA0, std::nullopt, 0x1000).has_value());
}

TEST_P(InvalidateTest, UnknownStreamIdsAreRefused) {
  for (const Opcode opcode : {Opcode::kCfgiCd, Opcode::kCfgiCdAll, Opcode::kAtcInv}) {
    const InvalidateResult result = Invalidate({Encode({.opcode = opcode, .sid = kSidA0})});
    EXPECT_EQ(StatusErrno(result.status), EIO);
    EXPECT_EQ(result.handled, 0u);
    EXPECT_THAT(std::string(result.status.message()), HasSubstr("StreamID 256"));
    EXPECT_EQ(Counted(opcode).refused, 1u);
  }
}

TEST_P(InvalidateTest, OpcodesOfTheHostAreRefused) {
  for (const Opcode opcode : smmuv3::kAllOpcodes) {
    const InvalidateResult result = Invalidate({Encode({.opcode = opcode, .sid = kVirtSid})});
    const bool allowed = StatusErrno(result.status) == 0;
    const bool one_of_eight = opcode == Opcode::kCfgiCd || opcode == Opcode::kCfgiCdAll || opcode == Opcode::kAtcInv ||
                              opcode == Opcode::kTlbiNhAll || opcode == Opcode::kTlbiNhAsid ||
                              opcode == Opcode::kTlbiNhVa || opcode == Opcode::kTlbiNhVaa ||
                              opcode == Opcode::kTlbiNsnhAll;
    EXPECT_EQ(allowed, one_of_eight) << smmuv3::OpcodeName(static_cast<uint8_t>(opcode));
    if (!allowed) {
      EXPECT_EQ(StatusErrno(result.status), EIO);
    }
  }
  EXPECT_THAT(std::string(Invalidate({kSync}).status.message()), HasSubstr("CMD_SYNC"));
}

TEST_P(InvalidateTest, GroupsOf63UnderOneSyncEach) {
  const uint64_t syncs = Executed(Opcode::kSync);
  const InvalidateResult result = Invalidate(std::vector<RawCommand>(127, kNhAll));
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.handled, 127u);
  EXPECT_EQ(Executed(Opcode::kSync) - syncs, 3u);
  EXPECT_EQ(Executed(Opcode::kTlbiNhAll), 127u);
  EXPECT_EQ(Counted(Opcode::kTlbiNhAll).done, 127u);
}

TEST_P(InvalidateTest, ABadCommandStopsItsGroup) {
  std::vector<RawCommand> commands(100, kNhAll);
  commands[70] = kSync;
  const InvalidateResult result = Invalidate(commands);
  EXPECT_EQ(StatusErrno(result.status), EIO);
  EXPECT_EQ(result.handled, strict() ? 63u : 70u);
  EXPECT_EQ(Executed(Opcode::kTlbiNhAll), 63u);
  EXPECT_EQ(Counted(Opcode::kTlbiNhAll).done, 63u);
  EXPECT_EQ(Counted(Opcode::kTlbiNhAll).failed, 7u);
  EXPECT_EQ(Counted(Opcode::kSync).refused, 1u);
}

TEST_P(InvalidateTest, BadFieldsAreRefusedOrStumbledOver) {
  // TG without a level or a range.
  const InvalidateResult result = Invalidate({Encode({.opcode = Opcode::kTlbiNhVa, .tg = 1}), kNhAll});
  EXPECT_EQ(StatusErrno(result.status), strict() ? EIO : 0);
  EXPECT_EQ(result.handled, strict() ? 0u : 2u);
  EXPECT_EQ(backend_->GetStats()[0].command_errors, strict() ? 0u : 1u);
  EXPECT_EQ(Executed(Opcode::kTlbiNhAll), strict() ? 0u : 1u);
}

TEST_P(InvalidateTest, WhatTheCallItselfRefuses) {
  const std::vector<RawCommand> one = {kNhAll};
  const auto call = [&](ObjectId id, InvalidateDataType type, std::span<const RawCommand> commands) {
    const InvalidateResult result = context_->Invalidate(id, type, commands);
    EXPECT_EQ(result.handled, 0u);
    return StatusErrno(result.status);
  };
  EXPECT_EQ(call(99, InvalidateDataType::kArmSmmuv3, one), ENOENT);
  EXPECT_EQ(call(stage2_, InvalidateDataType::kArmSmmuv3, one), EINVAL);
  EXPECT_EQ(call(device_, InvalidateDataType::kArmSmmuv3, one), EINVAL);
  EXPECT_EQ(call(viommu_, InvalidateDataType::kVtdS1, one), EINVAL);
  EXPECT_EQ(call(viommu_, InvalidateDataType::kArmSmmuv3, {}), strict() ? 0 : EINVAL);
  EXPECT_EQ(call(viommu_, InvalidateDataType::kVtdS1, {}), EINVAL);
  const std::vector<RawCommand> too_many(kMaxInvalidateEntries + 1, kNhAll);
  EXPECT_EQ(call(viommu_, InvalidateDataType::kArmSmmuv3, too_many), EINVAL);
  backend_->FailNext(BackendOp::kInvalidate, ENOMEM);
  EXPECT_EQ(call(viommu_, InvalidateDataType::kArmSmmuv3, one), ENOMEM);
  EXPECT_EQ(Executed(Opcode::kTlbiNhAll), 0u);
}

TEST_P(InvalidateTest, ByNestedDomainOrNot) {
  const ObjectId nested = *context_->AllocNested(viommu_, device_, smmuv3::kBypassVste);
  Fill(vmid_, 0x1000);
  const InvalidateResult result = context_->Invalidate(nested, InvalidateDataType::kArmSmmuv3, {&kNhAll, 1});
  EXPECT_EQ(StatusErrno(result.status), strict() ? 0 : EOPNOTSUPP);
  EXPECT_EQ(Cached(vmid_, 0x1000), !strict());
}

TEST_P(InvalidateTest, StatsTellOfSyncs) {
  const auto before = backend_->GetStats()[0].sync_latency;
  ASSERT_TRUE(Invalidate({kNhAll}).status.ok());
  const SmmuStats stats = backend_->GetStats()[0];
  ASSERT_EQ(stats.sync_latency.counts.size(), stats.sync_latency.upper_bounds.size() + 1);
  uint64_t count = 0;
  for (size_t i = 0; i < stats.sync_latency.counts.size(); ++i)
    count += stats.sync_latency.counts[i] - before.counts[i];
  EXPECT_EQ(count, 1u);
  EXPECT_GT(stats.sync_latency.sum, before.sum);
  EXPECT_EQ(stats.queue_depth, 0u);
  EXPECT_GE(stats.queue_pushed, 2u);
  EXPECT_EQ(stats.queue_capacity, 4096u);
}

// Several threads of two VMs invalidate, while a third changes its devices: each call means what it says to its own VM.
TEST_P(InvalidateTest, SideBySide) {
  constexpr int kRounds = 150;
  auto other = *backend_->OpenContext();
  const ObjectId other_device = *other->BindDevice(kDeviceA1);
  const ObjectId other_stage2 = *other->AllocStage2(other_device, *other->AllocIoas());
  const ViommuHandle other_viommu = *other->AllocViommu(other_device, other_stage2, ViommuType::kArmSmmuv3);
  std::vector<std::thread> threads;
  for (uint16_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      Context& context = t == 2 ? *other : *context_;
      const ObjectId viommu = t == 2 ? other_viommu.id : viommu_;
      const uint16_t vmid = t == 2 ? *other_viommu.vmid : vmid_;
      for (int round = 0; round < kRounds; ++round) {
        // Dropped when it meets another thread's invalidation.
        smmu_->InsertTlb({.vmid = vmid, .asid = t, .address = 0x1000}, smmu_->FillEpoch());
        const std::vector<RawCommand> batch(static_cast<size_t>(round) % 70 + 1,
                                            Encode({.opcode = Opcode::kTlbiNhAsid, .asid = t}));
        const InvalidateResult result = context.Invalidate(viommu, InvalidateDataType::kArmSmmuv3, batch);
        ASSERT_TRUE(result.status.ok()) << result.status;
        ASSERT_EQ(result.handled, batch.size());
        ASSERT_FALSE(Cached(vmid, 0x1000, t));
      }
    });
  }
  threads.emplace_back([&] {
    for (int round = 0; round < kRounds / 3; ++round) {
      const ObjectId nested = *context_->AllocNested(viommu_, device_, {0xb, 0});
      ASSERT_TRUE(context_->Attach(device_, nested).ok());
      const RawCommand atc = Encode({.opcode = Opcode::kAtcInv, .sid = kVirtSid, .size = 52});
      ASSERT_TRUE(context_->Invalidate(viommu_, InvalidateDataType::kArmSmmuv3, {&atc, 1}).status.ok());
      ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
      ASSERT_TRUE(context_->Destroy(nested).ok());
      const ObjectId vdevice = *other->AllocVdevice(other_viommu.id, other_device, 7);
      ASSERT_TRUE(other->Destroy(vdevice).ok());
      backend_->GetStats();
    }
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Counted(Opcode::kTlbiNhAsid).done, Executed(Opcode::kTlbiNhAsid));
}

INSTANTIATE_TEST_SUITE_P(Personalities, InvalidateTest, testing::Values(Strict(), Linux72()),
                         [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; });

// An SMMU that does not answer.
class StalledTest : public InvalidateTest {
 protected:
  static EmulatedInventory Impatient() {
    EmulatedInventory inventory = MakeTestInventory(GetParam());
    inventory.sync_timeout = std::chrono::milliseconds(300);
    inventory.smmu_options.queue_log2_size = 7;
    return inventory;
  }
  StalledTest() : InvalidateTest(Impatient()) {}
};

TEST_P(StalledTest, ASyncTimesOutAndSoDoesAFullQueue) {
  smmu_->Pause();
  InvalidateResult result = Invalidate(std::vector<RawCommand>(63, kNhAll));
  EXPECT_EQ(StatusErrno(result.status), ETIMEDOUT);
  EXPECT_EQ(result.handled, strict() ? 0u : 62u);
  EXPECT_EQ(Counted(Opcode::kTlbiNhAll).failed, 63u);
  result = Invalidate(std::vector<RawCommand>(63, kNhAll));
  EXPECT_EQ(backend_->GetStats()[0].queue_depth, 128u);
  result = Invalidate({kNhAll});
  EXPECT_EQ(StatusErrno(result.status), ETIMEDOUT);
  EXPECT_EQ(backend_->GetStats()[0].queue_full_waits, 1u);
  EXPECT_EQ(backend_->GetStats()[0].sync_timeouts, 3u);
  smmu_->Resume();
  // What was queued is carried out late; sending it again is safe.
  EXPECT_TRUE(Invalidate({kNhAll}).status.ok());
  EXPECT_EQ(Executed(Opcode::kTlbiNhAll), 127u);
}

TEST_P(StalledTest, AVmidIsNotHandedOutUntilTheSmmuHasForgottenIt) {
  smmu_->Pause();
  context_.reset();
  smmu_->Resume();
  EXPECT_EQ(backend_->GetStats()[0].vmids_used, 1u);
}

// One that answers late, however slow this machine is.
class PatientTest : public InvalidateTest {
 protected:
  static EmulatedInventory Patient() {
    EmulatedInventory inventory = MakeTestInventory(GetParam());
    inventory.sync_timeout = std::chrono::minutes(5);
    return inventory;
  }
  PatientTest() : InvalidateTest(Patient()) {}
};

TEST_P(PatientTest, AnObjectInUseIsBusy) {
  const ObjectId spare = context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3)->id;
  const uint64_t pushed = backend_->GetStats()[0].queue_pushed;
  smmu_->Pause();
  std::thread invalidation([&] { context_->Invalidate(spare, InvalidateDataType::kArmSmmuv3, {&kNhAll, 1}); });
  // The command is in the queue: the call is in flight for as long as the sync may take.
  while (backend_->GetStats()[0].queue_pushed == pushed) std::this_thread::yield();
  const absl::Status busy = context_->Destroy(spare);
  smmu_->Resume();
  invalidation.join();
  EXPECT_EQ(StatusErrno(busy), EBUSY);
  EXPECT_TRUE(context_->Destroy(spare).ok());
}

INSTANTIATE_TEST_SUITE_P(Personalities, StalledTest, testing::Values(Strict(), Linux72()),
                         [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; });

INSTANTIATE_TEST_SUITE_P(Personalities, PatientTest, testing::Values(Strict(), Linux72()),
                         [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; });

}  // namespace
}  // namespace viommu::agent
