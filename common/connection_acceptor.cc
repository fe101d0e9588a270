#include "common/connection_acceptor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "common/error.h"
#include "common/log.h"
#include "common/unix_socket.h"

namespace viommu {
namespace {

using Steady = std::chrono::steady_clock;

// How often ended connections are looked for while the limit is reached: 20,000 take some milliseconds.
constexpr std::chrono::milliseconds kLookInterval(100);
// After accept() has failed.
constexpr int kPauseMs = 100;
// At most so many from one listening socket before the others.
constexpr int kBurst = 64;
constexpr std::chrono::minutes kLogInterval(1);

absl::Status CannotListen(const std::string& address, const char* why) {
  return absl::UnavailableError(fmt::format("cannot listen on {}: {}", address, why));
}

bool SetOption(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

// 0: no socket. The descriptor may be closed meanwhile, which fstat() would be blamed for by the sanitizer for races.
uint64_t InodeOf(int fd) {
  struct statx status;
  return ::statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_INO, &status) == 0 && S_ISSOCK(status.stx_mode)
             ? status.stx_ino
             : 0;
}

// Whether it is time to log again what may happen often.
bool Due(Steady::time_point& logged) {
  const auto now = Steady::now();
  if (logged != Steady::time_point() && now - logged < kLogInterval) return false;
  logged = now;
  return true;
}

uint16_t PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  // The port is at the same place in both families.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

}  // namespace

ConnectionAcceptor::ConnectionAcceptor(size_t max_connections, std::chrono::milliseconds send_timeout)
    : max_connections_(max_connections), send_timeout_(send_timeout) {}

ConnectionAcceptor::~ConnectionAcceptor() { Stop(); }

absl::Status ConnectionAcceptor::ListenAt(const void* address, unsigned size, const std::string& name,
                                          const std::shared_ptr<const Handler>& handler) {
  const int family = static_cast<const sockaddr*>(address)->sa_family;
  FileDescriptor socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = socket.get();
  // Connections inherit these. SO_REUSEADDR is for a restart: the port of a socket that listens is still refused.
  if (!socket.valid() ||
      (family != AF_UNIX &&
       (!SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1) || !SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1) ||
        !SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(send_timeout_.count())))) ||
      (family == AF_INET6 && !SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)) ||
      ::bind(fd, static_cast<const sockaddr*>(address), size) != 0 || ::listen(fd, SOMAXCONN) != 0) {
    return CannotListen(name, std::strerror(errno));
  }
  listeners_.push_back({name, std::move(socket), handler});
  return absl::OkStatus();
}

absl::StatusOr<Address> ConnectionAcceptor::Listen(const Address& address, Handler handler) {
  const auto shared = std::make_shared<const Handler>(std::move(handler));
  if (address.reach == AddressReach::kUnix) {
    VIOMMU_RETURN_IF_ERROR(ClearStaleSocket(address.path, SOCK_STREAM));
    sockaddr_un path = {};
    path.sun_family = AF_UNIX;
    std::strncpy(path.sun_path, address.path.c_str(), sizeof(path.sun_path) - 1);
    VIOMMU_RETURN_IF_ERROR(ListenAt(&path, sizeof(path), address.ToString(), shared));
    unix_paths_.push_back(address.path);
    return address;
  }
  Address real = address;
  const auto add = [&](sockaddr* each, unsigned size) {
    reinterpret_cast<sockaddr_in*>(each)->sin_port = htons(real.port);
    const absl::Status status = ListenAt(each, size, address.ToString(), shared);
    // The other addresses of a name get the same port.
    if (status.ok()) real.port = PortOf(listeners_.back().socket.get());
    return status;
  };
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(address.host.c_str(), nullptr, &hints, &found); error != 0) {
    return CannotListen(address.ToString(), ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  absl::Status first_error;
  bool bound = false;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    if (each->ai_family == AF_INET &&
        reinterpret_cast<const sockaddr_in*>(each->ai_addr)->sin_addr.s_addr == htonl(INADDR_ANY)) {
      sockaddr_in6 everywhere = {};
      everywhere.sin6_family = AF_INET6;
      if (add(reinterpret_cast<sockaddr*>(&everywhere), sizeof(everywhere)).ok()) {
        bound = true;
        continue;
      }
      // This machine has no IPv6, or not this port.
    }
    if (each->ai_family != AF_INET && each->ai_family != AF_INET6) continue;
    const absl::Status status = add(each->ai_addr, each->ai_addrlen);
    bound = bound || status.ok();
    first_error.Update(status);
  }
  if (!bound) return first_error;
  for (Listener& listener : listeners_) {
    if (listener.handler == shared) listener.name = real.ToString();
  }
  return real;
}

void ConnectionAcceptor::Start() {
  stop_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_.valid()) std::abort();
  thread_ = std::thread([this] { Accept(); });
}

void ConnectionAcceptor::Stop() {
  if (thread_.joinable()) {
    // Cannot fail: the counter is far from its end.
    if (::eventfd_write(stop_.get(), 1) != 0) std::abort();
    thread_.join();
  }
  listeners_.clear();
  for (const std::string& path : unix_paths_) ::unlink(path.c_str());
  unix_paths_.clear();
}

void ConnectionAcceptor::Accept() {
  std::vector<pollfd> waits = {{stop_.get(), POLLIN, 0}};
  for (const Listener& listener : listeners_) waits.push_back({listener.socket.get(), POLLIN, 0});
  bool paused = false;
  while (true) {
    for (pollfd& wait : waits) wait.revents = 0;
    const int ready = paused ? ::poll(waits.data(), 1, kPauseMs) : ::poll(waits.data(), waits.size(), -1);
    if (ready < 0) continue;  // EINTR
    if (waits[0].revents != 0) return;
    paused = false;
    for (size_t i = 0; i < listeners_.size(); ++i) {
      if (waits[i + 1].revents != 0 && !AcceptFrom(listeners_[i])) paused = true;
    }
  }
}

bool ConnectionAcceptor::AcceptFrom(const Listener& listener) {
  for (int i = 0; i < kBurst; ++i) {
    FileDescriptor connection(::accept4(listener.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection.valid()) {
      const int error = errno;
      if (error == EAGAIN) return true;
      if (error == EINTR || error == ECONNABORTED) continue;
      if (Due(failed_logged_)) {
        VIOMMU_LOG(kError, "cannot accept connections, trying on",
                   {{"listen", listener.name}, {"reason", std::strerror(error)}, {"connections", connections()}});
      }
      return false;
    }
    if (Admit(connection.get())) {
      (*listener.handler)(std::move(connection));
      continue;
    }
    const uint64_t refused = refused_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (Due(refused_logged_)) {
      VIOMMU_LOG(kWarning, "connections refused: as many as may be are open",
                 {{"listen", listener.name}, {"limit", max_connections_}, {"refused", refused}});
    }
  }
  return true;
}

bool ConnectionAcceptor::Admit(int fd) {
  MutexLock lock(mu_);
  // What had this descriptor before has ended.
  open_.erase(fd);
  if (open_.size() >= max_connections_ && Steady::now() - looked_ >= kLookInterval) ForgetEnded();
  if (open_.size() >= max_connections_) return false;
  open_[fd] = InodeOf(fd);
  return true;
}

void ConnectionAcceptor::ForgetEnded() {
  absl::erase_if(open_, [](const auto& each) {
    const uint64_t inode = InodeOf(each.first);
    return inode == 0 || inode != each.second;
  });
  looked_ = Steady::now();
}

size_t ConnectionAcceptor::connections() {
  MutexLock lock(mu_);
  ForgetEnded();
  return open_.size();
}

ConnectionAcceptor::Handler GiveToGrpc(grpc::ServerBuilder& builder,
                                       std::shared_ptr<grpc::ServerCredentials> credentials) {
  using Experimental = grpc::ServerBuilder::experimental_type;
  std::shared_ptr<grpc::experimental::ExternalConnectionAcceptor> server =
      builder.experimental().AddExternalConnectionAcceptor(Experimental::ExternalConnectionType::FROM_FD,
                                                           std::move(credentials));
  return [server](FileDescriptor connection) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
    parameters.fd = connection.release();
    server->HandleNewConnection(&parameters);
  };
}

void AddConnectionMetrics(MetricSet& metrics, std::string_view prefix, ConnectionAcceptor& acceptor) {
  metrics.AddCallback(fmt::format("{}_connections", prefix), "Open connections", MetricKind::kGauge, [&acceptor] {
    return std::vector<MetricSample>{{{}, static_cast<double>(acceptor.connections())}};
  });
  metrics.AddCallback(fmt::format("{}_connections_refused_total", prefix),
                      "Connections closed at once because as many as may be were open", MetricKind::kCounter,
                      [&acceptor] {
                        return std::vector<MetricSample>{{{}, static_cast<double>(acceptor.refused())}};
                      });
}

}  // namespace viommu
