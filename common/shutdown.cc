#include "common/shutdown.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <limits>

#include "absl/status/status.h"

namespace viommu {
namespace {

constexpr int kSignals[] = {SIGTERM, SIGINT};
constexpr int kNone = -1;

// What the handler touches must be lock-free and outlive every handler that may still run.
std::atomic<bool> installed{false};
std::atomic<int> received{kNone};
std::atomic<int> wake_fd{kNone};
int pipe_fds[2] = {kNone, kNone};
struct sigaction previous[std::size(kSignals)];
struct sigaction previous_pipe;
static_assert(std::atomic<int>::is_always_lock_free);

// Nobody reads the byte: the pipe stays readable, so that every waiter, now and later, wakes.
void Wake(int signal) {
  int expected = kNone;
  if (!received.compare_exchange_strong(expected, signal)) return;
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(wake_fd.load(), &byte, 1);
}

void Handle(int signal) {
  const int saved_errno = errno;
  if (received.load() > 0) _exit(128 + signal);
  Wake(signal);
  errno = saved_errno;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShutdownSignal>> ShutdownSignal::Install() {
  if (installed.exchange(true)) return absl::FailedPreconditionError("signals are taken over already");
  if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) {
    installed = false;
    return absl::ErrnoToStatus(errno, "cannot make a pipe for signals");
  }
  received = kNone;
  wake_fd = pipe_fds[1];
  struct sigaction action = {};
  action.sa_handler = Handle;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &action, &previous[i]);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &previous_pipe);
  return std::unique_ptr<ShutdownSignal>(new ShutdownSignal);
}

ShutdownSignal::~ShutdownSignal() {
  for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &previous[i], nullptr);
  sigaction(SIGPIPE, &previous_pipe, nullptr);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  installed = false;
}

int ShutdownSignal::Wait() {
  while (true) {
    if (const auto signal = WaitFor(std::chrono::hours(1))) return *signal;
  }
}

std::optional<int> ShutdownSignal::WaitFor(std::chrono::nanoseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry = {pipe_fds[0], POLLIN, 0};
    const int ready =
        poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(left.count(), 0, std::numeric_limits<int>::max())));
    if (ready > 0) return received.load();
    if (ready == 0 && std::chrono::steady_clock::now() >= deadline) return std::nullopt;
  }
}

void ShutdownSignal::Request() { Wake(0); }

}  // namespace viommu
