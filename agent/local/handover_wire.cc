#include "agent/local/handover_wire.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/grpc_error.h"

namespace viommu::agent {
namespace {

absl::Status Broken(std::string_view call) {
  return absl::UnavailableError(fmt::format("handover socket: {}: {}", call, std::strerror(errno)));
}

// Room for the descriptors of one packet, and one more to notice that there are too many.
union ControlBuffer {
  cmsghdr header;
  std::array<char, CMSG_SPACE(sizeof(int) * (kMaxPacketDescriptors + 1))> bytes;
};

}  // namespace

absl::Status SendPacket(int socket, const google::protobuf::MessageLite& message, std::span<const int> descriptors) {
  std::string bytes(1, kPacketVersion);
  message.AppendToString(&bytes);
  iovec part = {bytes.data(), bytes.size()};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  ControlBuffer control = {};
  if (!descriptors.empty()) {
    header.msg_control = control.bytes.data();
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  while (::sendmsg(socket, &header, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return Broken("sendmsg");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Packet>> ReceivePacket(int socket) {
  Packet packet;
  packet.bytes.resize(kMaxPacketBytes);
  iovec part = {packet.bytes.data(), packet.bytes.size()};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  ControlBuffer control = {};
  header.msg_control = control.bytes.data();
  header.msg_controllen = control.bytes.size();
  ssize_t received = 0;
  do {
    received = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return Broken("recvmsg");
  // Whatever came is owned from here on, also when the packet is refused.
  for (cmsghdr* part_of = CMSG_FIRSTHDR(&header); part_of != nullptr; part_of = CMSG_NXTHDR(&header, part_of)) {
    if (part_of->cmsg_level != SOL_SOCKET || part_of->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part_of->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part_of) + i * sizeof(int), sizeof(int));
      packet.descriptors.emplace_back(fd);
    }
  }
  if (received == 0 && packet.descriptors.empty()) return std::nullopt;
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || packet.descriptors.size() > kMaxPacketDescriptors) {
    return absl::InvalidArgumentError(
        fmt::format("a packet has at most {} bytes and {} descriptors", kMaxPacketBytes, kMaxPacketDescriptors));
  }
  if (received == 0 || packet.bytes[0] != kPacketVersion) {
    return absl::InvalidArgumentError(fmt::format("a packet begins with its version, {}", int{kPacketVersion}));
  }
  packet.bytes.resize(static_cast<size_t>(received));
  packet.bytes.erase(0, 1);
  return packet;
}

absl::StatusOr<HandoverClient> HandoverClient::Connect(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(fmt::format("{} is too long for a unix socket", path));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  FileDescriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Broken("socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(fmt::format("cannot reach the agent at {}: {}", path, std::strerror(errno)));
  }
  return HandoverClient(std::move(socket));
}

absl::StatusOr<HandoverClient::Answer> HandoverClient::Call(const v1::HandoverRequest& request,
                                                            std::span<const int> descriptors) {
  // Whom the agent does not let in finds the reason here, also when it could not send any more.
  const absl::Status sent = SendPacket(socket_.get(), request, descriptors);
  absl::StatusOr<std::optional<Packet>> packet = ReceivePacket(socket_.get());
  if (!packet.ok()) return sent.ok() ? packet.status() : sent;
  if (!packet->has_value()) return absl::UnavailableError("the agent has closed the handover connection");
  Answer answer;
  if (!answer.response.ParseFromString((*packet)->bytes)) {
    return absl::UnavailableError("the agent's answer on the handover connection is no message of ours");
  }
  if (answer.response.has_status()) return FromWireStatus(answer.response.status());
  answer.descriptors = std::move((*packet)->descriptors);
  return answer;
}

}  // namespace viommu::agent
