#include "agent/local/handover_server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "common/error.h"
#include "common/grpc_error.h"
#include "common/log.h"
#include "common/unix_socket.h"

namespace viommu::agent {
namespace {

constexpr int kBacklog = 16;   // connections that wait for accept()
constexpr int kPauseMs = 100;  // after it has failed

absl::Status Failed(const std::string& path, std::string_view call) {
  return absl::UnavailableError(fmt::format("{}: {}: {}", path, call, std::strerror(errno)));
}

absl::Status CheckDescriptors(const Packet& packet, size_t wanted) {
  if (packet.descriptors.size() == wanted) return absl::OkStatus();
  return InvalidField("descriptors", "{} came with the request, which takes {}", packet.descriptors.size(), wanted);
}

// Tells a peer that is not let in why. Its first request is read before that: a connection that is closed with
// something unread in it is reset, and the reason lost. Who says nothing is not waited for.
void Refuse(int socket, const absl::Status& why) {
  constexpr int kLongestWaitMs = 100;
  pollfd wait = {socket, POLLIN, 0};
  if (::poll(&wait, 1, kLongestWaitMs) > 0) static_cast<void>(ReceivePacket(socket));
  v1::HandoverResponse response;
  *response.mutable_status() = ToWireStatus(why);
  static_cast<void>(SendPacket(socket, response, {}));
}

}  // namespace

absl::StatusOr<std::unique_ptr<HandoverServer>> HandoverServer::Start(const std::string& path, HandoverHandler& handler,
                                                                      Options options) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        fmt::format("{} is too long for a unix socket ({} bytes at most)", path, sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  VIOMMU_RETURN_IF_ERROR(ClearStaleSocket(path, SOCK_SEQPACKET));
  FileDescriptor listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  FileDescriptor stop(::eventfd(0, EFD_CLOEXEC));
  if (!listener.valid() || !stop.valid()) return Failed(path, "socket");
  // Between bind and chmod nobody but owner and group may come in either.
  const mode_t umask_before = ::umask(0007);
  const int bound = ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  ::umask(umask_before);
  if (bound != 0) return Failed(path, "bind");
  if (::chmod(path.c_str(), 0660) != 0) return Failed(path, "chmod");
  if (::listen(listener.get(), kBacklog) != 0) return Failed(path, "listen");
  return std::unique_ptr<HandoverServer>(
      new HandoverServer(path, std::move(listener), std::move(stop), handler, std::move(options)));
}

HandoverServer::HandoverServer(std::string path, FileDescriptor listener, FileDescriptor stop, HandoverHandler& handler,
                               Options options)
    : path_(std::move(path)),
      listener_(std::move(listener)),
      stop_(std::move(stop)),
      handler_(handler),
      options_(std::move(options)),
      acceptor_([this] { Accept(); }) {}

HandoverServer::~HandoverServer() {
  // Cannot fail: the counter is far from its end.
  if (::eventfd_write(stop_.get(), 1) != 0) std::abort();
  acceptor_.join();
  std::map<HandoverHandler::Connection, Peer> peers;
  {
    MutexLock lock(mu_);
    for (auto& [id, peer] : peers_) ::shutdown(peer.socket.get(), SHUT_RDWR);
    peers.swap(peers_);
  }
  for (auto& [id, peer] : peers) peer.thread.join();
  ::unlink(path_.c_str());
}

void HandoverServer::Accept() {
  while (true) {
    std::array<pollfd, 2> waits = {pollfd{listener_.get(), POLLIN, 0}, pollfd{stop_.get(), POLLIN, 0}};
    if (::poll(waits.data(), waits.size(), -1) < 0) continue;  // EINTR
    if (waits[1].revents != 0) return;
    FileDescriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) {
      // Without free descriptors it would fail again at once, and again.
      ::poll(&waits[1], 1, kPauseMs);
      continue;
    }
    Reap();
    const absl::StatusOr<ucred> judged = Judge(socket.get());
    if (!judged.ok()) {
      VIOMMU_LOG(kWarning, "handover refused", {{"reason", std::string(judged.status().message())}});
      Refuse(socket.get(), judged.status());
      continue;
    }
    MutexLock lock(mu_);
    const HandoverHandler::Connection connection = ++last_connection_;
    handler_.Opened(connection, *judged);
    const int fd = socket.get();
    Peer& peer = peers_[connection];
    peer.socket = std::move(socket);
    peer.thread = std::thread([this, connection, fd] { Serve(connection, fd); });
  }
}

absl::StatusOr<ucred> HandoverServer::Judge(int socket) const {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return Failed(path_, "SO_PEERCRED");
  const auto& allowed = options_.allowed_uids;
  if (peer.uid != 0 && peer.uid != ::geteuid() &&
      std::find(allowed.begin(), allowed.end(), peer.uid) == allowed.end()) {
    return Error(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED)
        .Message("user {} (process {}) may not hand memory over to this agent; add it to handover.allow_uids", peer.uid,
                 peer.pid)
        .Meta("uid", std::to_string(peer.uid));
  }
  MutexLock lock(mu_);
  if (peers_.size() < kMaxConnections) return peer;
  return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
      .Message("{} connections are open already; close some", peers_.size())
      .RetryAfter(std::chrono::seconds(1));
}

void HandoverServer::Serve(HandoverHandler::Connection connection, int socket) {
  while (ServeOne(connection, socket)) {
  }
  handler_.Closed(connection);
  MutexLock lock(mu_);
  const auto peer = peers_.find(connection);
  if (peer == peers_.end()) return;  // the server ends, and joins by itself
  // The caller sees the end now; the thread is joined when somebody else comes.
  ::shutdown(socket, SHUT_RDWR);
  peer->second.ended = true;
}

bool HandoverServer::ServeOne(HandoverHandler::Connection connection, int socket) {
  absl::StatusOr<std::optional<Packet>> received = ReceivePacket(socket);
  if (!received.ok() && absl::IsUnavailable(received.status())) return false;
  if (received.ok() && !received->has_value()) return false;
  v1::HandoverResponse response;
  HandoverHandler::HwQueue queue;
  std::vector<int> descriptors;
  const auto handle = [&]() -> absl::Status {
    if (!received.ok()) return InvalidField("packet", "{}", std::string(received.status().message()));
    Packet packet = **std::move(received);
    v1::HandoverRequest request;
    if (!request.ParseFromString(packet.bytes)) return InvalidField("packet", "is no HandoverRequest");
    switch (request.kind_case()) {
      case v1::HandoverRequest::kMapMemory:
        VIOMMU_RETURN_IF_ERROR(CheckDescriptors(packet, 1));
        return handler_.Map(connection, request.map_memory(), std::move(packet.descriptors[0]));
      case v1::HandoverRequest::kUnmapMemory: {
        VIOMMU_RETURN_IF_ERROR(CheckDescriptors(packet, 0));
        VIOMMU_ASSIGN_OR_RETURN(const uint64_t bytes, handler_.Unmap(connection, request.unmap_memory()));
        response.set_unmapped_bytes(bytes);
        return absl::OkStatus();
      }
      case v1::HandoverRequest::kOpenHwQueue: {
        VIOMMU_RETURN_IF_ERROR(CheckDescriptors(packet, 0));
        VIOMMU_ASSIGN_OR_RETURN(queue, handler_.OpenHwQueue(connection, request.open_hw_queue().name()));
        *response.mutable_hw_queue() = queue.handle;
        descriptors = {queue.registers.get(), queue.memory.get()};
        return absl::OkStatus();
      }
      case v1::HandoverRequest::kListGuestEvents: {
        VIOMMU_RETURN_IF_ERROR(CheckDescriptors(packet, 0));
        VIOMMU_ASSIGN_OR_RETURN(*response.mutable_guest_events(),
                                handler_.ListGuestEvents(connection, request.list_guest_events()));
        return absl::OkStatus();
      }
      case v1::HandoverRequest::KIND_NOT_SET:
        break;
    }
    return InvalidField("kind", "is required: map_memory, unmap_memory, open_hw_queue or list_guest_events");
  };
  if (absl::Status status = handle(); !status.ok()) *response.mutable_status() = ToWireStatus(status);
  return SendPacket(socket, response, descriptors).ok();
}

void HandoverServer::Reap() {
  std::vector<Peer> ended;
  {
    MutexLock lock(mu_);
    for (auto peer = peers_.begin(); peer != peers_.end();) {
      if (peer->second.ended) {
        ended.push_back(std::move(peer->second));
        peer = peers_.erase(peer);
      } else {
        ++peer;
      }
    }
  }
  for (Peer& peer : ended) peer.thread.join();
}

}  // namespace viommu::agent
