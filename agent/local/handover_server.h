// The agent's handover socket: VMMs of this host hand over their guests' memory and get hardware queues
// (viommu/v1/handover.proto).
//
// Threads. One accepts connections, and each connection has one that carries out its requests one after the other, so a
// slow request holds up nobody else. Handlers are called on these.

#ifndef VIOMMU_AGENT_LOCAL_HANDOVER_SERVER_H_
#define VIOMMU_AGENT_LOCAL_HANDOVER_SERVER_H_

#include <sys/socket.h>
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "agent/local/handover_wire.h"
#include "common/file_descriptor.h"
#include "common/mutex.h"
#include "viommu/v1/handover.pb.h"

namespace viommu::agent {

// What the requests come to. Calls for different connections run beside each other.
class HandoverHandler {
 public:
  // Never used twice.
  using Connection = uint64_t;
  struct HwQueue {
    v1::HwQueueHandle handle;
    FileDescriptor registers;
    FileDescriptor memory;
  };

  virtual ~HandoverHandler() = default;
  // The first call for this connection: which process is at its other end, and whose it is.
  virtual void Opened(Connection connection, const ucred& peer) = 0;
  virtual absl::Status Map(Connection connection, const v1::MapMemory& request, FileDescriptor file) = 0;
  virtual absl::StatusOr<uint64_t> Unmap(Connection connection, const v1::UnmapMemory& request) = 0;
  virtual absl::StatusOr<HwQueue> OpenHwQueue(Connection connection, const std::string& name) = 0;
  virtual absl::StatusOr<v1::ListGuestEventsResponse> ListGuestEvents(Connection connection,
                                                                      const v1::ListGuestEventsRequest& request) = 0;
  // The last call for this connection: what it has is to be given back.
  virtual void Closed(Connection connection) = 0;
};

class HandoverServer {
 public:
  static constexpr size_t kMaxConnections = 256;

  struct Options {
    // Who may connect, beside root and the agent's own user.
    std::vector<uid_t> allowed_uids;
  };

  // Listens on a socket at `path`, made anew. `handler` must outlive the server.
  static absl::StatusOr<std::unique_ptr<HandoverServer>> Start(const std::string& path, HandoverHandler& handler,
                                                               Options options);
  // Ends every connection, and returns when their last call has.
  ~HandoverServer();

 private:
  struct Peer {
    FileDescriptor socket;
    std::thread thread;
    bool ended = false;
  };

  HandoverServer(std::string path, FileDescriptor listener, FileDescriptor stop, HandoverHandler& handler,
                 Options options);
  void Accept() ABSL_LOCKS_EXCLUDED(mu_);
  void Serve(HandoverHandler::Connection connection, int socket) ABSL_LOCKS_EXCLUDED(mu_);
  // Answers one request; false: the connection is over.
  bool ServeOne(HandoverHandler::Connection connection, int socket);
  // Who has connected, or why they may not.
  absl::StatusOr<ucred> Judge(int socket) const ABSL_LOCKS_EXCLUDED(mu_);
  // Joins the threads of connections that have ended.
  void Reap() ABSL_LOCKS_EXCLUDED(mu_);

  const std::string path_;
  const FileDescriptor listener_;
  const FileDescriptor stop_;  // an eventfd: readable when the server ends
  HandoverHandler& handler_;
  const Options options_;

  mutable Mutex mu_;
  std::map<HandoverHandler::Connection, Peer> peers_ ABSL_GUARDED_BY(mu_);
  HandoverHandler::Connection last_connection_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread acceptor_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_HANDOVER_SERVER_H_
