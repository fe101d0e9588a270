// What the agent's unix sockets have in common.

#ifndef VIOMMU_AGENT_LOCAL_UNIX_SOCKET_H_
#define VIOMMU_AGENT_LOCAL_UNIX_SOCKET_H_

#include <string>

#include "absl/status/status.h"

namespace viommu::agent {

// Takes the file of a socket away when nobody listens on it any more. `type` is SOCK_STREAM or SOCK_SEQPACKET.
//   FAILED_PRECONDITION  somebody listens, or the file is no socket
//   UNAVAILABLE          it cannot be looked at or removed
absl::Status ClearStaleSocket(const std::string& path, int type);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_UNIX_SOCKET_H_
