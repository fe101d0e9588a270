// Who is let in: hellos, and hosts that are taken over.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/sync/agent_sessions_fixture.h"

namespace viommu::server {
namespace {

using std::chrono::seconds;

TEST_F(AgentSessionsTest, AHelloIsRecordedBeforeItIsWelcomed) {
  TestAgent& agent = Open();
  agent.SayHello(GraceHello());
  EXPECT_TRUE(agent.got().empty());
  Settle();
  ASSERT_TRUE(agent.welcomed());
  EXPECT_TRUE(agent.synced());
  EXPECT_EQ(agent.got()[0].welcome().epoch(), core_->identity().epoch);
  EXPECT_EQ(agent.got()[0].welcome().start_id(), core_->identity().start_id);
  EXPECT_EQ(agent.got()[0].welcome().revision(), core_->revision());
  EXPECT_EQ(agent.got()[0].welcome().lease().seconds(), 10);
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
  const auto info = sessions_->Find(kGrace);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->peer, "test:1");
  EXPECT_TRUE(info->synced);
  EXPECT_EQ(sessions_->stats().connected, 1);
  EXPECT_FALSE(sessions_->Find(kSmall).has_value());
}

// All agents of a site come back at once, each with hundreds of devices and thousands of objects that nobody knows.
// What they hold of the server's memory stays below the limit and one hello, and all of them get in.
TEST_F(AgentSessionsTest, LargeHellosAtOnceAreTakenAsMemoryAllows) {
  constexpr int kHosts = 200;
  const auto hello_of = [this](int i) {
    v1::Hello hello = HelloHolding(HelloOf("hosts/h" + std::to_string(i), v1::STAGE2_SHARING_SHARED, 16), {}, {});
    for (int n = 0; n < 400; ++n) {
      v1::Device& device = *hello.add_devices();
      device.set_name(fmt::format("{}/devices/0001:{:02x}:{:02x}.0", hello.host().name(), n / 32, n % 32));
      device.set_smmu(SmmuOf(hello.host().name(), 0));
      device.set_stream_id(static_cast<uint32_t>(0x10000 + n));
      device.set_iommu_group(static_cast<uint32_t>(1000 + n));
    }
    for (int n = 0; n < 2000; ++n) {
      v1::HeldItem& item = *hello.add_held();
      item.set_uid("unknown-to-the-record-" + std::to_string(i) + "-" + std::to_string(n));
      item.set_generation(1);
    }
    return hello;
  };
  const auto one = static_cast<int64_t>(hello_of(kHosts - 1).SpaceUsedLong());
  options_.max_hello_bytes = static_cast<size_t>(20 * one);
  options_.max_concurrent_syncs = 1;
  Restart();
  Connect(SmallHello());

  std::vector<int> waiting(kHosts);
  for (int i = 0; i < kHosts; ++i) waiting[static_cast<size_t>(i)] = i;
  int rounds = 0;
  for (; !waiting.empty() && rounds < kHosts; ++rounds) {
    std::vector<int> refused;
    std::vector<TestAgent*> taken;
    for (const int i : waiting) {
      if (rounds > 0 && !refused.empty()) {  // it comes a little later
        refused.push_back(i);
        continue;
      }
      TestAgent& agent = Open();
      agent.StopReading();  // so that nobody is done with what the record does not know
      agent.SayHello(hello_of(i));
      EXPECT_LE(sessions_->stats().hello_bytes, 21 * one);
      if (!agent.finished().has_value()) {
        taken.push_back(&agent);
        continue;
      }
      ExpectFinished(agent, absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED);
      EXPECT_GT(DetailOf<google::rpc::RetryInfo>(*agent.finished()).retry_delay().seconds(), 0);
      refused.push_back(i);
    }
    EXPECT_GE(taken.size(), 1U);
    EXPECT_LE(taken.size(), 21U);
    const int64_t before = sessions_->stats().hello_bytes;
    Settle();
    // The inventories are recorded. What is held is compared, and its uids wait to be told.
    EXPECT_LT(sessions_->stats().hello_bytes, before);
    EXPECT_GT(sessions_->stats().hello_bytes, 0);
    for (bool writing = true; writing;) {
      writing = false;
      for (TestAgent* agent : taken) {
        if (!agent->writing()) continue;
        agent->EndWrite(true);
        writing = true;
      }
      Settle();
    }
    for (TestAgent* agent : taken) EXPECT_TRUE(agent->synced());
    EXPECT_EQ(sessions_->stats().hello_bytes, 0);
    waiting = std::move(refused);
  }
  EXPECT_GE(rounds, kHosts / 21);
  EXPECT_EQ(sessions_->stats().connected, 1 + kHosts);
}

// A session that ends in the middle gives back what its hello held.
TEST_F(AgentSessionsTest, WhatAHelloHeldGoesWithItsSession) {
  TestAgent& agent = Open();
  agent.SayHello(GraceHello());
  EXPECT_GT(sessions_->stats().hello_bytes, 0);
  agent.Leave();
  EXPECT_GT(sessions_->stats().hello_bytes, 0) << "it is with the writer";
  Settle();
  EXPECT_EQ(sessions_->stats().hello_bytes, 0);
}

TEST_F(AgentSessionsTest, ARefusedHelloChangesNothing) {
  Connect(SmallHello());
  const auto before = Record();
  const auto refuse = [&](const v1::Hello& hello, absl::StatusCode code, v1::ErrorReason reason,
                          Peer peer = {"test:2", false, {}}) {
    TestAgent& agent = Open(std::move(peer));
    agent.SayHello(hello);
    Settle();
    ExpectFinished(agent, code, reason);
    EXPECT_TRUE(agent.got().empty());
    EXPECT_EQ(Record(), before) << ReasonName(reason);
    EXPECT_FALSE(sessions_->Find(kGrace).has_value());
  };
  v1::Hello hello = GraceHello();
  hello.set_protocol_version(2);
  refuse(hello, absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_PROTOCOL_VERSION_UNSUPPORTED);
  hello = GraceHello();
  hello.clear_agent_id();
  refuse(hello, absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION);
  hello = GraceHello();
  hello.set_cluster_id("other");
  refuse(hello, absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_CLUSTER_MISMATCH);
  hello = GraceHello();
  hello.set_store_incarnation("other");
  refuse(hello, absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_INCARNATION_MISMATCH);
  hello = GraceHello();
  hello.set_epoch(core_->identity().epoch + 1);
  refuse(hello, absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH);
  hello = GraceHello();
  hello.set_revision(core_->revision() + 1);
  refuse(hello, absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_OUT_OF_DATE);
  refuse(GraceHello(), absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED,
         {"test:2", true, {"another-host"}});
  hello = GraceHello();  // the rules refuse this one
  hello.mutable_host()->mutable_smmus(0)->set_vmid_bits(40);
  refuse(hello, absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION);
  hello = SmallHello();
  hello.set_agent_id("another");
  refuse(hello, absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_HOST_ALREADY_CONNECTED);
  EXPECT_TRUE(sessions_->Find(kSmall).has_value());
}

TEST_F(AgentSessionsTest, ACertificateThatNamesTheHostIsLetIn) {
  TestAgent& agent = Open({"test:2", true, {"viommu://host/grace"}});
  agent.SayHello(GraceHello());
  Settle();
  EXPECT_TRUE(agent.welcomed());
}

TEST_F(AgentSessionsTest, AnotherAgentIsToldWhoIsThere) {
  Connect(GraceHello());
  v1::Hello hello = GraceHello();
  hello.set_agent_id("another");
  const TestAgent& other = Connect(hello);
  ExpectFinished(other, absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_HOST_ALREADY_CONNECTED);
  EXPECT_EQ(MetaOf(*other.finished(), "peer"), "test:1");
  EXPECT_EQ(MetaOf(*other.finished(), "since"), "2026-01-01T00:00:00.000000Z");
}

TEST_F(AgentSessionsTest, TheSameAgentTakesItsHostOver) {
  TestAgent& old = Connect(GraceHello());
  TestAgent& fresh = Connect(GraceHello());
  ExpectFinished(old, absl::StatusCode::kAborted, v1::ERROR_REASON_HOST_ALREADY_CONNECTED);
  EXPECT_TRUE(fresh.synced());
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED) << "the old one's end is not the host's";
  Do(CreateStage2("s", kGrace));
  EXPECT_EQ(NamesOf(fresh.TakeItems()), Names{"stage2Domains/s"});
  EXPECT_EQ(sessions_->stats().connected, 1);
}

TEST_F(AgentSessionsTest, AnotherAgentIsLetInWhenTheLeaseRanOut) {
  TestAgent& old = Connect(GraceHello());
  clock_.Advance(seconds(10));  // the ticker has not seen it yet
  v1::Hello hello = GraceHello();
  hello.set_agent_id("another");
  TestAgent& other = Connect(hello);
  EXPECT_TRUE(other.welcomed());
  ExpectFinished(old, absl::StatusCode::kUnavailable, v1::ERROR_REASON_LEASE_EXPIRED);
  EXPECT_EQ(Get<v1::Host>(kGrace).agent_id(), "another");
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
}

TEST_F(AgentSessionsTest, AHelloThatIsStillBeingJudgedWhenItsStreamEnds) {
  TestAgent& agent = Open();
  agent.SayHello(GraceHello());
  agent.Leave();
  Settle();
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_DISCONNECTED) << "first the hello is recorded, then its end";
  EXPECT_TRUE(agent.got().empty());
}

TEST_F(AgentSessionsTest, AHelloIsRefusedWhileTheStoreTakesNothing) {
  store_.FailCommits(absl::ResourceExhaustedError("disk full"));
  const TestAgent& agent = Connect(GraceHello());
  ExpectFinished(agent, absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE);
}

TEST_F(AgentSessionsTest, StreamsAreLimited) {
  options_.max_sessions = 2;
  Restart();
  Open();
  Open();
  const TestAgent& third = Open();
  ExpectFinished(third, absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED);
  ExpectDetails(*third.finished());
  agents_[0]->Leave();
  EXPECT_FALSE(Open().finished().has_value());
}

}  // namespace
}  // namespace viommu::server
