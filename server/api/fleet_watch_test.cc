#include <gmock/gmock.h>

#include <map>
#include <thread>

#include "common/fake_clock.h"
#include "server/api/test_service.h"
#include "server/api/watch_feed.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

// Reads a watch over gRPC.
class Reader {
 public:
  Reader(v1::FleetService::Stub& stub, const v1::WatchRequest& request) {
    context_.set_deadline(std::chrono::system_clock::now() + kPatience);
    stream_ = stub.Watch(&context_, request);
  }

  // The next message; fails the test when there is none.
  v1::WatchResponse Next() {
    v1::WatchResponse message;
    EXPECT_TRUE(stream_->Read(&message)) << "the watch ended";
    return message;
  }
  // The next message with events.
  v1::WatchResponse NextEvents() {
    v1::WatchResponse message = Next();
    while (message.has_progress() || message.has_sync_mark()) message = Next();
    return message;
  }
  // Why it ended. Whatever is still sent is read.
  absl::Status End() {
    v1::WatchResponse message;
    while (stream_->Read(&message)) {
    }
    return FromGrpcStatus(stream_->Finish());
  }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> stream_;
};

class WatchTest : public FleetServiceTest {
 protected:
  explicit WatchTest(const Clock& clock = RealClock(), size_t max_watches = 4)
      : FleetServiceTest(8, max_watches, clock) {}

  static const v1::Vdevice& VdeviceIn(const v1::WatchResponse& message) {
    return message.events().events(0).resource().vdevice();
  }
};

TEST_F(WatchTest, SendsWhatIsThereThenTheMarkThenChanges) {
  MakeViommu();
  v1::WatchRequest request;
  request.add_kinds(v1::RESOURCE_KIND_VIOMMU);
  request.add_kinds(v1::RESOURCE_KIND_VDEVICE);
  const int64_t revision = core_->revision();
  Reader reader(*stub_, request);
  const auto existing = reader.Next();
  ASSERT_EQ(existing.events().events_size(), 1);
  EXPECT_EQ(existing.events().events(0).type(), v1::EVENT_TYPE_EXISTING);
  EXPECT_EQ(existing.events().events(0).resource().viommu().name(), "viommus/v");
  EXPECT_EQ(existing.revision(), revision);
  EXPECT_FALSE(existing.events().more());
  const auto mark = reader.Next();
  EXPECT_TRUE(mark.has_sync_mark());
  EXPECT_EQ(mark.revision(), revision);

  const auto set = Do(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  const auto put = reader.Next();
  EXPECT_EQ(put.revision(), set.revision());
  ASSERT_EQ(put.events().events_size(), 1) << "the device's change is of another kind";
  EXPECT_EQ(put.events().events(0).type(), v1::EVENT_TYPE_PUT);
  EXPECT_EQ(VdeviceIn(put).SerializeAsString(), set.vdevice().SerializeAsString());

  Do(UnsetVdevId("v", 8));
  EXPECT_EQ(VdeviceIn(reader.Next()).state(), v1::STATE_DELETING);
  Answer(*Recorded<v1::Vdevice>("viommus/v/vdevices/8"), v1::OUTCOME_RELEASED);
  const auto gone = reader.Next();
  EXPECT_EQ(gone.events().events(0).type(), v1::EVENT_TYPE_DELETED);
  EXPECT_EQ(VdeviceIn(gone).name(), "viommus/v/vdevices/8") << "its last state";
  reader.Cancel();
  EXPECT_EQ(reader.End().code(), StatusCode::kCancelled);
  while (watches_->count() != 0) std::this_thread::yield();
}

TEST_F(WatchTest, FiltersByHostVmAndLabels) {
  MakeViommu();
  v1::WatchRequest request;
  request.set_host(kGrace);
  request.set_vm("vm");
  (*request.mutable_labels())["tier"] = "gold";
  Reader reader(*stub_, request);
  EXPECT_TRUE(reader.Next().has_sync_mark()) << "nothing has the label";
  const auto label = [&](const std::string& value) {
    v1::UpdateViommuLabelsRequest labels;
    labels.set_name("viommus/v");
    (*labels.mutable_labels())["tier"] = value;
    return Do(labels).revision();
  };
  const int64_t in = label("gold");
  const auto entered = reader.Next();
  EXPECT_EQ(entered.revision(), in);
  EXPECT_EQ(entered.events().events(0).type(), v1::EVENT_TYPE_PUT);
  label("gold");  // no change
  const int64_t out = label("tin");
  const auto left = reader.Next();
  EXPECT_EQ(left.revision(), out);
  EXPECT_EQ(left.events().events(0).type(), v1::EVENT_TYPE_DELETED);
  EXPECT_EQ(left.events().events(0).resource().viommu().labels().at("tier"), "gold");
}

// Watches that were left count until the server has noticed.
class ResumedWatchTest : public WatchTest {
 protected:
  ResumedWatchTest() : WatchTest(RealClock(), 1000) {}
};

TEST_F(ResumedWatchTest, IsOrderedUniqueAndCompleteUnderConcurrentWriters) {
  MakeViommu();
  constexpr int kWriters = 2;
  constexpr int kRounds = 100;
  v1::WatchRequest request;
  request.add_kinds(v1::RESOURCE_KIND_VDEVICE);
  Reader early(*stub_, request);
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < kRounds; ++i) {
        const auto id = static_cast<uint64_t>(w * kRounds + i);
        const auto vdevice = Do(SetVdevId("v", DeviceOf(kGrace, w), id)).vdevice();
        Do(UnsetVdevId("v", id));
        Answer(*Recorded<v1::Vdevice>(vdevice.name()), v1::OUTCOME_RELEASED);
      }
    });
  }
  // One from the start, one from the middle of it all, resumed every now and then; both see the same life of each.
  const auto lives = [&](Reader* reader, bool resume) {
    std::map<std::string, std::string> seen;
    std::unique_ptr<Reader> resumed;
    int64_t last = 0;
    int complete = 0;
    while (complete < kWriters * kRounds) {
      const auto message = reader->Next();
      if (HasFailure()) return;
      if (!message.has_events()) continue;
      EXPECT_GT(message.revision(), last);
      last = message.revision();
      for (const auto& event : message.events().events()) {
        const auto& vdevice = event.resource().vdevice();
        std::string& life = seen[vdevice.name()];
        life += event.type() == v1::EVENT_TYPE_DELETED ? 'd' : vdevice.state() == v1::STATE_DELETING ? '-' : '+';
        if (life == "+-d") ++complete;
        EXPECT_TRUE(life == "+" || life == "+-" || life == "+-d") << vdevice.name() << " " << life;
      }
      if (resume && last % 17 == 0) {
        v1::WatchRequest from = request;
        from.set_start_revision(last);
        resumed = std::make_unique<Reader>(*stub_, from);
        reader = resumed.get();
      }
    }
  };
  std::thread steady([&] { lives(&early, false); });
  v1::WatchRequest beginning = request;
  beginning.set_start_revision(4);  // before any vdevice
  Reader late(*stub_, beginning);
  lives(&late, true);
  steady.join();
  for (std::thread& writer : writers) writer.join();
}

TEST_F(WatchTest, RevisionsThatAreNotThereAreRefused) {
  MakeViommu();
  v1::WatchRequest request;
  request.set_start_revision(core_->revision() + 1);
  const absl::Status unknown = Reader(*stub_, request).End();
  EXPECT_EQ(ReasonOf(unknown), v1::ERROR_REASON_REVISION_UNKNOWN) << unknown;
  request.set_start_revision(-1);
  EXPECT_EQ(ReasonOf(Reader(*stub_, request).End()), v1::ERROR_REASON_INVALID_FIELD);
  request.set_start_revision(0);
  request.add_kinds(v1::RESOURCE_KIND_UNSPECIFIED);
  EXPECT_EQ(ReasonOf(Reader(*stub_, request).End()), v1::ERROR_REASON_INVALID_FIELD);
}

// Where revisions come from is told once, and checked when it is given back.
TEST_F(WatchTest, ARevisionOfAnotherStoreIsRefused) {
  MakeViommu();
  Reader first(*stub_, v1::WatchRequest());
  const std::string origin = first.Next().origin();
  EXPECT_NE(origin, "");
  EXPECT_EQ(first.Next().origin(), "") << "said once";
  v1::WatchRequest request;
  request.set_start_revision(core_->revision() - 1);
  request.set_origin(origin);
  EXPECT_EQ(Reader(*stub_, request).Next().origin(), origin);

  const Identity& identity = core_->identity();
  const auto of = [](const std::string& store, int64_t epoch, const std::string& start) {
    return store + "/" + std::to_string(epoch) + "/" + start;
  };
  ASSERT_EQ(origin, of(identity.store_incarnation, identity.epoch, identity.start_id));
  for (const std::string& other :
       {of("another", identity.epoch, identity.start_id), of(identity.store_incarnation, identity.epoch, "another"),
        of(identity.store_incarnation, identity.epoch + 1, identity.start_id)}) {
    request.set_origin(other);
    const absl::Status refused = Reader(*stub_, request).End();
    EXPECT_EQ(refused.code(), StatusCode::kOutOfRange);
    EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_REVISION_UNKNOWN) << other << ": " << refused;
  }
  request.set_origin("made up");
  EXPECT_EQ(ReasonOf(Reader(*stub_, request).End()), v1::ERROR_REASON_INVALID_FIELD);
}

// What is there is read in chunks; what changes meanwhile comes from the log, and the mark after all of that.
TEST_F(WatchTest, ASnapshotIsReadInChunksBetweenChanges) {
  MakeViommu();
  constexpr int kDomains = 3 * kSnapshotChunkRecords;
  const auto name = [](int i) { return "n" + std::to_string(100'000 + i); };
  const auto run = [&](const auto& body) { ASSERT_TRUE(FunctionCommand::Run(*committer_, body).ok()); };
  run([&](const Context& context, Draft& draft) -> absl::Status {
    for (int i = 0; i < kDomains; ++i) {
      VIOMMU_RETURN_IF_ERROR(Judge(CreateNested("v", name(i)), context, draft).status());
    }
    return absl::OkStatus();
  });
  const int64_t start = core_->revision();
  v1::WatchRequest request;
  request.add_kinds(v1::RESOURCE_KIND_NESTED_DOMAIN);
  auto feed = WatchFeed::Open(*core_, request, MonotonicTime{}).value();
  v1::WatchResponse message;
  ASSERT_EQ(feed->Next(MonotonicTime{}, &message).value(), WatchFeed::Step::kMessage);
  EXPECT_EQ(message.events().events_size(), kSnapshotChunkRecords) << "no more while the writer waits";
  EXPECT_EQ(message.revision(), start);
  EXPECT_TRUE(message.events().more());

  // Behind and before what was read: one goes, one changes, one comes.
  const auto change = [&](int gone, int changed, const std::string& added) {
    run([&](const Context& context, Draft& draft) -> absl::Status {
      draft.Erase(Kind::kNestedDomain, "viommus/v/nestedDomains/" + name(gone));
      auto nested = *draft.Find<v1::NestedDomain>("viommus/v/nestedDomains/" + name(changed));
      (*nested.mutable_labels())["changed"] = "yes";
      nested.set_revision(context.revision);
      draft.Put(std::move(nested));
      return Judge(CreateNested("v", added), context, draft).status();
    });
  };
  change(0, 1, "a-first");
  change(kDomains - 1, kDomains - 2, "z-last");

  std::map<std::string, v1::NestedDomain> seen;
  const auto take = [&] {
    for (const v1::Event& event : message.events().events()) {
      const v1::NestedDomain& nested = event.resource().nested_domain();
      EXPECT_TRUE(event.type() != v1::EVENT_TYPE_EXISTING || nested.revision() <= start);
      if (event.type() == v1::EVENT_TYPE_DELETED) {
        seen.erase(nested.name());
      } else {
        seen[nested.name()] = nested;
      }
    }
  };
  take();
  while (!message.has_sync_mark()) {
    ASSERT_EQ(feed->Next(MonotonicTime{}, &message).value(), WatchFeed::Step::kMessage);
    take();
  }
  EXPECT_EQ(message.revision(), core_->revision());
  EXPECT_EQ(feed->Next(MonotonicTime{}, &message).value(), WatchFeed::Step::kIdle);
  const auto there =
      core_->Read([](const Tables& tables, int64_t) { return tables.Scan<v1::NestedDomain>("viommus/v/"); });
  ASSERT_EQ(seen.size(), there.size());
  for (const auto& nested : there) {
    EXPECT_EQ(seen[nested->name()].SerializeAsString(), nested->SerializeAsString()) << nested->name();
  }
}

TEST_F(WatchTest, TooManySnapshotsAtOnceAreRefused) {
  MakeViommu();
  std::vector<std::shared_ptr<void>> places;
  for (size_t i = 0; i < kMaxTestSnapshots; ++i) places.push_back(watches_->TakeSnapshotPlace().value());
  const absl::Status refused = Reader(*stub_, v1::WatchRequest()).End();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_OVERLOADED) << refused;
  ExpectDetails(refused);
  v1::WatchRequest resumed;
  resumed.set_start_revision(core_->revision() - 1);
  EXPECT_TRUE(Reader(*stub_, resumed).Next().has_events()) << "reads no snapshot";
  places.pop_back();
  // One after the other: each gives its place back when it has read what is there.
  for (size_t i = 0; i <= kMaxTestSnapshots; ++i) {
    Reader reader(*stub_, v1::WatchRequest());
    while (!reader.Next().has_sync_mark()) {
    }
    reader.Cancel();
    EXPECT_EQ(reader.End().code(), StatusCode::kCancelled);
    while (watches_->count() != 0) std::this_thread::yield();
  }
}

class AgingWatchTest : public WatchTest {
 protected:
  AgingWatchTest() : WatchTest(clock_) {}

  static inline FakeClock clock_;
};

TEST_F(AgingWatchTest, ACompactedRevisionIsToldOverTheWire) {
  MakeViommu();
  // The newest part of the log stays whatever its age: more than one is needed.
  for (int i = 0; core_->revision() < 3000; ++i) {
    v1::UpdateViommuLabelsRequest labels;
    labels.set_name("viommus/v");
    (*labels.mutable_labels())["k"] = std::to_string(i);
    ASSERT_TRUE(FunctionCommand::Run(*committer_, [&](const Context& context, Draft& draft) {
                  return Judge(labels, context, draft).status();
                }).ok());
  }
  clock_.Advance(std::chrono::hours(25));
  while (core_->log().oldest() == 0) std::this_thread::yield();  // the writer looks once a second
  v1::WatchRequest request;
  request.set_start_revision(1);
  const absl::Status compacted = Reader(*stub_, request).End();
  EXPECT_EQ(compacted.code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(compacted), v1::ERROR_REASON_REVISION_COMPACTED) << compacted;
  EXPECT_EQ(MetaOf(compacted, "oldest_revision"), std::to_string(core_->log().oldest()));
  request.set_start_revision(core_->log().oldest());
  EXPECT_TRUE(Reader(*stub_, request).Next().has_events());
}

TEST_F(AgingWatchTest, ProgressMarksComeOverTheWire) {
  v1::WatchRequest request;
  request.add_kinds(v1::RESOURCE_KIND_NESTED_DOMAIN);
  request.set_progress(true);
  Reader reader(*stub_, request);
  EXPECT_TRUE(reader.Next().has_sync_mark());
  MakeViommu();  // matches nothing
  clock_.Advance(std::chrono::seconds(5));
  const auto mark = reader.Next();
  EXPECT_TRUE(mark.has_progress());
  EXPECT_EQ(mark.revision(), core_->revision());
}

// One that kept its place for good would keep others from having one.
TEST_F(AgingWatchTest, AReaderThatTakesNothingIsBrokenOff) {
  MakeViommu();
  Reader silent(*stub_, v1::WatchRequest());
  Reader idle(*stub_, v1::WatchRequest());
  while (!idle.Next().has_sync_mark()) {
  }
  // Its time begins when its first message is under way.
  while (watches_->count() == 2) {
    clock_.Advance(kMaxWatchSend);
    std::this_thread::yield();
  }
  EXPECT_EQ(silent.End().code(), StatusCode::kCancelled);
  EXPECT_EQ(watches_->count(), 1);
  const int64_t revision = Do(SetVdevId("v", DeviceOf(kGrace, 0), 8)).revision();
  EXPECT_EQ(idle.NextEvents().revision(), revision) << "who waits for changes takes what there is";
}

TEST_F(WatchTest, TooManyWatchesAreRefused) {
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 4; ++i) {
    readers.push_back(std::make_unique<Reader>(*stub_, v1::WatchRequest()));
    readers.back()->Next();
  }
  const absl::Status refused = Reader(*stub_, v1::WatchRequest()).End();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_OVERLOADED);
  ExpectDetails(refused);
}

TEST_F(WatchTest, EndsWithTheServer) {
  Reader reader(*stub_, v1::WatchRequest());
  while (!reader.Next().has_sync_mark()) {
  }
  watches_->EndAll();
  EXPECT_EQ(ReasonOf(reader.End()), v1::ERROR_REASON_SHUTTING_DOWN);
  EXPECT_EQ(ReasonOf(Reader(*stub_, v1::WatchRequest()).End()), v1::ERROR_REASON_SHUTTING_DOWN);
}

// The feed alone, where the time and the reader are ours.
TEST_F(WatchTest, ProgressMarksComeWhenIdle) {
  v1::WatchRequest request;
  request.add_kinds(v1::RESOURCE_KIND_NESTED_DOMAIN);
  request.set_progress(true);
  MonotonicTime now{};
  auto feed = WatchFeed::Open(*core_, request, now).value();
  v1::WatchResponse message;
  EXPECT_EQ(feed->Next(now, &message).value(), WatchFeed::Step::kMessage);
  EXPECT_TRUE(message.has_sync_mark());
  MakeViommu();  // matches nothing
  EXPECT_EQ(feed->Next(now, &message).value(), WatchFeed::Step::kIdle);
  now += std::chrono::seconds(5);
  EXPECT_EQ(feed->Next(now, &message).value(), WatchFeed::Step::kMessage);
  EXPECT_TRUE(message.has_progress());
  EXPECT_EQ(message.revision(), core_->revision());
  EXPECT_EQ(feed->Next(now, &message).value(), WatchFeed::Step::kIdle);
}

TEST_F(WatchTest, LongRevisionsComeInParts) {
  MakeViommu();
  const int64_t before = core_->revision();
  // 600 nested domains with 4 KiB of labels each are more than two messages hold.
  constexpr int kDomains = 600;
  ASSERT_TRUE(FunctionCommand::Run(*committer_, [&](const Context& context, Draft& draft) -> absl::Status {
                for (int i = 0; i < kDomains; ++i) {
                  auto request = CreateNested("v", "n" + std::to_string(i));
                  for (int j = 0; j < 20; ++j) {
                    (*request.mutable_nested_domain()->mutable_labels())["k" + std::to_string(j)] =
                        std::string(200, 'x');
                  }
                  VIOMMU_RETURN_IF_ERROR(Judge(request, context, draft).status());
                }
                return absl::OkStatus();
              }).ok());
  for (const int64_t start : {before, int64_t{0}}) {
    v1::WatchRequest request;
    request.add_kinds(v1::RESOURCE_KIND_NESTED_DOMAIN);
    request.set_start_revision(start);
    auto feed = WatchFeed::Open(*core_, request, MonotonicTime{}).value();
    v1::WatchResponse message;
    int events = 0;
    int messages = 0;
    bool more = true;
    while (more) {
      ASSERT_EQ(feed->Next(MonotonicTime{}, &message).value(), WatchFeed::Step::kMessage);
      EXPECT_LT(message.ByteSizeLong(), size_t{1100} << 10);
      EXPECT_EQ(message.revision(), before + 1);
      events += message.events().events_size();
      more = message.events().more();
      ++messages;
    }
    EXPECT_EQ(events, kDomains);
    EXPECT_GT(messages, 2);
  }
}

// A reader that is behind is sent many revisions in a message, up to a size, each with its own number.
TEST_F(WatchTest, WhatHasGatheredComesTogether) {
  MakeViommu();
  v1::WatchRequest request;
  request.add_kinds(v1::RESOURCE_KIND_VIOMMU);
  request.set_start_revision(core_->revision());
  std::vector<int64_t> revisions;
  for (int i = 0; i < 300; ++i) {
    v1::UpdateViommuLabelsRequest labels;
    labels.set_name("viommus/v");
    (*labels.mutable_labels())["tier"] = std::to_string(i);
    for (int j = 0; j < 10; ++j) (*labels.mutable_labels())["k" + std::to_string(j)] = std::string(60, 'x');
    revisions.push_back(Do(labels).revision());
  }
  auto feed = WatchFeed::Open(*core_, request, MonotonicTime{}).value();
  std::vector<int64_t> told;
  int messages = 0;
  v1::WatchResponse message;
  while (feed->Next(MonotonicTime{}, &message).value() == WatchFeed::Step::kMessage) {
    ++messages;
    EXPECT_FALSE(message.events().more());
    EXPECT_LT(message.ByteSizeLong(), kWatchBatchBytes + 4096);
    for (const v1::Event& event : message.events().events()) {
      EXPECT_EQ(event.revision(), event.resource().viommu().revision());
      told.push_back(event.revision());
    }
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(message.revision(), told.back()) << "a reader goes on from there";
  }
  EXPECT_EQ(told, revisions);
  EXPECT_GT(messages, 1);
  EXPECT_LT(messages, 30);
}

TEST_F(WatchTest, ASlowReaderIsToldWhenItsPlaceIsGone) {
  MakeViommu();
  v1::WatchRequest request;
  request.add_kinds(v1::RESOURCE_KIND_VDEVICE);
  auto feed = WatchFeed::Open(*core_, request, MonotonicTime{}).value();
  v1::WatchResponse message;
  ASSERT_EQ(feed->Next(MonotonicTime{}, &message).value(), WatchFeed::Step::kMessage);
  Do(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  Do(SetVdevId("v", DeviceOf(kGrace, 1), 9));
  const_cast<ChangeLog&>(core_->log()).Compacted(core_->revision());
  const absl::Status compacted = feed->Next(MonotonicTime{}, &message).status();
  EXPECT_EQ(ReasonOf(compacted), v1::ERROR_REASON_REVISION_COMPACTED) << compacted;
  EXPECT_EQ(MetaOf(compacted, "oldest_revision"), std::to_string(core_->revision()));
}

TEST_F(WatchTest, AReaderThatDoesNotReadHoldsUpNobody) {
  MakeViommu();
  v1::WatchRequest request;
  request.set_host(kGrace);
  Reader stuck(*stub_, request);
  stuck.Next();
  v1::UpdateViommuLabelsRequest labels;
  labels.set_name("viommus/v");
  for (int i = 0; i < 200; ++i) {
    (*labels.mutable_labels())["k"] = std::string(200, static_cast<char>('a' + i % 26));
    Do(labels);
  }
  // And finds everything in its place when it reads again.
  int64_t last = 0;
  while (last < core_->revision()) {
    const auto message = stuck.NextEvents();
    EXPECT_GE(message.revision(), last);
    last = message.revision();
  }
}

}  // namespace
}  // namespace viommu::server
