// The listening sockets of a gRPC server, and a limit of its connections.
//
// gRPC 1.51 has no such limit, and when accept() fails once, as it does when the process has no descriptor left, it
// never accepts again on that socket: a single peer with enough connections would end the service. Here a connection
// beyond the limit is accepted and closed at once: its peer knows, backs off and tries again, where in the backlog it
// would wait and nobody would know why. When accept() fails, it is tried again after a pause.
//
// gRPC owns a connection once it has it and tells nobody of its end: it has ended when its descriptor is closed or has
// become another socket. That is looked at when the limit seems reached, and whenever somebody asks how many there are.

#ifndef VIOMMU_COMMON_CONNECTION_ACCEPTOR_H_
#define VIOMMU_COMMON_CONNECTION_ACCEPTOR_H_

#include <grpcpp/server_builder.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/address.h"
#include "common/file_descriptor.h"
#include "common/metrics.h"
#include "common/mutex.h"

namespace viommu {

class ConnectionAcceptor {
 public:
  // Takes over a connection (non-blocking, close-on-exec). Called on the acceptor's thread.
  using Handler = std::function<void(FileDescriptor connection)>;

  // `send_timeout`: when what was sent has not been acknowledged for this long, a TCP connection is broken
  // (TCP_USER_TIMEOUT); 0 leaves it to the system.
  explicit ConnectionAcceptor(size_t max_connections,
                              std::chrono::milliseconds send_timeout = std::chrono::milliseconds(0));
  // Stops.
  ~ConnectionAcceptor();

  // Binds; peers wait until Start(). A name is bound at each of its addresses that can be, 0.0.0.0 and [::] at both
  // families, port 0 at a free one. Before Start(). UNAVAILABLE, naming the address, when it cannot be bound;
  // FAILED_PRECONDITION when somebody listens on a unix socket already, or its path is something else.
  absl::StatusOr<viommu::Address> Listen(const viommu::Address& address, Handler handler);

  // Accepts from now on: what takes the connections must be ready.
  void Start();

  // Closes the listening sockets and removes the files of unix ones; the connections stay. To be called before what
  // takes them ends. Idempotent.
  void Stop();

  // How many are open, and how many have been refused. Any thread.
  size_t connections();
  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  struct Listener {
    std::string name;  // for logs
    FileDescriptor socket;
    std::shared_ptr<const Handler> handler;
  };

  absl::Status ListenAt(const void* address, unsigned size, const std::string& name,
                        const std::shared_ptr<const Handler>& handler);
  void Accept();
  // False when accept() failed for a reason that needs time to go away.
  bool AcceptFrom(const Listener& listener);
  // Whether the connection may stay, which is then counted.
  bool Admit(int fd);
  void ForgetEnded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t max_connections_;
  const std::chrono::milliseconds send_timeout_;
  FileDescriptor stop_;
  std::vector<Listener> listeners_;
  std::vector<std::string> unix_paths_;
  std::thread thread_;

  std::atomic<uint64_t> refused_{0};
  // When these were last logged.
  std::chrono::steady_clock::time_point refused_logged_;
  std::chrono::steady_clock::time_point failed_logged_;

  Mutex mu_;
  absl::flat_hash_map<int, uint64_t> open_ ABSL_GUARDED_BY(mu_);  // connections that have been handed over
  std::chrono::steady_clock::time_point looked_ ABSL_GUARDED_BY(mu_);
};

// What gives connections to the server that `builder` builds, from when that has started until it is shut down.
ConnectionAcceptor::Handler GiveToGrpc(grpc::ServerBuilder& builder,
                                       std::shared_ptr<grpc::ServerCredentials> credentials);

// <prefix>_connections and <prefix>_connections_refused_total. `acceptor` must live until metrics.RemoveCallbacks().
void AddConnectionMetrics(MetricSet& metrics, std::string_view prefix, ConnectionAcceptor& acceptor);

}  // namespace viommu

#endif  // VIOMMU_COMMON_CONNECTION_ACCEPTOR_H_
