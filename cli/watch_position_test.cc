#include "cli/watch_position.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace viommu::cli {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

v1::WatchResponse Events(int64_t revision, const std::vector<std::string>& names, bool more = false,
                         v1::EventType type = v1::EVENT_TYPE_PUT, int64_t changed = 0) {
  v1::WatchResponse response;
  response.set_revision(revision);
  response.mutable_events()->set_more(more);
  for (const std::string& name : names) {
    v1::Event* event = response.mutable_events()->add_events();
    event->set_type(type);
    event->set_revision(changed == 0 ? revision : changed);
    event->mutable_resource()->mutable_viommu()->set_name(name);
    event->mutable_resource()->mutable_viommu()->set_revision(changed == 0 ? revision : changed);
  }
  return response;
}

v1::WatchResponse Existing(const std::string& name, int64_t changed) {
  return Events(0, {name}, false, v1::EVENT_TYPE_EXISTING, changed);
}

v1::WatchResponse SyncMark(int64_t revision) {
  v1::WatchResponse response;
  response.set_revision(revision);
  response.mutable_sync_mark();
  return response;
}

v1::WatchResponse Progress(int64_t revision) {
  v1::WatchResponse response;
  response.set_revision(revision);
  response.mutable_progress();
  return response;
}

std::vector<std::string> Names(const std::vector<v1::Event>& events) {
  std::vector<std::string> names;
  for (const auto& event : events) {
    names.push_back((event.type() == v1::EVENT_TYPE_DELETED ? "-" : "") + event.resource().viommu().name());
  }
  return names;
}

TEST(WatchPosition, GoesOnAfterACompleteRevision) {
  WatchPosition position(10);
  EXPECT_EQ(position.StartRevision(), 10);
  position.BeginStream();
  EXPECT_THAT(Names(position.Accept(Events(11, {"a"}))), ElementsAre("a"));
  EXPECT_EQ(position.StartRevision(), 11);
}

TEST(WatchPosition, ABreakInsideARevisionLosesAndRepeatsNothing) {
  WatchPosition position(10);
  position.BeginStream();
  EXPECT_THAT(Names(position.Accept(Events(11, {"a", "b"}, true))), ElementsAre("a", "b"));
  EXPECT_EQ(position.StartRevision(), 10);
  position.BeginStream();
  EXPECT_THAT(Names(position.Accept(Events(11, {"a"}, true))), IsEmpty());
  EXPECT_THAT(Names(position.Accept(Events(11, {"b", "c"}))), ElementsAre("c"));
  EXPECT_EQ(position.StartRevision(), 11);
  // The next revision speaks of the same names again.
  EXPECT_THAT(Names(position.Accept(Events(12, {"a"}))), ElementsAre("a"));
}

TEST(WatchPosition, AMessageMayHaveSeveralRevisions) {
  WatchPosition position(10);
  position.BeginStream();
  // 11 is complete and 12 is not: the next stream begins before the message.
  v1::WatchResponse message = Events(12, {"a", "b"}, true);
  message.mutable_events()->mutable_events(0)->set_revision(11);
  EXPECT_THAT(Names(position.Accept(message)), ElementsAre("a", "b"));
  EXPECT_EQ(position.StartRevision(), 10);
  position.BeginStream();
  EXPECT_THAT(Names(position.Accept(Events(11, {"a"}))), IsEmpty());
  EXPECT_THAT(Names(position.Accept(Events(12, {"a", "b"}))), ElementsAre("a")) << "which 12 changed once more";
  EXPECT_EQ(position.StartRevision(), 12);
}

TEST(WatchPosition, ProgressMovesOnButNotInsideARevision) {
  WatchPosition position(10);
  position.BeginStream();
  position.Accept(Progress(15));
  EXPECT_EQ(position.StartRevision(), 15);
  position.Accept(Progress(12));
  EXPECT_EQ(position.StartRevision(), 15);
  position.Accept(Events(16, {"a"}, true));
  position.Accept(Progress(17));
  EXPECT_EQ(position.StartRevision(), 15);
}

TEST(WatchPosition, BeginsWithWhatIsThere) {
  WatchPosition position(0);
  position.BeginStream();
  EXPECT_THAT(Names(position.Accept(Existing("a", 3))), ElementsAre("a"));
  EXPECT_FALSE(position.synced());
  EXPECT_EQ(position.StartRevision(), 0);
  EXPECT_THAT(Names(position.Accept(SyncMark(20))), IsEmpty());
  EXPECT_TRUE(position.synced());
  EXPECT_EQ(position.StartRevision(), 20);
}

TEST(WatchPosition, ABreakBeforeTheSyncMarkTellsTheDifferenceOnly) {
  WatchPosition position(0);
  position.BeginStream();
  position.Accept(Existing("same", 3));
  position.Accept(Existing("changed", 4));
  position.Accept(Existing("gone", 5));
  position.BeginStream();
  EXPECT_EQ(position.StartRevision(), 0);
  EXPECT_THAT(Names(position.Accept(Existing("same", 3))), IsEmpty());
  EXPECT_THAT(Names(position.Accept(Existing("changed", 9))), ElementsAre("changed"));
  EXPECT_THAT(Names(position.Accept(SyncMark(20))), ElementsAre("-gone"));
}

TEST(WatchPosition, KindsOfANewerServerAreLeftOut) {
  WatchPosition position(10);
  position.BeginStream();
  v1::WatchResponse response = Events(11, {"a"});
  response.mutable_events()->add_events();
  EXPECT_THAT(Names(position.Accept(response)), ElementsAre("a"));
  EXPECT_EQ(position.StartRevision(), 11);
}

}  // namespace
}  // namespace viommu::cli
