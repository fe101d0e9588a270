// A service that puts descriptors into systemd's store as the agent does, and has no need of /dev/iommu for it:
// deploy/systemd_test.sh has the agent's unit run it in the agent's place.
//
//   systemd-fd-store-service FOLDER
//
// Makes two fifos in FOLDER, "commands" and "answers", is ready, and answers each line with one line:
//
//   keep NAME TEXT    puts a file with TEXT into the store: "done"
//   keep-many COUNT   puts that many in, with names as long as the agent's longest: "done"
//   keep-broken NAME  puts the end of a pipe in that nobody reads: "done"
//   keep-pipe NAME    puts the end of a pipe in and reads the other one: "done"
//   remove NAME       has the store let go of it: whether "closed" or "open" is, by then, the pipe of keep-pipe
//   taken             what the last one had put in: "COUNT: NAME=TEXT...", sorted, at most the first four

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "agent/systemd_fd_store.h"
#include "common/file_descriptor.h"
#include "common/service_notify.h"

namespace viommu::agent {
namespace {

constexpr size_t kLongestName = 55;
constexpr size_t kMostNamed = 4;

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(EXIT_FAILURE);
}

class Service {
 public:
  explicit Service(FdStore* store) : store_(*store) {
    for (const FdStore::Entry& entry : store_.Take()) {
      const FileDescriptor file(entry.fd);
      std::array<char, 64> text = {};
      const ssize_t bytes = ::pread(file.get(), text.data(), text.size(), 0);
      taken_.push_back(entry.name + "=" + std::string(text.data(), bytes < 0 ? 0 : static_cast<size_t>(bytes)));
    }
    std::sort(taken_.begin(), taken_.end());
  }

  std::string Answer(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    std::string name;
    words >> command >> name;
    if (command == "taken") return Taken();
    if (command == "keep") {
      std::string text;
      words >> text;
      Keep(name, text);
      return "done";
    }
    if (command == "keep-many") {
      for (int i = 0; i < std::stoi(name); ++i) Keep(fmt::format("{:0>{}}", i, kLongestName), "");
      return "done";
    }
    if (command == "keep-broken") {
      KeepPipe(name);
      return "done";
    }
    if (command == "keep-pipe") {
      in_ = KeepPipe(name);
      return "done";
    }
    if (command == "remove") {
      store_.Remove(name);
      pollfd end = {in_.get(), POLLIN, 0};
      return ::poll(&end, 1, 0) == 1 && (end.revents & POLLHUP) != 0 ? "closed" : "open";
    }
    return "what?";
  }

 private:
  void Keep(const std::string& name, const std::string& text) {
    const FileDescriptor file(::memfd_create(name.c_str(), MFD_CLOEXEC));
    if (::pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) Die("memfd");
    store_.Add(name, file.get());
  }

  FileDescriptor KeepPipe(const std::string& name) {
    std::array<int, 2> pipe = {};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) Die("pipe");
    const FileDescriptor out(pipe[1]);
    store_.Add(name, out.get());
    return FileDescriptor(pipe[0]);
  }

  std::string Taken() const {
    std::string text = fmt::format("{}:", taken_.size());
    for (size_t i = 0; i < std::min(taken_.size(), kMostNamed); ++i) text += " " + taken_[i];
    return text;
  }

  FdStore& store_;
  std::vector<std::string> taken_;
  FileDescriptor in_;
};

// Open in both directions, so that it has no end whoever comes and goes.
std::fstream Fifo(const std::string& path) {
  ::unlink(path.c_str());
  if (::mkfifo(path.c_str(), 0600) != 0) Die(path.c_str());
  return std::fstream(path, std::ios::in | std::ios::out);
}

int Main(const std::string& folder) {
  const std::unique_ptr<FdStore> store = OpenSystemdFdStore();
  if (store == nullptr) {
    std::fprintf(stderr, "there is no systemd\n");
    return EXIT_FAILURE;
  }
  Service service(store.get());
  std::fstream commands = Fifo(folder + "/commands");
  std::fstream answers = Fifo(folder + "/answers");
  NotifyReady("answers");
  for (std::string line; std::getline(commands, line);) answers << service.Answer(line) << std::endl;
  Die("commands");
}

}  // namespace
}  // namespace viommu::agent

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: systemd-fd-store-service FOLDER\n");
    return 2;
  }
  return viommu::agent::Main(argv[1]);
}
