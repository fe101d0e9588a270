// Files of unix sockets to listen on.

#ifndef VIOMMU_COMMON_UNIX_SOCKET_H_
#define VIOMMU_COMMON_UNIX_SOCKET_H_

#include <string>

#include "absl/status/status.h"

namespace viommu {

// Takes the file of a socket away when nobody listens on it any more. `type` is SOCK_STREAM or SOCK_SEQPACKET.
//   FAILED_PRECONDITION  somebody listens, or the file is no socket
//   UNAVAILABLE          it cannot be looked at or removed
absl::Status ClearStaleSocket(const std::string& path, int type);

}  // namespace viommu

#endif  // VIOMMU_COMMON_UNIX_SOCKET_H_
