#include "server/sync/hello.h"

#include <algorithm>
#include <string>

#include "common/error.h"
#include "common/mutation.h"
#include "server/fleet/names.h"

namespace viommu::server {
namespace {

template <typename... Args>
absl::Status Violation(fmt::format_string<Args...> format, Args&&... args) {
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION)
      .Message("hello: {}", fmt::format(format, std::forward<Args>(args)...));
}

absl::Status CheckForm(const v1::Hello& hello) {
  if (!IsHostName(hello.host().name())) return Violation("host.name '{}' is not hosts/{{host}}", hello.host().name());
  if (hello.agent_id().empty() || hello.agent_id().size() > kMaxAgentIdBytes) {
    return Violation("agent_id must have 1 to {} bytes, it has {}", kMaxAgentIdBytes, hello.agent_id().size());
  }
  if (hello.host().boot_id().empty()) return Violation("host.boot_id is empty");
  if (hello.epoch() < 0) return Violation("epoch {} is negative", hello.epoch());
  if (hello.revision() < 0) return Violation("revision {} is negative", hello.revision());
  if (hello.released_generation() < 0) {
    return Violation("released_generation {} is negative", hello.released_generation());
  }
  if (hello.held_size() > kMaxHeldItems) {
    return Violation("held has {} entries, at most {} are taken", hello.held_size(), kMaxHeldItems);
  }
  for (const v1::HeldItem& item : hello.held()) {
    if (item.uid().empty() || item.uid().size() > kMaxAgentIdBytes || item.generation() < 0) {
      return Violation("held has an entry with uid '{}' and generation {}", item.uid(), item.generation());
    }
  }
  // What such an agent holds would be unknown here and torn down, although it may be another cluster's.
  if (hello.held_size() > 0 && (hello.cluster_id().empty() || hello.store_incarnation().empty())) {
    return Violation("the agent holds {} resources and knows no cluster they could belong to", hello.held_size());
  }
  return absl::OkStatus();
}

absl::Status CheckPeer(const v1::Hello& hello, const Peer& peer) {
  if (!peer.authenticated) return absl::OkStatus();
  const std::string id = hello.host().name().substr(hello.host().name().find('/') + 1);
  const std::string uri = "viommu://host/" + id;
  const bool named = std::any_of(peer.names.begin(), peer.names.end(),
                                 [&](const std::string& name) { return name == id || name == uri; });
  if (named) return absl::OkStatus();
  return Error(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED)
      .Message("the certificate of {} is not made out to {}; its subject alternative names must have DNS:{} or URI:{}",
               peer.address, hello.host().name(), id, uri)
      .Meta("host", hello.host().name());
}

absl::Status CheckIdentity(const v1::Hello& hello, const Identity& identity) {
  if (!hello.cluster_id().empty() && hello.cluster_id() != identity.cluster_id) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_CLUSTER_MISMATCH)
        .Message(
            "the agent of {} belongs to cluster {}, this is cluster {}; point it at its own server, or clear its state "
            "directory once nothing of the other cluster runs on the host",
            hello.host().name(), hello.cluster_id(), identity.cluster_id)
        .Meta("cluster_id", identity.cluster_id);
  }
  if (!hello.store_incarnation().empty() && hello.store_incarnation() != identity.store_incarnation &&
      !Mutated(Mutation::kIgnoreIncarnation)) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_INCARNATION_MISMATCH)
        .Message(
            "the agent of {} knows store {}, this is store {}: the store was wiped or replaced; bring the old one "
            "back, or clear the agent's state directory once nothing runs on the host",
            hello.host().name(), hello.store_incarnation(), identity.store_incarnation)
        .Meta("store_incarnation", identity.store_incarnation);
  }
  if (hello.epoch() > identity.epoch && !Mutated(Mutation::kIgnoreEpoch)) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH)
        .Message(
            "the agent of {} has obeyed epoch {}, this server has epoch {}: it runs on an old copy of the store; stop "
            "it",
            hello.host().name(), hello.epoch(), identity.epoch)
        .Meta("epoch", std::to_string(identity.epoch));
  }
  return absl::OkStatus();
}

// What the agent remembers must be something that this store has said.
absl::Status CheckMemory(const v1::Hello& hello, const Starts& starts, int64_t revision) {
  if (Mutated(Mutation::kIgnoreStarts)) return absl::OkStatus();
  int64_t newest = std::max(hello.revision(), hello.released_generation());
  // A release is asked for by a change that was durable before it was told, as what is held is.
  bool recorded = starts.Recorded(hello.released_generation());
  for (const v1::HeldItem& item : hello.held()) {
    newest = std::max(newest, item.generation());
    recorded = recorded && starts.Recorded(item.generation());
  }
  if (recorded && starts.Told(hello.epoch(), hello.start_id(), newest, revision)) return absl::OkStatus();
  return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_OUT_OF_DATE)
      .Message(
          "the agent of {} was told revision {} in epoch {} by a newer state of this store, which is at revision {}: "
          "an "
          "older copy was restored; stop this server and bring the newer store back, or clear the agent's state "
          "directory once nothing runs on the host",
          hello.host().name(), newest, hello.epoch(), revision)
      .Meta("host", hello.host().name())
      .Meta("agent_revision", std::to_string(newest))
      .Meta("agent_epoch", std::to_string(hello.epoch()))
      .Meta("revision", std::to_string(revision));
}

}  // namespace

absl::Status CheckHello(const v1::Hello& hello, const Peer& peer, const Identity& identity, const Starts& starts,
                        int64_t revision) {
  if (hello.protocol_version() != kAgentProtocolVersion) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_PROTOCOL_VERSION_UNSUPPORTED)
        .Message("the agent speaks version {} of the protocol, this server version {}; upgrade the older of the two",
                 hello.protocol_version(), kAgentProtocolVersion)
        .Meta("supported", std::to_string(kAgentProtocolVersion));
  }
  VIOMMU_RETURN_IF_ERROR(CheckForm(hello));
  VIOMMU_RETURN_IF_ERROR(CheckPeer(hello, peer));
  VIOMMU_RETURN_IF_ERROR(CheckIdentity(hello, identity));
  return CheckMemory(hello, starts, revision);
}

}  // namespace viommu::server
