// The sessions with all their threads: the writer's, the answering one, the sessions' own, one per agent and callers.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "server/commit/committer.h"
#include "server/commit/test_command.h"
#include "server/fleet/test_fleet.h"
#include "server/store/memory_store.h"
#include "server/sync/agent_sessions.h"

namespace viommu::server {
namespace {

using std::chrono::seconds;

// An agent on a thread of its own, which has everything applied that it is told. Its stream is a pair of queues.
class ThreadedAgent final : public AgentStream {
 public:
  ThreadedAgent(AgentSessions& sessions, const v1::Hello& hello) {
    v1::ConnectRequest request;
    *request.mutable_hello() = hello;
    outbox_.push_back(std::move(request));
    session_ = sessions.Open(this, Peer{"test:1", false, {}});
    thread_ = std::thread([this] { Run(); });
  }
  ~ThreadedAgent() override { thread_.join(); }

  // Hangs up.
  void Leave() {
    MutexLock lock(mu_);
    leaving_ = true;
    work_.NotifyOne();
  }

  // --- AgentStream: from any thread.

  void Read() override {
    MutexLock lock(mu_);
    reading_ = true;
    work_.NotifyOne();
  }
  void Write(std::unique_ptr<v1::ConnectResponse> message) override {
    MutexLock lock(mu_);
    EXPECT_EQ(inbox_, nullptr) << "two writes at once";
    inbox_ = std::move(message);
    work_.NotifyOne();
  }
  void Cancel() override { Leave(); }
  void Finish(const absl::Status&) override {
    MutexLock lock(mu_);
    finished_ = true;
    work_.NotifyOne();
  }

 private:
  void Run() {
    for (;;) {
      std::unique_ptr<v1::ConnectResponse> in;
      std::unique_ptr<v1::ConnectRequest> out;
      bool ended = false;
      bool written = false;
      {
        MutexLock lock(mu_);
        while (inbox_ == nullptr && !finished_ && !(reading_ && (leaving_ || !outbox_.empty()))) work_.Wait(mu_);
        if (finished_) break;
        in = std::move(inbox_);
        written = !leaving_;
        if (reading_ && leaving_) {
          ended = true;
          reading_ = false;
        } else if (reading_ && !outbox_.empty()) {
          out = std::make_unique<v1::ConnectRequest>(std::move(outbox_.front()));
          outbox_.pop_front();
          reading_ = false;
        }
      }
      if (in != nullptr) {
        Answer(*in);
        session_->Written(written);
      }
      if (out != nullptr) session_->Heard(std::move(out));
      if (ended) session_->StreamEnded();
    }
    bool reading;
    {
      MutexLock lock(mu_);
      reading = reading_;
    }
    if (reading) session_->StreamEnded();
    session_->Gone();
  }

  void Answer(const v1::ConnectResponse& message) {
    v1::ConnectRequest request;
    if (message.has_invalidate_call()) {
      request.mutable_invalidate_reply()->set_call_id(message.invalidate_call().call_id());
      request.mutable_invalidate_reply()->mutable_result()->set_handled(1);
    } else if (message.has_desired()) {
      request.mutable_results()->set_nonce(message.desired().nonce());
      for (const v1::Resource& item : message.desired().items()) {
        const auto add = [&](const auto& resource) {
          const bool gone = resource.state() == v1::STATE_DELETING;
          *request.mutable_results()->add_items() =
              ResultFor(resource, gone ? v1::OUTCOME_RELEASED : v1::OUTCOME_APPLIED);
        };
        if (item.has_stage2_domain()) add(item.stage2_domain());
        if (item.has_viommu()) add(item.viommu());
        if (item.has_vdevice()) add(item.vdevice());
      }
    } else {
      return;
    }
    MutexLock lock(mu_);
    outbox_.push_back(std::move(request));
  }

  std::shared_ptr<AgentSession> session_;
  std::thread thread_;
  Mutex mu_;
  CondVar work_;
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<v1::ConnectResponse> inbox_ ABSL_GUARDED_BY(mu_);
  std::deque<v1::ConnectRequest> outbox_ ABSL_GUARDED_BY(mu_);
};

class AgentSessionsConcurrentTest : public testing::Test {
 protected:
  static constexpr int kHosts = 3;
  static constexpr int kRounds = 40;

  AgentSessionsConcurrentTest() {
    core_ =
        CommitCore::Open(store_, RealClock(), [this] { return "uid-" + std::to_string(++uids_); }, {.boot_id = "boot"})
            .value();
    AgentSessions::Options options;
    options.tick_interval = std::chrono::milliseconds(5);
    sessions_ = std::make_unique<AgentSessions>(
        *core_, [this](Command* command) { return committer_->Submit(command); }, RealClock(), options);
    core_->AddListener(sessions_.get());
    committer_ = std::make_unique<Committer>(*core_, Committer::Options());
    sessions_->Start();
  }
  ~AgentSessionsConcurrentTest() override {
    sessions_->Shutdown(seconds(10));
    for (auto& agent : agents_) agent.reset();
    committer_->Stop();
  }

  static std::string HostName(int host) { return "hosts/h" + std::to_string(host); }
  static v1::Hello HelloFrom(int host) { return HelloOf(HostName(host), v1::STAGE2_SHARING_SHARED, 16); }

  template <typename Request>
  void Do(const Request& request) {
    TestCommand command([&](const Context& context, Draft& draft) { return Judge(request, context, draft).status(); });
    ASSERT_TRUE(committer_->Submit(&command).ok());
    command.done.wait(false);
    ASSERT_TRUE(command.status.ok()) << command.status;
  }

  void AwaitConnected(int host) {
    while (!core_->Read([&](const Tables& tables, int64_t) {
      const auto record = tables.Find<v1::Host>(HostName(host));
      return record != nullptr && record->state() == v1::HOST_STATE_CONNECTED;
    })) {
      std::this_thread::yield();
    }
  }
  template <typename T>
  std::shared_ptr<const T> Find(const std::string& name) const {
    return core_->Read([&](const Tables& tables, int64_t) { return tables.Find<T>(name); });
  }

  MemoryStore store_;
  std::atomic<int> uids_ = 0;
  std::unique_ptr<CommitCore> core_;
  std::unique_ptr<AgentSessions> sessions_;
  std::unique_ptr<Committer> committer_;
  std::array<std::unique_ptr<ThreadedAgent>, kHosts> agents_;
};

TEST_F(AgentSessionsConcurrentTest, ChangesResultsCallsAndReconnectsAtOnce) {
  for (int host = 0; host < kHosts; ++host) {
    agents_[static_cast<size_t>(host)] = std::make_unique<ThreadedAgent>(*sessions_, HelloFrom(host));
    AwaitConnected(host);
  }
  std::atomic<bool> end = false;
  std::atomic<int> answered = 0;
  std::thread looker([&] {
    while (!end.load()) {
      sessions_->stats();
      static_cast<void>(sessions_->Find(HostName(0)));
      sessions_->Invalidate(HostName(1), "uid", {v1::Command()}, std::chrono::system_clock::now() + seconds(30),
                            [&](absl::StatusOr<v1::InvalidationResult>) { ++answered; });
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> callers;
  for (int host = 0; host < kHosts; ++host) {
    callers.emplace_back([&, host] {
      const std::string id = "h" + std::to_string(host);
      Do(CreateStage2(id, HostName(host)));
      Do(CreateViommu(id, SmmuOf(HostName(host), 0), id));
      for (int round = 0; round < kRounds; ++round) {
        const auto vdev_id = static_cast<uint64_t>(round);
        const std::string name = VdeviceName(ViommuName(id), vdev_id);
        Do(SetVdevId(id, DeviceOf(HostName(host), 0), vdev_id));
        while (Find<v1::Vdevice>(name)->state() != v1::STATE_READY) std::this_thread::yield();
        Do(UnsetVdevId(id, vdev_id));
        // Its answer may get lost with the old session; the difference after the hello asks for it anew.
        if (host == 0 && round % 8 == 0) {
          auto& agent = agents_[0];
          agent->Leave();
          agent.reset();
          agent = std::make_unique<ThreadedAgent>(*sessions_, HelloFrom(host));
        }
        while (Find<v1::Vdevice>(name) != nullptr) std::this_thread::yield();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  end.store(true);
  looker.join();
  sessions_->Shutdown(seconds(10));
  EXPECT_GT(answered.load(), 0);
  EXPECT_EQ(sessions_->stats().streams, 0);
  EXPECT_EQ(core_->Read([](const Tables& tables, int64_t) { return tables.size(Kind::kVdevice); }), 0);
}

}  // namespace
}  // namespace viommu::server
