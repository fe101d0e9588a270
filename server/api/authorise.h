// Who may call the fleet service.

#ifndef VIOMMU_SERVER_API_AUTHORISE_H_
#define VIOMMU_SERVER_API_AUTHORISE_H_

#include <grpcpp/server_context.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "common/credentials.h"
#include "common/error.h"
#include "server/api/fleet_service.h"

namespace viommu::server {

// PERMISSION_DENIED, NOT_AUTHORIZED: the caller's certificate is made out to a host (URI:viommu://host/...). It is good
// for that host's agent and for nothing else, although the listener trusts those who issued it. Any thread.
inline absl::Status CheckCaller(const FleetServiceParts& parts, const grpc::ServerContextBase& context) {
  if (!parts.refuse_hosts) return absl::OkStatus();
  const PeerIdentity peer = PeerOf(context);
  const auto host = std::find_if(peer.uris.begin(), peer.uris.end(),
                                 [](const std::string& uri) { return absl::StartsWith(uri, "viommu://host/"); });
  if (host == peer.uris.end()) return absl::OkStatus();
  return Error(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED)
      .Message(
          "the certificate is made out to {}: it lets that host's agent connect, and nobody call the fleet service; "
          "use a caller's certificate",
          *host)
      .Meta("uri", *host);
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_AUTHORISE_H_
