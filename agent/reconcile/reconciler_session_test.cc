// What a reconciler takes from which server, and what it believes after a restart and after a reboot.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "agent/reconcile/reconciler_fixture.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(ReconcilerTest, LateCommandsBringNothingBack) {
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0), 10)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@10 RELEASED"));
  backend_.log.clear();
  // Late, for the same uid and for an older bearer of the name; a repeated deletion.
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5, 0, "n"), Vdevice("old", "v", 7, 9)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 FAILED BEING_DELETED", "old@9 FAILED BEING_DELETED"));
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0), 10)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@10 RELEASED"));
  EXPECT_THAT(backend_.log, IsEmpty());
  // The name again, later.
  ASSERT_TRUE(Send({Vdevice("new", "v", 7, 11)}).ok());
  EXPECT_THAT(Run(), ElementsAre("new@11 APPLIED"));
  // Still so after a restart.
  Start();
  Connect();
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5)}).ok());
  EXPECT_THAT(Results(), ElementsAre("d@5 FAILED BEING_DELETED"));
}

TEST_F(ReconcilerTest, ReorderedCommandsDoNotGoBack) {
  MakeVm();
  ASSERT_TRUE(Send({Vdevice("d", "v", 9, 20, 0, "n"), Vdevice("d", "v", 8, 19, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED"));
  ASSERT_TRUE(Send({Vdevice("d", "v", 8, 19, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED")) << "answered with what stands";
  EXPECT_EQ(reconciler_->held().Find("d")->resource.vdevice().vdev_id(), 9u);
}

TEST_F(ReconcilerTest, ARepeatedCommandIsAnsweredAgain) {
  MakeVm();
  ASSERT_TRUE(Send({Viommu("v", "v", 3)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@3 APPLIED"));
  EXPECT_EQ(acknowledged_, 3);
  EXPECT_THAT(backend_.log, IsEmpty());
}

TEST_F(ReconcilerTest, AnUnheldReleaseLeavesATombstone) {
  Connect();
  ASSERT_TRUE(Send({Deleting(Viommu("v", "v", 0), 9)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@9 RELEASED"));
  ASSERT_TRUE(Send({Viommu("v", "v", 8)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@8 FAILED BEING_DELETED"));
}

TEST_F(ReconcilerTest, OrphansAreTornDownFromTheJournal) {
  MakeVm();
  ASSERT_TRUE(Send({}, {"d", "n", "v", "s", "never-held"}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 RELEASED", "n@4 RELEASED", "s@2 RELEASED", "v@3 RELEASED"));
  EXPECT_EQ(backend_.contexts, 0);
}

TEST_F(ReconcilerTest, ARestartAppliesFromTheJournalWithoutAServer) {
  MakeVm();
  Start();
  EXPECT_TRUE(reconciler_->believes());
  EXPECT_THAT(Run(), IsEmpty()) << "there is no session to tell";
  EXPECT_EQ(reconciler_->Counts()["applied"], 4u);
  EXPECT_THAT(backend_.log, ElementsAre("OpenContext", "BindDevice 0000:01:00.0", "AllocStage2", "AllocViommu s0",
                                        "AllocNested 0xb", "AllocVdevice 7", "Attach nested"));
  v1::Hello hello;
  reconciler_->FillHello(hello);
  ASSERT_EQ(hello.held_size(), 4);
  EXPECT_TRUE(hello.held(0).settled());
  EXPECT_EQ(hello.cluster_id(), "cluster");
  // Everything is told again: the server may have lost it.
  ASSERT_TRUE(reconciler_->BeginSession(Welcome()).ok());
  EXPECT_THAT(Results(), ElementsAre("d@5 APPLIED", "n@4 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
}

TEST_F(ReconcilerTest, AReleaseThatARestartInterruptedIsToldLater) {
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10)}).ok());
  Start();
  Run();
  Connect();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10)}).ok());
  EXPECT_THAT(Results(), testing::Contains("d@10 RELEASED"));
}

TEST_F(ReconcilerTest, AfterARebootNothingOldIsBelieved) {
  MakeVm();
  boot_id_ = "boot-2";
  Start();
  EXPECT_FALSE(reconciler_->believes());
  Run();
  EXPECT_THAT(backend_.log, IsEmpty());
  v1::Hello hello;
  reconciler_->FillHello(hello);
  for (const auto& held : hello.held()) EXPECT_FALSE(held.settled());
  // Also not after another start without a server.
  Start();
  Run();
  EXPECT_THAT(backend_.log, IsEmpty());
  // The server takes the device back before the mark.
  ASSERT_TRUE(reconciler_->BeginSession(Welcome()).ok());
  nonce_ = 0;
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 30)}).ok());
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_THAT(backend_.log, IsEmpty());
  v1::Desired mark;
  mark.set_sync_mark(true);
  mark.set_revision(30);
  ASSERT_TRUE(Send(mark).ok());
  EXPECT_THAT(Run(), ElementsAre("d@30 RELEASED", "n@4 DORMANT", "s@2 DORMANT", "v@3 DORMANT"));
  EXPECT_THAT(backend_.log, IsEmpty()) << "nothing of the old boot was touched or made again";
}

TEST_F(ReconcilerTest, ObeysOneClusterStoreAndRisingEpochs) {
  ASSERT_TRUE(reconciler_->BeginSession(Welcome(5)).ok());
  Start();
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(Welcome(4))), v1::ERROR_REASON_STALE_EPOCH);
  v1::Welcome welcome = Welcome(6);
  welcome.set_cluster_id("other");
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_CLUSTER_MISMATCH);
  welcome = Welcome(6);
  welcome.set_store_incarnation("restored");
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_STORE_INCARNATION_MISMATCH);
  EXPECT_FALSE(Send({Viommu("v", "v", 3)}).ok()) << "a refused server is not obeyed";
  ASSERT_TRUE(reconciler_->BeginSession(Welcome(6)).ok());
  v1::Desired desired;
  desired.set_epoch(5);
  EXPECT_EQ(ReasonOf(reconciler_->Accept(desired)), v1::ERROR_REASON_STALE_EPOCH);
}

// The server runs on an older copy of its store: what it does not know it would have torn down.
TEST_F(ReconcilerTest, DoesNotObeyAServerThatKnowsLessThanItHasSaid) {
  Connect(200);
  v1::Hello hello;
  reconciler_->FillHello(hello);
  EXPECT_EQ(hello.revision(), 200);
  EXPECT_EQ(hello.start_id(), "start-1");
  Start();
  v1::Welcome welcome = Welcome(2);
  welcome.set_revision(199);
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_STORE_OUT_OF_DATE);
  hello.Clear();
  reconciler_->FillHello(hello);
  EXPECT_EQ(hello.epoch(), 1) << "it was not obeyed";
  EXPECT_EQ(hello.start_id(), "start-1");
  welcome.set_revision(200);
  EXPECT_TRUE(reconciler_->BeginSession(welcome).ok());
}

// What it was told last may be a release: once that is done nothing of it is held, and it is proof all the same.
TEST_F(ReconcilerTest, AReleaseProvesAnOlderCopyToo) {
  Connect(10);
  ASSERT_TRUE(Send({Stage2("s", "s2", 5)}).ok());
  Run();
  ASSERT_TRUE(Send({Deleting(Stage2("s", "s2", 5), 300)}).ok());
  EXPECT_THAT(Run(), ElementsAre("s@300 RELEASED"));
  Start();
  v1::Hello hello;
  reconciler_->FillHello(hello);
  EXPECT_EQ(hello.revision(), 300);
  EXPECT_EQ(hello.released_generation(), 300);
  EXPECT_EQ(hello.held_size(), 0);
  v1::Welcome welcome = Welcome(2);
  welcome.set_revision(299);
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_STORE_OUT_OF_DATE);
}

TEST_F(ReconcilerTest, RefusesAnotherHostsJournal) {
  Reconciler::Options options;
  options.host = "hosts/h2";
  const auto other = Reconciler::Open(*journal_, backend_, *targets_, {}, options);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(other.status().message().find("--host h1"), std::string::npos) << other.status();
}

TEST_F(ReconcilerTest, RefusesWhatCanNotBe) {
  MakeVm();
  EXPECT_EQ(ReasonOf(Send({Viommu("", "v", 3)})), v1::ERROR_REASON_PROTOCOL_VIOLATION);
  EXPECT_EQ(ReasonOf(Send({Viommu("x", "x", 0)})), v1::ERROR_REASON_PROTOCOL_VIOLATION);
  v1::Resource host;
  host.mutable_host()->set_uid("h");
  EXPECT_EQ(ReasonOf(Send({host})), v1::ERROR_REASON_PROTOCOL_VIOLATION);
  ASSERT_TRUE(Send({Viommu("v", "w", 30)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@30 FAILED PROTOCOL_VIOLATION"));
  ASSERT_TRUE(Send({Nested("v", "v", "v", 31)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@31 FAILED PROTOCOL_VIOLATION"));
  EXPECT_EQ(reconciler_->held().Find("v")->generation(), 3);
}

}  // namespace
}  // namespace viommu::agent
