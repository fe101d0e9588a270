// What hosts report about themselves, cordon, budgets.

#include <gtest/gtest.h>

#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

class HostRulesTest : public FleetTest {
 protected:
  void Malformed(const v1::Hello& hello, v1::ErrorReason reason = v1::ERROR_REASON_PROTOCOL_VIOLATION) {
    const int64_t revision = fleet_.revision();
    const absl::Status status = fleet_.Hello(hello);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ReasonName(ReasonOf(status)), ReasonName(reason)) << status;
    EXPECT_EQ(fleet_.revision(), revision);
  }
  // What the agent of grace holds when everything is as recorded.
  v1::Hello HelloWithEverything() {
    v1::Hello hello = GraceHello();
    const auto hold = [&](const auto& record) {
      v1::HeldItem& item = *hello.add_held();
      item.set_uid(record.uid());
      item.set_generation(record.generation());
      item.set_settled(true);
    };
    for (const auto& record : fleet_.tables().Scan<v1::Stage2Domain>("")) hold(*record);
    for (const auto& record : fleet_.tables().Scan<v1::Viommu>("")) hold(*record);
    for (const auto& record : fleet_.tables().Scan<v1::Vdevice>("")) hold(*record);
    for (const auto& record : fleet_.tables().Scan<v1::NestedDomain>("")) hold(*record);
    return hello;
  }
};

TEST_F(HostRulesTest, AFirstHelloRecordsTheHostAndItsDevices) {
  const v1::Host host = fleet_.host(kGrace);
  EXPECT_EQ(host.state(), v1::HOST_STATE_CONNECTED);
  EXPECT_EQ(host.smmus_size(), 2);
  EXPECT_EQ(host.agent_id(), "agent-of-hosts/grace");
  EXPECT_FALSE(host.uid().empty());
  EXPECT_FALSE(host.etag().empty());
  const v1::Device device = fleet_.device(DeviceOf(kGrace, 1));
  EXPECT_EQ(device.state(), v1::DEVICE_STATE_FREE);
  EXPECT_EQ(device.smmu(), SmmuOf(kGrace, 0));
  EXPECT_EQ(device.stream_id(), 0x100u);
  EXPECT_EQ(fleet_.tables().size(Kind::kDevice), 8);
}

TEST_F(HostRulesTest, TheSameHelloAgainChangesNothing) {
  const int64_t revision = fleet_.revision();
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_EQ(fleet_.revision(), revision);
}

TEST_F(HostRulesTest, AHelloKeepsWhatTheServerKnowsBetter) {
  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  Accepted(cordon);
  const v1::Host before = fleet_.host(kGrace);
  v1::Hello hello = GraceHello();
  hello.mutable_host()->set_boot_id("boot-2");
  hello.mutable_host()->set_cordoned(false);
  hello.mutable_host()->set_uid("mine");
  hello.mutable_host()->mutable_smmus(0)->mutable_vmids()->set_used(77);
  hello.mutable_devices(0)->set_owner("viommus/x/vdevices/1");
  hello.mutable_devices(0)->set_max_pasid_log2(4);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  const v1::Host after = fleet_.host(kGrace);
  EXPECT_EQ(after.boot_id(), "boot-2");
  EXPECT_TRUE(after.cordoned());
  EXPECT_EQ(after.uid(), before.uid());
  EXPECT_EQ(after.etag(), before.etag());
  EXPECT_FALSE(after.smmus(0).has_vmids());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).owner(), "");
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).max_pasid_log2(), 4u);
}

TEST_F(HostRulesTest, DevicesComeAndGo) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  v1::Hello hello = GraceHello();
  hello.mutable_devices()->DeleteSubrange(0, 2);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_MISSING);
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).owner(), "viommus/v/vdevices/8");
  EXPECT_EQ(fleet_.tables().Find<v1::Device>(DeviceOf(kGrace, 1)), nullptr) << "it held nothing";
  const int64_t revision = fleet_.revision();
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.revision(), revision);

  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_ASSIGNED);
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 1)).state(), v1::DEVICE_STATE_FREE);

  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Accepted(UnsetVdevId("v", 8));
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_RELEASING);
}

TEST_F(HostRulesTest, AStreamIdFollowsItsDevice) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  const v1::Vdevice before = fleet_.vdevice("v", 8);
  v1::Hello hello = GraceHello();
  hello.mutable_devices(0)->set_stream_id(0x777);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).stream_id(), 0x777u);
  EXPECT_EQ(fleet_.vdevice("v", 8).generation(), before.generation());
}

TEST_F(HostRulesTest, WhatIsSaidOfAnotherStreamIdIsToBeSaidAnew) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED).ok());
  v1::Hello hello = HelloWithEverything();
  hello.mutable_devices(0)->set_stream_id(0x777);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).state(), v1::STATE_PENDING);
  EXPECT_EQ(fleet_.vdevice("v", 8).observed_generation(), 0);
}

// Promise 3 holds on: the viommu is a slice of the SMMU that the device was behind.
TEST_F(HostRulesTest, ADeviceThatMovesAwayFromItsViommuIsMissing) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  v1::Hello hello = GraceHello();
  hello.mutable_devices(0)->set_smmu(SmmuOf(kGrace, 1));
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_MISSING);
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).smmu(), SmmuOf(kGrace, 0));
  EXPECT_TRUE(CheckInvariants(fleet_.tables()).ok());

  Accepted(UnsetVdevId("v", 8));
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_RELEASED).ok());
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_FREE);
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).smmu(), SmmuOf(kGrace, 1)) << "where it is now";
}

TEST_F(HostRulesTest, AHostMayComeBackWithLess) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  v1::Hello hello = HelloOf(kGrace, v1::STAGE2_SHARING_PER_SMMU, 1, /*smmus=*/0, 0);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Accepted(DeleteViommu("v", true));
  Accepted(DeleteStage2("s"));
}

// A reboot or a lost journal: what the record says to be in effect is not.
TEST_F(HostRulesTest, WhatTheAgentDoesNotHoldIsPendingAgain) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  ASSERT_TRUE(fleet_.Answer(fleet_.stage2("s"), v1::OUTCOME_APPLIED).ok());
  ASSERT_TRUE(fleet_.Answer(fleet_.viommu("v"), v1::OUTCOME_DORMANT).ok());
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED).ok());
  const int64_t revision = fleet_.revision();
  v1::Hello hello = HelloWithEverything();
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.revision(), revision) << "it holds everything";

  for (v1::HeldItem& item : *hello.mutable_held()) item.set_settled(false);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).state(), v1::STATE_PENDING);
  EXPECT_EQ(fleet_.vdevice("v", 8).observed_generation(), 0);
  EXPECT_EQ(fleet_.viommu("v").state(), v1::STATE_DORMANT) << "it never was in effect";
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).state(), v1::STATE_READY);

  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_EQ(fleet_.stage2("s").state(), v1::STATE_PENDING);
  EXPECT_EQ(fleet_.viommu("v").state(), v1::STATE_PENDING);
  EXPECT_EQ(fleet_.vdevice("v", 8).state(), v1::STATE_PENDING);
}

TEST_F(HostRulesTest, AMalformedHelloChangesNothing) {
  v1::Hello hello = GraceHello();
  hello.mutable_host()->set_name("grace");
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_host()->clear_stage2_sharing();
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_host()->mutable_smmus(1)->set_name(SmmuOf(kGrace, 0));
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_host()->mutable_smmus(0)->set_name(SmmuOf(kSmall, 0));
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_host()->mutable_smmus(0)->set_vmid_bits(17);
  Malformed(hello);
  hello.mutable_host()->mutable_smmus(0)->set_vmid_bits(0);
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_host()->mutable_smmus(0)->set_sid_bits(33);
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_devices(0)->set_name(DeviceOf(kSmall, 0));
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_devices(0)->set_name(DeviceOf(kGrace, 1));
  Malformed(hello);
  hello = GraceHello();
  hello.mutable_devices(0)->set_smmu(SmmuOf(kGrace, 9));
  Malformed(hello);
  hello = GraceHello();
  (*hello.mutable_devices(0)->mutable_labels())["bad key"] = "";
  Malformed(hello, v1::ERROR_REASON_INVALID_FIELD);
  const std::string long_text(kMaxReportedTextBytes + 1, 'x');
  hello = GraceHello();
  hello.set_agent_version(long_text);
  Malformed(hello, v1::ERROR_REASON_LIMIT_EXCEEDED);
  hello = GraceHello();
  hello.mutable_host()->set_backend(long_text);
  Malformed(hello, v1::ERROR_REASON_LIMIT_EXCEEDED);
  hello = GraceHello();
  hello.mutable_host()->set_boot_id(long_text);
  Malformed(hello, v1::ERROR_REASON_LIMIT_EXCEEDED);
  hello = GraceHello();
  hello.mutable_host()->add_capabilities()->set_name(long_text);
  Malformed(hello, v1::ERROR_REASON_LIMIT_EXCEEDED);
  hello = GraceHello();
  for (int i = 0; i < 7; ++i) hello.mutable_host()->mutable_smmus(0)->add_idr(0);
  Malformed(hello, v1::ERROR_REASON_LIMIT_EXCEEDED);
  Malformed(HelloOf(kGrace, v1::STAGE2_SHARING_SHARED, 16, kMaxHostSmmus + 1, 0), v1::ERROR_REASON_LIMIT_EXCEEDED);
  Malformed(HelloOf(kGrace, v1::STAGE2_SHARING_SHARED, 16, 1, kMaxHostDevices + 1), v1::ERROR_REASON_LIMIT_EXCEEDED);
}

TEST_F(HostRulesTest, AnEndedSessionIsRecordedOnce) {
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  EXPECT_EQ(fleet_.host(kGrace).state(), v1::HOST_STATE_DISCONNECTED);
  EXPECT_EQ(fleet_.host(kGrace).state_reason().reason(), "LEASE_EXPIRED");
  const int64_t revision = fleet_.revision();
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  EXPECT_EQ(fleet_.revision(), revision);
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_EQ(fleet_.host(kGrace).state(), v1::HOST_STATE_CONNECTED);
  EXPECT_FALSE(fleet_.host(kGrace).has_state_reason());
  EXPECT_EQ(ReasonOf(fleet_.Disconnect("hosts/nowhere")), v1::ERROR_REASON_HOST_NOT_FOUND);
}

TEST_F(HostRulesTest, LongReasonsAreCutBetweenCharacters) {
  v1::Hello hello = GraceHello();
  std::string umlauts;
  while (umlauts.size() <= kMaxReasonBytes) umlauts += "ä";
  v1::Capability& capability = *hello.mutable_host()->add_capabilities();
  capability.set_name("hw_queue");
  capability.set_reason(umlauts);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  const v1::Host host = fleet_.host(kGrace);
  const std::string& cut = host.capabilities(host.capabilities_size() - 1).reason();
  EXPECT_LE(cut.size(), kMaxReasonBytes);
  EXPECT_GT(cut.size(), kMaxReasonBytes - 8);
  v1::Host read;
  EXPECT_TRUE(read.ParseFromString(host.SerializeAsString())) << "still UTF-8";
  const int64_t revision = fleet_.revision();
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.revision(), revision) << "the same hello, cut alike";
}

TEST_F(HostRulesTest, CordonIsGuardedAndRepeatable) {
  v1::CordonHostRequest cordon;
  cordon.set_name("hosts/nowhere");
  Refused(cordon, StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
  cordon.set_name(kGrace);
  cordon.set_etag("stale");
  Refused(cordon, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  cordon.set_etag(fleet_.host(kGrace).etag());
  const auto response = fleet_.Do(cordon);
  ASSERT_TRUE(response.ok());
  EXPECT_TRUE(response->host().cordoned());
  EXPECT_EQ(response->host().smmus(0).vmids().used(), 1u);
  EXPECT_FALSE(fleet_.host(kGrace).smmus(0).has_vmids()) << "budgets are not recorded";
  cordon.clear_etag();
  const int64_t revision = fleet_.revision();
  Accepted(cordon);
  EXPECT_EQ(fleet_.revision(), revision);
  v1::UncordonHostRequest uncordon;
  uncordon.set_name(kGrace);
  uncordon.set_etag("stale");
  Refused(uncordon, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  uncordon.set_etag(fleet_.host(kGrace).etag());
  Accepted(uncordon);
  EXPECT_FALSE(fleet_.host(kGrace).cordoned());
}

TEST_F(HostRulesTest, BudgetsFollowFromTheRecord) {
  Accepted(CreateStage2("p", kSmall, SmmuOf(kSmall, 0)));
  Accepted(CreateViommu("pv", SmmuOf(kSmall, 0), "p"));
  Accepted(CreateViommu("pw", SmmuOf(kSmall, 0), "p"));
  Accepted(SetVdevId("pv", DeviceOf(kSmall, 0), 1));
  const v1::Host small = WithBudgets(fleet_.host(kSmall), fleet_.tables());
  EXPECT_EQ(small.smmus(0).vmids().used(), 1u) << "the stage 2 brings the VMID";
  EXPECT_EQ(small.smmus(0).vmids().total(), 3u);
  EXPECT_EQ(small.smmus(0).devices().used(), 1u);
  EXPECT_EQ(small.smmus(0).devices().total(), 2u);
  EXPECT_EQ(small.smmus(1).devices().used(), 0u);
  Accepted(CreateViommu("v2", SmmuOf(kGrace, 0), "s"));
  const v1::Host grace = WithBudgets(fleet_.host(kGrace), fleet_.tables());
  EXPECT_EQ(grace.smmus(0).vmids().used(), 2u) << "each viommu has one";
  EXPECT_EQ(grace.smmus(0).vmids().total(), 65535u);
  EXPECT_EQ(grace.smmus(0).hw_queue_interfaces().used(), 0u);
  EXPECT_EQ(grace.smmus(0).hw_queue_interfaces().total(), 1u);
  EXPECT_FALSE(grace.smmus(1).has_hw_queue_interfaces()) << "it has none";
  Accepted(CreateViommu("hw", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV));
  EXPECT_EQ(WithBudgets(fleet_.host(kGrace), fleet_.tables()).smmus(0).hw_queue_interfaces().used(), 1u);
}

}  // namespace
}  // namespace viommu::server
