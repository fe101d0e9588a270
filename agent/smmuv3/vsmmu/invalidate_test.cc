// Invalidations through the seam: which commands pass, what they reach, what is counted, and how they run side by side.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/smmuv3/vsmmu/test_guest.h"
#include "agent/smmuv3/vsmmu/test_host.h"

namespace viommu::agent {
namespace {

using smmuv3::Command;
using smmuv3::Encode;
using smmuv3::Opcode;
using smmuv3::RawCommand;
using testing::HasSubstr;

constexpr uint32_t kVirtSid = 0x10;
constexpr uint64_t kInput = 0x7000'0000;
constexpr uint16_t kAsid = 5;

// A VM with one device that translates by the guest's tables.
class Vm {
 public:
  Vm(EmulatedBackend& backend, const char* pci_address)
      : backend_(backend), pci_address_(pci_address), context(*backend.OpenContext()) {
    device = *context->BindDevice(pci_address);
    ioas = *context->AllocIoas();
    EXPECT_TRUE(context->MapIoas(ioas, TestGuest::kBase, TestGuest::kBytes, guest.handle()).ok());
    stage2 = *context->AllocStage2(device, ioas);
    const ViommuHandle handle = *context->AllocViommu(device, stage2, ViommuType::kArmSmmuv3);
    viommu = handle.id;
    vmid = *handle.vmid;
    EXPECT_TRUE(context->AllocVdevice(viommu, device, kVirtSid).ok());
    cds = guest.NewPage();
    ttb = guest.NewPage();
    for (uint64_t i = 0; i < 2; ++i) guest.WriteCd(cds + i * smmuv3::kCdBytes, ttb, kAsid);
    for (uint64_t& page : pages) {
      page = guest.NewPage();
      guest.Word(page).store(page);
    }
    // Two descriptors: one without PASID, one for PASID 1.
    smmuv3::RawVste vste = TestGuest::Vste(cds, pci_address == std::string_view(kDeviceA0));
    vste.dw0 = smmuv3::ste::kS1CdMax.Set(vste.dw0, 1);
    vste.dw1 = smmuv3::ste::kS1Dss.Set(vste.dw1, static_cast<uint64_t>(smmuv3::S1Dss::kSsid0));
    nested = *context->AllocNested(viommu, device, vste);
    EXPECT_TRUE(context->Attach(device, nested).ok());
  }

  uint64_t Read(uint64_t input, std::optional<uint32_t> pasid = std::nullopt, bool ats = false) {
    uint64_t word = 0;
    const auto result =
        backend_.device_dma()->Read({.pci_address = pci_address_, .pasid = pasid, .address = input, .use_ats = ats},
                                    std::as_writable_bytes(std::span(&word, 1)));
    EXPECT_TRUE(result.ok());
    return result->outcome == DmaResult::Outcome::kDone ? word : 0;
  }
  // Makes the SMMU remember the first page at kInput, and puts the second in its place.
  void MakeStale() {
    guest.Map(ttb, kInput, pages[0]);
    EXPECT_TRUE(Invalidate({Encode({.opcode = Opcode::kTlbiNhAll})}).status.ok());
    EXPECT_EQ(Read(kInput), pages[0]);
    guest.Map(ttb, kInput, pages[1]);
  }
  bool IsStale() { return Read(kInput) == pages[0]; }
  InvalidateResult Invalidate(const std::vector<RawCommand>& commands) {
    return context->Invalidate(viommu, InvalidateDataType::kArmSmmuv3, commands);
  }

 private:
  EmulatedBackend& backend_;
  const char* const pci_address_;

 public:
  TestGuest guest;
  std::unique_ptr<Context> context;
  ObjectId device = 0, ioas = 0, stage2 = 0, viommu = 0, nested = 0;
  uint16_t vmid = 0;
  uint64_t cds = 0, ttb = 0;
  std::array<uint64_t, 2> pages = {};
};

class InvalidateTest : public testing::TestWithParam<Personality> {
 protected:
  InvalidateTest() : InvalidateTest(MakeTestInventory(GetParam())) {}
  explicit InvalidateTest(EmulatedInventory inventory)
      : backend_(*EmulatedBackend::Create(std::move(inventory))),
        smmu_(backend_->FindSmmu("a")),
        vm_(std::make_unique<Vm>(*backend_, kDeviceA0)),
        before_(smmu_->GetCounters()) {}

  bool strict() const { return GetParam().exact_handled; }
  InvalidateResult Invalidate(const std::vector<RawCommand>& commands) { return vm_->Invalidate(commands); }
  // How often the hardware has carried out the opcode in this test.
  uint64_t Executed(Opcode opcode) {
    const auto index = static_cast<uint8_t>(opcode);
    return smmu_->GetCounters().executed[index] - before_.executed[index];
  }
  InvalidationCount Counted(Opcode opcode) {
    const SmmuStats stats = backend_->GetStats()[0];
    for (const InvalidationCount& count : stats.invalidations) {
      if (count.opcode == static_cast<uint8_t>(opcode)) return count;
    }
    return {};
  }

  std::unique_ptr<EmulatedBackend> backend_;
  smmuv3::EmulatedSmmu* smmu_;
  std::unique_ptr<Vm> vm_;
  smmuv3::SmmuCounters before_;
};

constexpr RawCommand kSync = {0x46, 0};
const RawCommand kNhAll = Encode({.opcode = Opcode::kTlbiNhAll});

TEST_P(InvalidateTest, ReachesTheVmsOwnEntriesOnly) {
  Vm other(*backend_, kDeviceA1);
  vm_->MakeStale();
  other.MakeStale();
  // The VMID that the guest writes does not matter.
  const InvalidateResult result = Invalidate({Encode({.opcode = Opcode::kTlbiNhAll, .vmid = other.vmid})});
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.handled, 1u);
  EXPECT_FALSE(vm_->IsStale());
  EXPECT_TRUE(other.IsStale());
}

TEST_P(InvalidateTest, EverythingNonSecureBecomesEverythingOfTheVm) {
  Vm other(*backend_, kDeviceA1);
  vm_->MakeStale();
  other.MakeStale();
  const RawCommand raw = Encode({.opcode = Opcode::kTlbiNsnhAll});
  EXPECT_TRUE(Invalidate({raw}).status.ok());
  EXPECT_FALSE(vm_->IsStale());
  EXPECT_TRUE(other.IsStale());
  EXPECT_EQ(Executed(Opcode::kTlbiNsnhAll), 0u);
  EXPECT_EQ(Counted(Opcode::kTlbiNsnhAll).done, 1u);
  // Other words of it are dropped, or refused where somebody looks.
  EXPECT_EQ(StatusErrno(Invalidate({{raw.dw0, 0xff}}).status), strict() ? EIO : 0);
}

TEST_P(InvalidateTest, GuestStreamIdsBecomePhysicalOnes) {
  // Both descriptors are remembered; then both point to tables that have another page there.
  vm_->guest.Map(vm_->ttb, kInput, vm_->pages[0]);
  ASSERT_EQ(vm_->Read(kInput), vm_->pages[0]);
  ASSERT_EQ(vm_->Read(kInput, 1), vm_->pages[0]);
  const uint64_t other_tables = vm_->guest.NewPage();
  vm_->guest.Map(other_tables, kInput, vm_->pages[1]);
  for (uint64_t i = 0; i < 2; ++i) vm_->guest.WriteCd(vm_->cds + i * smmuv3::kCdBytes, other_tables, kAsid + 1);
  ASSERT_TRUE(Invalidate({Encode({.opcode = Opcode::kTlbiNhAll})}).status.ok());
  EXPECT_EQ(vm_->Read(kInput), vm_->pages[0]);
  EXPECT_EQ(vm_->Read(kInput, 1), vm_->pages[0]);
  ASSERT_TRUE(Invalidate({Encode({.opcode = Opcode::kCfgiCd, .sid = kVirtSid, .ssid = 1, .leaf = true})}).status.ok());
  EXPECT_EQ(vm_->Read(kInput), vm_->pages[0]);
  EXPECT_EQ(vm_->Read(kInput, 1), vm_->pages[1]);
  ASSERT_TRUE(Invalidate({Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVirtSid})}).status.ok());
  EXPECT_EQ(vm_->Read(kInput), vm_->pages[1]);
  // What the device itself remembers.
  ASSERT_EQ(vm_->Read(kInput, std::nullopt, true), vm_->pages[1]);
  vm_->guest.Map(other_tables, kInput, vm_->pages[0]);
  ASSERT_TRUE(Invalidate({Encode({.opcode = Opcode::kTlbiNhAll})}).status.ok());
  EXPECT_EQ(vm_->Read(kInput, std::nullopt, true), vm_->pages[1]);
  ASSERT_TRUE(Invalidate({Encode({.opcode = Opcode::kAtcInv, .sid = kVirtSid, .size = 52})}).status.ok());
  EXPECT_EQ(vm_->Read(kInput, std::nullopt, true), vm_->pages[0]);
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
    const InvalidateResult result = vm_->context->Invalidate(id, type, commands);
    EXPECT_EQ(result.handled, 0u);
    return StatusErrno(result.status);
  };
  const ObjectId viommu = vm_->viommu;
  EXPECT_EQ(call(99, InvalidateDataType::kArmSmmuv3, one), ENOENT);
  EXPECT_EQ(call(vm_->stage2, InvalidateDataType::kArmSmmuv3, one), EINVAL);
  EXPECT_EQ(call(vm_->device, InvalidateDataType::kArmSmmuv3, one), EINVAL);
  EXPECT_EQ(call(viommu, InvalidateDataType::kVtdS1, one), EINVAL);
  EXPECT_EQ(call(viommu, InvalidateDataType::kArmSmmuv3, {}), strict() ? 0 : EINVAL);
  EXPECT_EQ(call(viommu, InvalidateDataType::kVtdS1, {}), EINVAL);
  const std::vector<RawCommand> too_many(kMaxInvalidateEntries + 1, kNhAll);
  EXPECT_EQ(call(viommu, InvalidateDataType::kArmSmmuv3, too_many), EINVAL);
  backend_->FailNext(BackendOp::kInvalidate, EFAULT);
  EXPECT_EQ(call(viommu, InvalidateDataType::kArmSmmuv3, one), EFAULT);
  // Without memory Linux 7.2 leaves the number that was asked for.
  backend_->FailNext(BackendOp::kInvalidate, ENOMEM);
  const InvalidateResult no_memory = Invalidate({kNhAll, kNhAll});
  EXPECT_EQ(StatusErrno(no_memory.status), ENOMEM);
  EXPECT_EQ(no_memory.handled, strict() ? 0u : 2u);
  EXPECT_EQ(Executed(Opcode::kTlbiNhAll), 0u);
}

TEST_P(InvalidateTest, EntriesOfAnyLength) {
  const auto call = [&](const void* entries, uint32_t length, uint32_t count) {
    return vm_->context->InvalidateRaw(vm_->viommu, {InvalidateDataType::kArmSmmuv3, entries, length, count});
  };
  EXPECT_EQ(StatusErrno(call(nullptr, 16, 1).status), EINVAL);
  EXPECT_EQ(StatusErrno(call(&kNhAll, 0, 1).status), EINVAL);
  EXPECT_EQ(StatusErrno(call(&kNhAll, kMaxInvalidateEntryBytes + 1, 1).status), EINVAL);
  EXPECT_EQ(StatusErrno(call(&kNhAll, 16, kMaxInvalidateEntries + 1).status), EINVAL);
  // Shorter ones have zeros behind them.
  std::array<uint8_t, 40> bytes = {};
  bytes[0] = bytes[1] = bytes[2] = static_cast<uint8_t>(Opcode::kTlbiNhAll);
  InvalidateResult result = call(bytes.data(), 1, 3);
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.handled, 3u);
  EXPECT_EQ(Executed(Opcode::kTlbiNhAll), 3u);
  // Longer ones must.
  bytes = {};
  bytes[1] = bytes[21] = static_cast<uint8_t>(Opcode::kTlbiNhAll);
  result = call(bytes.data() + 1, 19, 2);
  EXPECT_EQ(StatusErrno(result.status), EIO);  // the second begins with 0 there
  result = call(bytes.data() + 1, 20, 1);
  EXPECT_TRUE(result.status.ok());
  bytes[39] = 1;
  result = call(bytes.data() + 1, 19, 2);
  EXPECT_EQ(StatusErrno(result.status), EIO);
  bytes[38] = 1;
  result = call(bytes.data() + 1, 19, 2);
  EXPECT_EQ(StatusErrno(result.status), E2BIG);
  EXPECT_EQ(result.handled, 0u);
}

TEST_P(InvalidateTest, ByNestedDomainOrNot) {
  vm_->MakeStale();
  const InvalidateResult result = vm_->context->Invalidate(vm_->nested, InvalidateDataType::kArmSmmuv3, {&kNhAll, 1});
  EXPECT_EQ(StatusErrno(result.status), strict() ? 0 : EOPNOTSUPP);
  EXPECT_EQ(vm_->IsStale(), !strict());
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

// Several threads of two VMs invalidate and access memory, while another changes devices: each call means what it says
// to its own VM.
TEST_P(InvalidateTest, SideBySide) {
  constexpr int kRounds = 150;
  Vm other(*backend_, kDeviceA1);
  const ObjectId third = *vm_->context->BindDevice(kDeviceGroup0);
  // All tables are there, so that threads write leaves alone.
  for (uint64_t t = 0; t < 3; ++t) (t == 2 ? other : *vm_).guest.Map((t == 2 ? other : *vm_).ttb, kInput + t * 4096, 0);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      Vm& vm = t == 2 ? other : *vm_;
      const uint64_t input = kInput + t * 4096;
      for (int round = 0; round < kRounds; ++round) {
        const uint64_t page = vm.pages[static_cast<size_t>(round) % 2];
        vm.guest.Map(vm.ttb, input, page);
        std::vector<RawCommand> batch(static_cast<size_t>(round) % 70 + 1,
                                      Encode({.opcode = Opcode::kTlbiNhAsid, .asid = 9}));
        batch.back() = Encode({.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = input, .leaf = true});
        const InvalidateResult result = vm.Invalidate(batch);
        ASSERT_TRUE(result.status.ok()) << result.status;
        ASSERT_EQ(result.handled, batch.size());
        ASSERT_EQ(vm.Read(input), page);
      }
    });
  }
  threads.emplace_back([&] {
    for (uint32_t round = 0; round < kRounds / 3; ++round) {
      const ObjectId vdevice = *vm_->context->AllocVdevice(vm_->viommu, third, 0x20 + round);
      const RawCommand atc = Encode({.opcode = Opcode::kAtcInv, .sid = 0x20 + round, .size = 52});
      ASSERT_TRUE(vm_->context->Invalidate(vm_->viommu, InvalidateDataType::kArmSmmuv3, {&atc, 1}).status.ok());
      ASSERT_TRUE(vm_->context->Attach(third, vm_->stage2).ok());
      ASSERT_TRUE(vm_->context->Detach(third).ok());
      ASSERT_TRUE(vm_->context->Destroy(vdevice).ok());
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
  vm_.reset();
  smmu_->Resume();
  EXPECT_EQ(backend_->GetStats()[0].vmids_used, 1u);
}

// Tables, the context descriptor in front of them, and what they map: the SMMU may still be at it.
TEST_P(StalledTest, WhatTheSmmuMayStillReadIsNotGivenBack) {
  TestGuest guest;
  auto context = *backend_->OpenContext();
  const ObjectId ioas = *context->AllocIoas();
  ASSERT_TRUE(context->MapIoas(ioas, TestGuest::kBase, TestGuest::kBytes, guest.handle()).ok());
  ASSERT_TRUE(context->Attach(*context->BindDevice(kDeviceA1), ioas).ok());
  const HostMemoryStats before = backend_->GetMemoryStats();
  smmu_->Pause();
  context.reset();
  smmu_->Resume();
  EXPECT_EQ(backend_->GetMemoryStats(), before);
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
  const ObjectId spare = vm_->context->AllocViommu(vm_->device, vm_->stage2, ViommuType::kArmSmmuv3)->id;
  const uint64_t pushed = backend_->GetStats()[0].queue_pushed;
  smmu_->Pause();
  std::thread invalidation([&] { vm_->context->Invalidate(spare, InvalidateDataType::kArmSmmuv3, {&kNhAll, 1}); });
  // The command is in the queue: the call is in flight for as long as the sync may take.
  while (backend_->GetStats()[0].queue_pushed == pushed) std::this_thread::yield();
  const absl::Status busy = vm_->context->Destroy(spare);
  smmu_->Resume();
  invalidation.join();
  EXPECT_EQ(StatusErrno(busy), EBUSY);
  EXPECT_TRUE(vm_->context->Destroy(spare).ok());
}

INSTANTIATE_TEST_SUITE_P(Personalities, StalledTest, testing::Values(Strict(), Linux72()),
                         [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; });

INSTANTIATE_TEST_SUITE_P(Personalities, PatientTest, testing::Values(Strict(), Linux72()),
                         [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; });

}  // namespace
}  // namespace viommu::agent
