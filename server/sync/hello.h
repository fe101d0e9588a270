// Whether an agent may open a session: what its hello says by itself, before the record or other sessions are asked.
// Pure.

#ifndef VIOMMU_SERVER_SYNC_HELLO_H_
#define VIOMMU_SERVER_SYNC_HELLO_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/commit/core.h"
#include "viommu/v1/agent_service.pb.h"

namespace viommu::server {

// The version of the agents' protocol that this server speaks (docs/protocol.md).
inline constexpr uint32_t kAgentProtocolVersion = 1;

// Entries in Hello.held.
inline constexpr int kMaxHeldItems = 262'144;
// Length of Hello.agent_id and of a uid, in bytes.
inline constexpr size_t kMaxAgentIdBytes = 128;

// The other end of an agent's stream.
struct Peer {
  // As the transport names it: "ipv4:10.0.0.7:41822".
  std::string address;
  // Whether it showed a certificate that the listener trusts.
  bool authenticated = false;
  // DNS names and URIs that the certificate is made out to.
  std::vector<std::string> names;
};

// OK, or
//   FAILED_PRECONDITION, PROTOCOL_VERSION_UNSUPPORTED: another version.
//   INVALID_ARGUMENT, PROTOCOL_VIOLATION: not well-formed, or it holds something without knowing whose it is.
//   PERMISSION_DENIED, NOT_AUTHORIZED: the certificate names neither "{host}" nor "viommu://host/{host}". A peer
//     without a certificate is let in: whether one is needed is the listener's business.
//   FAILED_PRECONDITION, CLUSTER_MISMATCH: it belongs to another cluster.
//   FAILED_PRECONDITION, STORE_INCARNATION_MISMATCH: it knows another store of this cluster.
//   FAILED_PRECONDITION, STALE_EPOCH: it has obeyed a later start of the server; we are the stale one.
//   FAILED_PRECONDITION, STORE_OUT_OF_DATE: it was told, or holds, what this store has not recorded: an older copy was
//     restored. What it lacks would be unknown here and torn down.
// `starts` and `revision`: of the record as it is now.
absl::Status CheckHello(const v1::Hello& hello, const Peer& peer, const Identity& identity, const Starts& starts,
                        int64_t revision);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_HELLO_H_
