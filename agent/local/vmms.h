// Which VMMs serve the VMs of this host, as the handover socket sees them.
//
// A VMM that ends and one that comes back are told apart from an agent that was restarted: the identity of a process is
// its pid and the time it was started at, which no other process of this boot shares. So a VMM that connects again is
// the same one, and another process that serves the VM afterwards is a restart: its guest begins anew, and what its
// devices are attached to was the old one's wish.

#ifndef VIOMMU_AGENT_LOCAL_VMMS_H_
#define VIOMMU_AGENT_LOCAL_VMMS_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "viommu/v1/local_service.pb.h"

namespace viommu::agent {

// Thread-safe.
class Vmms {
 public:
  using Connection = uint64_t;
  // Of VMs that no VMM serves any more, so many are remembered.
  static constexpr size_t kMaxGone = 1024;

  // When a process was started, in clock ticks since the boot; 0 when that cannot be told.
  using StartOf = std::function<uint64_t(pid_t)>;
  static uint64_t StartFromProc(pid_t pid);

  // `clock` must outlive it.
  explicit Vmms(const Clock& clock, StartOf start_of = StartFromProc);

  void Opened(Connection connection, pid_t pid) ABSL_LOCKS_EXCLUDED(mu_);
  void Mapped(Connection connection, const std::string& vm, uint64_t bytes) ABSL_LOCKS_EXCLUDED(mu_);
  void Unmapped(Connection connection, const std::string& vm, uint64_t bytes) ABSL_LOCKS_EXCLUDED(mu_);
  void Closed(Connection connection) ABSL_LOCKS_EXCLUDED(mu_);

  // By VM: those that have handed memory over since the agent started.
  std::vector<v1::VmmStatus> List() const ABSL_LOCKS_EXCLUDED(mu_);
  uint64_t connected() const ABSL_LOCKS_EXCLUDED(mu_);  // VMs that have a VMM now
  uint64_t restarts() const ABSL_LOCKS_EXCLUDED(mu_);   // of all VMs

 private:
  struct Process {
    pid_t pid = 0;
    uint64_t start = 0;
    friend bool operator==(const Process&, const Process&) = default;
  };
  struct Vm {
    std::map<Connection, uint64_t> mapped;  // bytes
    Process last;
    WallTime since;  // that state
    uint64_t restarts = 0;
  };

  void ForgetOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Clock& clock_;
  const StartOf start_of_;
  mutable Mutex mu_;
  std::map<Connection, Process> peers_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Vm> vms_ ABSL_GUARDED_BY(mu_);
  uint64_t restarts_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_VMMS_H_
