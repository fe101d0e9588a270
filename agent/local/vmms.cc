#include "agent/local/vmms.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

#include "common/log.h"
#include "common/timestamp.h"

namespace viommu::agent {

uint64_t Vmms::StartFromProc(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string line{std::istreambuf_iterator<char>(file), {}};
  // The second field is the program's name in parentheses, and may contain anything; the time is the 22nd.
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  uint64_t start = 0;
  fields >> start;
  return start;
}

Vmms::Vmms(const Clock& clock, StartOf start_of) : clock_(clock), start_of_(std::move(start_of)) {}

void Vmms::Opened(Connection connection, pid_t pid) {
  const Process process{pid, start_of_(pid)};
  MutexLock lock(mu_);
  peers_[connection] = process;
}

void Vmms::Mapped(Connection connection, const std::string& vm, uint64_t bytes) {
  MutexLock lock(mu_);
  const Process& process = peers_[connection];
  const auto [found, fresh] = vms_.try_emplace(vm);
  Vm& entry = found->second;
  if (entry.mapped.empty()) {
    entry.since = clock_.Now();
    const bool restarted = !fresh && !(entry.last == process);
    if (restarted) {
      ++entry.restarts;
      ++restarts_;
    }
    VIOMMU_LOG(kInfo,
               restarted ? "VMM restarted"
               : fresh   ? "VMM connected"
                         : "VMM connected again",
               {{"vm", vm}, {"pid", process.pid}});
  }
  entry.last = process;
  entry.mapped[connection] += bytes;
}

void Vmms::Unmapped(Connection connection, const std::string& vm, uint64_t bytes) {
  MutexLock lock(mu_);
  const auto found = vms_.find(vm);
  if (found == vms_.end()) return;
  const auto mapped = found->second.mapped.find(connection);
  if (mapped != found->second.mapped.end()) mapped->second -= std::min(mapped->second, bytes);
}

void Vmms::Closed(Connection connection) {
  MutexLock lock(mu_);
  peers_.erase(connection);
  for (auto& [name, vm] : vms_) {
    if (vm.mapped.erase(connection) == 0 || !vm.mapped.empty()) continue;
    vm.since = clock_.Now();
    VIOMMU_LOG(kWarning, "VMM gone, its memory is unmapped and what is recorded stays",
               {{"vm", name}, {"pid", vm.last.pid}});
  }
  ForgetOldest();
}

void Vmms::ForgetOldest() {
  std::vector<decltype(vms_)::iterator> gone;
  for (auto vm = vms_.begin(); vm != vms_.end(); ++vm) {
    if (vm->second.mapped.empty()) gone.push_back(vm);
  }
  if (gone.size() <= kMaxGone) return;
  std::sort(gone.begin(), gone.end(), [](const auto& a, const auto& b) { return a->second.since < b->second.since; });
  for (size_t i = 0; i < gone.size() - kMaxGone; ++i) vms_.erase(gone[i]);
}

std::vector<v1::VmmStatus> Vmms::List() const {
  std::vector<v1::VmmStatus> list;
  MutexLock lock(mu_);
  for (const auto& [name, vm] : vms_) {
    v1::VmmStatus& status = list.emplace_back();
    status.set_vm(name);
    status.set_state(vm.mapped.empty() ? v1::VMM_STATE_GONE : v1::VMM_STATE_CONNECTED);
    status.set_pid(vm.last.pid);
    *status.mutable_since() = ToTimestamp(vm.since);
    status.set_restarts(vm.restarts);
    for (const auto& [connection, bytes] : vm.mapped) status.set_mapped_bytes(status.mapped_bytes() + bytes);
  }
  return list;
}

uint64_t Vmms::connected() const {
  MutexLock lock(mu_);
  return static_cast<uint64_t>(
      std::count_if(vms_.begin(), vms_.end(), [](const auto& vm) { return !vm.second.mapped.empty(); }));
}

uint64_t Vmms::restarts() const {
  MutexLock lock(mu_);
  return restarts_;
}

}  // namespace viommu::agent
