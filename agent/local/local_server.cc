#include "agent/local/local_server.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "agent/local/unix_socket.h"
#include "common/rpc_metrics.h"

namespace viommu::agent {
namespace {

constexpr int kMaxThreads = 64;  // beyond it calls are answered RESOURCE_EXHAUSTED

}  // namespace

LocalServer::LocalServer(std::string path, std::unique_ptr<grpc::Server> server)
    : path_(std::move(path)), server_(std::move(server)) {}

LocalServer::~LocalServer() {
  Stop(std::chrono::milliseconds(0));
  ::unlink(path_.c_str());
}

void LocalServer::Stop(std::chrono::milliseconds grace) { server_->Shutdown(std::chrono::system_clock::now() + grace); }

absl::StatusOr<std::unique_ptr<LocalServer>> LocalServer::Start(const Address& address,
                                                                v1::LocalService::Service& service,
                                                                std::shared_ptr<MetricSet> metrics) {
  if (address.reach != AddressReach::kUnix) {
    return absl::InvalidArgumentError(
        fmt::format("{} is no unix socket: the local service is for this host alone; write it like "
                    "unix:/run/viommu/agent.sock",
                    address.ToString()));
  }
  if (absl::Status cleared = ClearStaleSocket(address.path, SOCK_STREAM); !cleared.ok()) return cleared;
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  grpc::ResourceQuota quota("local");
  quota.SetMaxThreads(kMaxThreads);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  InstallRpcMetrics(builder, std::move(metrics), "viommu_agent", {"viommu.v1.LocalService"});
  // Between bind and chmod nobody but owner and group may come in either.
  const mode_t umask_before = ::umask(0007);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ::umask(umask_before);
  if (server == nullptr) {
    return absl::UnavailableError(
        fmt::format("cannot listen on {}: is its directory there, and may this user write to it?", address.path));
  }
  if (::chmod(address.path.c_str(), 0660) != 0) {
    return absl::UnavailableError(fmt::format("chmod {}: {}", address.path, std::strerror(errno)));
  }
  return std::unique_ptr<LocalServer>(new LocalServer(address.path, std::move(server)));
}

}  // namespace viommu::agent
