#include "agent/systemd_fd_store.h"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

namespace viommu::agent {
namespace {

constexpr int kKeepEnvironment = 0;
constexpr int kUnsetEnvironment = 1;
constexpr pid_t kThisProcess = 0;
constexpr std::chrono::microseconds kLongestBarrier = std::chrono::seconds(5);

class SystemdFdStore final : public FdStore {
 public:
  std::vector<Entry> Take() override {
    std::vector<Entry> entries;
    char** names = nullptr;
    const int count = sd_listen_fds_with_names(kUnsetEnvironment, &names);
    for (int i = 0; i < count; ++i) {
      entries.push_back({names[i], SD_LISTEN_FDS_START + i});
      std::free(names[i]);
    }
    std::free(names);
    return entries;
  }

  void Add(const std::string& name, int fd) override {
    // Not polled: these files have no end that one could wait for.
    const std::string message = fmt::format("FDSTORE=1\nFDNAME={}\nFDPOLL=0", name);
    sd_pid_notify_with_fds(kThisProcess, kKeepEnvironment, message.c_str(), &fd, 1);
  }

  void Remove(const std::string& name) override {
    sd_notify(kKeepEnvironment, fmt::format("FDSTOREREMOVE=1\nFDNAME={}", name).c_str());
    sd_notify_barrier(kKeepEnvironment, static_cast<uint64_t>(kLongestBarrier.count()));
  }
};

}  // namespace

std::unique_ptr<FdStore> OpenSystemdFdStore() {
  if (std::getenv("NOTIFY_SOCKET") == nullptr) return nullptr;
  return std::make_unique<SystemdFdStore>();
}

}  // namespace viommu::agent
