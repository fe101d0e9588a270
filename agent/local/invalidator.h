// The one way of an invalidation from a request to the backend, for the local service and for the server's calls.
//
// It shares only Targets with the reconciler: it never waits for work on other objects, and an object is not destroyed
// while an invalidation uses it (reconcile/targets.h). Thread-safe; calls run beside each other.

#ifndef VIOMMU_AGENT_LOCAL_INVALIDATOR_H_
#define VIOMMU_AGENT_LOCAL_INVALIDATOR_H_

#include <google/protobuf/repeated_field.h>

#include <chrono>
#include <functional>
#include <string_view>

#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/reconcile/targets.h"
#include "common/clock.h"
#include "viommu/v1/errors.pb.h"
#include "viommu/v1/invalidation.pb.h"

namespace viommu::agent {

class Invalidator {
 public:
  static constexpr int kMaxCommands = 4096;  // of one request

  struct Options {
    const Clock* clock = &RealClock();
    // Each request that reached the backend: its length, time, and why it stopped (UNSPECIFIED: it did not). Optional.
    std::function<void(int commands, std::chrono::nanoseconds time, v1::ErrorReason stop)> on_done;
  };

  // `targets` must outlive it.
  Invalidator(Targets& targets, const Capabilities& capabilities, Options options);

  // Carries out `commands` in order for the viommu or nested domain of this name or uid. A result with a stop reason
  // tells how far it got; an error, that nothing was done:
  //   INVALID_ARGUMENT     INVALID_FIELD, LIMIT_EXCEEDED
  //   NOT_FOUND            VIOMMU_NOT_FOUND, NESTED_DOMAIN_NOT_FOUND
  //   FAILED_PRECONDITION  NOT_REALIZED
  absl::StatusOr<v1::InvalidationResult> Invalidate(std::string_view target,
                                                    const google::protobuf::RepeatedPtrField<v1::Command>& commands);

  // The same, with errors as stop reasons.
  v1::InvalidationResult InvalidateOrStop(std::string_view target,
                                          const google::protobuf::RepeatedPtrField<v1::Command>& commands);

 private:
  Targets& targets_;
  const bool by_nested_;
  const bool exact_;  // the backend's count of handled commands is exact also after an error
  const Options options_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_INVALIDATOR_H_
