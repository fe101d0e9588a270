#include "agent/agent.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "agent/reconcile/kept.h"
#include "agent/smmuv3/iommufd/iommufd_backend.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/systemd_fd_store.h"
#include "common/credentials.h"
#include "common/error.h"
#include "common/log.h"
#include "common/timestamp.h"
#include "common/version.h"

namespace viommu::agent {
namespace {

constexpr int kMaxMessageBytes = 16 << 20;  // from the server

// Each in a thread of its own.
RandomSource NewRandom() {
  return [engine = std::mt19937_64(std::random_device()())]() mutable {
    return std::uniform_real_distribution<double>(0, 1)(engine);
  };
}

absl::Status In(std::string_view part, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), fmt::format("{}: {}", part, std::string(status.message())));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const AgentConfig& config, const std::string& boot_id,
                                                     FdStore* store) {
  if (config.backend == BackendKind::kEmulated) {
    VIOMMU_ASSIGN_OR_RETURN(EmulatedInventory inventory, LoadInventory(config));
    VIOMMU_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, EmulatedBackend::Create(std::move(inventory)));
    return backend;
  }
  IommufdBackend::Options options;
  options.bind = config.bind;
  options.state_dir = config.state_dir;
  options.boot_id = boot_id;
  options.store = store;
  options.on_left_out = [](const std::string& device, const absl::Status& why) {
    VIOMMU_LOG(kWarning, "device left out", {{"device", device}, {"why", why}});
  };
  VIOMMU_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, IommufdBackend::Create(&RealKernel(), std::move(options)));
  return backend;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Agent>> Agent::Start(const AgentConfig& config, const WrapBackend& wrap) {
  // As in the server: gRPC's locks need not be checked for their order at every call.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  std::unique_ptr<Agent> agent(new Agent(config));
  VIOMMU_RETURN_IF_ERROR(agent->Init(wrap));
  return agent;
}

Agent::Agent(const AgentConfig& config) : config_(config), start_time_(RealClock().Now()) {}

Agent::~Agent() {
  Stop(std::chrono::milliseconds(0));
  // The kernel objects go with the reconciler, and the backend has to be there then.
  driver_.reset();
}

absl::Status Agent::Init(const WrapBackend& wrap) {
  VIOMMU_ASSIGN_OR_RETURN(std::string boot_id, ReadBootId(config_.boot_id_file));
  facts_ = {.name = "hosts/" + config_.host, .boot_id = std::move(boot_id), .labels = config_.labels};

  Journal::Options journal_options;
  journal_options.on_sync = [this](std::chrono::nanoseconds time) { metrics_.CountJournalSync(time); };
  auto journal = Journal::Open(PosixFileSystem(), config_.state_dir, std::move(journal_options));
  VIOMMU_RETURN_IF_ERROR(In("journal", journal.status()));
  journal_ = *std::move(journal);

  // After the journal, whose directory one agent has at a time: what is written there of devices is ours now.
  fd_store_ = OpenSystemdFdStore();
  auto backend = MakeBackend(config_, facts_.boot_id, fd_store_.get());
  VIOMMU_RETURN_IF_ERROR(In("backend", backend.status()));
  backend_ = wrap ? wrap(*std::move(backend)) : *std::move(backend);

  std::vector<AdoptedContext> adopted = AdoptKept(journal_->state(), *backend_, facts_.boot_id);
  const size_t contexts = adopted.size();
  // Only now the devices in them can be asked.
  auto inventory = backend_->Discover();
  VIOMMU_RETURN_IF_ERROR(In("backend", inventory.status()));

  GuestEvents::Options events_options;
  events_options.on_event = [this](uint8_t id) { metrics_.CountGuestEvent(id); };
  events_options.on_lost = [this](uint64_t count) { metrics_.CountLostGuestEvents(count); };
  events_ = std::make_unique<GuestEvents>(std::move(events_options));
  Reconciler::Options options;
  options.events = events_.get();
  options.host = facts_.name;
  options.boot_id = facts_.boot_id;
  options.cluster_id = config_.cluster_id;
  options.random = NewRandom();
  options.on_outcome = [this](ItemKind kind, v1::Outcome outcome) { metrics_.CountOutcome(kind, outcome); };
  auto reconciler =
      Reconciler::Open(*journal_, *backend_, targets_, *inventory, std::move(options), std::move(adopted));
  VIOMMU_RETURN_IF_ERROR(In("journal", reconciler.status()));
  Driver::Options driver_options;
  driver_options.on_portion = [this](std::chrono::nanoseconds time) { metrics_.CountPortion(time); };
  driver_ = std::make_unique<Driver>(*std::move(reconciler), *journal_, std::move(driver_options));
  VIOMMU_LOG(kInfo, "journal open",
             {{"path", journal_->path()},
              {"items", journal_->state().items().size()},
              {"cut_bytes", journal_->truncated_bytes()},
              {"same_boot", driver_->believes()},
              {"contexts", contexts}});
  size_t lost = 0;
  std::set<std::string> vms;
  for (const auto& [uid, item] : journal_->state().items()) {
    if (!item.done || driver_->HasObjects(uid)) continue;
    ++lost;
    // Without it a VM has nothing.
    if (item.kind == ItemKind::kStage2Domain) vms.insert(item.resource.stage2_domain().vm());
  }
  if (driver_->believes() && lost != 0) {
    // A /dev/iommu that nobody else has open ends with its process, and VMs' devices are cut off until they have theirs
    // again.
    VIOMMU_LOG(kWarning, "objects of the last agent are gone and are made anew",
               {{"items", lost}, {"vms", absl::StrJoin(vms, ",")}});
  }

  Invalidator::Options invalidator_options;
  invalidator_options.on_done = [this](int commands, std::chrono::nanoseconds time, v1::ErrorReason stop) {
    metrics_.CountInvalidation(commands, time, stop);
  };
  invalidator_ = std::make_unique<Invalidator>(targets_, backend_->GetCapabilities(), std::move(invalidator_options));
  workers_ = std::make_unique<InvalidateWorkers>(*invalidator_, InvalidateWorkers::Options{});

  // The server is told of this host when everything else stands: an agent that cannot serve takes the host from none
  // that can.
  VIOMMU_RETURN_IF_ERROR(MakeSession());
  VIOMMU_RETURN_IF_ERROR(StartLocal());
  driver_->OnResults([this] { client_->Wake(); });
  workers_->Start([this](int64_t session, v1::InvalidateReply reply) { client_->AddReply(session, std::move(reply)); });
  // What the journal says is made at once: VMs of this host wait for no server.
  driver_->Start();
  events_->Start();
  client_->Start();
  return absl::OkStatus();
}

absl::Status Agent::MakeSession() {
  auto credentials = MakeChannelCredentials(config_.server, config_.tls);
  VIOMMU_RETURN_IF_ERROR(In("tls", credentials.status()));
  SessionClient::Options options;
  options.make_channel = [address = config_.server.ToString(), credentials = *std::move(credentials)] {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    // The session has its own waits; a channel that remembers its failures would add to them.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address, credentials, arguments);
  };
  options.make_hello = [this]() -> absl::StatusOr<v1::Hello> {
    auto inventory = backend_->Discover();
    VIOMMU_RETURN_IF_ERROR(inventory.status());
    return MakeHello(facts_, *inventory, backend_->GetCapabilities());
  };
  options.fill_heartbeat = [this](v1::Heartbeat& heartbeat) { FillUsage(facts_, backend_->GetStats(), heartbeat); };
  options.random = NewRandom();
  options.longest_retry = config_.longest_retry;
  client_ = std::make_unique<SessionClient>(std::move(options), *driver_, *workers_);
  return absl::OkStatus();
}

absl::Status Agent::StartLocal() {
  LocalServiceImpl::Sources sources;
  sources.host = facts_.name;
  sources.start_time = start_time_;
  sources.fill_status = [this](v1::GetAgentStatusResponse& status) { FillStatus(status); };
  sources.list = [this](const std::pair<std::string, std::string>& after, size_t max) {
    return driver_->List(after, max);
  };
  event_lister_ = std::make_unique<EventLister>(*events_, targets_);
  sources.list_events = [this](const v1::ListGuestEventsRequest& request) { return event_lister_->List(request); };
  local_service_ = std::make_unique<LocalServiceImpl>(std::move(sources), *backend_, *invalidator_);
  auto local_server = LocalServer::Start(config_.listen, *local_service_, metrics_.set());
  VIOMMU_RETURN_IF_ERROR(In("local service", local_server.status()));
  local_server_ = *std::move(local_server);
  handover_ = std::make_unique<Handover>(*driver_, vmms_, *event_lister_);
  HandoverServer::Options handover_options;
  VIOMMU_ASSIGN_OR_RETURN(handover_options.allowed_uids, HandoverUids(config_));
  auto handover_server = HandoverServer::Start(HandoverPath(config_), *handover_, std::move(handover_options));
  VIOMMU_RETURN_IF_ERROR(In("handover", handover_server.status()));
  handover_server_ = *std::move(handover_server);
  metrics_.Attach(*backend_, *driver_, *client_, vmms_, *events_, [this] { return workers_->waiting(); });
  if (config_.metrics_listen) {
    auto exporter = MetricsExporter::Start(*config_.metrics_listen, metrics_.set(), config_.metrics_allow_insecure);
    VIOMMU_RETURN_IF_ERROR(In("metrics", exporter.status()));
    exporter_ = *std::move(exporter);
  }
  return absl::OkStatus();
}

void Agent::Stop(std::chrono::milliseconds grace) {
  if (client_ != nullptr) client_->Stop();
  if (local_server_ != nullptr) local_server_->Stop(grace);
  // Before connections end: it is not their VMMs that go.
  if (driver_ != nullptr) driver_->Stop();
  if (events_ != nullptr) events_->Stop();
  if (handover_ != nullptr) handover_->Leave();
  handover_server_.reset();
  if (workers_ != nullptr) workers_->Stop();
  exporter_.reset();
  metrics_.Detach();
  local_server_.reset();
}

void Agent::FillStatus(v1::GetAgentStatusResponse& status) {
  const SessionStatus session = client_->status();
  const journal::Identity identity = driver_->identity();
  status.set_agent_version(std::string(Version()));
  status.set_boot_id(facts_.boot_id);
  status.set_agent_id(identity.agent_id());
  status.set_backend(backend_->GetCapabilities().backend);
  status.set_server(config_.server.ToString());
  status.set_session_state(session.state);
  if (!session.reason.reason().empty()) *status.mutable_session_reason() = session.reason;
  status.set_cluster_id(identity.cluster_id());
  status.set_epoch(identity.epoch());
  status.set_revision(driver_->revision());
  const auto counts = driver_->Counts();
  status.mutable_held()->insert(counts.begin(), counts.end());
  std::map<std::string, uint64_t> awaited = driver_->UnclaimedBytes();
  for (v1::VmmStatus& vmm : vmms_.List()) {
    if (vmm.state() == v1::VMM_STATE_CONNECTED) awaited.erase(vmm.vm());
    if (!awaited.contains(vmm.vm())) *status.add_vmms() = std::move(vmm);
  }
  for (const auto& [vm, bytes] : awaited) {
    v1::VmmStatus& vmm = *status.add_vmms();
    vmm.set_vm(vm);
    vmm.set_state(v1::VMM_STATE_AWAITED);
    *vmm.mutable_since() = ToTimestamp(start_time_);
    vmm.set_mapped_bytes(bytes);
  }
}

std::string Agent::StatusLine() {
  const auto counts = driver_->Counts();
  return fmt::format("{}: {} applied, {} dormant, {} failed, revision {}",
                     v1::SessionState_Name(client_->status().state).substr(std::string_view("SESSION_STATE_").size()),
                     counts.at("applied"), counts.at("dormant"), counts.at("failed"), driver_->revision());
}

}  // namespace viommu::agent
