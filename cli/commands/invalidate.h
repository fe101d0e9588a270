// Shared by `invalidate` (through the server) and `local invalidate` (through the agent's socket).

#ifndef VIOMMU_CLI_COMMANDS_INVALIDATE_H_
#define VIOMMU_CLI_COMMANDS_INVALIDATE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/command.h"
#include "cli/session.h"
#include "viommu/v1/invalidation.pb.h"

namespace viommu::cli {

struct InvalidateArguments {
  std::string target;
  std::vector<std::string> specs;
};

// The positional arguments and the details of both commands.
void DeclareInvalidateArguments(Command& command, InvalidateArguments* arguments);

absl::StatusOr<std::vector<v1::Command>> ParseSpecs(const std::vector<std::string>& specs);

// Shows how far the batch got; an error that tells why it stopped, if it did.
absl::StatusOr<ExitCode> ShowInvalidation(Session& session, const std::string& target,
                                          const std::vector<v1::Command>& commands,
                                          const v1::InvalidationResult& result);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_COMMANDS_INVALIDATE_H_
