// Names of resources: what they look like, how to take them apart and put them together.
//
//   hosts/{host}                                lowercase letters, digits, '-', '.'; at most 253; begins and ends with
//   a
//                                               letter or digit (a DNS name)
//   hosts/{host}/smmus/{smmu}                   letters, digits, '-', '_', '.', ':'; at most 63
//   hosts/{host}/devices/{device}               PCI address: 0000:01:00.0, lowercase; the segment has 4 to 8 digits
//   stage2Domains/{id}, viommus/{id}            an id of the caller's, see IsId
//   viommus/{id}/vdevices/{vdev_id}             decimal, no leading zeros
//   viommus/{id}/nestedDomains/{id}
//   viommus/{id}/hwQueues/{index}               decimal, no leading zeros
//   quotas/{owner}                              see IsOwner
//
// Functions that take a name apart answer nothing (empty) when it has not exactly that form.

#ifndef VIOMMU_SERVER_FLEET_NAMES_H_
#define VIOMMU_SERVER_FLEET_NAMES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/fleet/view.h"

namespace viommu::server {

inline constexpr int kMaxIdBytes = 63;       // length of a caller-chosen id
inline constexpr int kMaxHostIdBytes = 253;  // length of a host's id
inline constexpr int kMaxSmmuIdBytes = 63;   // length of an SMMU's id

// An id that a caller may choose: lowercase letters, digits, hyphens; at most 63; begins with a letter.
bool IsId(std::string_view text);

// The owner of VMs, as the label "owner" of a stage-2 domain names it: letters, digits, '-', '_', '.', ':'; at most 63.
bool IsOwner(std::string_view text);

bool IsHostName(std::string_view name);
bool IsSmmuName(std::string_view name);
bool IsDeviceName(std::string_view name);
bool IsStage2DomainName(std::string_view name);
bool IsViommuName(std::string_view name);
bool IsVdeviceName(std::string_view name);
bool IsNestedDomainName(std::string_view name);
bool IsHwQueueName(std::string_view name);
bool IsQuotaName(std::string_view name);

// The kind of record that a name belongs to.
std::optional<Kind> KindOfName(std::string_view name);

// "hosts/{host}" of the name of an SMMU or device; "viommus/{viommu}" of that of what is in a viommu.
std::string_view ParentName(std::string_view name);

// What begins the names of a parent's children: DevicePrefix("hosts/a") is "hosts/a/devices/".
std::string DevicePrefix(std::string_view host);
std::string VdevicePrefix(std::string_view viommu);
std::string NestedDomainPrefix(std::string_view viommu);
std::string HwQueuePrefix(std::string_view viommu);

std::string Stage2DomainName(std::string_view id);
std::string ViommuName(std::string_view id);
std::string VdeviceName(std::string_view viommu, uint64_t vdev_id);
std::string NestedDomainName(std::string_view viommu, std::string_view id);
std::string HwQueueName(std::string_view viommu, uint32_t index);
std::string QuotaName(std::string_view owner);

// "hosts/{host}/iommuGroups/{group}": no resource, but the parent in Relation::kGroupTakenDevices.
std::string IommuGroupName(std::string_view host, uint32_t group);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_NAMES_H_
