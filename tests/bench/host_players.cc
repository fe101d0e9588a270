#include "tests/bench/host_players.h"

#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <random>
#include <unordered_map>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "agent/reconcile/backoff.h"
#include "agent/session/client.h"
#include "common/grpc_error.h"
#include "common/uuid.h"
#include "viommu/v1/agent_service.grpc.pb.h"

namespace viommu::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick(100);

}  // namespace

std::string PlayedHost(int host) { return fmt::format("hosts/h{}", host); }
std::string PlayedSmmu(int host) { return PlayedHost(host) + "/smmus/s0"; }
std::string PlayedDevice(int host, int device) {
  return fmt::format("{}/devices/{:04x}:{:02x}:{:02x}.{}", PlayedHost(host), device >> 11, (device >> 8) & 7,
                     (device >> 3) & 31, device & 7);
}

// One host. Its state outlives its streams.
class HostPlayer {
 public:
  HostPlayer(HostPlayers& owner, int number) : owner_(owner), number_(number), random_(static_cast<unsigned>(number)) {}

  void Want(bool connected) {
    std::unique_lock lock(mu_);
    wanted_ = connected;
    next_ = Clock::now();
    if (connected || stream_ == nullptr) return;
    stream_->context.TryCancel();
    gone_.wait(lock, [this] { return stream_ == nullptr; });
  }

  void AddHeld(std::map<std::string, int64_t>& held) {
    std::lock_guard lock(mu_);
    held.insert(held_.begin(), held_.end());
  }

  // Connects when it is time to, and says that it lives.
  void Tick(Clock::time_point now) {
    std::lock_guard lock(mu_);
    if (stream_ == nullptr) {
      if (wanted_ && now >= next_) Begin();
      return;
    }
    if (lease_ == Clock::duration::zero() || now - said_ < lease_ / 3) return;
    v1::ConnectRequest message;
    message.mutable_heartbeat()->set_epoch(epoch_);
    message.mutable_heartbeat()->set_revision(revision_);
    Say(std::move(message));
  }

 private:
  struct Stream final : grpc::ClientBidiReactor<v1::ConnectRequest, v1::ConnectResponse> {
    explicit Stream(HostPlayer& player) : host(player) {}
    void OnReadDone(bool ok) override {
      if (!ok) return;
      host.Heard(*this);
      StartRead(&response);
    }
    void OnWriteDone(bool ok) override { host.Said(*this, ok); }
    void OnDone(const grpc::Status& status) override { host.Ended(status); }

    HostPlayer& host;
    grpc::ClientContext context;
    v1::ConnectResponse response;
    std::deque<v1::ConnectRequest> to_say;  // the first one is under way
    Clock::time_point welcomed;
    bool synced = false;
  };

  // On the ticker's thread, as an agent does it on its own: a channel that went with its last holder on one of gRPC's
  // would have that one join itself.
  void Begin() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::AgentService::NewStub(
        grpc::CreateCustomChannel(owner_.fleet_.server, grpc::InsecureChannelCredentials(), arguments));
    stream_ = new Stream(*this);  // gRPC's, until OnDone
    stub_->async()->Connect(&stream_->context, stream_);
    v1::ConnectRequest message;
    v1::Hello& hello = *message.mutable_hello();
    hello.set_protocol_version(1);
    hello.set_agent_id(agent_id_);
    hello.set_agent_version("played");
    hello.set_cluster_id(cluster_id_);
    hello.set_store_incarnation(incarnation_);
    hello.set_epoch(epoch_);
    hello.set_start_id(start_id_);
    hello.set_revision(revision_);
    v1::Host& host = *hello.mutable_host();
    host.set_name(PlayedHost(number_));
    host.set_boot_id("boot");
    host.set_backend("played");
    host.set_stage2_sharing(v1::STAGE2_SHARING_SHARED);
    v1::Smmu& smmu = *host.add_smmus();
    smmu.set_name(PlayedSmmu(number_));
    smmu.set_vmid_bits(16);
    smmu.set_sid_bits(20);
    smmu.add_idr(0x3);  // both stages
    for (int i = 0; i < owner_.fleet_.devices_per_host; ++i) {
      v1::Device& device = *hello.add_devices();
      device.set_name(PlayedDevice(number_, i));
      device.set_smmu(smmu.name());
      device.set_stream_id(static_cast<uint32_t>(i));
      device.set_iommu_group(static_cast<uint32_t>(i));
    }
    for (const auto& [uid, generation] : held_) {
      v1::HeldItem& held = *hello.add_held();
      held.set_uid(uid);
      held.set_generation(generation);
      held.set_settled(true);
    }
    Say(std::move(message));
    stream_->StartRead(&stream_->response);
    stream_->StartCall();
  }

  void Say(v1::ConnectRequest message) {
    said_ = Clock::now();
    stream_->to_say.push_back(std::move(message));
    if (stream_->to_say.size() == 1) stream_->StartWrite(&stream_->to_say.front());
  }

  void Said(Stream& stream, bool ok) {
    std::lock_guard lock(mu_);
    stream.to_say.pop_front();
    if (ok && !stream.to_say.empty()) stream.StartWrite(&stream.to_say.front());
  }

  void Heard(Stream& stream) {
    std::lock_guard lock(mu_);
    if (stream.response.has_welcome()) {
      const v1::Welcome& welcome = stream.response.welcome();
      stream.welcomed = Clock::now();
      cluster_id_ = welcome.cluster_id();
      incarnation_ = welcome.store_incarnation();
      epoch_ = welcome.epoch();
      start_id_ = welcome.start_id();
      lease_ = std::chrono::seconds(welcome.lease().seconds()) + std::chrono::nanoseconds(welcome.lease().nanos());
      return;
    }
    if (stream.response.has_heartbeat()) {
      revision_ = std::max(revision_, stream.response.heartbeat().revision());
      return;
    }
    if (!stream.response.has_desired()) return;
    const v1::Desired& desired = stream.response.desired();
    revision_ = std::max(revision_, desired.revision());
    for (const std::string& uid : desired.unknown_uids()) held_.erase(uid);
    v1::ConnectRequest message;
    v1::Results& results = *message.mutable_results();
    results.set_nonce(desired.nonce());
    for (const v1::Resource& item : desired.items()) {
      if (item.has_stage2_domain()) Answer(item.stage2_domain(), results);
      if (item.has_viommu()) Answer(item.viommu(), results);
      if (item.has_vdevice()) Answer(item.vdevice(), results);
      if (item.has_nested_domain()) Answer(item.nested_domain(), results);
    }
    owner_.items_ += results.items_size();
    if (results.items_size() > 0) Say(std::move(message));
    if (desired.sync_mark() && !stream.synced) {
      stream.synced = true;
      ++owner_.synced_;
    }
  }

  template <typename T>
  void Answer(const T& record, v1::Results& results) {
    v1::ItemResult& result = *results.add_items();
    result.set_uid(record.uid());
    result.set_name(record.name());
    result.set_generation(record.generation());
    if (record.state() == v1::STATE_DELETING) {
      held_.erase(record.uid());
      result.set_outcome(v1::OUTCOME_RELEASED);
    } else {
      held_[record.uid()] = record.generation();
      result.set_outcome(v1::OUTCOME_APPLIED);
    }
  }

  void Ended(const grpc::Status& status) {
    std::lock_guard lock(mu_);
    if (stream_->synced) {
      --owner_.synced_;
      if (Clock::now() - stream_->welcomed >= lease_) backoff_.Reset();
    }
    delete std::exchange(stream_, nullptr);
    lease_ = Clock::duration::zero();
    next_ = Clock::now() + agent::SessionClient::AskedWait(FromGrpcStatus(status)) +
            backoff_.Next([this] { return std::uniform_real_distribution<double>()(random_); });
    gone_.notify_all();
  }

  HostPlayers& owner_;
  const int number_;
  std::unique_ptr<v1::AgentService::Stub> stub_;
  const std::string agent_id_ = NewUuid();
  std::mutex mu_;
  std::condition_variable gone_;
  std::minstd_rand random_;
  bool wanted_ = false;
  Clock::time_point next_;
  agent::Backoff backoff_{agent::SessionClient::Options().first_retry, agent::SessionClient::Options().longest_retry};
  Stream* stream_ = nullptr;
  Clock::time_point said_;
  Clock::duration lease_{};
  std::string cluster_id_;
  std::string incarnation_;
  std::string start_id_;
  int64_t epoch_ = 0;
  int64_t revision_ = 0;
  std::unordered_map<std::string, int64_t> held_;  // generation by uid
};

HostPlayers::HostPlayers(const PlayedFleet& fleet) : fleet_(fleet) {
  // As agents do.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  for (int i = 0; i < fleet.hosts; ++i) players_.push_back(std::make_unique<HostPlayer>(*this, i));
  ticker_ = std::thread([this] { Tick(); });
}

HostPlayers::~HostPlayers() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  ticker_.join();
  Disconnect();
}

void HostPlayers::Connect(int begin, int end) {
  for (int i = begin; i < end; ++i) players_[static_cast<size_t>(i)]->Want(true);
}

std::map<std::string, int64_t> HostPlayers::Held() const {
  std::map<std::string, int64_t> held;
  for (const auto& player : players_) player->AddHeld(held);
  return held;
}

void HostPlayers::Disconnect() {
  for (const auto& player : players_) player->Want(false);
}

void HostPlayers::Tick() {
  while (true) {
    const auto now = Clock::now();
    for (const auto& player : players_) player->Tick(now);
    std::unique_lock lock(mu_);
    if (wake_.wait_for(lock, kTick, [this] { return stopping_; })) return;
  }
}

}  // namespace viommu::bench
