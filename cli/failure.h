// What is said, and what the process ends with, when something fails.

#ifndef VIOMMU_CLI_FAILURE_H_
#define VIOMMU_CLI_FAILURE_H_

#include <google/protobuf/message.h>

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/status.h"
#include "cli/exit_code.h"
#include "cli/hints.h"
#include "viommu/v1/resources.pb.h"

namespace viommu::cli {

ExitCode ExitCodeOf(const absl::Status& status);

// The change was recorded and its host could not apply it; ends the process with kFailedOnHost.
absl::Status FailedOnHost(const std::string& name, const v1::StateReason& reason);

// Adds the string fields of a request to what is known: {"viommu": "viommus/v1", "device": …}.
void AddRequestFacts(const google::protobuf::Message& request, Facts& facts);

// For people: the message with its reason, who holds what, which fields, and what to try. `facts` adds to what the
// error itself names. Ends with a line end.
std::string DescribeFailure(const absl::Status& status, const Facts& facts, bool colour);

// The same for programs: {"error": {"code", "reason", "message", …, "try": […], "exitCode"}}.
nlohmann::ordered_json FailureToJson(const absl::Status& status, const Facts& facts);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_FAILURE_H_
