// Stands in for systemd's file descriptor store, in the testbed's guest, which has no systemd.
//
//   viommu-fd-store COMMAND [ARGUMENT…]
//
// Runs COMMAND with a notify socket, keeps what it sends with FDSTORE=1, lets go of it with FDSTOREREMOVE=1, and runs
// it again as soon as it has ended, with what is kept (sd_listen_fds(3)). Ends itself with SIGTERM, and ends COMMAND.
// COMMAND has no more of root's powers than the agent's unit leaves it (deploy/systemd/viommu-agent.service).

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/file_descriptor.h"

namespace viommu::kernel {
namespace {

constexpr int kFirstFile = 3;       // SD_LISTEN_FDS_START
constexpr size_t kMaxFiles = 2048;  // kept
constexpr size_t kMaxMessageFiles = 16;

struct Kept {
  std::string name;
  FileDescriptor file;
};

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(EXIT_FAILURE);
}

// The value of a line "KEY=value"; empty when there is none.
std::string Value(std::string_view text, std::string_view key) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    if (line.substr(0, key.size()) == key && line.substr(key.size(), 1) == "=") {
      return std::string(line.substr(key.size() + 1));
    }
    at = end + 1;
  }
  return "";
}

// One message; descriptors that are not kept are closed, which is how BARRIER=1 is answered.
void Receive(int socket, std::vector<Kept>& kept) {
  std::array<char, 4096> text = {};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxMessageFiles * sizeof(int))> control = {};
  iovec part{text.data(), text.size()};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t bytes = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (bytes < 0) return;
  std::vector<FileDescriptor> files;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; CMSG_LEN(at) < c->cmsg_len; at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
      files.emplace_back(fd);
    }
  }
  const std::string_view message(text.data(), static_cast<size_t>(bytes));
  const std::string name = Value(message, "FDNAME");
  if (Value(message, "FDSTORE") == "1") {
    for (FileDescriptor& file : files) {
      if (kept.size() < kMaxFiles) kept.push_back({name, std::move(file)});
    }
  } else if (Value(message, "FDSTOREREMOVE") == "1") {
    std::erase_if(kept, [&](const Kept& k) { return k.name == name; });
  }
}

// CapabilityBoundingSet=, NoNewPrivileges=yes and LimitMEMLOCK=infinity: without CAP_IPC_LOCK what is pinned is
// counted.
void LeavePowers() {
  const rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &all) != 0) Die("setrlimit");
  // Up to the last one that this kernel knows; they are gone with the next program.
  for (unsigned long capability = 0; ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; ++capability) {
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Die("no new privileges");
}

pid_t Run(char** command, const std::vector<Kept>& kept) {
  const pid_t child = ::fork();
  if (child < 0) Die("fork");
  if (child > 0) return child;
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // First out of the way of where they have to be.
  const int above = kFirstFile + static_cast<int>(kept.size());
  std::vector<int> copies;
  std::string names;
  for (const Kept& k : kept) {
    const int copy = ::fcntl(k.file.get(), F_DUPFD_CLOEXEC, above);
    if (copy < 0) Die("dup");
    copies.push_back(copy);
    names += (names.empty() ? "" : ":") + k.name;
  }
  for (size_t i = 0; i < copies.size(); ++i) {
    if (::dup2(copies[i], kFirstFile + static_cast<int>(i)) < 0) Die("dup2");
  }
  if (!kept.empty()) {
    ::setenv("LISTEN_FDS", std::to_string(kept.size()).c_str(), 1);
    ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  }
  LeavePowers();
  ::execvp(command[0], command);
  Die(command[0]);
}

int Main(char** command) {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  const FileDescriptor signal_file(::signalfd(-1, &signals, SFD_CLOEXEC));
  const FileDescriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) != 0) Die("bind");
  socklen_t size = sizeof(address);
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) Die("getsockname");
  const std::string name(address.sun_path + 1, size - sizeof(sa_family_t) - 1);
  ::setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1);

  std::vector<Kept> kept;
  pid_t child = Run(command, kept);
  while (true) {
    std::array<pollfd, 2> waits = {pollfd{socket.get(), POLLIN, 0}, pollfd{signal_file.get(), POLLIN, 0}};
    if (::poll(waits.data(), waits.size(), -1) < 0) continue;
    // What it said before it ended comes first.
    if ((waits[0].revents & POLLIN) != 0) {
      Receive(socket.get(), kept);
      continue;
    }
    signalfd_siginfo signal = {};
    if (::read(signal_file.get(), &signal, sizeof(signal)) != sizeof(signal)) continue;
    if (signal.ssi_signo == SIGTERM) {
      ::kill(child, SIGTERM);
      ::waitpid(child, nullptr, 0);
      return EXIT_SUCCESS;
    }
    if (::waitpid(child, nullptr, WNOHANG) == child) child = Run(command, kept);
  }
}

}  // namespace
}  // namespace viommu::kernel

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: viommu-fd-store COMMAND [ARGUMENT...]\n");
    return 2;
  }
  return viommu::kernel::Main(argv + 1);
}
