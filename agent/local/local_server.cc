#include "agent/local/local_server.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/error.h"
#include "common/rpc_metrics.h"

namespace viommu::agent {
namespace {

constexpr int kMaxThreads = 64;  // beyond it calls are answered RESOURCE_EXHAUSTED

}  // namespace

LocalServer::~LocalServer() { Stop(std::chrono::milliseconds(0)); }

void LocalServer::Stop(std::chrono::milliseconds grace) {
  acceptor_.Stop();
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + grace);
}

absl::StatusOr<std::unique_ptr<LocalServer>> LocalServer::Start(const Address& address,
                                                                v1::LocalService::Service& service,
                                                                std::shared_ptr<MetricSet> metrics) {
  if (address.reach != AddressReach::kUnix) {
    return absl::InvalidArgumentError(
        fmt::format("{} is no unix socket: the local service is for this host alone; write it like "
                    "unix:/run/viommu/agent.sock",
                    address.ToString()));
  }
  auto local = std::unique_ptr<LocalServer>(new LocalServer());
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  grpc::ResourceQuota quota("local");
  quota.SetMaxThreads(kMaxThreads);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // Between bind and chmod nobody but owner and group may come in either.
  const mode_t umask_before = ::umask(0007);
  const absl::Status bound =
      local->acceptor_.Listen(address, GiveToGrpc(builder, grpc::InsecureServerCredentials())).status();
  ::umask(umask_before);
  VIOMMU_RETURN_IF_ERROR(bound);
  if (::chmod(address.path.c_str(), 0660) != 0) {
    return absl::UnavailableError(fmt::format("chmod {}: {}", address.path, std::strerror(errno)));
  }
  builder.RegisterService(&service);
  InstallRpcMetrics(builder, metrics, "viommu_agent", {"viommu.v1.LocalService"});
  local->server_ = builder.BuildAndStart();
  if (local->server_ == nullptr) return absl::InternalError("gRPC cannot build a server");
  AddConnectionMetrics(*metrics, "viommu_agent_local", local->acceptor_);
  local->acceptor_.Start();
  return local;
}

}  // namespace viommu::agent
