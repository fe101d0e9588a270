// Invalidations as words on a command line: NAME[:FIELD=VALUE[,FIELD=VALUE...]].
//
//   tlbi-nh-all                                   all of the VM's stage 1
//   tlbi-nh-asid:asid=5
//   tlbi-nh-va:asid=5,address=0x1000,leaf=true
//   tlbi-nh-va:asid=5,address=0x1000,num=3,scale=0,tg=1     a range (num, scale, ttl, tg belong to it)
//   cfgi-cd:vdev_id=16,ssid=1
//   atc-inv:vdev_id=0x10,address=0x1000,size=0
//   raw:0x0000000000000010,0x0                    the two 64-bit words of the command
//
// Names and fields come from the message Command (viommu/v1/invalidation.proto) itself: what is added there is
// understood here.

#ifndef VIOMMU_CLI_INVALIDATION_SPEC_H_
#define VIOMMU_CLI_INVALIDATION_SPEC_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "viommu/v1/invalidation.pb.h"

namespace viommu::cli {

absl::StatusOr<v1::Command> ParseInvalidation(std::string_view spec);

// The spec that ParseInvalidation reads back into `command`.
std::string FormatInvalidation(const v1::Command& command);

// "tlbi-nh-all", …, "raw": for completion.
std::vector<std::string> InvalidationNames();

// One line for each kind with its fields, for help and documentation.
std::vector<std::string> InvalidationForms();

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_INVALIDATION_SPEC_H_
