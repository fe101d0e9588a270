// Packets of the handover socket (viommu/v1/handover.proto): a message with file descriptors beside it.

#ifndef VIOMMU_AGENT_LOCAL_HANDOVER_WIRE_H_
#define VIOMMU_AGENT_LOCAL_HANDOVER_WIRE_H_

#include <google/protobuf/message_lite.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file_descriptor.h"
#include "viommu/v1/handover.pb.h"

namespace viommu::agent {

inline constexpr char kPacketVersion = 1;  // the first byte: no packet is empty, which would read as the end
inline constexpr size_t kMaxPacketBytes = 65536;
inline constexpr size_t kMaxPacketDescriptors = 2;

struct Packet {
  std::string bytes;  // of the message
  std::vector<FileDescriptor> descriptors;
};

// Blocks until the packet is taken. The descriptors stay the caller's. UNAVAILABLE: the other side has gone.
absl::Status SendPacket(int socket, const google::protobuf::MessageLite& message, std::span<const int> descriptors);

// Blocks until there is one; nothing at the end of the connection. INVALID_ARGUMENT: longer, or with more descriptors,
// than a packet may be, or of another version; UNAVAILABLE: the connection broke.
absl::StatusOr<std::optional<Packet>> ReceivePacket(int socket);

// The caller's side. One call at a time.
class HandoverClient {
 public:
  struct Answer {
    v1::HandoverResponse response;
    std::vector<FileDescriptor> descriptors;
  };

  // `path` is that of the socket.
  static absl::StatusOr<HandoverClient> Connect(const std::string& path);

  // To poll for the end of the connection. Stays the client's.
  int socket() const { return socket_.get(); }

  // Errors are the agent's, or UNAVAILABLE.
  absl::StatusOr<Answer> Call(const v1::HandoverRequest& request, std::span<const int> descriptors = {});

 private:
  explicit HandoverClient(FileDescriptor socket) : socket_(std::move(socket)) {}
  FileDescriptor socket_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_HANDOVER_WIRE_H_
