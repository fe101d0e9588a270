#include "server/sync/hello.h"

#include <gtest/gtest.h>

#include <string>

#include "common/error.h"

namespace viommu::server {
namespace {

class HelloTest : public testing::Test {
 protected:
  HelloTest() {
    hello_.set_protocol_version(1);
    hello_.set_agent_id("agent");
    hello_.set_cluster_id("cluster");
    hello_.set_store_incarnation("store");
    hello_.set_epoch(7);
    hello_.mutable_host()->set_name("hosts/a.example");
    hello_.mutable_host()->set_boot_id("boot");
    starts_.Add(6, "six", 100, 100);
    starts_.Add(7, "seven", 150, 1150);
  }

  v1::HeldItem& Hold(const std::string& uid) {
    v1::HeldItem& item = *hello_.add_held();
    item.set_uid(uid);
    item.set_generation(1);
    return item;
  }

  void ExpectRefused(absl::StatusCode code, v1::ErrorReason reason) {
    const absl::Status status = CheckHello(hello_, peer_, identity_, starts_, kRevision);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_EQ(ReasonName(ReasonOf(status)), ReasonName(reason)) << status;
  }
  void ExpectViolation() { ExpectRefused(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION); }
  void ExpectTaken() {
    const absl::Status status = CheckHello(hello_, peer_, identity_, starts_, kRevision);
    EXPECT_TRUE(status.ok()) << status;
  }

  v1::Hello hello_;
  Peer peer_{"ipv4:10.0.0.7:1", false, {}};
  static constexpr int64_t kRevision = 2000;
  Identity identity_{"cluster", "store", 7, "seven"};
  Starts starts_;
};

TEST_F(HelloTest, TakesOneOfThisClusterAndANewOne) {
  Hold("uid");
  ExpectTaken();
  hello_.clear_held();
  hello_.clear_cluster_id();
  hello_.clear_store_incarnation();
  hello_.clear_epoch();
  ExpectTaken();
}

TEST_F(HelloTest, RefusesAnotherVersionOfTheProtocol) {
  hello_.set_protocol_version(2);
  ExpectRefused(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_PROTOCOL_VERSION_UNSUPPORTED);
  hello_.clear_protocol_version();
  ExpectRefused(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_PROTOCOL_VERSION_UNSUPPORTED);
}

TEST_F(HelloTest, RefusesWhatIsNotWellFormed) {
  const v1::Hello good = hello_;
  for (const char* name : {"", "a", "hosts/", "hosts/a/b", "hosts/A", "devices/a"}) {
    hello_.mutable_host()->set_name(name);
    ExpectViolation();
  }
  hello_ = good;
  hello_.clear_agent_id();
  ExpectViolation();
  hello_.set_agent_id(std::string(kMaxAgentIdBytes + 1, 'a'));
  ExpectViolation();
  hello_ = good;
  hello_.mutable_host()->clear_boot_id();
  ExpectViolation();
  hello_ = good;
  hello_.set_epoch(-1);
  ExpectViolation();
  hello_ = good;
  hello_.set_revision(-1);
  ExpectViolation();
  hello_ = good;
  Hold("");
  ExpectViolation();
  hello_ = good;
  Hold("uid").set_generation(-1);
  ExpectViolation();
  hello_ = good;
  for (int i = 0; i <= kMaxHeldItems; ++i) Hold("uid");
  ExpectViolation();
}

TEST_F(HelloTest, AnAgentThatHoldsSomethingKnowsWhoseItIs) {
  Hold("uid");
  hello_.clear_cluster_id();
  ExpectViolation();
  hello_.set_cluster_id("cluster");
  hello_.clear_store_incarnation();
  ExpectViolation();
}

TEST_F(HelloTest, RefusesAnotherClusterAnotherStoreAndAnObeyedLaterEpoch) {
  hello_.set_cluster_id("other");
  ExpectRefused(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_CLUSTER_MISMATCH);
  hello_.set_cluster_id("cluster");
  hello_.set_store_incarnation("other");
  ExpectRefused(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_INCARNATION_MISMATCH);
  hello_.set_store_incarnation("store");
  hello_.set_epoch(8);
  ExpectRefused(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH);
  hello_.set_epoch(6);
  ExpectTaken();
}

// Promise 9: this store is an older copy of the one that the agent knows.
TEST_F(HelloTest, RefusesAnAgentThatKnowsMoreThanThisStoreHasSaid) {
  const auto expect_out_of_date = [this] {
    ExpectRefused(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_OUT_OF_DATE);
  };
  hello_.set_start_id("seven");
  hello_.set_revision(kRevision);
  Hold("uid").set_generation(kRevision);
  ExpectTaken();
  hello_.set_revision(kRevision + 1);
  expect_out_of_date();
  hello_.set_revision(0);
  hello_.mutable_held(0)->set_generation(kRevision + 1);
  expect_out_of_date();
  // Of a start that has ended: what it told ends where the next one began, whatever has been recorded since.
  hello_.set_epoch(6);
  hello_.set_start_id("six");
  hello_.mutable_held(0)->set_generation(150);
  hello_.set_revision(1100);
  ExpectTaken();
  hello_.set_revision(1151);
  expect_out_of_date();
  // What was skipped cannot have been recorded, only told.
  hello_.set_revision(0);
  hello_.mutable_held(0)->set_generation(151);
  expect_out_of_date();
  hello_.mutable_held(0)->set_generation(150);
  hello_.set_revision(151);
  ExpectTaken();
  hello_.set_released_generation(151);
  expect_out_of_date();
  hello_.set_released_generation(150);
  ExpectTaken();
  hello_.clear_released_generation();
  hello_.set_revision(0);
  // Another start with the number of one of ours.
  hello_.mutable_held(0)->set_generation(1);
  hello_.set_start_id("another six");
  expect_out_of_date();
  hello_.set_epoch(7);
  hello_.set_start_id("another seven");
  expect_out_of_date();
  hello_.clear_start_id();
  ExpectTaken();
}

TEST_F(HelloTest, ACertificateMustNameTheHost) {
  peer_.authenticated = true;
  ExpectRefused(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED);
  for (const char* other : {"b.example", "*.example", "viommu://host/b.example", "viommu://host/", "hosts/a.example",
                            "viommu://admin/a.example"}) {
    peer_.names = {other};
    ExpectRefused(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED);
  }
  peer_.names = {"other", "a.example"};
  ExpectTaken();
  peer_.names = {"viommu://host/a.example"};
  ExpectTaken();
}

TEST_F(HelloTest, TellsNothingOfTheClusterToWhoeverMayNotBeHere) {
  peer_.authenticated = true;
  hello_.set_cluster_id("other");
  ExpectRefused(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED);
}

}  // namespace
}  // namespace viommu::server
