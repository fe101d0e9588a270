#include "server/listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <utility>

#include "common/error.h"
#include "common/rpc_metrics.h"

namespace viommu::server {
namespace {

// Agents and callers may ping this often without a message in between; more often is abuse (docs/protocol.md).
constexpr int kMinPingIntervalMs = 5000;

int Milliseconds(std::chrono::nanoseconds duration) {
  return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

// gRPC's reflection library adds itself to every builder of the process; this decides.
class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionOption(bool wanted) : wanted_(wanted) {}

  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    auto ours = std::make_unique<grpc::reflection::ProtoServerReflectionPlugin>();
    std::erase_if(*plugins, [&](const auto& plugin) { return plugin->name() == ours->name(); });
    if (wanted_) plugins->push_back(std::move(ours));
  }

 private:
  const bool wanted_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Start(const ListenerOptions& options,
                                                                  const ServerConfig& config,
                                                                  std::shared_ptr<MetricSet> metrics,
                                                                  const Clock& clock) {
  // As gRPC has it: data waits for an acknowledgement as long as a ping does for its answer.
  auto listener = std::unique_ptr<GrpcListener>(
      new GrpcListener(options.max_connections, std::chrono::milliseconds(Milliseconds(config.keepalive_timeout))));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  for (const Address& address : options.addresses) {
    VIOMMU_ASSIGN_OR_RETURN(const auto credentials,
                            MakeServerCredentials(address, options.transport, options.transport_section, clock));
    VIOMMU_ASSIGN_OR_RETURN(Address bound, listener->acceptor_.Listen(address, GiveToGrpc(builder, credentials)));
    listener->addresses_.push_back(std::move(bound));
  }
  for (grpc::Service* service : options.services) builder.RegisterService(service);
  builder.SetOption(std::make_unique<ReflectionOption>(config.reflection));
  builder.SetMaxReceiveMessageSize(options.max_receive_message_bytes);
  grpc::ResourceQuota quota(options.metrics_prefix);
  quota.Resize(config.limits_memory_bytes);
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.limits_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(config.keepalive_interval));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(config.keepalive_timeout));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, Milliseconds(config.keepalive_max_idle));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  // Nobody can ask for it: there is no channelz service, and an idle agent's connection would keep half a kilobyte for
  // it.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 0);
  InstallRpcMetrics(builder, metrics, options.metrics_prefix, options.service_names, config.limits_memory_bytes);
  listener->server_ = builder.BuildAndStart();
  if (listener->server_ == nullptr) return absl::InternalError("gRPC cannot build a server");
  AddConnectionMetrics(*metrics, options.metrics_prefix, listener->acceptor_);
  listener->acceptor_.Start();
  listener->SetServing("", true);
  for (const std::string& name : options.service_names) listener->SetServing(name, true);
  return listener;
}

void GrpcListener::SetServing(const std::string& service, bool serving) {
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  if (service.empty()) {
    health->SetServingStatus(serving);
  } else {
    health->SetServingStatus(service, serving);
  }
}

void GrpcListener::EndServing() { server_->GetHealthCheckService()->Shutdown(); }

void GrpcListener::Shutdown(std::chrono::system_clock::time_point deadline) {
  acceptor_.Stop();
  server_->Shutdown(deadline);
}

}  // namespace viommu::server
