#include "agent/session/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/session/testing.h"
#include "common/error.h"
#include "common/fake_clock.h"

namespace viommu::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;

class SessionTest : public testing::Test {
 protected:
  SessionTest() : session_(1, MakeHello(), work_, calls_, clock_.Monotonic(), [this] { return random_; }) {}

  static v1::Hello MakeHello() {
    v1::Hello hello;
    hello.mutable_host()->set_name("hosts/h1");
    return hello;
  }
  absl::Status Receive(const v1::ConnectResponse& message) { return session_.Receive(message, clock_.Monotonic()); }
  std::optional<v1::ConnectRequest> Next() { return session_.Next(clock_.Monotonic()); }
  void Open() {
    ASSERT_TRUE(Next()->has_hello());
    ASSERT_TRUE(Receive(WelcomeMessage()).ok());
  }

  FakeClock clock_;
  FakeWork work_;
  FakeCalls calls_{2};
  double random_ = 0;
  Session session_;
};

TEST_F(SessionTest, SaysHelloFirstAndNothingElseBeforeTheWelcome) {
  const auto hello = Next();
  ASSERT_TRUE(hello && hello->has_hello());
  EXPECT_EQ(hello->hello().protocol_version(), 1u);
  EXPECT_EQ(hello->hello().host().name(), "hosts/h1");
  EXPECT_EQ(hello->hello().host().agent_id(), "agent");
  EXPECT_EQ(hello->hello().cluster_id(), "cluster");
  EXPECT_FALSE(Next().has_value());
  EXPECT_EQ(session_.state(), v1::SESSION_STATE_CONNECTING);
}

TEST_F(SessionTest, GoesFromSyncingToSynced) {
  Open();
  EXPECT_EQ(session_.state(), v1::SESSION_STATE_SYNCING);
  ASSERT_TRUE(Receive(DesiredMessage(2)).ok());
  EXPECT_EQ(session_.state(), v1::SESSION_STATE_SYNCED);
  const auto results = Next();
  ASSERT_TRUE(results && results->has_results());
  EXPECT_EQ(results->results().items_size(), 2);
  EXPECT_FALSE(Next().has_value());
}

TEST_F(SessionTest, HasLastedWhenItWasInSyncAndALeaseHasPassed) {
  Open();
  clock_.Advance(seconds(8));
  ASSERT_TRUE(Receive(HeartbeatMessage()).ok());
  clock_.Advance(seconds(2));
  EXPECT_FALSE(session_.HasLasted(clock_.Monotonic())) << "it never came as far as a sync mark";
  ASSERT_TRUE(Receive(DesiredMessage(0)).ok());
  EXPECT_TRUE(session_.HasLasted(clock_.Monotonic()));

  Session brief(2, MakeHello(), work_, calls_, clock_.Monotonic(), [] { return 0.0; });
  ASSERT_TRUE(brief.Next(clock_.Monotonic())->has_hello());
  ASSERT_TRUE(brief.Receive(WelcomeMessage(), clock_.Monotonic()).ok());
  ASSERT_TRUE(brief.Receive(DesiredMessage(0), clock_.Monotonic()).ok());
  clock_.Advance(milliseconds(8999));
  EXPECT_FALSE(brief.HasLasted(clock_.Monotonic()));
  clock_.Advance(milliseconds(1));
  EXPECT_TRUE(brief.HasLasted(clock_.Monotonic()));
}

TEST_F(SessionTest, ResultsComeInBoundedMessages) {
  Open();
  ASSERT_TRUE(Receive(DesiredMessage(2500)).ok());
  EXPECT_EQ(Next()->results().items_size(), 1000);
  EXPECT_EQ(Next()->results().items_size(), 1000);
  EXPECT_EQ(Next()->results().items_size(), 500);
}

TEST_F(SessionTest, HeartbeatsAreDueThriceALeaseAndGoBeforeResults) {
  Open();
  EXPECT_EQ(session_.Deadline(), clock_.Monotonic() + seconds(3));
  clock_.Advance(milliseconds(2999));
  EXPECT_FALSE(Next().has_value());
  clock_.Advance(milliseconds(1));
  ASSERT_TRUE(Receive(DesiredMessage(1)).ok());
  const auto heartbeat = Next();
  ASSERT_TRUE(heartbeat && heartbeat->has_heartbeat());
  EXPECT_EQ(heartbeat->heartbeat().epoch(), 3);
  EXPECT_EQ(heartbeat->heartbeat().revision(), 42);
  EXPECT_TRUE(Next()->has_results());
}

TEST_F(SessionTest, HeartbeatsAreSpreadOverAQuarterOfTheirInterval) {
  const auto wait = [this] { return session_.Deadline() - clock_.Monotonic(); };
  random_ = 0.999;
  Open();
  EXPECT_GT(wait(), milliseconds(2250));
  EXPECT_LT(wait(), milliseconds(2260));
  random_ = 0.5;
  clock_.Advance(wait());
  ASSERT_TRUE(Next()->has_heartbeat());
  EXPECT_EQ(wait(), milliseconds(2625)) << "drawn anew for each";
  random_ = 0;
  clock_.Advance(wait());
  ASSERT_TRUE(Next()->has_heartbeat());
  EXPECT_EQ(wait(), seconds(3)) << "never above a third of the lease";
}

TEST(SessionUsageTest, ASignOfLifeTellsWhatIsInUse) {
  FakeClock clock;
  FakeWork work;
  FakeCalls calls(2);
  Session session(
      1, {}, work, calls, clock.Monotonic(), [] { return 0.0; },
      [](v1::Heartbeat& heartbeat) { heartbeat.add_smmus()->set_vmids_used(3); });
  ASSERT_TRUE(session.Next(clock.Monotonic())->has_hello());
  ASSERT_TRUE(session.Receive(WelcomeMessage(), clock.Monotonic()).ok());
  clock.Advance(seconds(3));
  const auto heartbeat = session.Next(clock.Monotonic());
  ASSERT_TRUE(heartbeat && heartbeat->has_heartbeat());
  ASSERT_EQ(heartbeat->heartbeat().smmus_size(), 1);
  EXPECT_EQ(heartbeat->heartbeat().smmus(0).vmids_used(), 3u);
}

TEST_F(SessionTest, ASilentServerIsGivenUp) {
  Open();
  clock_.Advance(milliseconds(8999));
  EXPECT_TRUE(session_.Check(clock_.Monotonic()).ok());
  ASSERT_TRUE(Receive(HeartbeatMessage()).ok());
  clock_.Advance(milliseconds(8999));
  EXPECT_TRUE(session_.Check(clock_.Monotonic()).ok());
  clock_.Advance(milliseconds(1));
  EXPECT_EQ(ReasonOf(session_.Check(clock_.Monotonic())), v1::ERROR_REASON_LEASE_EXPIRED);
}

TEST_F(SessionTest, AServerThatNeverWelcomesIsGivenUp) {
  Next();
  clock_.Advance(Session::kWelcomeTimeout);
  EXPECT_FALSE(session_.Check(clock_.Monotonic()).ok());
}

TEST_F(SessionTest, RefusesAServerOfAnotherCluster) {
  Next();
  v1::ConnectResponse message = WelcomeMessage();
  message.mutable_welcome()->set_cluster_id("other");
  EXPECT_EQ(ReasonOf(Receive(message)), v1::ERROR_REASON_CLUSTER_MISMATCH);
  EXPECT_EQ(ReasonOf(Receive(DesiredMessage(1))), v1::ERROR_REASON_PROTOCOL_VIOLATION) << "and never obeys it";
}

TEST_F(SessionTest, KeepsToTheProtocol) {
  EXPECT_EQ(ReasonOf(Receive(WelcomeMessage())), v1::ERROR_REASON_PROTOCOL_VIOLATION) << "before the hello";
  Next();
  EXPECT_EQ(ReasonOf(Receive(HeartbeatMessage())), v1::ERROR_REASON_PROTOCOL_VIOLATION) << "before the welcome";
  ASSERT_TRUE(Receive(WelcomeMessage()).ok());
  EXPECT_EQ(ReasonOf(Receive(WelcomeMessage())), v1::ERROR_REASON_PROTOCOL_VIOLATION) << "twice";
  EXPECT_EQ(ReasonOf(Receive(HeartbeatMessage(2))), v1::ERROR_REASON_STALE_EPOCH);
}

TEST_F(SessionTest, CommandsThatCannotBeTakenEndTheSession) {
  Open();
  work_.FailAccept(absl::UnavailableError("no space left on device"));
  EXPECT_EQ(Receive(DesiredMessage(1)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(session_.state(), v1::SESSION_STATE_SYNCING);
}

TEST_F(SessionTest, InvalidationsAreAnsweredByTheirNumber) {
  Open();
  v1::ConnectResponse message;
  for (int64_t id = 1; id <= 3; ++id) {
    message.mutable_invalidate_call()->set_call_id(id);
    ASSERT_TRUE(Receive(message).ok());
  }
  ASSERT_EQ(calls_.calls().size(), 2u);
  EXPECT_EQ(calls_.calls()[0].first, 1);
  // There was no room for the third.
  const auto refusal = Next();
  ASSERT_TRUE(refusal && refusal->has_invalidate_reply());
  EXPECT_EQ(refusal->invalidate_reply().call_id(), 3);
  EXPECT_EQ(refusal->invalidate_reply().result().stop().reason(), "OVERLOADED");
  v1::InvalidateReply reply;
  reply.set_call_id(1);
  session_.AddReply(reply);
  EXPECT_EQ(Next()->invalidate_reply().call_id(), 1);
}

TEST_F(SessionTest, InspectionsAreAnsweredAndNotHoarded) {
  const auto hello = Next();
  EXPECT_TRUE(hello->hello().inspect());
  ASSERT_TRUE(Receive(WelcomeMessage()).ok());
  v1::ConnectResponse message;
  message.mutable_inspect_call()->set_call_id(5);
  message.mutable_inspect_call()->set_after_uid("u");
  ASSERT_TRUE(Receive(message).ok());
  const auto reply = Next();
  ASSERT_TRUE(reply && reply->has_inspect_reply());
  EXPECT_EQ(reply->inspect_reply().call_id(), 5);
  EXPECT_THAT(reply->inspect_reply().strays(), ElementsAre("after u"));
  // A server that asks and does not take the answers is cut off; one that takes them may go on for ever.
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(Receive(message).ok());
    ASSERT_TRUE(Next().has_value());
  }
  int asked = 0;
  while (asked < 100 && Receive(message).ok()) ++asked;
  EXPECT_EQ(asked, 16);
}

TEST(SessionEndTest, IsToldToTheWork) {
  FakeWork work;
  FakeCalls calls;
  FakeClock clock;
  {
    Session session(1, {}, work, calls, clock.Monotonic(), [] { return 0.0; });
    EXPECT_TRUE(work.log().empty());
    session.Next(clock.Monotonic());
    ASSERT_TRUE(session.Receive(WelcomeMessage(), clock.Monotonic()).ok());
  }
  EXPECT_THAT(work.log(), ElementsAre("begin", "end"));
}

}  // namespace
}  // namespace viommu::agent
