// Serves the local service, health (grpc.health.v1) and reflection on a unix socket that its owner and group may use
// (mode 0660).

#ifndef VIOMMU_AGENT_LOCAL_LOCAL_SERVER_H_
#define VIOMMU_AGENT_LOCAL_LOCAL_SERVER_H_

#include <grpcpp/server.h>

#include <chrono>
#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "common/address.h"
#include "common/connection_acceptor.h"
#include "common/metrics.h"
#include "viommu/v1/local_service.grpc.pb.h"

namespace viommu::agent {

class LocalServer {
 public:
  static constexpr int kMaxMessageBytes = 1 << 20;
  static constexpr size_t kMaxConnections = 1024;  // what is beyond is closed at once

  // Listens on `address`, a unix socket; `service` must outlive the server. The file of an agent that has ended is
  // replaced.
  //   INVALID_ARGUMENT     no unix socket
  //   FAILED_PRECONDITION  the path is no socket, or somebody listens on it
  //   UNAVAILABLE          the directory is missing or not ours to write
  static absl::StatusOr<std::unique_ptr<LocalServer>> Start(const Address& address, v1::LocalService::Service& service,
                                                            std::shared_ptr<MetricSet> metrics);
  // Stops and removes the socket.
  ~LocalServer();

  // Lets calls that run end within `grace`, then cuts them off. Idempotent.
  void Stop(std::chrono::milliseconds grace);

 private:
  LocalServer() : acceptor_(kMaxConnections) {}

  std::unique_ptr<grpc::Server> server_;
  ConnectionAcceptor acceptor_;  // gives connections to server_
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_LOCAL_SERVER_H_
