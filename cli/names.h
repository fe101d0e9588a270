// Kinds of resources and their names, as people type them.
//
// Every command takes full names (viommus/v1/vdevices/16) and short ones that the kind makes unambiguous:
//   host           hosts/a                          a
//   smmu           hosts/a/smmus/smmu0              a/smmu0
//   device         hosts/a/devices/0000:01:00.0     a/0000:01:00.0, a/01:00.0
//   stage2domain   stage2Domains/web                web
//   viommu         viommus/v1                       v1
//   vdevice        viommus/v1/vdevices/16           v1/16, v1/0x10
//   nesteddomain   viommus/v1/nestedDomains/n       v1/n
//   hwqueue        viommus/v1/hwQueues/0            v1/0

#ifndef VIOMMU_CLI_NAMES_H_
#define VIOMMU_CLI_NAMES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace viommu::cli {

enum class Kind { kHost, kSmmu, kDevice, kStage2Domain, kViommu, kVdevice, kNestedDomain, kHwQueue, kQuota };

struct KindInfo {
  Kind kind;
  std::string_view singular;              // "vdevice"
  std::string_view plural;                // "vdevices"
  std::vector<std::string_view> aliases;  // other words for it
};

// All kinds, in the order in which lists of kinds are printed.
const std::vector<KindInfo>& AllKinds();

const KindInfo& InfoOf(Kind kind);

// From any word for it (plural, singular, alias, any case).
absl::StatusOr<Kind> ParseKind(std::string_view word);

// The kind of a full name; nothing for anything else.
std::optional<Kind> KindOfFullName(std::string_view name);

// The full name for a full or short one. PCI addresses become lower case with a segment, vdev_ids decimal.
absl::StatusOr<std::string> FullName(Kind kind, std::string_view name);

// What `Invalidate` and `attach` take: a viommu, or a nested domain.
absl::StatusOr<std::string> InvalidationTarget(std::string_view name);

// The short form of a full name, for columns whose heading says the kind: "a/smmu0", "v1/16". Other text as it is.
std::string ShortName(std::string_view full_name);

// "hosts/a" of everything that belongs to a host by its name; other names as they are.
std::string HostOf(std::string_view full_name);

// The last segment: "smmu0", "16".
std::string_view LastSegment(std::string_view name);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_NAMES_H_
