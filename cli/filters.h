// Filters of lists and watches: --field KEY=VALUE and -l KEY=VALUE become the fields of a List or Watch request.
//
// Which keys there are is read from the request message itself (host, vm, state, smmu, free, cordoned, viommu, device,
// stage2_domain), so that a filter that the API gains is one that the CLI has.

#ifndef VIOMMU_CLI_FILTERS_H_
#define VIOMMU_CLI_FILTERS_H_

#include <google/protobuf/message.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace viommu::cli {

struct Filters {
  // KEY=VALUE[,KEY=VALUE…] each; `state` may be given several times, all others once.
  std::vector<std::string> fields;
  std::vector<std::string> labels;
};

// Sets them in `request`, names in full form. A key that the request does not have is a usage error naming those it
// has.
absl::Status ApplyFilters(const Filters& filters, google::protobuf::Message& request);

// The keys that ApplyFilters takes for this request.
std::vector<std::string> FilterKeys(const google::protobuf::Message& request);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_FILTERS_H_
