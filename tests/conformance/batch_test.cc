// HWPT_INVALIDATE: groups under one sync, counters, timeouts.

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "tests/conformance/invalidate_fixture.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::Encode;
using smmuv3::Opcode;

// ---- Groups under one sync ------------------------------------------------------------------------------------------

class Batch : public InvalidateFixture {
 protected:
  struct Executed {
    uint64_t nh_all, nsnh_all, syncs;
  };
  Executed Count() {
    const std::string smmu = Info(A0()).smmu;
    return {hooks().Executed(smmu, 0x10), hooks().Executed(smmu, 0x30), hooks().Executed(smmu, 0x46)};
  }
  // Sends, and tells what the SMMU has carried out for it.
  Executed Cost(std::span<const RawCommand> commands) {
    const Executed before = Count();
    last_ = Send(commands);
    const Executed after = Count();
    return {after.nh_all - before.nh_all, after.nsnh_all - before.nsnh_all, after.syncs - before.syncs};
  }

  InvalidateResult last_;
};
CONFORMANCE_RIGS(Batch);

TEST_P(Batch, A6_GroupsOf63) {
  for (const auto& [count, groups] :
       {std::pair<uint32_t, uint64_t>{1, 1}, {62, 1}, {63, 1}, {64, 2}, {126, 2}, {127, 3}, {189, 3}, {190, 4}}) {
    const Executed cost = Cost(std::vector<RawCommand>(count, GoodCommand()));
    EXPECT_OK(last_);
    EXPECT_EQ(cost.nh_all, count);
    EXPECT_EQ(cost.syncs, groups) << count << " commands";
  }
}

TEST_P(Batch, A7_BadAt70IssuesTheFirstGroupAlone) {
  const Executed cost = Cost(WithBadAt(100, 70));
  ExpectRefused(EIO, expect().HandledUpTo(70), last_);
  EXPECT_EQ(cost.nh_all, 63u);
  EXPECT_EQ(cost.syncs, 1u);
}

TEST_P(Batch, BadAtZeroIssuesNothing) {
  const Executed cost = Cost(WithBadAt(100, 0));
  ExpectRefused(EIO, 0, last_);
  EXPECT_EQ(cost.nh_all, 0u);
  EXPECT_EQ(cost.syncs, 0u);
}

TEST_P(Batch, BadAt62IssuesNothing) {
  const Executed cost = Cost(WithBadAt(100, 62));
  ExpectRefused(EIO, expect().HandledUpTo(62), last_);
  EXPECT_EQ(cost.nh_all, 0u);
}

TEST_P(Batch, BadAt63IssuesTheFirstGroup) {
  const Executed cost = Cost(WithBadAt(100, 63));
  ExpectRefused(EIO, 63, last_);
  EXPECT_EQ(cost.nh_all, 63u);
}

TEST_P(Batch, A3_NsnhAllIsIssuedAsNhAll) {
  const RawCommand command = Encode({.opcode = Opcode::kTlbiNsnhAll});
  const Executed cost = Cost({&command, 1});
  EXPECT_OK(last_);
  EXPECT_EQ(cost.nsnh_all, 0u);
  EXPECT_EQ(cost.nh_all, 1u);
}

TEST_P(Batch, EveryCallEndsWithASync) {
  const RawCommand command = GoodCommand();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Cost({&command, 1}).syncs, 1u);
}

class BatchStats : public InvalidateFixture {};
CONFORMANCE_RIGS(BatchStats);

TEST_P(BatchStats, EachEntryIsCountedOnce) {
  const agent::InvalidationCount good = Of(Opcode::kTlbiNhAll);
  const agent::InvalidationCount bad = Of(Opcode::kSync);
  ASSERT_ERRNO(EIO, Send(WithBadAt(100, 70)));
  // 63 were done, 7 were fine and stood in a group that was not issued, one was refused, 29 came after it.
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).done - good.done, 63u);
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).failed - good.failed, 7u);
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).refused - good.refused, 0u);
  EXPECT_EQ(Of(Opcode::kSync).refused - bad.refused, 1u);
}

TEST_P(BatchStats, NsnhAllIsCountedAsWhatTheGuestSent) {
  const uint64_t before = Of(Opcode::kTlbiNsnhAll).done;
  ASSERT_OK(Send({.opcode = Opcode::kTlbiNsnhAll}));
  EXPECT_EQ(Of(Opcode::kTlbiNsnhAll).done - before, 1u);
}

TEST_P(BatchStats, ARefusedCallIsNotCounted) {
  const RawCommand command = GoodCommand();
  const agent::InvalidationCount before = Of(Opcode::kTlbiNhAll);
  ASSERT_ERRNO(ENOENT, vm().Send(kNoSuchId, command));
  ASSERT_ERRNO(EINVAL, vm()->Invalidate(f_.viommu, InvalidateDataType::kVtdS1, {&command, 1}));
  const agent::InvalidationCount after = Of(Opcode::kTlbiNhAll);
  EXPECT_EQ(after.done, before.done);
  EXPECT_EQ(after.refused, before.refused);
  EXPECT_EQ(after.failed, before.failed);
}

TEST_P(BatchStats, LatenciesAreTakenOfEverySync) {
  const auto total = [&] {
    uint64_t sum = 0;
    for (const uint64_t count : StatsOf(Info(A0()).smmu).sync_latency.counts) sum += count;
    return sum;
  };
  const uint64_t before = total();
  const std::chrono::nanoseconds sum = StatsOf(Info(A0()).smmu).sync_latency.sum;
  ASSERT_OK(Send({.opcode = Opcode::kTlbiNhAll}));
  EXPECT_GT(total(), before);
  const agent::LatencyHistogram latency = StatsOf(Info(A0()).smmu).sync_latency;
  EXPECT_GT(latency.sum, sum);
  EXPECT_EQ(latency.counts.size(), latency.upper_bounds.size() + 1);
  EXPECT_TRUE(std::is_sorted(latency.upper_bounds.begin(), latency.upper_bounds.end()));
}

// ---- Timeouts -------------------------------------------------------------------------------------------------------

class Timeout : public InvalidateFixture {
 protected:
  Timeout() : InvalidateFixture(RigRequest{.short_sync_timeout = true}) {}
  std::string Smmu() { return Info(A0()).smmu; }
};
CONFORMANCE_RIGS(Timeout);

TEST_P(Timeout, OfTheOnlyGroup) {
  hooks().Pause(Smmu());
  ExpectRefused(ETIMEDOUT, expect().HandledAtTimeout(0, 5), Send(std::vector<RawCommand>(5, GoodCommand())));
  hooks().Resume(Smmu());
}

TEST_P(Timeout, OfAFullGroup) {
  hooks().Pause(Smmu());
  ExpectRefused(ETIMEDOUT, expect().HandledAtTimeout(0, 63), Send(std::vector<RawCommand>(100, GoodCommand())));
  hooks().Resume(Smmu());
}

TEST_P(Timeout, IsCounted) {
  const uint64_t before = StatsOf(Smmu()).sync_timeouts;
  const agent::InvalidationCount commands = Of(Opcode::kTlbiNhAll);
  hooks().Pause(Smmu());
  EXPECT_ERRNO(ETIMEDOUT, Send({.opcode = Opcode::kTlbiNhAll}));
  hooks().Resume(Smmu());
  EXPECT_EQ(StatsOf(Smmu()).sync_timeouts, before + 1);
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).failed, commands.failed + 1);
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).done, commands.done);
}

TEST_P(Timeout, RepeatingWorksOnceTheSmmuGoesOn) {
  hooks().Pause(Smmu());
  EXPECT_ERRNO(ETIMEDOUT, Send(std::vector<RawCommand>(70, GoodCommand())));
  hooks().Resume(Smmu());
  // The SMMU may take its time over what is still in its queue.
  InvalidateResult result;
  for (int i = 0; i < 1000 && StatusErrnoOf(result = Send(std::vector<RawCommand>(70, GoodCommand()))) == ETIMEDOUT;
       ++i) {
  }
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 70u);
}

TEST_P(Timeout, BadCommandsAreFoundWithoutTheSmmu) {
  hooks().Pause(Smmu());
  ExpectRefused(EIO, expect().HandledUpTo(5), Send(WithBadAt(10, 5)));
  hooks().Resume(Smmu());
}

TEST_P(Timeout, OtherSmmusGoOn) {
  NEED_DEVICE(b0, Role::kB0);
  Vm other(Open());
  const Function function = other.Plug(b0, kVsid);
  hooks().Pause(Smmu());
  // A busy machine may not get to it within the short limit of these cases.
  InvalidateResult result;
  for (int i = 0; i < 1000 && StatusErrnoOf(result = other.Send(function.viommu, GoodCommand())) == ETIMEDOUT; ++i) {
  }
  EXPECT_OK(result);
  hooks().Resume(Smmu());
}

// The host leaves the sync in the queue and the SMMU tries again: the call may time out, and nothing stays stuck.
TEST_P(Timeout, SilentDevice) {
  NEED_DEVICE(pci, Role::kAts);
  Vm other(Open());
  const Function function = pci == A0() ? f_ : other.Plug(pci, kVsid);
  Vm& owner = pci == A0() ? vm() : other;
  RawVste ats = kTranslateVste;
  ats.dw1 = smmuv3::ste::kEats.Set(ats.dw1, smmuv3::kEatsTranslate);
  ASSERT_OK(owner->Attach(function.device, owner.Nested(function, ats)));
  hooks().SetResponding(pci, false);
  const int error = StatusErrnoOf(
      owner.Send(function.viommu, Command{.opcode = Opcode::kAtcInv, .sid = kVsid, .size = smmuv3::kAtcSizeAll}));
  EXPECT_TRUE(error == 0 || error == ETIMEDOUT) << error;
  hooks().SetResponding(pci, true);
  InvalidateResult result;
  for (int i = 0; i < 1000 && StatusErrnoOf(result = owner.Send(function.viommu, GoodCommand())) == ETIMEDOUT; ++i) {
  }
  EXPECT_OK(result);
}

}  // namespace
}  // namespace viommu::conformance
