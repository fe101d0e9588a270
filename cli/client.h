// The wire: one channel, calls with deadlines and retries, streams. The only part of the CLI that knows gRPC.
//
// A call is told by its request: the method whose input the request's type is, of FleetService, OperationsService or
// LocalService (each request belongs to exactly one method). Everything here is for one thread.

#ifndef VIOMMU_CLI_CLIENT_H_
#define VIOMMU_CLI_CLIENT_H_

#include <google/protobuf/message.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace viommu::cli {

// Tries of one call in all, the first one included.
inline constexpr int kMaxTries = 3;
// Largest reply that is taken, in bytes.
inline constexpr int kMaxReplyBytes = 16 << 20;

struct Endpoint {
  std::string address;          // HOST:PORT or unix:PATH
  std::string peer = "server";  // who is there, and the flag that says where; for errors
  std::string flag = "--server";
  std::string tls_ca;  // files; empty for none
  std::string tls_cert;
  std::string tls_key;
  // Allows plain text to a server that is neither on loopback nor a unix socket.
  bool insecure = false;
};

struct CallOptions {
  // Of the call with all its tries.
  std::chrono::milliseconds timeout{};
  // Called about ten times a second while waiting; may be empty.
  std::function<void()> on_tick;
};

class Client {
 public:
  // Does not connect yet. Usage errors: a bad address, unreadable certificate files, plain text to elsewhere without
  // `insecure`. `interrupted` outlives the client; when it becomes true, what is under way ends with
  // InterruptedError().
  static absl::StatusOr<std::unique_ptr<Client>> Create(const Endpoint& endpoint, const std::atomic<bool>& interrupted);

  virtual ~Client() = default;

  // One unary call. UNAVAILABLE, and RESOURCE_EXHAUSTED when it says when to come back (RetryInfo), is tried again, up
  // to kMaxTries times and within the timeout, with growing pauses (or those that are asked for): only for requests
  // that may be repeated, which all of ours may: changes carry a request_id, everything else may be said twice.
  virtual absl::Status Call(const google::protobuf::Message& request, google::protobuf::Message& response,
                            const CallOptions& options) = 0;

  // A server stream. `message` is the reply that each message is parsed into before `on_message` is called; false from
  // it ends the stream with OK. Without end unless `timeout` is above zero, and then its end is no error: OK. No
  // retries: who resumes must know where (watch_position.h).
  virtual absl::Status Stream(const google::protobuf::Message& request, google::protobuf::Message& message,
                              const std::function<bool()>& on_message, std::chrono::milliseconds timeout) = 0;

  // Waits for that long, or until interrupted (an error).
  virtual absl::Status Pause(std::chrono::milliseconds length, const std::function<void()>& on_tick) = 0;
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_CLIENT_H_
