// From the reason of an error to the next command to try, with the concrete names put in.

#ifndef VIOMMU_CLI_HINTS_H_
#define VIOMMU_CLI_HINTS_H_

#include <map>
#include <string>
#include <vector>

#include "viommu/v1/errors.pb.h"

namespace viommu::cli {

// What is known about a failed call, by word: the fields of the request ("viommu", "device", "name", …), the metadata
// of the error, "resource" and "owner" (from ResourceInfo), "subject" (from PreconditionFailure), "command".
using Facts = std::map<std::string, std::string>;

// Adds what follows from the names that are there: the host and SMMU of a device, the viommu of a vdevice.
void DeriveFacts(Facts& facts);

// What to try next, best first; at least one for every reason of the enum, none for UNSPECIFIED. A name that is not
// known stands as a word in capitals.
std::vector<std::string> HintsFor(v1::ErrorReason reason, const Facts& facts);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_HINTS_H_
