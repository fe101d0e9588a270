#include "cli/hints.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "cli/names.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

struct HintRow {
  v1::ErrorReason reason;
  // {word|INSTEAD}: the fact of that name, or the word in capitals where it is not known.
  std::vector<std::string_view> hints;
};

const std::vector<HintRow>& HintTable() {
  using namespace v1;  // NOLINT: the table reads better without the prefix
  static const auto& table = *new std::vector<HintRow>{
      {ERROR_REASON_INVALID_FIELD, {"viommuctl {command|COMMAND} --help"}},
      {ERROR_REASON_LIMIT_EXCEEDED, {"the same in smaller parts"}},
      {ERROR_REASON_PAGE_TOKEN_INVALID, {"the same command again: it reads the list from its beginning"}},
      {ERROR_REASON_REQUEST_ID_REUSED, {"the same command without --request-id: each change gets a fresh one"}},
      {ERROR_REASON_ETAG_MISMATCH,
       {"viommuctl describe {resource|NAME}   # what changed; then give the etag that it has now"}},
      {ERROR_REASON_NOT_OFFERED,
       {"what the message names: a setting, or another version (viommuctl version, viommuctl get hosts -o wide)"}},
      {ERROR_REASON_NOT_AUTHORIZED,
       {"viommuctl config current   # which context and certificate are used (--context, --tls-cert, --tls-key)"}},
      {ERROR_REASON_HOST_NOT_FOUND, {"viommuctl get hosts"}},
      {ERROR_REASON_HOST_CORDONED,
       {"viommuctl uncordon {host|HOST}", "viommuctl get devices --field free=true   # devices of other hosts"}},
      {ERROR_REASON_HOST_DISCONNECTED,
       {"viommuctl describe {host|HOST}   # since when its agent is away", "on that host: viommuctl local status"}},
      {ERROR_REASON_SMMU_NOT_FOUND, {"viommuctl get smmus --field host={host|HOST}"}},
      {ERROR_REASON_DEVICE_NOT_FOUND, {"viommuctl get devices --field host={host|HOST}"}},
      {ERROR_REASON_DEVICE_MISSING,
       {"viommuctl describe {device|DEVICE}   # since when its host does not list it",
        "viommuctl get devices --field host={host|HOST},free=true"}},
      {ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND, {"viommuctl get stage2domains"}},
      {ERROR_REASON_VIOMMU_NOT_FOUND, {"viommuctl get viommus"}},
      {ERROR_REASON_VDEVICE_NOT_FOUND, {"viommuctl get vdevices --field viommu={viommu|VIOMMU}"}},
      {ERROR_REASON_NESTED_DOMAIN_NOT_FOUND, {"viommuctl get nesteddomains --field viommu={viommu|VIOMMU}"}},
      {ERROR_REASON_HW_QUEUE_NOT_FOUND, {"viommuctl get hwqueues --field viommu={viommu|VIOMMU}"}},
      {ERROR_REASON_MEMORY_TAKEN, {"viommuctl get stage2domains --field vm=VM   # two VMMs may run for one VM"}},
      {ERROR_REASON_MEMORY_NOT_MAPPED, {"viommuctl describe hwqueue VIOMMU/INDEX   # where its memory should be"}},
      {ERROR_REASON_HW_QUEUE_ORDER, {"viommuctl get hwqueues --field viommu={viommu|VIOMMU}"}},
      {ERROR_REASON_NAME_TAKEN, {"viommuctl describe {resource|NAME}   # whose it is", "the same with another name"}},
      {ERROR_REASON_DEVICE_TAKEN, {"viommuctl unset vdev-id {owner|VDEVICE} --wait=applied"}},
      {ERROR_REASON_IOMMU_GROUP_TAKEN,
       {"viommuctl unset vdev-id {owner|VDEVICE} --wait=applied", "viommuctl place 1 --host={host|HOST} --vm={vm|VM}"}},
      {ERROR_REASON_VDEV_ID_TAKEN,
       {"viommuctl describe {resource|VDEVICE}", "viommuctl get vdevices --field viommu={viommu|VIOMMU}"}},
      {ERROR_REASON_VDEV_ID_OUT_OF_RANGE, {"a vdev_id below 0x100000000: StreamIDs have at most 32 bits"}},
      {ERROR_REASON_VDEV_ID_TOO_WIDE,
       {"viommuctl get smmus -o wide   # SID-BITS is the width that a vdev_id may have"}},
      {ERROR_REASON_SMMU_MISMATCH,
       {"viommuctl get devices --field host={host|HOST} -o wide   # which SMMU serves which device",
        "viommuctl get viommus --field host={host|HOST}   # or a viommu on the device's SMMU"}},
      {ERROR_REASON_HOST_MISMATCH, {"viommuctl get stage2domains   # on which host each one is"}},
      {ERROR_REASON_VMID_EXHAUSTED,
       {"viommuctl get viommus --field smmu={smmu|SMMU}   # who holds its VMIDs", "viommuctl get smmus"}},
      {ERROR_REASON_STAGE2_NOT_SHAREABLE,
       {"viommuctl create stage2domain NAME --host {host|HOST} --vm {vm|VM} --smmu {smmu|SMMU}"}},
      {ERROR_REASON_SMMU_INCAPABLE, {"viommuctl describe {smmu|SMMU}   # what it can do"}},
      {ERROR_REASON_HW_QUEUE_EXHAUSTED,
       {"viommuctl get viommus --field smmu={smmu|SMMU}   # who holds its hardware queue interfaces",
        "the same with the type ARM_SMMUV3"}},
      {ERROR_REASON_HAS_CHILDREN,
       {"viommuctl describe {resource|NAME}   # what stands in the way", "viommuctl delete {resource|NAME} --cascade"}},
      {ERROR_REASON_BEING_DELETED,
       {"viommuctl describe {resource|NAME}   # what it waits for; once it is gone, the same again"}},
      {ERROR_REASON_REBIND_PENDING, {"viommuctl describe {resource|VDEVICE}   # once it is READY, the same again"}},
      {ERROR_REASON_VSTE_INVALID, {"viommuctl create nesteddomain --help   # which bits a guest may set"}},
      {ERROR_REASON_DEVICE_NOT_IN_VIOMMU, {"viommuctl set vdev-id {viommu|VIOMMU} {device|DEVICE} VDEV_ID"}},
      {ERROR_REASON_TARGET_NOT_SUPPORTED, {"viommuctl invalidate {viommu|VIOMMU} INVALIDATION..."}},
      {ERROR_REASON_UNKNOWN_VDEV_ID, {"viommuctl get vdevices --field viommu={viommu|VIOMMU}"}},
      {ERROR_REASON_OPCODE_FORBIDDEN, {"viommuctl invalidate --help   # what a guest may send"}},
      {ERROR_REASON_COMMAND_ILLEGAL, {"viommuctl describe {viommu|VIOMMU}   # its SMMU and what that can do"}},
      {ERROR_REASON_SMMU_TIMEOUT, {"the same invalidations again: repeating them is always safe"}},
      {ERROR_REASON_NOT_REALIZED,
       {"viommuctl set vdev-id {viommu|VIOMMU} DEVICE VDEV_ID --wait=applied   # the first device brings it to life"}},
      {ERROR_REASON_BACKEND_FAILED,
       {"viommuctl describe {resource|NAME}   # what its host says; the host tries again by itself",
        "on the host: viommuctl local objects"}},
      {ERROR_REASON_DEPENDENCY_NOT_READY,
       {"viommuctl describe {resource|NAME}   # what it needs, and how that stands"}},
      {ERROR_REASON_QUOTA_EXCEEDED,
       {"viommuctl get quotas   # who has how much of what",
        "viommuctl set quota OWNER --max-viommus N --max-vdevices N"}},
      {ERROR_REASON_QUOTA_NOT_FOUND, {"viommuctl get quotas"}},
      {ERROR_REASON_HOST_CONNECTED, {"viommuctl drain {host|HOST}   # then stop its agent, and forget it then"}},
      {ERROR_REASON_BACKUP_FAILED, {"viommuctl status   # how the store is; the server's log has more"}},
      {ERROR_REASON_NOT_YET_APPLIED,
       {"viommuctl describe {resource|NAME}   # where it stands now",
        "the same with --request-id {request_id|ID} and a longer --timeout   # waits again, changes nothing twice"}},
      {ERROR_REASON_STORE_UNAVAILABLE, {"viommuctl status   # why the store takes no writes"}},
      {ERROR_REASON_OVERLOADED, {"the same again in a moment"}},
      {ERROR_REASON_SHUTTING_DOWN, {"the same again once the server is back"}},
      {ERROR_REASON_REVISION_COMPACTED,
       {"viommuctl watch --from {oldest_revision|OLDEST}   # the oldest one left: changes in between are lost",
        "viommuctl watch   # what is there now, then changes"}},
      {ERROR_REASON_REVISION_UNKNOWN,
       {"viommuctl status   # the store's revision: it may have been restored or replaced",
        "viommuctl watch   # what is there now, then changes"}},
      {ERROR_REASON_STORE_DAMAGED, {"viommuctl status   # whether the store takes writes; restore it from a backup"}},
      {ERROR_REASON_HOST_TIMEOUT,
       {"the same invalidations again, with a longer --timeout: repeating them is always safe",
        "viommuctl describe {host|HOST}   # how its agent is"}},
      {ERROR_REASON_CLUSTER_MISMATCH,
       {"viommuctl status   # the server's cluster; compare: viommuctl local status on the host"}},
      {ERROR_REASON_STORE_INCARNATION_MISMATCH,
       {"viommuctl status   # the store's incarnation: was it wiped or restored?"}},
      {ERROR_REASON_STALE_EPOCH, {"viommuctl status   # the epoch; is an older server still running?"}},
      {ERROR_REASON_STORE_OUT_OF_DATE,
       {"viommuctl status   # the store's revision: an older copy was restored; bring the newer one back"}},
      {ERROR_REASON_HOST_ALREADY_CONNECTED, {"viommuctl describe {host|HOST}   # which agent is connected for it"}},
      {ERROR_REASON_PROTOCOL_VIOLATION,
       {"the same version of agent and server: viommuctl version, viommuctl get hosts -o wide"}},
      {ERROR_REASON_PROTOCOL_VERSION_UNSUPPORTED,
       {"the same version of agent and server: viommuctl version, viommuctl get hosts -o wide"}},
      {ERROR_REASON_LEASE_EXPIRED, {"on the host: viommuctl local status"}},
  };
  return table;
}

std::string Expand(std::string_view hint, const Facts& facts) {
  std::string out;
  while (true) {
    const size_t open = hint.find('{');
    out += hint.substr(0, open);
    if (open == std::string_view::npos) return out;
    const size_t bar = hint.find('|', open);
    const size_t close = hint.find('}', open);
    const auto fact = facts.find(std::string(hint.substr(open + 1, bar - open - 1)));
    const bool known = fact != facts.end() && !fact->second.empty();
    out += known ? std::string_view(fact->second) : hint.substr(bar + 1, close - bar - 1);
    hint.remove_prefix(close + 1);
  }
}

void AddFact(Facts& facts, const std::string& word, const std::string& value) {
  std::string& slot = facts[word];
  if (slot.empty()) slot = value;
}

}  // namespace

void DeriveFacts(Facts& facts) {
  for (const char* word : {"name", "target", "vdevice", "subject"}) {
    const auto fact = facts.find(word);
    if (fact != facts.end() && KindOfFullName(fact->second).has_value()) AddFact(facts, "resource", fact->second);
  }
  const Facts known = facts;
  for (const auto& [word, value] : known) {
    const std::optional<Kind> kind = KindOfFullName(value);
    if (!kind.has_value()) continue;
    const std::vector<std::string> segments = Split(value, '/');
    switch (*kind) {
      case Kind::kHost:
        AddFact(facts, "host", value);
        break;
      case Kind::kSmmu:
      case Kind::kDevice:
        AddFact(facts, "host", segments[0] + "/" + segments[1]);
        AddFact(facts, std::string(InfoOf(*kind).singular), value);
        break;
      case Kind::kViommu:
        AddFact(facts, "viommu", value);
        break;
      case Kind::kVdevice:
      case Kind::kNestedDomain:
      case Kind::kHwQueue:
        // A holder in another viommu says nothing about the one that the caller spoke of.
        if (word != "owner") AddFact(facts, "viommu", segments[0] + "/" + segments[1]);
        break;
      case Kind::kStage2Domain:
      case Kind::kQuota:
        break;
    }
  }
}

std::vector<std::string> HintsFor(v1::ErrorReason reason, const Facts& facts) {
  const auto resource = facts.find("resource");
  if (reason == v1::ERROR_REASON_HAS_CHILDREN && resource != facts.end() &&
      KindOfFullName(resource->second) == Kind::kNestedDomain) {
    // Attached devices belong to the viommu, so there is no cascade.
    return {Expand("viommuctl describe {resource|NAME}   # which devices are attached", facts),
            "viommuctl detach VDEVICE --wait=applied   # each of them"};
  }
  if (reason == v1::ERROR_REASON_HAS_CHILDREN && resource != facts.end() &&
      KindOfFullName(resource->second) == Kind::kHost) {
    return {Expand("viommuctl evict {resource|HOST}   # what is on it goes once the host is back", facts),
            Expand("viommuctl forget {resource|HOST} --declare-dead   # when it can never run again", facts)};
  }
  const auto& table = HintTable();
  const auto row = std::find_if(table.begin(), table.end(), [reason](const HintRow& r) { return r.reason == reason; });
  std::vector<std::string> hints;
  if (row == table.end()) return hints;
  for (const std::string_view hint : row->hints) hints.push_back(Expand(hint, facts));
  return hints;
}

}  // namespace viommu::cli
