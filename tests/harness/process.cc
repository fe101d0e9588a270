#include "tests/harness/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

namespace viommu::tests {
namespace {

[[noreturn]] void Die(std::string_view what) {
  std::cerr << what << ": " << std::strerror(errno) << std::endl;
  abort();
}

pid_t Spawn(const std::vector<std::string>& argv, int out, int err) {
  std::vector<char*> args;
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) Die("fork");
  if (pid == 0) {
    // Whatever becomes of the test, what it started does not outlive it.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execv(args[0], args.data());
    std::fprintf(stderr, "exec %s: %s\n", args[0], std::strerror(errno));
    _exit(127);
  }
  return pid;
}

int StatusOf(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace

TempDir::TempDir() {
  // Not under TEST_TMPDIR: a unix socket's path has at most 107 bytes.
  char path[] = "/tmp/viommu-XXXXXX";
  if (mkdtemp(path) == nullptr) Die("mkdtemp");
  path_ = path;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string Runfile(std::string_view path) {
  const char* root = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  if (root != nullptr && workspace != nullptr) return std::string(root) + "/" + workspace + "/" + std::string(path);
  // Run by hand from the top of the tree.
  return "bazel-bin/" + std::string(path);
}

void WriteFile(const std::string& path, std::string_view contents) {
  std::ofstream file(path, std::ios::trunc | std::ios::binary);
  file << contents;
  file.close();
  if (!file) Die("writing " + path);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream contents;
  contents << file.rdbuf();
  return contents.str();
}

Process::Process(std::vector<std::string> argv, std::string output_path) : output_path_(std::move(output_path)) {
  const int out = open(output_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (out < 0) Die("opening " + output_path_);
  pid_ = Spawn(argv, out, out);
  close(out);
}

Process::~Process() { Kill(); }

void Process::Signal(int signal) const { kill(pid_, signal); }

void Process::Kill() {
  if (status_.has_value()) return;
  kill(pid_, SIGKILL);
  Wait();
}

int Process::Wait() {
  if (!status_.has_value()) {
    int wait_status = 0;
    while (waitpid(pid_, &wait_status, 0) < 0) {
      if (errno != EINTR) Die("waitpid");
    }
    status_ = StatusOf(wait_status);
  }
  return *status_;
}

std::optional<int> Process::WaitFor(double seconds) {
  if (status_.has_value()) return status_;
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  if (fd < 0) Die("pidfd_open");
  pollfd poll_fd = {fd, POLLIN, 0};
  const int ready = poll(&poll_fd, 1, static_cast<int>(seconds * 1000));
  close(fd);
  if (ready <= 0) return std::nullopt;
  return Wait();
}

bool Process::running() { return !WaitFor(0).has_value(); }

Finished Run(const std::vector<std::string>& argv) {
  const TempDir dir;
  const std::string out_path = dir / "out";
  const std::string err_path = dir / "err";
  const int out = open(out_path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const int err = open(err_path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (out < 0 || err < 0) Die("opening the output of " + argv[0]);
  const pid_t pid = Spawn(argv, out, err);
  close(out);
  close(err);
  int wait_status = 0;
  while (waitpid(pid, &wait_status, 0) < 0) {
    if (errno != EINTR) Die("waitpid");
  }
  return {StatusOf(wait_status), ReadFile(out_path), ReadFile(err_path)};
}

}  // namespace viommu::tests
