#include "server/server.h"

#include <grpcpp/channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "common/error.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/open_files.h"
#include "common/uuid.h"
#include "server/api/apply_waits.h"
#include "server/api/drain_keeper.h"
#include "server/api/fleet_service.h"
#include "server/api/limits.h"
#include "server/api/operations_service.h"
#include "server/api/watch_hub.h"
#include "server/commit/backups.h"
#include "server/commit/core.h"
#include "server/commit/waiters.h"
#include "server/listener.h"
#include "server/server_metrics.h"
#include "server/store/memory_store.h"
#include "server/store/rocksdb_store.h"
#include "server/sync/agent_service.h"
#include "server/sync/agent_sessions.h"

namespace viommu::server {
namespace {

constexpr char kFleetServiceName[] = "viommu.v1.FleetService";
constexpr char kOperationsServiceName[] = "viommu.v1.OperationsService";
constexpr char kAgentServiceName[] = "viommu.v1.AgentService";

// How soon the health service says what the store does.
constexpr std::chrono::milliseconds kHealthInterval(50);

// How exact the deadline of a drain is.
constexpr std::chrono::seconds kDrainInterval(1);

std::string BootId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

int64_t Seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration_cast<std::chrono::seconds>(duration).count();
}

std::chrono::milliseconds Milliseconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration);
}

absl::StatusOr<std::unique_ptr<Store>> OpenStore(const ServerConfig& config, WriteMetrics& metrics) {
  VIOMMU_ASSIGN_OR_RETURN(const std::optional<std::string> path, ParseStore(config.store));
  if (!path.has_value()) return std::make_unique<MemoryStore>();
  RocksDbOptions options;
  options.write_buffer_bytes = config.rocksdb_write_buffer_bytes;
  options.block_cache_bytes = config.rocksdb_block_cache_bytes;
  options.verify_on_open = config.rocksdb_verify_on_open;
  options.on_commit = [&metrics](const CommitSample& sample) { metrics.OnStoreCommit(sample); };
  return RocksDbStore::Open(*path, options);
}

CommitCore::Options CoreOptions(const ServerConfig& config) {
  CommitCore::Options options;
  options.cluster_id = config.cluster_id;
  options.boot_id = BootId();
  options.change_log.max_age_s = Seconds(config.changes_max_age);
  options.change_log.max_bytes = static_cast<int64_t>(config.changes_max_bytes);
  options.requests.ttl_s = Seconds(config.requests_ttl);
  options.requests.max_entries = static_cast<size_t>(config.requests_max_entries);
  options.requests.max_bytes = static_cast<int64_t>(config.requests_max_bytes);
  options.audit.max_age_s = Seconds(config.audit_max_age);
  options.audit.max_bytes = static_cast<int64_t>(config.audit_max_bytes);
  return options;
}

Committer::Options CommitterOptions(const ServerConfig& config) {
  Committer::Options options;
  options.max_queue_commands = static_cast<size_t>(config.limits_queue);
  return options;
}

Sessions::Options SessionOptions(const ServerConfig& config) {
  Sessions::Options options;
  options.min_lease = Milliseconds(config.agents_lease);
  options.start_grace = Milliseconds(config.agents_grace);
  options.max_sessions = static_cast<size_t>(config.agents_max_sessions);
  options.max_concurrent_syncs = static_cast<size_t>(config.agents_max_syncs);
  options.max_hello_bytes = static_cast<size_t>(config.limits_memory_bytes);
  return options;
}

}  // namespace

// Members are in the order in which they come to life.
class Server::Impl {
 public:
  Impl(const ServerConfig& config, const Clock& clock, std::vector<grpc::Service*> more_services)
      : config_(config),
        clock_(clock),
        more_services_(std::move(more_services)),
        metrics_(std::make_shared<MetricSet>()),
        write_metrics_(*metrics_) {}

  absl::Status Start(std::unique_ptr<Store> store) {
    store_ = std::move(store);
    if (store_ == nullptr) {
      VIOMMU_ASSIGN_OR_RETURN(store_, OpenStore(config_, write_metrics_));
    }
    VIOMMU_ASSIGN_OR_RETURN(core_, CommitCore::Open(*store_, clock_, NewUuid, CoreOptions(config_)));
    waiters_.emplace(*core_);
    watches_.emplace(static_cast<size_t>(config_.limits_watches));
    waits_.emplace(*waiters_, clock_, static_cast<size_t>(config_.limits_waits),
                   static_cast<size_t>(config_.limits_memory_bytes));
    sessions_.emplace(
        *core_, [this](Command* command) { return committer_->Submit(command); }, clock_, SessionOptions(config_));
    // Sessions first: the host should hear of a change before anybody asks what became of it.
    core_->AddListener(&*sessions_);
    core_->AddListener(&*waiters_);
    core_->AddListener(&*watches_);
    committer_.emplace(*core_, CommitterOptions(config_),
                       [this](size_t commands, double seconds) { write_metrics_.OnBatch(commands, seconds); });
    drains_.emplace(*core_, [this](Command* command) { return committer_->Submit(command); });
    sessions_->Start();
    backups_.emplace(*store_, *core_,
                     Backups::Options{config_.backup_folder, static_cast<size_t>(config_.backup_keep)});
    const FleetServiceParts parts{*committer_,
                                  *waits_,
                                  *watches_,
                                  *sessions_,
                                  clock_,
                                  /*refuse_hosts=*/!config_.tls.tls.ca.empty(),
                                  static_cast<size_t>(config_.limits_invalidations),
                                  &*backups_};
    fleet_service_.emplace(parts);
    operations_service_.emplace(parts);
    agent_service_.emplace(*sessions_);

    AddProcessMetrics(*metrics_, "viommu_server");
    RegisterServerMetrics(*metrics_, {*committer_, *core_, *waits_, *watches_, *sessions_, *backups_});
    VIOMMU_RETURN_IF_ERROR(Listen());
    if (config_.metrics_listen.has_value()) {
      VIOMMU_ASSIGN_OR_RETURN(
          exporter_, MetricsExporter::Start(*config_.metrics_listen, metrics_, config_.metrics_allow_insecure));
    }
    health_ = std::thread([this] { WatchHealth(); });
    drain_thread_ = std::thread([this] { KeepDrains(); });
    return absl::OkStatus();
  }

  absl::Status Shutdown(std::chrono::nanoseconds timeout) {
    if (down_) return absl::OkStatus();
    down_ = true;
    const auto end = std::chrono::system_clock::now() + Milliseconds(timeout);
    if (health_.joinable()) {
      {
        MutexLock lock(mu_);
        stop_ = true;
      }
      wake_.NotifyAll();
      health_.join();
      drain_thread_.join();
    }
    for (GrpcListener* listener : Listeners()) listener->EndServing();
    // What would go on for long is ended; other calls get the time that is left.
    if (watches_.has_value()) watches_->EndAll();
    if (waits_.has_value()) waits_->EndAll();
    if (backups_.has_value()) backups_->Stop();
    if (sessions_.has_value()) sessions_->Shutdown(Milliseconds(timeout / 2));
    for (GrpcListener* listener : Listeners()) listener->Shutdown(end);
    if (committer_.has_value()) committer_->Stop();
    metrics_->RemoveCallbacks();
    exporter_.reset();
    return core_ != nullptr ? core_->Close() : absl::OkStatus();
  }

  ~Impl() {
    if (const absl::Status closed = Shutdown(std::chrono::seconds(1)); !closed.ok()) {
      VIOMMU_LOG(kError, "store not closed in good order", {{"reason", closed}});
    }
  }

  const ServerConfig config_;
  const Clock& clock_;
  const std::vector<grpc::Service*> more_services_;
  const std::shared_ptr<MetricSet> metrics_;
  WriteMetrics write_metrics_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<CommitCore> core_;
  std::optional<Waiters> waiters_;
  std::optional<WatchHub> watches_;
  std::optional<ApplyWaits> waits_;
  std::optional<AgentSessions> sessions_;
  std::optional<DrainKeeper> drains_;  // before the committer: it hears of its commands until that has stopped
  std::optional<Committer> committer_;
  std::optional<Backups> backups_;
  std::optional<FleetService> fleet_service_;
  std::optional<OperationsService> operations_service_;
  std::optional<AgentService> agent_service_;
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<GrpcListener> agents_listener_;  // null: agents come to listener_
  std::unique_ptr<MetricsExporter> exporter_;

 private:
  absl::Status Listen() {
    const uint64_t open_files = OpenFileLimit();
    VIOMMU_ASSIGN_OR_RETURN(const ConnectionLimits limits, LimitConnections(config_, open_files));
    const auto configured = static_cast<size_t>(config_.limits_connections);
    if (limits.listen < configured || (!config_.agents_listen.empty() && limits.agents_listen < configured)) {
      VIOMMU_LOG(kWarning, "fewer connections than configured: the limit of open files leaves no room",
                 {{"configured", configured},
                  {"listen", limits.listen},
                  {"agents_listen", limits.agents_listen},
                  {"open_files", open_files}});
    }
    ListenerOptions options;
    options.max_connections = limits.listen;
    VIOMMU_ASSIGN_OR_RETURN(options.addresses, ParseAddresses("listen", config_.listen));
    options.transport = config_.tls;
    options.transport_section = "tls";
    options.services = {&*fleet_service_, &*operations_service_};
    options.services.insert(options.services.end(), more_services_.begin(), more_services_.end());
    options.service_names = {kFleetServiceName, kOperationsServiceName};
    // More than a request may have: the fleet service refuses what is too long itself, with a reason.
    options.max_receive_message_bytes = kMaxAgentMessageBytes;
    options.metrics_prefix = "viommu_server";

    ListenerOptions agents;
    VIOMMU_ASSIGN_OR_RETURN(agents.addresses, ParseAddresses("agents.listen", config_.agents_listen));
    if (agents.addresses.empty()) {
      options.services.push_back(&*agent_service_);
      options.service_names.push_back(kAgentServiceName);
    } else {
      agents.transport = AgentsTransport(config_);
      agents.transport_section = AgentsTransportSection(config_);
      agents.services = {&*agent_service_};
      agents.service_names = {kAgentServiceName};
      agents.max_receive_message_bytes = kMaxAgentMessageBytes;
      agents.max_connections = limits.agents_listen;
      agents.metrics_prefix = "viommu_server_agents";
      VIOMMU_ASSIGN_OR_RETURN(agents_listener_, GrpcListener::Start(agents, config_, metrics_, clock_));
    }
    VIOMMU_ASSIGN_OR_RETURN(listener_, GrpcListener::Start(options, config_, metrics_, clock_));
    return absl::OkStatus();
  }

  std::vector<GrpcListener*> Listeners() {
    std::vector<GrpcListener*> listeners;
    for (const auto* each : {&listener_, &agents_listener_}) {
      if (*each != nullptr) listeners.push_back(each->get());
    }
    return listeners;
  }

  void WatchHealth() {
    bool serving = true;
    while (true) {
      const absl::Status writable = core_->writable();
      if (writable.ok() != serving) {
        serving = writable.ok();
        listener_->SetServing(kFleetServiceName, serving);
        listener_->SetServing(kOperationsServiceName, serving);
        if (serving) {
          VIOMMU_LOG(kInfo, "store takes writes again", {{"store", store_->Describe()}});
        } else {
          VIOMMU_LOG(kError, "store takes no writes", {{"store", store_->Describe()}, {"reason", writable}});
        }
      }
      MutexLock lock(mu_);
      if (!stop_) wake_.WaitFor(mu_, kHealthInterval);
      if (stop_) return;
    }
  }

  void KeepDrains() {
    while (true) {
      drains_->Tick(clock_.Now());
      MutexLock lock(mu_);
      if (!stop_) wake_.WaitFor(mu_, kDrainInterval);
      if (stop_) return;
    }
  }

  bool down_ = false;
  Mutex mu_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread health_;
  std::thread drain_thread_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config, std::unique_ptr<Store> store,
                                                      const Clock& clock, std::vector<grpc::Service*> more_services) {
  // gRPC's locks are Abseil's, and Debian builds Abseil to check the order of every lock taken: for its own tests, at a
  // good part of the cost of a call.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  auto impl = std::make_unique<Impl>(config, clock, std::move(more_services));
  VIOMMU_RETURN_IF_ERROR(impl->Start(std::move(store)));
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

absl::Status Server::Shutdown(std::chrono::nanoseconds timeout) { return impl_->Shutdown(timeout); }

const std::vector<Address>& Server::addresses() const { return impl_->listener_->addresses(); }

const std::vector<Address>& Server::agents_addresses() const {
  static const std::vector<Address> none;
  return impl_->agents_listener_ == nullptr ? none : impl_->agents_listener_->addresses();
}

std::string Server::metrics_address() const {
  return impl_->exporter_ == nullptr ? "" : impl_->exporter_->address().ToString();
}

std::shared_ptr<grpc::Channel> Server::InProcessChannel(const grpc::ChannelArguments& arguments) {
  return impl_->listener_->server().InProcessChannel(arguments);
}

const CommitCore& Server::core() const { return *impl_->core_; }

Committer& Server::committer() { return *impl_->committer_; }

}  // namespace viommu::server
