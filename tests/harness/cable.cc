#include "tests/harness/cable.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace viommu::tests {
namespace {

constexpr size_t kMaxWaiting = size_t{64} << 10;  // bytes, in each direction of a connection

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::abort();
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) Die("a path too long for a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

FileDescriptor NewSocket() {
  FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) Die("socket");
  return socket;
}

}  // namespace

Cable::Cable(const std::string& path, std::string to)
    : to_(std::move(to)), listening_(NewSocket()), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  const sockaddr_un address = AddressOf(path);
  if (::bind(listening_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) Die("bind");
  if (::listen(listening_.get(), 16) != 0) Die("listen");
  thread_ = std::thread([this] { Loop(); });
}

Cable::~Cable() {
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  Set(State::kCut);
  thread_.join();
}

void Cable::Set(State state) {
  {
    MutexLock lock(mu_);
    state_ = state;
  }
  if (::eventfd_write(wake_.get(), 1) != 0) Die("eventfd_write");
}

uint64_t Cable::passed() const {
  MutexLock lock(mu_);
  return passed_;
}

void Cable::Accept() {
  FileDescriptor accepted(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!accepted.valid()) return;
  FileDescriptor onward = NewSocket();
  const sockaddr_un address = AddressOf(to_);
  // Where nobody listens the connection is dropped, as it would be without the cable.
  if (::connect(onward.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return;
  Connection& connection = connections_.emplace_back();
  connection.ends[0].socket = std::move(accepted);
  connection.ends[1].socket = std::move(onward);
}

bool Cable::Move(End& from, End& to) {
  if (from.waiting.size() < kMaxWaiting) {
    const size_t before = from.waiting.size();
    from.waiting.resize(kMaxWaiting);
    const ssize_t got = ::read(from.socket.get(), from.waiting.data() + before, kMaxWaiting - before);
    from.waiting.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
  }
  if (from.waiting.empty()) return true;
  const ssize_t put = ::send(to.socket.get(), from.waiting.data(), from.waiting.size(), MSG_NOSIGNAL);
  if (put < 0) return errno == EAGAIN;
  from.waiting.erase(from.waiting.begin(), from.waiting.begin() + put);
  MutexLock lock(mu_);
  passed_ += static_cast<uint64_t>(put);
  return true;
}

void Cable::Loop() {
  while (true) {
    State state;
    {
      MutexLock lock(mu_);
      if (stop_) return;
      state = state_;
    }
    if (state == State::kCut) connections_.clear();
    std::vector<pollfd> polled = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                                  {.fd = listening_.get(), .events = POLLIN, .revents = 0}};
    if (state == State::kWhole) {
      for (const Connection& connection : connections_) {
        for (const End& end : connection.ends) {
          const End& other = connection.ends[&end == &connection.ends[0] ? 1 : 0];
          short events = 0;
          if (end.waiting.size() < kMaxWaiting) events |= POLLIN;
          if (!other.waiting.empty()) events |= POLLOUT;
          polled.push_back({.fd = end.socket.get(), .events = events, .revents = 0});
        }
      }
    }
    if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) Die("poll");
    eventfd_t wakes = 0;
    if (::eventfd_read(wake_.get(), &wakes) != 0 && errno != EAGAIN) Die("eventfd_read");
    if (polled[1].revents != 0) {
      if (state == State::kCut) {
        FileDescriptor refused(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      } else {
        Accept();
      }
    }
    if (state != State::kWhole) continue;
    connections_.remove_if([this](Connection& connection) {
      return !Move(connection.ends[0], connection.ends[1]) || !Move(connection.ends[1], connection.ends[0]);
    });
  }
}

}  // namespace viommu::tests
