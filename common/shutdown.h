// Waiting for SIGTERM or SIGINT.
//
// The first signal asks for a graceful stop: Wait() returns and the caller winds the process down. A second one ends
// the process at once with status 128 + signal. The handler itself only counts and writes one byte to a pipe.

#ifndef VIOMMU_COMMON_SHUTDOWN_H_
#define VIOMMU_COMMON_SHUTDOWN_H_

#include <chrono>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"

namespace viommu {

// At most one at a time in a process. Any thread may wait and request.
class ShutdownSignal {
 public:
  // Takes over SIGTERM and SIGINT and ignores SIGPIPE. FAILED_PRECONDITION when one is installed already.
  static absl::StatusOr<std::unique_ptr<ShutdownSignal>> Install();

  // Gives the signals back to what handled them before.
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // Blocks until a stop is asked for. Returns the signal, or 0 when it was Request(). Every later call returns at once.
  int Wait();

  // The same for at most `timeout` (rounded up to milliseconds); nothing when it passed.
  std::optional<int> WaitFor(std::chrono::nanoseconds timeout);

  // Asks for a stop from inside the process, for instance after a fatal error of a component.
  void Request();

 private:
  ShutdownSignal() = default;
};

}  // namespace viommu

#endif  // VIOMMU_COMMON_SHUTDOWN_H_
