// A reconciler over a fake backend and a journal on disk, with a session that a test plays.

#ifndef VIOMMU_AGENT_RECONCILE_RECONCILER_FIXTURE_H_
#define VIOMMU_AGENT_RECONCILE_RECONCILER_FIXTURE_H_

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/reconcile/fake_backend.h"
#include "agent/reconcile/guest_events.h"
#include "agent/reconcile/journal.h"
#include "agent/reconcile/kept.h"
#include "agent/reconcile/reconciler.h"
#include "agent/reconcile/targets.h"
#include "agent/reconcile/testing.h"
#include "common/fake_clock.h"

namespace viommu::agent {

class ReconcilerTest : public testing::Test {
 protected:
  ReconcilerTest() {
    std::string path = testing::TempDir() + "/reconciler-XXXXXX";
    directory_ = ::mkdtemp(path.data());
    Start();
  }

  // A process begins; the objects of the one before are gone with it.
  void Start() {
    reconciler_.reset();
    events_ = std::make_unique<GuestEvents>(GuestEvents::Options{.clock = &clock_});
    journal_.reset();
    targets_ = std::make_unique<Targets>();
    backend_.log.clear();
    auto journal = Journal::Open(PosixFileSystem(), directory_, {});
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal_ = *std::move(journal);
    Reconciler::Options options;
    options.host = "hosts/h1";
    options.boot_id = boot_id_;
    options.clock = &clock_;
    options.random = [] { return 1.0 - 1e-9; };
    if (reads_events_) options.events = events_.get();
    auto adopted = AdoptKept(journal_->state(), backend_, boot_id_);
    auto reconciler = Reconciler::Open(*journal_, backend_, *targets_, backend_.Discover().value(), std::move(options),
                                       std::move(adopted));
    ASSERT_TRUE(reconciler.ok()) << reconciler.status();
    reconciler_ = *std::move(reconciler);
  }

  v1::Welcome Welcome(int64_t epoch = 1) {
    v1::Welcome welcome;
    welcome.set_cluster_id("cluster");
    welcome.set_store_incarnation("store");
    welcome.set_epoch(epoch);
    welcome.set_start_id("start-" + std::to_string(epoch));
    welcome.set_revision(1000);
    return welcome;
  }

  // A session that is in sync.
  void Connect(int64_t revision = 1) {
    ASSERT_TRUE(reconciler_->BeginSession(Welcome()).ok());
    nonce_ = 0;
    v1::Desired desired;
    desired.set_sync_mark(true);
    desired.set_revision(revision);
    ASSERT_TRUE(Send(desired).ok());
  }

  absl::Status Send(v1::Desired desired) {
    desired.set_nonce(++nonce_);
    desired.set_epoch(1);
    return reconciler_->Accept(desired);
  }
  absl::Status Send(const std::vector<v1::Resource>& items, const std::vector<std::string>& unknown = {}) {
    v1::Desired desired;
    for (const auto& item : items) *desired.add_items() = item;
    for (const auto& uid : unknown) desired.add_unknown_uids(uid);
    return Send(desired);
  }

  // Works off what is due. "uid@generation OUTCOME [REASON]" of each result.
  std::vector<std::string> Run() {
    next_ = reconciler_->Run(1000);
    return Results();
  }
  std::vector<std::string> Results() {
    v1::Results results;
    std::vector<std::string> lines;
    while (reconciler_->TakeResults(1000, results)) {
      for (const auto& r : results.items()) {
        std::string line = fmt::format("{}@{} {}", r.uid(), r.generation(), v1::Outcome_Name(r.outcome()).substr(8));
        if (!r.reason().reason().empty()) line += " " + r.reason().reason();
        lines.push_back(line);
        last_[r.uid()] = r;
      }
      acknowledged_ = results.nonce();
    }
    return lines;
  }

  // A VM with one device attached to a nested domain.
  void MakeVm(const v1::Resource& nested = Nested("n", "v", "n", 4)) {
    Connect();
    ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5, 0, "n"), nested, Viommu("v", "v", 3), Stage2("s", "s2", 2)}).ok());
    ASSERT_THAT(Run(), testing::ElementsAre("d@5 APPLIED", "n@4 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
    backend_.log.clear();
  }

  std::string directory_;
  std::string boot_id_ = "boot-1";
  FakeClock clock_;
  FakeBackend backend_;
  bool reads_events_ = false;
  std::unique_ptr<GuestEvents> events_;
  std::unique_ptr<Targets> targets_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Reconciler> reconciler_;
  std::optional<MonotonicTime> next_;
  std::map<std::string, v1::ItemResult> last_;
  int64_t nonce_ = 0;
  int64_t acknowledged_ = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_RECONCILER_FIXTURE_H_
