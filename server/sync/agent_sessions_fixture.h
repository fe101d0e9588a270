// The sessions over a real writer, with agents and a clock that a test plays.

#ifndef VIOMMU_SERVER_SYNC_AGENT_SESSIONS_FIXTURE_H_
#define VIOMMU_SERVER_SYNC_AGENT_SESSIONS_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/fake_clock.h"
#include "server/commit/test_command.h"
#include "server/fleet/test_fleet.h"
#include "server/store/memory_store.h"
#include "server/sync/agent_sessions.h"
#include "server/sync/test_agent.h"

namespace viommu::server {

// Real writer's core over a store in memory; the queue in front of it and all threads are the test's.
class AgentSessionsTest : public testing::Test {
 protected:
  AgentSessionsTest() { Start(); }
  ~AgentSessionsTest() override { Stop(); }

  void Start() {
    auto core = CommitCore::Open(
        store_, clock_, [this] { return "uid-" + std::to_string(++uids_); }, core_options_);
    ASSERT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
    sessions_ = std::make_unique<AgentSessions>(
        *core_,
        [this](Command* command) -> absl::Status {
          if (queue_full_) return absl::ResourceExhaustedError("full");
          queue_.push_back(command);
          return absl::OkStatus();
        },
        clock_, options_);
    core_->AddListener(sessions_.get());
  }
  // As main does: sessions first, then the writer.
  void Stop() {
    sessions_->Shutdown(std::chrono::milliseconds(0));
    Settle();
    for (auto& agent : agents_) EXPECT_TRUE(agent->finished().has_value());
    agents_.clear();
    sessions_.reset();
    core_.reset();
  }
  void Restart() {
    Stop();
    Start();
  }

  // Carries out whatever waits, until nothing does.
  void Settle() {
    do {
      std::vector<Command*> batch = std::exchange(queue_, {});
      const auto outcomes = core_->Run(batch);
      ASSERT_EQ(outcomes.size(), batch.size());
      for (size_t i = 0; i < batch.size(); ++i) batch[i]->Done(outcomes[i].status, outcomes[i].revision);
      sessions_->RunReady();
    } while (!queue_.empty() || sessions_->RunReady());
  }
  void Advance(std::chrono::milliseconds by) {
    clock_.Advance(by);
    sessions_->Tick();
    Settle();
  }

  template <typename Request>
  absl::Status TryDo(const Request& request) {
    TestCommand command([&](const Context& context, Draft& draft) { return Judge(request, context, draft).status(); });
    const absl::Status status = command.RunOn(*core_);
    Settle();
    return status;
  }
  template <typename Request>
  void Do(const Request& request) {
    const absl::Status status = TryDo(request);
    EXPECT_TRUE(status.ok()) << status;
  }

  TestAgent& Open(Peer peer = {"test:1", false, {}}) {
    agents_.push_back(std::make_unique<TestAgent>(*sessions_, std::move(peer)));
    return *agents_.back();
  }
  TestAgent& Connect(const v1::Hello& hello) {
    TestAgent& agent = Open();
    agent.SayHello(hello);
    Settle();
    return agent;
  }

  template <typename T>
  T Get(const std::string& name) const {
    const auto found = core_->Read([&](const Tables& tables, int64_t) { return tables.Find<T>(name); });
    EXPECT_NE(found, nullptr) << name;
    return found == nullptr ? T() : *found;
  }
  v1::HostState StateOf(const std::string& host) const { return Get<v1::Host>(host).state(); }

  // Everything that is recorded.
  std::map<std::string, std::string> Record() const {
    return core_->Read([](const Tables& tables, int64_t revision) {
      std::map<std::string, std::string> record = {{"revision", std::to_string(revision)}};
      for (const Kind kind : kKinds) {
        tables.ScanRecords(kind, "", "", [&](const RecordPtr& each) {
          record[std::string(KindName(kind)) + UidOf(kind, *each)] = each->ShortDebugString();
          return true;
        });
      }
      return record;
    });
  }

  static void ExpectFinished(const TestAgent& agent, absl::StatusCode code, v1::ErrorReason reason) {
    ASSERT_TRUE(agent.finished().has_value());
    EXPECT_EQ(agent.finished()->code(), code) << *agent.finished();
    EXPECT_EQ(ReasonName(ReasonOf(*agent.finished())), ReasonName(reason)) << *agent.finished();
  }

  static std::vector<std::string> NamesOf(const std::vector<v1::Resource>& items) {
    std::vector<std::string> names;
    for (const v1::Resource& item : items) {
      names.push_back(item.has_stage2_domain() ? item.stage2_domain().name()
                      : item.has_viommu()      ? item.viommu().name()
                      : item.has_vdevice()     ? item.vdevice().name()
                                               : item.nested_domain().name());
    }
    return names;
  }
  // A hello of the host with what it holds of the record: everything, settled.
  v1::Hello HelloHolding(v1::Hello hello, const std::vector<std::string>& viommus,
                         const std::vector<std::string>& stage2s) const {
    hello.set_cluster_id(core_->identity().cluster_id);
    hello.set_store_incarnation(core_->identity().store_incarnation);
    hello.set_epoch(core_->identity().epoch);
    hello.set_start_id(core_->identity().start_id);
    hello.set_revision(core_->revision());
    const auto hold = [&hello](const auto& record) {
      v1::HeldItem& item = *hello.add_held();
      item.set_uid(record.uid());
      item.set_generation(record.generation());
      item.set_settled(true);
    };
    for (const std::string& name : stage2s) hold(Get<v1::Stage2Domain>(name));
    for (const std::string& name : viommus) hold(Get<v1::Viommu>(name));
    return hello;
  }

  using Names = std::vector<std::string>;

  MemoryStore store_;
  FakeClock clock_;
  CommitCore::Options core_options_{.boot_id = "boot"};
  AgentSessions::Options options_;
  int uids_ = 0;
  std::vector<Command*> queue_;
  bool queue_full_ = false;
  std::unique_ptr<CommitCore> core_;
  std::unique_ptr<AgentSessions> sessions_;
  std::vector<std::unique_ptr<TestAgent>> agents_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_AGENT_SESSIONS_FIXTURE_H_
