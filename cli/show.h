// Results on stdout in the format that was asked for.

#ifndef VIOMMU_CLI_SHOW_H_
#define VIOMMU_CLI_SHOW_H_

#include <google/protobuf/message.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/exit_code.h"
#include "cli/names.h"
#include "cli/session.h"

namespace viommu::cli {

// JSON or YAML, as asked for.
void ShowDocument(Session& session, const nlohmann::ordered_json& document);

// One resource: a table of one row, its document or its name.
void ShowOne(Session& session, Kind kind, const google::protobuf::Message& resource);

// A list: a table, {"items": […], "revision": N}, or names. Says on stderr when there is nothing or not everything.
void ShowList(Session& session, Kind kind, const Listing& listing);

// What a change did. For people one line for each resource ("viommus/v1 created: PENDING (revision 12)"), unless an
// output format was asked for. `done` is the participle ("created"). An error that ends the process with
// ExitCode::kFailedOnHost when a resource that was waited for is FAILED.
absl::StatusOr<ExitCode> ShowChange(Session& session, Kind kind,
                                    const std::vector<const google::protobuf::Message*>& resources,
                                    std::string_view done, int64_t revision);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_SHOW_H_
