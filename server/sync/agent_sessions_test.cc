#include "server/sync/agent_sessions.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/commit/test_command.h"
#include "server/fleet/drift.h"
#include "server/sync/agent_sessions_fixture.h"

namespace viommu::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// --- The end of a session.

TEST_F(AgentSessionsTest, AHostWhoseStreamEndsIsDisconnected) {
  Connect(GraceHello()).Leave();
  Settle();
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_DISCONNECTED);
  EXPECT_EQ(Get<v1::Host>(kGrace).state_reason().reason(), "HOST_DISCONNECTED");
  EXPECT_EQ(sessions_->stats().streams, 0);
  Connect(GraceHello());
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
}

TEST_F(AgentSessionsTest, AHostThatIsSilentForALeaseIsDisconnected) {
  TestAgent& agent = Connect(GraceHello());
  for (int i = 0; i < 6; ++i) {
    Advance(seconds(4));
    agent.SayHeartbeat();
  }
  EXPECT_FALSE(agent.finished().has_value());
  Advance(seconds(10) - milliseconds(1));
  EXPECT_FALSE(agent.finished().has_value());
  Advance(milliseconds(1));
  ExpectFinished(agent, absl::StatusCode::kUnavailable, v1::ERROR_REASON_LEASE_EXPIRED);
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_DISCONNECTED);
  EXPECT_EQ(Get<v1::Host>(kGrace).state_reason().reason(), "LEASE_EXPIRED");
  EXPECT_EQ(sessions_->stats().ended[v1::ERROR_REASON_LEASE_EXPIRED], 1);
}

TEST_F(AgentSessionsTest, TheLeaseGrowsWithTheFleet) {
  options_.max_heartbeats_per_s = 1;
  Restart();
  for (int i = 0; i < 10; ++i) {
    Connect(HelloOf("hosts/h" + std::to_string(i), v1::STAGE2_SHARING_SHARED, 16));
  }
  EXPECT_EQ(agents_[0]->got()[0].welcome().lease().seconds(), 10);
  EXPECT_EQ(agents_[9]->got()[0].welcome().lease().seconds(), 30);
}

TEST_F(AgentSessionsTest, ADisconnectIsRecordedOnceTheWriterAndTheStoreTakeIt) {
  TestAgent& agent = Connect(GraceHello());
  queue_full_ = true;
  agent.Leave();
  Settle();
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
  queue_full_ = false;
  store_.FailCommits(absl::ResourceExhaustedError("disk full"));
  Advance(milliseconds(100));
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
  store_.AllowRecovery();
  core_->Tick();
  Advance(milliseconds(100));
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_DISCONNECTED);
}

TEST_F(AgentSessionsTest, AnOldDisconnectDoesNotOvertakeANewSession) {
  TestAgent& agent = Connect(GraceHello());
  queue_full_ = true;
  agent.Leave();
  queue_full_ = false;
  Connect(GraceHello());
  Advance(milliseconds(100));
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
}

TEST_F(AgentSessionsTest, AShutdownDisconnectsNobodyAndTheNextStartGivesThemTime) {
  Connect(GraceHello());
  Connect(SmallHello());
  agents_[0]->StopReading();
  Do(CreateStage2("s", kGrace));
  EXPECT_TRUE(agents_[0]->writing());
  TestAgent& stuck = *agents_[0];
  // The stuck one is broken off after the deadline; its stream says so by failing the write.
  sessions_->Shutdown(milliseconds(0));
  ExpectFinished(*agents_[1], absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN);
  EXPECT_TRUE(stuck.cancelled());
  stuck.EndWrite(false);
  ExpectFinished(Open(), absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN);
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
  Restart();
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
  Connect(SmallHello());
  for (int i = 0; i < 6; ++i) {
    Advance(seconds(9));
    agents_[0]->SayHeartbeat();
    EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_CONNECTED);
  }
  Advance(seconds(6));
  EXPECT_EQ(StateOf(kGrace), v1::HOST_STATE_DISCONNECTED);
  EXPECT_EQ(StateOf(kSmall), v1::HOST_STATE_CONNECTED);
}

TEST_F(AgentSessionsTest, AfterAStartAHostIsKeptForTheAgentThatItWasConnectedTo) {
  Connect(GraceHello());
  Restart();
  v1::Hello hello = GraceHello();
  hello.set_agent_id("another");
  ExpectFinished(Connect(hello), absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_HOST_ALREADY_CONNECTED);
  Advance(options_.start_grace);
  EXPECT_TRUE(Connect(hello).welcomed());
}

// --- Following.

TEST_F(AgentSessionsTest, ChangesGoToTheirHostAndAnswersAreNotSentBack) {
  TestAgent& grace = Connect(GraceHello());
  TestAgent& small = Connect(SmallHello());
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  EXPECT_EQ(NamesOf(grace.TakeItems()), (Names{"stage2Domains/s", "viommus/v"}));
  EXPECT_EQ(NamesOf(small.TakeItems()), Names{});
  const size_t messages = grace.got().size();
  grace.SayResults({ResultFor(Get<v1::Stage2Domain>("stage2Domains/s"), v1::OUTCOME_APPLIED),
                    ResultFor(Get<v1::Viommu>("viommus/v"), v1::OUTCOME_DORMANT)});
  Settle();
  EXPECT_EQ(Get<v1::Stage2Domain>("stage2Domains/s").state(), v1::STATE_READY);
  EXPECT_EQ(Get<v1::Viommu>("viommus/v").state(), v1::STATE_DORMANT);
  EXPECT_EQ(grace.got().size(), messages) << "its own answers do not come back";
  EXPECT_EQ(sessions_->stats().max_lag_revisions, 0);
}

TEST_F(AgentSessionsTest, ARefusalIsNotSentAgain) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  agent.AnswerAll(v1::OUTCOME_FAILED);
  Settle();
  EXPECT_EQ(Get<v1::Stage2Domain>("stage2Domains/s").state(), v1::STATE_FAILED);
  EXPECT_TRUE(agent.TakeItems().empty());
}

TEST_F(AgentSessionsTest, ADeletionIsSentUntilItIsConfirmed) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  Do(SetVdevId("v", DeviceOf(kGrace, 0), 5));
  agent.AnswerAll();
  Settle();
  Do(UnsetVdevId("v", 5));
  const std::vector<v1::Resource> items = agent.TakeItems();
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].vdevice().state(), v1::STATE_DELETING);
  const v1::ItemResult released = ResultFor(items[0].vdevice(), v1::OUTCOME_RELEASED);
  agent.SayResults({released});
  Settle();
  EXPECT_EQ(Get<v1::Device>(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_FREE);
  // Repeated and late answers change nothing.
  const auto before = Record();
  agent.SayResults({released, released});
  Settle();
  EXPECT_EQ(Record(), before);
  EXPECT_FALSE(agent.finished().has_value());
}

TEST_F(AgentSessionsTest, LateAndReorderedAnswersDoNotBringBackWhatWasReleased) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  Do(SetVdevId("v", DeviceOf(kGrace, 0), 5));
  const v1::ItemResult applied = ResultFor(Get<v1::Vdevice>("viommus/v/vdevices/5"), v1::OUTCOME_APPLIED);
  Do(UnsetVdevId("v", 5));
  agent.SayResults({applied});
  Settle();
  EXPECT_EQ(Get<v1::Vdevice>("viommus/v/vdevices/5").state(), v1::STATE_DELETING);
  agent.SayResults({ResultFor(Get<v1::Vdevice>("viommus/v/vdevices/5"), v1::OUTCOME_RELEASED)});
  agent.SayResults({applied});
  Settle();
  EXPECT_EQ(Get<v1::Device>(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_FREE);
  EXPECT_FALSE(agent.finished().has_value());
}

TEST_F(AgentSessionsTest, ARebindIsOneItemWithTheSameUid) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  Do(SetVdevId("v", DeviceOf(kGrace, 0), 5));
  agent.AnswerAll();
  Settle();
  const std::string uid = Get<v1::Vdevice>("viommus/v/vdevices/5").uid();
  Do(RebindVdevId("v", 5, 6));
  const std::vector<v1::Resource> items = agent.TakeItems();
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].vdevice().uid(), uid);
  EXPECT_EQ(items[0].vdevice().vdev_id(), 6u);
  EXPECT_EQ(agent.got().back().desired().unknown_uids_size(), 0);
}

TEST_F(AgentSessionsTest, AnswersForAnotherHostsResourcesAreAViolation) {
  Connect(GraceHello());
  TestAgent& small = Connect(SmallHello());
  Do(CreateStage2("s", kGrace));
  const auto before = Record();
  small.SayResults({ResultFor(Get<v1::Stage2Domain>("stage2Domains/s"), v1::OUTCOME_APPLIED)});
  Settle();
  ExpectFinished(small, absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION);
  EXPECT_EQ(Get<v1::Stage2Domain>("stage2Domains/s").state(), v1::STATE_PENDING);
  EXPECT_EQ(Get<v1::Host>(kSmall).state_reason().reason(), "PROTOCOL_VIOLATION");
}

TEST_F(AgentSessionsTest, ResultsWaitForAWriterThatIsFull) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  queue_full_ = true;
  agent.AnswerAll();
  Settle();
  EXPECT_EQ(Get<v1::Stage2Domain>("stage2Domains/s").state(), v1::STATE_PENDING);
  for (size_t i = 1; i < options_.max_results_in_flight; ++i) {
    agent.SayResults({ResultFor(Get<v1::Stage2Domain>("stage2Domains/s"), v1::OUTCOME_FAILED)});
  }
  EXPECT_FALSE(agent.reading()) << "no more is read";
  queue_full_ = false;
  Advance(milliseconds(100));
  EXPECT_EQ(Get<v1::Stage2Domain>("stage2Domains/s").state(), v1::STATE_FAILED) << "in their order";
  EXPECT_TRUE(agent.reading());
}

TEST_F(AgentSessionsTest, AReaderThatNeverReadsIsSentEachResourceOnceWhenItDoes) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  agent.AnswerAll();
  Settle();
  EXPECT_EQ(sessions_->stats().max_lag_revisions, 0);
  agent.StopReading();
  Do(CreateNested("v", "n"));
  for (uint64_t i = 0; i < 20; ++i) {
    Do(SetVdevId("v", DeviceOf(kGrace, 0), 5));
    Do(UnsetVdevId("v", 5));
    agent.SayResults({ResultFor(Get<v1::Vdevice>("viommus/v/vdevices/5"), v1::OUTCOME_RELEASED)});
    Settle();
  }
  Do(SetVdevId("v", DeviceOf(kGrace, 0), 5));
  EXPECT_EQ(sessions_->stats().pending_resources, 1);
  EXPECT_GT(sessions_->stats().max_lag_revisions, 0);
  agent.EndWrite(true);
  ASSERT_TRUE(agent.writing());
  agent.EndWrite(true);
  EXPECT_EQ(NamesOf(agent.TakeItems()), (Names{"viommus/v/nestedDomains/n", "viommus/v/vdevices/5"}));
  EXPECT_GT(sessions_->stats().max_lag_revisions, 0) << "not answered yet";
  agent.SayResults({ResultFor(Get<v1::NestedDomain>("viommus/v/nestedDomains/n"), v1::OUTCOME_APPLIED),
                    ResultFor(Get<v1::Vdevice>("viommus/v/vdevices/5"), v1::OUTCOME_APPLIED)});
  Settle();
  EXPECT_EQ(sessions_->stats().max_lag_revisions, 0);
}

TEST_F(AgentSessionsTest, AHostThatIsToldMuchDoesNotHoldUpAnother) {
  constexpr int kPending = 50'000;
  constexpr int kChunk = 10'000;  // records that one command may change
  TestAgent& busy = Connect(GraceHello());
  TestAgent& calm = Connect(HelloOf("hosts/calm", v1::STAGE2_SHARING_SHARED, 16));
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  busy.TakeItems();
  busy.StopReading();
  for (int done = 0; done < kPending; done += kChunk) {
    TestCommand create([&](const Context& context, Draft& draft) -> absl::Status {
      for (int i = done; i < done + kChunk; ++i) {
        VIOMMU_RETURN_IF_ERROR(Judge(CreateNested("v", "n" + std::to_string(i)), context, draft).status());
      }
      return absl::OkStatus();
    });
    ASSERT_TRUE(create.RunOn(*core_).ok());
  }
  Settle();
  for (int round = 0; round < 10; ++round) {
    const std::string id = std::to_string(round);
    TestCommand both([&](const Context& context, Draft& draft) -> absl::Status {
      VIOMMU_RETURN_IF_ERROR(Judge(CreateNested("v", "churn" + id), context, draft).status());
      return Judge(CreateStage2("b" + id, "hosts/calm"), context, draft).status();
    });
    ASSERT_TRUE(both.RunOn(*core_).ok());
    busy.EndWrite(true);  // it has read a message, and is sent the next one at once
    ASSERT_TRUE(busy.writing());
    sessions_->RunReady();
    EXPECT_EQ(NamesOf(calm.TakeItems()), Names{"stage2Domains/b" + id}) << "in the round after its change";
    EXPECT_LE(busy.TakeItems().size(), 1024u) << "a message a round";
  }
  EXPECT_GT(sessions_->stats().pending_resources, kPending - 12 * 1024);
  busy.Leave();
}

// --- Reconnecting.

TEST_F(AgentSessionsTest, AReconnectBringsOnlyTheDifference) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  Do(CreateViommu("w", SmmuOf(kGrace, 1), "s"));
  agent.AnswerAll();
  Settle();
  const v1::Hello hello = HelloHolding(GraceHello(), {"viommus/v", "viommus/w"}, {"stage2Domains/s"});
  agent.Leave();
  Settle();

  TestAgent& same = Connect(hello);
  EXPECT_TRUE(same.synced());
  EXPECT_TRUE(same.TakeItems().empty());
  same.Leave();
  Settle();

  // What changes while it is away, and what it holds without any record of it.
  Do(DeleteViommu("w"));
  Do(CreateNested("v", "n"));
  v1::Hello back = hello;
  v1::HeldItem& zombie = *back.add_held();
  zombie.set_uid("zombie");
  zombie.set_generation(1);
  TestAgent& again = Connect(back);
  EXPECT_EQ(NamesOf(again.TakeItems()), (Names{"viommus/w", "viommus/v/nestedDomains/n"}));
  EXPECT_EQ(again.got().back().desired().unknown_uids(0), "zombie");
  EXPECT_TRUE(again.synced());
}

// A repair of drift: neither waits for the next hello.
TEST_F(AgentSessionsTest, WhatAJournalHasOtherwiseIsToldAnew) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  agent.AnswerAll();
  Settle();
  agent.TakeItems();
  sessions_->TearDown(kGrace, {"zombie"});
  Settle();
  ASSERT_EQ(agent.got().back().desired().unknown_uids_size(), 1);
  EXPECT_EQ(agent.got().back().desired().unknown_uids(0), "zombie");
  EXPECT_EQ(sessions_->stats().max_lag_revisions, 0);
  sessions_->TearDown("hosts/nobody", {"zombie"});

  const auto stage2 = Get<v1::Stage2Domain>("stage2Domains/s");
  TestCommand command([&](const Context& context, Draft& draft) {
    DesireAnew({{Kind::kStage2Domain, stage2.name(), stage2.generation()}}, context, draft);
    return absl::OkStatus();
  });
  ASSERT_TRUE(command.RunOn(*core_).ok());
  Settle();
  const auto items = agent.TakeItems();
  ASSERT_EQ(items.size(), 1u);
  EXPECT_GT(items[0].stage2_domain().generation(), stage2.generation());
  EXPECT_EQ(items[0].stage2_domain().uid(), stage2.uid());
}

TEST_F(AgentSessionsTest, AHostThatWasRebootedIsSentEverything) {
  TestAgent& agent = Connect(GraceHello());
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  agent.AnswerAll();
  Settle();
  v1::Hello hello = HelloHolding(GraceHello(), {}, {});
  hello.mutable_host()->set_boot_id("boot-2");
  agent.Leave();
  TestAgent& again = Connect(hello);
  EXPECT_EQ(NamesOf(again.TakeItems()), (Names{"stage2Domains/s", "viommus/v"}));
}

TEST_F(AgentSessionsTest, ChangesBetweenHelloAndDifferenceAreNotLost) {
  TestAgent& agent = Open();
  agent.SayHello(GraceHello());
  std::vector<Command*> batch = std::exchange(queue_, {});
  const auto outcomes = core_->Run(batch);  // recorded, and not answered yet
  TestCommand create(
      [](const Context& context, Draft& draft) { return Judge(CreateStage2("s", kGrace), context, draft).status(); });
  EXPECT_TRUE(create.RunOn(*core_).ok());
  batch[0]->Done(outcomes[0].status, outcomes[0].revision);
  Settle();
  EXPECT_EQ(NamesOf(agent.TakeItems()), Names{"stage2Domains/s"});
  EXPECT_TRUE(agent.synced());
}

TEST_F(AgentSessionsTest, OnlySoManySyncAtOnceAndTheOthersFollowInOrder) {
  options_.max_concurrent_syncs = 2;
  Restart();
  for (int i = 0; i < 5; ++i) {
    const std::string host = "hosts/h" + std::to_string(i);
    Connect(HelloOf(host, v1::STAGE2_SHARING_SHARED, 16)).Leave();
    Settle();
    Do(CreateStage2("s" + std::to_string(i), host));
  }
  agents_.clear();
  for (int i = 0; i < 5; ++i) {
    TestAgent& agent = Open();
    agent.StopReading();
    agent.SayHello(HelloOf("hosts/h" + std::to_string(i), v1::STAGE2_SHARING_SHARED, 16));
    Settle();
    agent.EndWrite(true);  // the welcome
    Settle();
    EXPECT_TRUE(agent.welcomed());
  }
  const auto writing = [&] {
    std::string who;
    for (const auto& agent : agents_) who += agent->writing() ? '1' : '0';
    return who;
  };
  EXPECT_EQ(writing(), "11000");
  EXPECT_EQ(sessions_->stats().syncs_active, 2);
  EXPECT_EQ(sessions_->stats().syncs_waiting, 3);
  agents_[1]->EndWrite(true);
  Settle();
  EXPECT_EQ(writing(), "10100");
  agents_[3]->Leave();  // gives up waiting
  agents_[0]->Leave();  // in the middle of its sync
  Settle();
  EXPECT_EQ(writing(), "00101");
  agents_[2]->EndWrite(true);
  agents_[4]->EndWrite(true);
  Settle();
  EXPECT_EQ(sessions_->stats().syncs_active, 0);
  EXPECT_EQ(sessions_->stats().synced, 3);
}

// --- Invalidations.

TEST_F(AgentSessionsTest, InvalidationsGoToTheHostAndBack) {
  std::vector<absl::StatusOr<v1::InvalidationResult>> answers;
  const auto call = [&](const std::string& host) {
    v1::Command command;
    command.mutable_tlbi_nh_all();
    sessions_->Invalidate(host, "target", {command}, clock_.Now() + seconds(1),
                          [&](absl::StatusOr<v1::InvalidationResult> result) { answers.push_back(std::move(result)); });
  };
  call(kGrace);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(ReasonOf(answers[0].status()), v1::ERROR_REASON_HOST_DISCONNECTED);
  ExpectDetails(answers[0].status());

  TestAgent& agent = Connect(GraceHello());
  call(kGrace);
  ASSERT_TRUE(agent.got().back().has_invalidate_call());
  v1::ConnectRequest reply;
  reply.mutable_invalidate_reply()->set_call_id(agent.got().back().invalidate_call().call_id());
  reply.mutable_invalidate_reply()->mutable_result()->set_handled(1);
  agent.Say(reply);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[1]->handled(), 1u);

  call(kGrace);
  Advance(seconds(1));
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[2].status().code(), absl::StatusCode::kDeadlineExceeded);

  call(kGrace);
  agent.Leave();
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(ReasonOf(answers[3].status()), v1::ERROR_REASON_HOST_DISCONNECTED);
}

TEST_F(AgentSessionsTest, InspectionsGoToTheHostAndBack) {
  std::vector<absl::StatusOr<v1::InspectReply>> replies;
  const auto inspect = [&] {
    sessions_->Inspect(kGrace, {}, clock_.Now() + seconds(1),
                       [&](absl::StatusOr<v1::InspectReply> reply) { replies.push_back(std::move(reply)); });
  };
  inspect();
  EXPECT_EQ(ReasonOf(replies.at(0).status()), v1::ERROR_REASON_HOST_DISCONNECTED);
  v1::Hello hello = GraceHello();
  hello.set_inspect(true);
  TestAgent& agent = Connect(hello);
  inspect();
  ASSERT_TRUE(agent.got().back().has_inspect_call());
  v1::ConnectRequest reply;
  reply.mutable_inspect_reply()->set_call_id(agent.got().back().inspect_call().call_id());
  reply.mutable_inspect_reply()->set_more(true);
  agent.Say(reply);
  EXPECT_TRUE(replies.at(1)->more());
}

TEST_F(AgentSessionsTest, SessionObjectsAreSmall) {
  // Of the 30 KiB that an idle agent may cost, gRPC needs nearly all.
  EXPECT_LE(sizeof(AgentSession), 1024u);
}

}  // namespace
}  // namespace viommu::server
