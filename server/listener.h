// A gRPC server on some addresses, with the settings that all of ours have (docs/limits.md).

#ifndef VIOMMU_SERVER_LISTENER_H_
#define VIOMMU_SERVER_LISTENER_H_

#include <grpcpp/server.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/address.h"
#include "common/clock.h"
#include "common/connection_acceptor.h"
#include "common/credentials.h"
#include "common/metrics.h"
#include "server/config.h"

namespace viommu::server {

struct ListenerOptions {
  std::vector<Address> addresses;
  TransportOptions transport;
  std::string transport_section;           // of the configuration, for messages
  std::vector<grpc::Service*> services;    // must outlive the listener
  std::vector<std::string> service_names;  // of these, for metrics and health
  int max_receive_message_bytes = 4 << 20;
  size_t max_connections = 0;
  std::string metrics_prefix;
};

class GrpcListener {
 public:
  // Binds every address and serves. UNAVAILABLE or FAILED_PRECONDITION, naming the address, when one cannot be bound;
  // INVALID_ARGUMENT for certificates that do not fit.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Start(const ListenerOptions& options, const ServerConfig& config,
                                                             std::shared_ptr<MetricSet> metrics, const Clock& clock);

  grpc::Server& server() { return *server_; }
  // With the real ports.
  const std::vector<Address>& addresses() const { return addresses_; }

  // What the health service says about `service`; "" is the server as a whole.
  void SetServing(const std::string& service, bool serving);
  // NOT_SERVING about everything, for good.
  void EndServing();
  // No new connections; calls may go on until `deadline`.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  GrpcListener(size_t max_connections, std::chrono::milliseconds send_timeout)
      : acceptor_(max_connections, send_timeout) {}

  std::vector<Address> addresses_;
  std::unique_ptr<grpc::Server> server_;
  ConnectionAcceptor acceptor_;  // gives connections to server_
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_LISTENER_H_
