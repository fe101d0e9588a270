// kill -9 under load: what was acknowledged is there afterwards, what was not happened wholly or not at all, and a
// watch that is resumed across all of it has seen every change once and in order.
//
//   VIOMMU_CRASH_KILLS   kills and faults of each test instead of the numbers below

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/grpc_error.h"
#include "tests/crash/witnesses.h"
#include "tests/harness/cluster.h"
#include "tests/harness/faulty_disk.h"
#include "viommu/v1/local_service.grpc.pb.h"

namespace viommu::tests {
namespace {

constexpr int kServerKills = 50;
constexpr int kAgentKills = 20;
constexpr int kMixedKills = 24;
constexpr int kDiskFaults = 24;
constexpr int kAgentDiskFaults = 12;
constexpr int kWorkers = 8;  // on each host
constexpr char kHost[] = "grace-01";
constexpr char kOtherHost[] = "grace-02";
constexpr char kInventory[] = "deploy/inventory/grace.yaml";
// A server that comes and goes is otherwise tried ever more slowly, and there would be nothing to break.
constexpr char kEagerly[] = "--longest-retry=300ms";

int Kills(int if_not_set) {
  const char* value = std::getenv("VIOMMU_CRASH_KILLS");
  return value != nullptr ? std::atoi(value) : if_not_set;
}

class CrashTest : public testing::Test {
 protected:
  explicit CrashTest(std::vector<std::string> hosts = {kHost}) : hosts_(std::move(hosts)) {}

  void SetUp() override {
    cluster_.StartServer();
    for (const std::string& host : hosts_) {
      StartAgent(host);
      cluster_.WaitConnected(host);
      ASSERT_NO_FATAL_FAILURE(GiveWork(host));
    }
  }

  void StartAgent(const std::string& host) { cluster_.StartAgent(host, kInventory, {kEagerly}); }

  // A VM on the host, and workers each with a device of it.
  void GiveWork(const std::string& host) {
    const std::string vm = "vm-" + host;
    Must(&Stub::CreateStage2Domain, [&](v1::CreateStage2DomainRequest& request) {
      request.set_stage2_domain_id(vm);
      request.mutable_stage2_domain()->set_host("hosts/" + host);
      request.mutable_stage2_domain()->set_vm(vm);
    });
    v1::ListDevicesRequest request;
    v1::ListDevicesResponse response;
    request.set_host("hosts/" + host);
    ASSERT_TRUE(Cluster::Call(cluster_.stub(), &Stub::ListDevices, request, &response).ok());
    ASSERT_GE(response.devices_size(), kWorkers);
    for (int i = 0; i < kWorkers; ++i) {
      const v1::Device& device = response.devices(i);
      if (viommu_of_.count(device.smmu()) == 0) {
        const std::string id = "v" + std::to_string(viommu_of_.size());
        Must(&Stub::CreateViommu, [&](v1::CreateViommuRequest& create) {
          create.set_viommu_id(id);
          create.mutable_viommu()->set_smmu(device.smmu());
          create.mutable_viommu()->set_stage2_domain("stage2Domains/" + vm);
        });
        viommu_of_[device.smmu()] = "viommus/" + id;
      }
      const auto number = static_cast<uint64_t>(workers_.size());
      workers_.push_back(std::make_unique<Worker>(cluster_, viommu_of_[device.smmu()], device.name(),
                                                  (number + 1) * kIdsPerWorker, number, stop_, acknowledged_,
                                                  verdict_));
    }
  }

  template <typename Request, typename Response, typename Fill>
  void Must(Cluster::Method<Request, Response> method, Fill fill) {
    Request request;
    Response response;
    fill(request);
    const grpc::Status status = Cluster::Call(cluster_.stub(), method, request, &response);
    ASSERT_TRUE(status.ok()) << FromGrpcStatus(status) << cluster_.Outputs();
  }

  void StartWorkers() {
    for (auto& worker : workers_) threads_.emplace_back([&worker] { worker->Run(); });
  }

  void StopWorkers() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  // The server comes back with all that it had acknowledged.
  void KillTheServer() {
    cluster_.server().Kill();
    const int64_t acknowledged = acknowledged_;
    cluster_.StartServer();
    if (const int64_t revision = Revision(); revision < acknowledged) {
      verdict_.Fail("revision " + std::to_string(revision) + " after a kill, but " + std::to_string(acknowledged) +
                    " was acknowledged");
    }
  }

  void KillTheAgent(const std::string& host) {
    cluster_.agent(host).Kill();
    StartAgent(host);
  }

  int64_t Revision() {
    v1::GetServerStatusRequest request;
    v1::GetServerStatusResponse response;
    const grpc::Status status = Cluster::Call(cluster_.stub(), &Stub::GetServerStatus, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.revision();
  }

  std::map<std::string, v1::Vdevice> Vdevices() {
    v1::ListVdevicesRequest request;
    v1::ListVdevicesResponse response;
    request.set_page_size(1000);
    const grpc::Status status = Cluster::Call(cluster_.stub(), &Stub::ListVdevices, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::map<std::string, v1::Vdevice> vdevices;
    for (const auto& vdevice : response.vdevices()) vdevices[vdevice.name()] = vdevice;
    return vdevices;
  }

  // What the agent itself says it holds, by name.
  std::map<std::string, v1::HeldObject> HeldByTheAgent(const std::string& host) {
    const auto stub = v1::LocalService::NewStub(
        grpc::CreateChannel("unix:" + cluster_.socket_path(host), grpc::InsecureChannelCredentials()));
    std::map<std::string, v1::HeldObject> held;
    v1::ListHeldObjectsRequest request;
    request.set_page_size(1000);
    do {
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
      v1::ListHeldObjectsResponse response;
      const grpc::Status status = stub->ListHeldObjects(&context, request, &response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      for (const auto& object : response.objects()) {
        if (object.resource().has_vdevice()) held[object.resource().vdevice().name()] = object;
      }
      request.set_page_token(response.next_page_token());
    } while (!request.page_token().empty());
    return held;
  }

  // The agent holds what is recorded, in that generation, with kernel objects behind it; and it is real: the guest's
  // StreamID is known to the SMMU.
  void ExpectTheAgentHolds(const std::string& host, const std::map<std::string, v1::Vdevice>& recorded) {
    const auto held = HeldByTheAgent(host);
    EXPECT_EQ(held.size(), recorded.size());
    for (const auto& [name, vdevice] : recorded) {
      const auto it = held.find(name);
      ASSERT_NE(it, held.end()) << name << " is recorded, and its agent does not hold it";
      const v1::HeldObject& object = it->second;
      EXPECT_EQ(object.outcome(), v1::HeldObject::OUTCOME_APPLIED) << object.ShortDebugString();
      EXPECT_EQ(object.resource().vdevice().uid(), vdevice.uid());
      EXPECT_EQ(object.resource().vdevice().generation(), vdevice.generation()) << name;
      EXPECT_EQ(object.resource().vdevice().vdev_id(), vdevice.vdev_id());
      EXPECT_GT(object.kernel_ids().count("vdevice"), 0u) << object.ShortDebugString();
      EXPECT_GT(object.kernel_ids().count("device"), 0u) << object.ShortDebugString();
      v1::InvalidateRequest request;
      v1::InvalidateResponse response;
      request.set_target(vdevice.viommu());
      request.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(static_cast<uint32_t>(vdevice.vdev_id()));
      grpc::Status status;
      // After a start of the server the host counts as connected for a while before its agent is back.
      Eventually(30, [&] {
        status = Cluster::Call(cluster_.stub(), &Stub::Invalidate, request, &response);
        return status.error_code() != grpc::StatusCode::UNAVAILABLE;
      });
      EXPECT_TRUE(status.ok()) << FromGrpcStatus(status);
      EXPECT_EQ(response.result().handled(), 1u) << name << ": " << response.result().ShortDebugString();
    }
  }

  // Everything that is recorded is in effect on the host, and nothing else is recorded than what was acknowledged.
  void ExpectConverged() {
    const auto settled = [&] {
      const auto vdevices = Vdevices();
      for (const auto& [name, vdevice] : vdevices) {
        if (vdevice.state() != v1::STATE_READY || vdevice.observed_generation() != vdevice.generation()) return false;
      }
      return true;
    };
    EXPECT_TRUE(Eventually(30, settled)) << cluster_.Outputs();
    const auto vdevices = Vdevices();
    size_t owned = 0;
    for (const auto& worker : workers_) {
      if (worker->owner().empty()) continue;
      ++owned;
      ASSERT_EQ(vdevices.count(worker->owner()), 1u) << worker->owner() << " was acknowledged and is gone";
      EXPECT_EQ(vdevices.at(worker->owner()).device(), worker->device());
    }
    EXPECT_EQ(vdevices.size(), owned);
    for (const std::string& host : hosts_) {
      cluster_.WaitConnected(host);
      std::map<std::string, v1::Vdevice> of_host;
      for (const auto& [name, vdevice] : vdevices) {
        if (vdevice.device().rfind("hosts/" + host + "/", 0) == 0) of_host[name] = vdevice;
      }
      ExpectTheAgentHolds(host, of_host);
    }
  }

  // The watch has told every acknowledged change (that none comes twice or too late it looks after itself), and what
  // it told adds up to what is there.
  void ExpectWatched(Watcher& watcher) {
    EXPECT_TRUE(watcher.ReachesRevision(Revision(), 20)) << "the watch does not catch up";
    watcher.Stop();
    ASSERT_FALSE(verdict_.failed()) << verdict_.what();
    std::map<std::string, int64_t> recorded;
    for (const auto& [name, vdevice] : Vdevices()) recorded[name] = vdevice.revision();
    EXPECT_EQ(watcher.vdevices(), recorded) << "what the watch told does not add up to what is there";
    for (const auto& worker : workers_) {
      for (const Change& change : worker->changes()) {
        if (change.first <= watcher.synced_at()) continue;
        ASSERT_EQ(watcher.seen().count(change), 1u)
            << change.second << " at revision " << change.first << " was acknowledged, and the watch has not told it";
      }
    }
  }

  // Tells what was done, for docs/track-record.md.
  void Report(const std::string& what, int kills) {
    size_t changes = 0;
    for (const auto& worker : workers_) changes += worker->changes().size();
    std::printf("%d %s, %zu acknowledged changes\n", kills, what.c_str(), changes);
    EXPECT_GT(changes, static_cast<size_t>(kills)) << "the load was no load";
  }

  const std::vector<std::string> hosts_;

  std::mt19937_64 random_{20260101};
  Cluster cluster_;
  Verdict verdict_;
  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> acknowledged_ = 0;
  std::map<std::string, std::string> viommu_of_;  // SMMU -> viommu
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

// Promises 6, 7 and 8.
TEST_F(CrashTest, KillingTheServerLosesNothing) {
  const int kills = Kills(kServerKills);
  Watcher watcher(cluster_, verdict_);
  StartWorkers();
  for (int kill = 0; kill < kills && !verdict_.failed(); ++kill) {
    // Long enough for the agent to be back at times, short enough to hit everything else as well.
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + random_() % 600));
    KillTheServer();
  }
  StopWorkers();
  ASSERT_FALSE(verdict_.failed()) << verdict_.what() << cluster_.Outputs();
  ExpectConverged();
  ExpectWatched(watcher);
  Report("kills of the server, watch resumed " + std::to_string(watcher.resumed()) + " times", kills);
}

// Promises 5 and 10.
TEST_F(CrashTest, KillingTheAgentLosesNothing) {
  const int kills = Kills(kAgentKills);
  Watcher watcher(cluster_, verdict_);
  StartWorkers();
  for (int kill = 0; kill < kills && !verdict_.failed(); ++kill) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50 + random_() % 300));
    KillTheAgent(kHost);
  }
  StopWorkers();
  ASSERT_FALSE(verdict_.failed()) << verdict_.what() << cluster_.Outputs();
  cluster_.WaitConnected(kHost);
  ExpectConverged();
  ExpectWatched(watcher);
  Report("kills of the agent", kills);
}

class TwoHostsTest : public CrashTest {
 protected:
  TwoHostsTest() : CrashTest({kHost, kOtherHost}) {}
};

// All of these promises at once: what one of them survives is what another left half-done.
TEST_F(TwoHostsTest, KillingTheServerAndAgentsLosesNothing) {
  const int kills = Kills(kMixedKills);
  Watcher watcher(cluster_, verdict_);
  StartWorkers();
  for (int kill = 0; kill < kills && !verdict_.failed(); ++kill) {
    // Shorter than it takes them to find each other, too: the next kill is that of a session that begins.
    std::this_thread::sleep_for(std::chrono::milliseconds(random_() % 500));
    const size_t which = random_() % (hosts_.size() + 1);
    which == hosts_.size() ? KillTheServer() : KillTheAgent(hosts_[which]);
  }
  StopWorkers();
  ASSERT_FALSE(verdict_.failed()) << verdict_.what() << cluster_.Outputs();
  for (const std::string& host : hosts_) cluster_.WaitConnected(host);
  ExpectConverged();
  ExpectWatched(watcher);
  Report("kills of the server or one of two agents", kills);
}

// A disk that fills up, does not sync, or fails now and then, with kill -9 in the middle of it.
class FaultyDiskTest : public CrashTest {
 protected:
  FaultyDiskTest() { WriteFile(switch_, std::string(1, '\0')); }

  // The disk below `folder`, for the program whose environment this becomes.
  std::vector<std::string> Environment(const std::string& folder) const {
    return {"LD_PRELOAD=" + Runfile("tests/harness/libfaulty_disk.so"), "VIOMMU_FAULTY_DISK=" + folder + ":" + switch_};
  }

  // In place: the file is mapped by the program.
  void Set(DiskFault fault) {
    std::fstream file(switch_, std::ios::in | std::ios::out | std::ios::binary);
    file.put(static_cast<char>(fault));
  }

  // Lets the disk fail in that many rounds, in some of which `kill` ends the program and starts it again, with the
  // disk as it should be from in between on. `check` is called while it fails. Returns how often it was killed.
  int FailAndKill(int rounds, const std::function<void()>& check, const std::function<void()>& kill) {
    int kills = 0;
    for (int round = 0; round < rounds && !verdict_.failed(); ++round) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20 + random_() % 300));
      Set(std::array{DiskFault::kFull, DiskFault::kNotSynced, DiskFault::kFlaky}[static_cast<size_t>(round) % 3]);
      std::this_thread::sleep_for(std::chrono::milliseconds(20 + random_() % 300));
      check();
      if (random_() % 3 == 0) {
        kill();
        ++kills;
      }
      Set(DiskFault::kNone);
      const int64_t before = acknowledged_;
      if (!Eventually(20, [&] { return acknowledged_ > before || verdict_.failed(); })) {
        verdict_.Fail("the disk is well again, and in round " + std::to_string(round) + " nothing goes on");
      }
      if (const int64_t revision = Revision(); revision < before) {
        verdict_.Fail("revision " + std::to_string(revision) + ", but " + std::to_string(before) + " was acknowledged");
      }
    }
    return kills;
  }

  const std::string switch_ = cluster_.dir() / "disk.fault";
};

class FaultyServerDiskTest : public FaultyDiskTest {
 protected:
  FaultyServerDiskTest() { cluster_.SetServerEnvironment(Environment(cluster_.store_path())); }
};

// Promise 6: what was acknowledged is there whatever the disk did, reads go on meanwhile, and once it is well again the
// server takes changes again by itself.
TEST_F(FaultyServerDiskTest, LosesNothing) {
  const int rounds = Kills(kDiskFaults);
  Watcher watcher(cluster_, verdict_);
  StartWorkers();
  const auto check = [this] {
    if (!cluster_.server().running()) return verdict_.Fail("the server ended");
    if (Revision() < acknowledged_) verdict_.Fail("a read behind what was acknowledged");
  };
  const auto kill = [this] {
    cluster_.server().Kill();
    Set(DiskFault::kNone);
    cluster_.StartServer();
  };
  const int kills = FailAndKill(rounds, check, kill);
  StopWorkers();
  ASSERT_FALSE(verdict_.failed()) << verdict_.what() << cluster_.Outputs();
  kill();  // what the disk made of it is what a new process finds
  ExpectConverged();
  ExpectWatched(watcher);
  Report("faults of the server's disk, " + std::to_string(kills) + " kills in the middle of them", rounds);
  EXPECT_NE(cluster_.server().output().find("store takes no writes"), std::string::npos) << "no fault was felt";
}

class FaultyAgentDiskTest : public FaultyDiskTest {
 protected:
  FaultyAgentDiskTest() { cluster_.SetAgentEnvironment(Environment(cluster_.state_path(kHost))); }
};

// Promises 5 and 10 on such a disk: what the agent's journal could not take is not done, what runs goes on, and once
// the disk is well again the agent takes commands again by itself.
TEST_F(FaultyAgentDiskTest, LosesNothing) {
  const int rounds = Kills(kAgentDiskFaults);
  Watcher watcher(cluster_, verdict_);
  StartWorkers();
  const auto check = [this] {
    if (!cluster_.agent(kHost).running()) verdict_.Fail("the agent ended");
  };
  const auto kill = [this] {
    cluster_.agent(kHost).Kill();
    Set(DiskFault::kNone);
    StartAgent(kHost);
  };
  const int kills = FailAndKill(rounds, check, kill);
  StopWorkers();
  ASSERT_FALSE(verdict_.failed()) << verdict_.what() << cluster_.Outputs();
  kill();
  ExpectConverged();
  ExpectWatched(watcher);
  Report("faults of the agent's disk, " + std::to_string(kills) + " kills in the middle of them", rounds);
  EXPECT_TRUE(cluster_.AgentLogHas(kHost, "No space left on device")) << "no fault was felt";
}

}  // namespace
}  // namespace viommu::tests
