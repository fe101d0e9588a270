// Whole command lines against a server in this process: changes and invalidations.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/app_fixture.h"
#include "cli/client.h"
#include "common/error.h"
#include "common/uuid.h"

namespace viommu::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST_F(AppTest, ChangesCarryAFreshRequestId) {
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "0x10"}), 0) << err();
  EXPECT_EQ(out(), "viommus/v1/vdevices/16 set for a/0000:01:00.0: PENDING (revision 42)\n");
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "0x10"}), 0);
  const auto requests = fake_.All<v1::SetVdevIdRequest>("SetVdevId");
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_TRUE(IsUuid(requests[0].request_id()));
  EXPECT_NE(requests[0].request_id(), requests[1].request_id());
  EXPECT_EQ(requests[0].viommu(), "viommus/v1");
  EXPECT_EQ(requests[0].device(), "hosts/a/devices/0000:01:00.0");
  EXPECT_EQ(requests[0].vdev_id(), 16U);
  EXPECT_EQ(requests[0].wait(), v1::WAIT_ACCEPTED);
  EXPECT_FALSE(requests[0].validate_only());
}

TEST_F(AppTest, FlagsOfChangesAreSent) {
  EXPECT_EQ(Run({"unset", "vdev-id", "v1/16", "--wait=applied", "--dry-run", "--request-id", "r-1", "--etag", "e-1"}),
            0)
      << err();
  const auto request = fake_.Last<v1::UnsetVdevIdRequest>("UnsetVdevId");
  EXPECT_EQ(request.name(), "viommus/v1/vdevices/16");
  EXPECT_EQ(request.wait(), v1::WAIT_APPLIED);
  EXPECT_TRUE(request.validate_only());
  EXPECT_EQ(request.request_id(), "r-1");
  EXPECT_EQ(request.etag(), "e-1");
  EXPECT_THAT(out(), HasSubstr("dry run"));
}

TEST_F(AppTest, UnavailableIsTriedAgainUnderTheSameRequestId) {
  fake_.FailNext("SetVdevId", absl::UnavailableError("busy"), kMaxTries - 1);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 0) << err();
  const auto requests = fake_.All<v1::SetVdevIdRequest>("SetVdevId");
  ASSERT_EQ(requests.size(), static_cast<size_t>(kMaxTries));
  for (const auto& request : requests) EXPECT_EQ(request.request_id(), requests[0].request_id());
}

TEST_F(AppTest, TriesAreBounded) {
  fake_.FailNext("SetVdevId",
                 Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE).Message("the disk is full"),
                 kMaxTries + 5);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 3);
  EXPECT_EQ(fake_.Calls("SetVdevId"), kMaxTries);
  EXPECT_THAT(err(), HasSubstr("the disk is full (STORE_UNAVAILABLE)"));
}

TEST_F(AppTest, APauseBeyondTheDeadlineIsNotBegun) {
  fake_.FailNext("SetVdevId",
                 Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
                     .Message("full")
                     .RetryAfter(std::chrono::hours(1)),
                 5);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 3);
  EXPECT_EQ(fake_.Calls("SetVdevId"), 1);
}

TEST_F(AppTest, AServerThatAsksForPatienceGetsIt) {
  fake_.FailNext("SetVdevId",
                 Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
                     .Message("full")
                     .RetryAfter(std::chrono::milliseconds(10)),
                 kMaxTries - 1);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 0) << err();
  const auto requests = fake_.All<v1::SetVdevIdRequest>("SetVdevId");
  ASSERT_EQ(requests.size(), static_cast<size_t>(kMaxTries));
  for (const auto& request : requests) EXPECT_EQ(request.request_id(), requests[0].request_id());
  // A budget that is used up says nothing of coming back.
  fake_.FailNext("CreateViommu",
                 Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_VMID_EXHAUSTED).Message("no VMID left"));
  EXPECT_EQ(Run({"create", "viommu", "v2", "--smmu", "a/smmu0", "--stage2domain", "s"}), 1);
  EXPECT_EQ(fake_.Calls("CreateViommu"), 1);
}

TEST_F(AppTest, ALostAnswerTellsTheRequestIdThatWasSent) {
  fake_.FailNext("SetVdevId", absl::UnavailableError("connection reset"), kMaxTries);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 3);
  const auto request = fake_.Last<v1::SetVdevIdRequest>("SetVdevId");
  EXPECT_THAT(err(), HasSubstr("--request-id " + request.request_id()));
}

TEST_F(AppTest, WhatNoHostHasAPartInIsNotWaitedFor) {
  EXPECT_EQ(Run({"cordon", "a", "--wait=applied"}), 2);
  EXPECT_THAT(err(), HasSubstr("--wait: `cordon` waits for no host"));
  EXPECT_EQ(Run({"uncordon", "a", "--wait=accepted"}), 2);
  EXPECT_EQ(Run({"label", "viommu", "v1", "x=y", "--wait=applied"}), 2);
  EXPECT_EQ(fake_.Calls("CordonHost") + fake_.Calls("UncordonHost") + fake_.Calls("UpdateViommuLabels"), 0);
  RunBare({"help", "cordon"});
  EXPECT_THAT(out(), testing::AllOf(HasSubstr("--dry-run"), Not(HasSubstr("--wait"))));
  EXPECT_EQ(Run({"cordon", "a", "--etag", "e"}), 0) << err();
  EXPECT_EQ(Run({"uncordon", "a"}), 0) << err();
  EXPECT_EQ(out(), "hosts/a uncordoned: CONNECTED (revision 42)\n");
}

TEST_F(AppTest, WhatIsNewHasNoEtagToGuard) {
  const std::vector<std::vector<std::string>> makers = {
      {"create", "stage2domain", "s2", "--host", "a", "--vm", "vm"},
      {"create", "viommu", "v2", "--smmu", "a/smmu0", "--stage2domain", "s"},
      {"create", "nesteddomain", "v1/n", "--abort"},
      {"create", "hwqueue", "v1/0", "--iova", "0", "--length", "4096"},
      {"set", "vdev-id", "v1", "a/01:00.0", "16"},
      {"set", "vdev-ids", "v1", "a/01:00.0=16"},
  };
  for (std::vector<std::string> words : makers) {
    RunBare({"help", words[0], words[1]});
    EXPECT_THAT(out(), testing::AllOf(HasSubstr("--wait"), Not(HasSubstr("--etag")))) << words[0] << " " << words[1];
    words.insert(words.end(), {"--etag", "e"});
    EXPECT_EQ(Run(words), 2) << words[0] << " " << words[1];
    EXPECT_THAT(err(), HasSubstr("--etag: `" + words[0] + " " + words[1] + "` makes something new"));
  }
}

TEST_F(AppTest, WhatIsWaitedForStandsOnTheTerminal) {
  fake_.Hold("SetVdevId");
  screen_.on_flush = [this] { fake_.Release(); };
  on_terminal_ = true;
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16", "--wait=applied", "--timeout", "20s"}), 0) << err();
  EXPECT_THAT(err(), testing::AllOf(HasSubstr("waiting for hosts/a to apply it … 0s"), testing::EndsWith("\r\033[K")));
}

TEST_F(AppTest, Stage2DomainsAreCreated) {
  EXPECT_EQ(Run({"create", "stage2domain", "vm1", "--host", "a", "--vm", "web-1", "--wait=applied"}), 0) << err();
  const auto request = fake_.Last<v1::CreateStage2DomainRequest>("CreateStage2Domain");
  EXPECT_EQ(request.stage2_domain_id(), "vm1");
  EXPECT_EQ(request.stage2_domain().host(), "hosts/a");
  EXPECT_EQ(request.stage2_domain().vm(), "web-1");
  EXPECT_EQ(request.wait(), v1::WAIT_APPLIED);
  EXPECT_EQ(out(), "stage2Domains/vm1 created: PENDING (revision 42)\n");
  EXPECT_EQ(Run({"delete", "stage2domain", "vm1", "--cascade", "--yes"}), 0) << err();
  EXPECT_TRUE(fake_.Last<v1::DeleteStage2DomainRequest>("DeleteStage2Domain").cascade());
}

TEST_F(AppTest, VdevIdsAreRebound) {
  EXPECT_EQ(Run({"rebind", "vdev-id", "v1/0x10", "0x20", "--etag", "e"}), 0) << err();
  const auto request = fake_.Last<v1::RebindVdevIdRequest>("RebindVdevId");
  EXPECT_EQ(request.name(), "viommus/v1/vdevices/16");
  EXPECT_EQ(request.new_vdev_id(), 0x20U);
  EXPECT_EQ(request.etag(), "e");
  EXPECT_THAT(out(), HasSubstr("viommus/v1/vdevices/32"));
}

TEST_F(AppTest, DevicesAreAttachedAndDetached) {
  EXPECT_EQ(Run({"attach", "a/01:00.0", "v1/s1"}), 0) << err();
  const auto attach = fake_.Last<v1::AttachDeviceRequest>("AttachDevice");
  EXPECT_EQ(attach.device(), "hosts/a/devices/0000:01:00.0");
  EXPECT_EQ(attach.name(), "viommus/v1/nestedDomains/s1");
  EXPECT_EQ(out(), "viommus/v1/vdevices/16 attached to v1/s1: PENDING (revision 42)\n");
  EXPECT_EQ(Run({"detach", "v1/16"}), 0) << err();
  EXPECT_EQ(fake_.Last<v1::DetachDeviceRequest>("DetachDevice").vdevice(), "viommus/v1/vdevices/16");
  EXPECT_EQ(out(), "viommus/v1/vdevices/16 attached to the stage 2 alone: PENDING (revision 42)\n");
}

TEST_F(AppTest, RefusalsAreNotTriedAgain) {
  fake_.FailNext("SetVdevId",
                 Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN)
                     .Message("the device is held by viommus/x/vdevices/1")
                     .Resource("viommu.v1.Device", "hosts/a/devices/0000:01:00.0", "viommus/x/vdevices/1"));
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 1);
  EXPECT_EQ(fake_.Calls("SetVdevId"), 1);
  EXPECT_THAT(err(), HasSubstr("try: viommuctl unset vdev-id viommus/x/vdevices/1 --wait=applied"));
}

TEST_F(AppTest, ConflictsAreExitCode6) {
  fake_.FailNext("CordonHost", Error(absl::StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH).Message("stale"));
  EXPECT_EQ(Run({"cordon", "a", "--etag", "old"}), 6);
  EXPECT_THAT(err(), HasSubstr("viommuctl describe hosts/a"));
}

TEST_F(AppTest, NotYetAppliedIsExitCode5) {
  fake_.FailNext(
      "SetVdevId",
      Error(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_NOT_YET_APPLIED).Message("recorded at revision 43"));
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16", "--wait=applied"}), 5);
}

TEST_F(AppTest, FailedOnItsHostIsExitCode7OnlyWhenWaitedFor) {
  fake_.state_of_changes = v1::STATE_FAILED;
  fake_.reason_of_changes.set_reason("BACKEND_FAILED");
  fake_.reason_of_changes.set_message("EBUSY from the kernel");
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16", "--wait=applied"}), 7);
  EXPECT_THAT(out(), HasSubstr("FAILED"));
  EXPECT_THAT(err(), HasSubstr("EBUSY from the kernel (BACKEND_FAILED)"));
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 0);
}

TEST_F(AppTest, BatchFromArgumentsAndFromAFile) {
  EXPECT_EQ(Run({"set", "vdev-ids", "v1", "a/01:00.0=0x10", "a/01:00.1=17", "-o", "name"}), 0) << err();
  EXPECT_EQ(out(), "viommus/v1/vdevices/16\nviommus/v1/vdevices/17\n");
  in_.str("a/01:00.0=16 tier=gold\n# end\n");
  EXPECT_EQ(Run({"set", "vdev-ids", "v1", "--file", "-", "-l", "vm=web"}), 0) << err();
  const auto request = fake_.Last<v1::BatchSetVdevIdsRequest>("BatchSetVdevIds");
  ASSERT_EQ(request.assignments_size(), 1);
  EXPECT_EQ(request.assignments(0).labels().at("tier"), "gold");
  EXPECT_EQ(request.assignments(0).labels().at("vm"), "web");
}

TEST_F(AppTest, NestedDomainsOfAllKinds) {
  EXPECT_EQ(Run({"create", "nesteddomain", "v1/s1", "--translate", "--vste", "0x8000100b,0x2"}), 0) << err();
  auto request = fake_.Last<v1::CreateNestedDomainRequest>("CreateNestedDomain");
  EXPECT_EQ(request.viommu(), "viommus/v1");
  EXPECT_EQ(request.nested_domain_id(), "s1");
  EXPECT_EQ(request.nested_domain().config().translate().word0(), 0x8000100bU);
  EXPECT_EQ(Run({"create", "nesteddomain", "v1/off", "--abort"}), 0);
  request = fake_.Last<v1::CreateNestedDomainRequest>("CreateNestedDomain");
  EXPECT_TRUE(request.nested_domain().config().has_abort());
}

TEST_F(AppTest, LabelsAreChangedUnderTheEtagThatWasRead) {
  EXPECT_EQ(Run({"label", "viommu", "v1", "owner=me", "tier-"}), 0) << err();
  auto request = fake_.Last<v1::UpdateViommuLabelsRequest>("UpdateViommuLabels");
  EXPECT_EQ(request.labels().size(), 1U);
  EXPECT_EQ(request.labels().at("owner"), "me");
  EXPECT_EQ(request.etag(), "etag-v1");
  EXPECT_EQ(Run({"label", "viommu", "v1", "--replace", "x=y"}), 0);
  request = fake_.Last<v1::UpdateViommuLabelsRequest>("UpdateViommuLabels");
  EXPECT_EQ(request.labels().size(), 1U);
  EXPECT_EQ(request.etag(), "");
}

TEST_F(AppTest, DeleteWithoutATerminalNeedsYes) {
  EXPECT_EQ(Run({"delete", "viommu", "v1"}), 2);
  EXPECT_EQ(fake_.Calls("DeleteViommu"), 0);
  EXPECT_EQ(Run({"delete", "viommu", "v1", "--yes", "--cascade"}), 0) << err();
  EXPECT_TRUE(fake_.Last<v1::DeleteViommuRequest>("DeleteViommu").cascade());
}

TEST_F(AppTest, DeleteAsksOnATerminal) {
  on_terminal_ = true;
  in_.str("n\n");
  EXPECT_EQ(Run({"delete", "viommus/v1"}), 1);
  EXPECT_THAT(err(), HasSubstr("Delete viommus/v1? [y/N]"));
  EXPECT_EQ(fake_.Calls("DeleteViommu"), 0);
  in_.str("yes\n");
  EXPECT_EQ(Run({"delete", "viommus/v1"}), 0) << err();
  EXPECT_EQ(fake_.Calls("DeleteViommu"), 1);
}

TEST_F(AppTest, InvalidationsSayHowFarTheyGot) {
  fake_.invalidation.set_handled(2);
  EXPECT_EQ(Run({"invalidate", "v1", "tlbi-nh-all", "tlbi-nh-asid:asid=5"}), 0) << err();
  EXPECT_EQ(out(), "viommus/v1: 2 of 2 invalidations took effect\n");
  fake_.invalidation.set_handled(1);
  fake_.invalidation.mutable_stop()->set_reason("UNKNOWN_VDEV_ID");
  fake_.invalidation.mutable_stop()->set_message("the viommu has no vdev_id 7");
  EXPECT_EQ(Run({"invalidate", "v1", "tlbi-nh-all", "cfgi-cd-all:vdev_id=7"}), 1);
  EXPECT_THAT(err(), HasSubstr("stopped after 1 of 2: the viommu has no vdev_id 7 (UNKNOWN_VDEV_ID)"));
  EXPECT_THAT(err(), HasSubstr("viommuctl get vdevices --field viommu=viommus/v1"));
}

}  // namespace
}  // namespace viommu::cli
