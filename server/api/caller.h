// What the audit log calls a caller.

#ifndef VIOMMU_SERVER_API_CALLER_H_
#define VIOMMU_SERVER_API_CALLER_H_

#include <string>
#include <string_view>

#include "common/credentials.h"

namespace viommu::server {

// The first name in the caller's certificate: a URI, a DNS name, or "CN=" and its common name. Without a certificate
// "unix" (whoever may open the socket), "loopback" (a process of this machine) or "anonymous". `peer`: gRPC's address
// of the caller. Any thread.
std::string CallerName(const PeerIdentity& identity, std::string_view peer);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_CALLER_H_
