// What a session with the server is about: the host's work, as seen from the session. Implemented by
// reconcile/driver.h; see reconcile/reconciler.h for what each call promises.

#ifndef VIOMMU_AGENT_SESSION_HOST_WORK_H_
#define VIOMMU_AGENT_SESSION_HOST_WORK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "viommu/v1/agent_service.pb.h"

namespace viommu::agent {

// Thread-safe. A call may wait for the disk.
class HostWork {
 public:
  virtual ~HostWork() = default;

  // Fills in the agent's identity and what it holds.
  virtual void FillHello(v1::Hello& hello) = 0;
  // Whether the server is to be obeyed; if so, a session begins.
  virtual absl::Status BeginSession(const v1::Welcome& welcome) = 0;
  virtual void EndSession() = 0;
  // Takes commands durably. An error means that the session cannot go on.
  virtual absl::Status Accept(const v1::Desired& desired) = 0;
  // Up to `max` results; false when there are none.
  virtual bool TakeResults(int max, v1::Results& results) = 0;
  // Looks at what the backend really holds; see Reconciler::Inspect.
  virtual void Inspect(const v1::InspectCall& call, v1::InspectReply& reply) = 0;
  // Store revision that the host has reached.
  virtual int64_t revision() = 0;
};

// Carries out invalidations for the session.
class InvalidateCalls {
 public:
  virtual ~InvalidateCalls() = default;
  // Takes a call, to be answered later through the owner's callback. False when too many wait already.
  virtual bool Submit(int64_t session, const v1::InvalidateCall& call) = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SESSION_HOST_WORK_H_
